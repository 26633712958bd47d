//! What netlink does not tell about tun and tap links.

use std::os::fd::AsFd;

/// `TUNSETIFF`, `TUNGETVNETHDRSZ`, `TUNGETSNDBUF`.
const TUNSETIFF: u64 = 0x4004_54ca;
const TUNGETVNETHDRSZ: u64 = 0x8004_54d7;
const TUNGETSNDBUF: u64 = 0x8004_54d3;

/// Length of the header of packets, and of the send buffer: as set through a descriptor of it.
/// Those of a fresh link when it cannot be attached to, as somebody else is.
pub(super) fn sizes(name: &str, flags: u32) -> (u32, u32) {
    const HEADER: u32 = 10;
    ask(name, flags).unwrap_or((HEADER, i32::MAX.cast_unsigned()))
}

fn ask(name: &str, flags: u32) -> Option<(u32, u32)> {
    if flags & libc::IFF_PERSIST as u32 == 0 {
        return None;
    }
    let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun").ok()?;
    // struct ifreq: name, flags.
    let mut request = [0; 40];
    request
        .get_mut(..name.len().min(15))?
        .copy_from_slice(name.as_bytes().get(..15.min(name.len()))?);
    let wanted = flags as u16 & !(libc::IFF_PERSIST as u16);
    request[16..18].copy_from_slice(&wanted.to_ne_bytes());
    sys::fd::ioctl_bytes(file.as_fd(), TUNSETIFF, &mut request).ok()?;
    let number = |what| {
        let mut value = [0; 4];
        sys::fd::ioctl_bytes(file.as_fd(), what, &mut value).ok()?;
        Some(u32::from_ne_bytes(value))
    };
    Some((number(TUNGETVNETHDRSZ)?, number(TUNGETSNDBUF)?))
}
