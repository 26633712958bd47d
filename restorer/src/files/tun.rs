//! Descriptors of `/dev/net/tun`: the links are there already, and are attached to.

use super::open::Files;
use super::path::open_flags;
use super::{Error, Result};
use images::proto::TunfileEntry;
use std::os::fd::{AsFd, OwnedFd};

const TUNSETIFF: u64 = 0x4004_54ca;
const TUNSETPERSIST: u64 = 0x4004_54cb;
const TUNSETSNDBUF: u64 = 0x4004_54d4;
const TUNSETQUEUE: u64 = 0x4004_54d9;
const IFF_DETACH_QUEUE: u16 = 0x0400;

/// The argument of `TUNSETIFF` and `TUNSETQUEUE`, a `struct ifreq`: name, flags.
pub(crate) fn request(name: &[u8], flags: u16) -> [u8; 40] {
    let mut request = [0; 40];
    let len = name.len().min(15);
    request[..len].copy_from_slice(&name[..len]);
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    request
}

impl Files<'_> {
    pub(super) fn open_tun(&self, entry: &TunfileEntry) -> Result<OwnedFd> {
        // The descriptor belongs to the namespace in which it is opened.
        let _away = self.in_net(entry.ns_id)?;
        let reg = self.set.reg(entry.id)?;
        let fd = self.open_as(reg, open_flags(reg.flags))?;
        let Some(name) = entry.netdev.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(fd);
        };
        let wanted =
            |(ns, link): &&(u32, String)| link == name && entry.ns_id.is_none_or(|id| id == *ns);
        let link = self.set.tuns.keys().find(wanted).and_then(|key| self.set.tuns.get(key));
        let link = link.ok_or_else(|| {
            Error::Refused(format!("tun link {name} is not among the links of the images"))
        })?;
        let flags = link.flags;
        let persist = libc::IFF_PERSIST as u32;
        let attach = &mut request(name.as_bytes(), (flags & !persist) as u16);
        sys::fd::ioctl_bytes(fd.as_fd(), TUNSETIFF, attach)?;
        // Whoever comes later has not got what was set for the link.
        sys::fd::ioctl_bytes(fd.as_fd(), TUNSETSNDBUF, &mut link.sndbuf.to_ne_bytes())?;
        if entry.detached() {
            sys::fd::ioctl_bytes(fd.as_fd(), TUNSETQUEUE, &mut request(b"", IFF_DETACH_QUEUE))?;
        }
        if flags & persist == 0 {
            // From now on the link lives as long as its descriptors.
            sys::fd::ioctl_int(fd.as_fd(), TUNSETPERSIST, 0)?;
        }
        Ok(fd)
    }
}
