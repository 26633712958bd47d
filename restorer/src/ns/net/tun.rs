//! Persistent tun and tap links.

use crate::Error;
use images::proto::NetDeviceEntry;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

const TUNSETIFF: u64 = 0x4004_54ca;
const TUNSETPERSIST: u64 = 0x4004_54cb;
const TUNSETOWNER: u64 = 0x4004_54cc;
const TUNSETGROUP: u64 = 0x4004_54ce;
const TUNSETSNDBUF: u64 = 0x4004_54d4;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;
const TUNSETIFINDEX: u64 = 0x4004_54da;

/// Makes one, in a thread that is in the namespace.
pub(super) fn make(entry: &NetDeviceEntry) -> Result<(), Error> {
    let Some(tun) = &entry.tun else { return Ok(()) };
    let path = "/dev/net/tun";
    let file = File::options().read(true).write(true).open(path);
    let file = file.map_err(|e| sys::Error::io(format_args!("open({path})"), &e))?;
    let fd = file.as_fd();
    let pointed = |what, value: u32| sys::fd::ioctl_bytes(fd, what, &mut value.to_ne_bytes());
    pointed(TUNSETIFINDEX, entry.ifindex)?;
    attach(fd, entry.name.as_bytes(), tun.flags)?;
    // Owner and group as they are outside of a user namespace would be told by number.
    let by_value = |what, value: i32| {
        if value < 0 { Ok(0) } else { sys::fd::ioctl_int(fd, what, value.cast_unsigned().into()) }
    };
    by_value(TUNSETOWNER, tun.owner)?;
    by_value(TUNSETGROUP, tun.group)?;
    if tun.flags & libc::IFF_VNET_HDR as u32 != 0 {
        pointed(TUNSETVNETHDRSZ, tun.vnethdr)?;
    }
    pointed(TUNSETSNDBUF, tun.sndbuf)?;
    let persist = u64::from(tun.flags & libc::IFF_PERSIST as u32 != 0);
    if persist == 0 {
        return Err(Error::NetNs(format!(
            "link {}: a tun link that ends with its file: not supported yet",
            entry.name
        )));
    }
    sys::fd::ioctl_int(fd, TUNSETPERSIST, persist)?;
    super::make::dress(entry)
}

/// `TUNSETIFF`.
fn attach(fd: BorrowedFd<'_>, name: &[u8], flags: u32) -> Result<(), Error> {
    // struct ifreq: name, flags.
    let mut request = [0; 40];
    request[..name.len()].copy_from_slice(name);
    let wanted = flags as u16 & !(libc::IFF_PERSIST as u16);
    request[16..18].copy_from_slice(&wanted.to_ne_bytes());
    sys::fd::ioctl_bytes(fd, TUNSETIFF, &mut request)?;
    Ok(())
}
