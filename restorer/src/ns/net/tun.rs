//! Tun and tap links.

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
    // One that is to end with its descriptors is told so by the first of them.
    sys::fd::ioctl_int(fd, TUNSETPERSIST, 1)?;
    super::make::dress(entry)
}

/// `TUNSETIFF`.
fn attach(fd: BorrowedFd<'_>, name: &[u8], flags: u32) -> Result<(), Error> {
    let wanted = flags as u16 & !(libc::IFF_PERSIST as u16);
    sys::fd::ioctl_bytes(fd, TUNSETIFF, &mut crate::files::tun::request(name, wanted))?;
    Ok(())
}
