//! Netlink sockets: bound and connected, with nothing queued.

use super::open::{Files, set_flags};
use super::{Error, Result, sk_opts};
use images::proto::NetlinkSkEntry;
use std::os::fd::{AsFd, OwnedFd};

impl Files<'_> {
    pub(super) fn open_netlink(&self, entry: &NetlinkSkEntry) -> Result<OwnedFd> {
        let fd = sys::net::socket(libc::AF_NETLINK, libc::SOCK_RAW, entry.protocol as i32)?;
        let groups = entry.groups.first().copied().unwrap_or(0);
        if entry.groups.iter().skip(1).any(|g| *g != 0) {
            return Err(Error::NotYet("netlink groups above 32".to_owned()));
        }
        sk_opts::before_bind((self, entry.id), fd.as_fd(), &entry.opts, true)?;
        if entry.portid != 0 {
            sys::net::bind(fd.as_fd(), &address(entry.portid, groups))?;
        }
        if entry.dst_portid != 0 || entry.dst_group != 0 {
            let mask = entry.dst_group.checked_sub(1).map_or(0, |n| 1u32 << (n & 31));
            sys::net::connect(fd.as_fd(), &address(entry.dst_portid, mask))?;
        }
        sk_opts::restore((self, entry.id), fd.as_fd(), &entry.opts)?;
        set_flags(fd.as_fd(), entry.flags)?;
        Ok(fd)
    }
}

fn address(port: u32, groups: u32) -> Vec<u8> {
    let mut bytes = (libc::AF_NETLINK as u16).to_ne_bytes().to_vec();
    bytes.extend([0; 2]);
    bytes.extend(port.to_ne_bytes());
    bytes.extend(groups.to_ne_bytes());
    bytes
}
