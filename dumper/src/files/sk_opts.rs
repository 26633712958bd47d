//! Socket options, common to all families.

use super::error::Why;
use images::proto::SkOptsEntry;
use std::os::fd::BorrowedFd;

// Of asm-generic/socket.h; libc lacks some.
const SO_GET_FILTER: i32 = 26;
const SO_BUF_LOCK: i32 = 72;

/// `getsockopt` of an int.
pub(crate) fn get_u32(fd: BorrowedFd<'_>, level: i32, name: i32) -> Result<u32, Why> {
    let mut buf = [0u8; 4];
    sys::fd::getsockopt(fd, level, name, &mut buf)?;
    Ok(u32::from_ne_bytes(buf))
}

/// As [`get_u32`], `None` where the socket has no such option.
pub(crate) fn opt_u32(fd: BorrowedFd<'_>, level: i32, name: i32) -> Option<u32> {
    get_u32(fd, level, name).ok()
}

fn timeout(fd: BorrowedFd<'_>, name: i32) -> Result<(u64, u64), Why> {
    let mut buf = [0u8; 16];
    sys::fd::getsockopt(fd, libc::SOL_SOCKET, name, &mut buf)?;
    let word = |at: usize| {
        let mut b = [0u8; 8];
        b.copy_from_slice(&buf[at..at + 8]);
        u64::from_ne_bytes(b)
    };
    Ok((word(0), word(8)))
}

/// The classic BPF filter, packed as the images want it.
fn filter(fd: BorrowedFd<'_>) -> Result<Vec<u64>, Why> {
    // The length counts instructions here, and the kernel refuses a buffer that is too short.
    let len = match sys::fd::getsockopt(fd, libc::SOL_SOCKET, SO_GET_FILTER, &mut []) {
        // An eBPF program cannot be read back.
        Err(e) if e.errno() == libc::EACCES => {
            return Err(Why::refused("Can't dump socket with an eBPF filter"));
        }
        len => len?,
    };
    if len == 0 {
        return Ok(Vec::new());
    }
    let code = sys::socket::get_filter(fd, len)?;
    Ok(code
        .iter()
        .map(|i| {
            u64::from(i.0) << 48 | u64::from(i.1) << 40 | u64::from(i.2) << 32 | u64::from(i.3)
        })
        .collect())
}

fn linger(fd: BorrowedFd<'_>) -> Result<Option<u32>, Why> {
    let mut buf = [0u8; 8];
    sys::fd::getsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, &mut buf)?;
    let word = |at: usize| u32::from_ne_bytes([buf[at], buf[at + 1], buf[at + 2], buf[at + 3]]);
    Ok((word(0) != 0).then(|| word(4)))
}

fn bound_dev(fd: BorrowedFd<'_>) -> Option<String> {
    let mut buf = [0u8; 16];
    let len = sys::fd::getsockopt(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &mut buf).ok()?;
    let name = buf[..len].split(|&b| b == 0).next()?;
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

/// The options every socket has.
pub(crate) fn collect(fd: BorrowedFd<'_>, unix: bool) -> Result<SkOptsEntry, Why> {
    let get = |name| get_u32(fd, libc::SOL_SOCKET, name);
    let flag = |name| get(name).map(|v| Some(v != 0));
    let (so_snd_tmo_sec, so_snd_tmo_usec) = timeout(fd, libc::SO_SNDTIMEO)?;
    let (so_rcv_tmo_sec, so_rcv_tmo_usec) = timeout(fd, libc::SO_RCVTIMEO)?;
    let only_unix = |name| if unix { flag(name) } else { Ok(None) };
    Ok(SkOptsEntry {
        so_sndbuf: get(libc::SO_SNDBUF)?,
        so_rcvbuf: get(libc::SO_RCVBUF)?,
        so_snd_tmo_sec,
        so_snd_tmo_usec,
        so_rcv_tmo_sec,
        so_rcv_tmo_usec,
        reuseaddr: flag(libc::SO_REUSEADDR)?,
        so_priority: Some(get(libc::SO_PRIORITY)?),
        so_rcvlowat: Some(get(libc::SO_RCVLOWAT)?),
        so_mark: Some(get(libc::SO_MARK)?).filter(|&m| m != 0),
        so_passcred: only_unix(libc::SO_PASSCRED)?,
        so_passsec: only_unix(libc::SO_PASSSEC)?,
        so_dontroute: flag(libc::SO_DONTROUTE)?,
        so_no_check: flag(libc::SO_NO_CHECK)?,
        so_bound_dev: bound_dev(fd),
        so_filter: filter(fd)?,
        // Not every family has it.
        so_reuseport: opt_u32(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT).map(|v| v != 0),
        so_broadcast: flag(libc::SO_BROADCAST)?,
        so_keepalive: flag(libc::SO_KEEPALIVE)?,
        so_oobinline: Some(get(libc::SO_OOBINLINE)?),
        so_linger: linger(fd)?,
        so_buf_lock: opt_u32(fd, libc::SOL_SOCKET, SO_BUF_LOCK),
        ..SkOptsEntry::default()
    })
}
