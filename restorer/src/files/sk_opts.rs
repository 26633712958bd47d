//! Options that all sockets have. A value that is right already is not set again: setting may
//! need rights, and pins what the kernel otherwise tunes.

use super::open::Files;
use super::{At, Result, multicast};
use images::proto::{SkOptsEntry, TcpOptsEntry, TcpStreamEntry};
use std::os::fd::BorrowedFd;

const SO_BUF_LOCK: i32 = 72;

/// Sets an integer option unless it has the value.
pub(super) fn set_int(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> Result<()> {
    let mut now = [0u8; 4];
    let got = sys::fd::getsockopt(fd, level, name, &mut now);
    if got.is_ok() && i32::from_ne_bytes(now) == value {
        return Ok(());
    }
    Ok(sys::fd::setsockopt(fd, level, name, &value.to_ne_bytes())?)
}

/// Options that decide what `bind` may do. `of`: whose socket, and the id of the file.
pub(super) fn before_bind(
    of: (&Files<'_>, u32),
    fd: BorrowedFd<'_>,
    opts: &SkOptsEntry,
    bound: bool,
) -> Result<()> {
    let set = |name, value| set_int(fd, libc::SOL_SOCKET, name, value);
    if opts.so_reuseport() {
        set(libc::SO_REUSEPORT, 1)?;
    }
    if bound {
        device(fd, opts)?;
    }
    if let Some(mark) = opts.so_mark {
        set(libc::SO_MARK, mark as i32)?;
    }
    // They may matter to `bind` (IP_TRANSPARENT), save for those that `bind` does not need.
    others(of, fd, opts, |name| !LATE.contains(&name))
}

/// Binds to the device.
pub(super) fn device(fd: BorrowedFd<'_>, opts: &SkOptsEntry) -> Result<()> {
    if let Some(device) = opts.so_bound_dev.as_ref().filter(|d| !d.is_empty()) {
        sys::fd::setsockopt(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_bytes())
            .at(|| format!("device {device}"))?;
    }
    Ok(())
}

/// SO_PEEK_OFF: moves with what is queued. SO_LOCK_FILTER: the filter comes first.
const LATE: [i32; 2] = [42, 44];

/// SO_BUSY_POLL, SO_PREFER_BUSY_POLL, SO_BUSY_POLL_BUDGET: change nothing but how quick it is.
const SPEED: [i32; 3] = [46, 69, 70];

/// Options that only our images have.
fn others(
    of: (&Files<'_>, u32),
    fd: BorrowedFd<'_>,
    opts: &SkOptsEntry,
    which: impl Fn(i32) -> bool,
) -> Result<()> {
    for other in opts.amber_others.iter().filter(|o| !multicast::is_membership(o)) {
        let early = other.level != libc::SOL_SOCKET || which(other.name);
        let mut now = vec![0u8; other.value.len()];
        let same = sys::fd::getsockopt(fd, other.level, other.name, &mut now)
            .is_ok_and(|len| len == other.value.len() && now == other.value);
        if !early || same {
            continue;
        }
        match <[u8; 4]>::try_from(&other.value[..]).map(i32::from_ne_bytes) {
            Ok(value) if of.0.set_option(fd, (other.level, other.name), value)? => {}
            Ok(value) if SPEED.contains(&other.name) && other.level == libc::SOL_SOCKET => {
                log::warn!(
                    "file {}: option {} is not set to {value}: that takes CAP_NET_ADMIN outside of \
                     all user namespaces",
                    of.1,
                    other.name
                );
            }
            _ => sys::fd::setsockopt(fd, other.level, other.name, &other.value)?,
        }
    }
    Ok(())
}

/// All others, when data is queued and addresses are set.
pub(super) fn restore(of: (&Files<'_>, u32), fd: BorrowedFd<'_>, opts: &SkOptsEntry) -> Result<()> {
    let set = |name, value| set_int(fd, libc::SOL_SOCKET, name, value);
    of.0.set_buffers(of.1, fd, opts)?;
    if let Some(lock) = opts.so_buf_lock
        && let Err(e) = set(SO_BUF_LOCK, lock as i32)
    {
        log::warn!("{e}: buffers of a socket no longer grow by themselves");
    }
    let integers = [
        (libc::SO_PRIORITY, opts.so_priority),
        (libc::SO_RCVLOWAT, opts.so_rcvlowat),
        (libc::SO_PASSCRED, opts.so_passcred.map(u32::from)),
        (libc::SO_PASSSEC, opts.so_passsec.map(u32::from)),
        (libc::SO_DONTROUTE, opts.so_dontroute.map(u32::from)),
        (libc::SO_NO_CHECK, opts.so_no_check.map(u32::from)),
        (libc::SO_BROADCAST, opts.so_broadcast.map(u32::from)),
        (libc::SO_KEEPALIVE, opts.so_keepalive.map(u32::from)),
        (libc::SO_OOBINLINE, opts.so_oobinline),
    ];
    for (name, value) in integers {
        if let Some(value) = value {
            set(name, value as i32)?;
        }
    }
    if let Some(seconds) = opts.so_linger {
        let linger = [1u32.to_ne_bytes(), seconds.to_ne_bytes()].concat();
        sys::fd::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, &linger)?;
    }
    timeout(fd, libc::SO_SNDTIMEO, opts.so_snd_tmo_sec, opts.so_snd_tmo_usec)?;
    timeout(fd, libc::SO_RCVTIMEO, opts.so_rcv_tmo_sec, opts.so_rcv_tmo_usec)?;
    if !opts.so_filter.is_empty() {
        sys::net::attach_filter(fd, &opts.so_filter)?;
    }
    others(of, fd, opts, |_| true)?;
    multicast::join(fd, &opts.amber_others)
}

/// TCP's own options; `stream` and `old` are where images before 4.0 have them.
pub(super) fn tcp(
    fd: BorrowedFd<'_>,
    tcp: Option<&TcpOptsEntry>,
    stream: Option<&TcpStreamEntry>,
    old: &SkOptsEntry,
) -> Result<()> {
    let set = |name, value: Option<u32>| match value {
        Some(value) => set_int(fd, libc::IPPROTO_TCP, name, value as i32),
        None => Ok(()),
    };
    set(libc::TCP_KEEPCNT, tcp.and_then(|t| t.keepcnt).or(old.tcp_keepcnt))?;
    set(libc::TCP_KEEPIDLE, tcp.and_then(|t| t.keepidle).or(old.tcp_keepidle))?;
    set(libc::TCP_KEEPINTVL, tcp.and_then(|t| t.keepintvl).or(old.tcp_keepintvl))?;
    set(libc::TCP_NODELAY, tcp.and_then(|t| t.nodelay).or_else(|| stream?.nodelay).map(u32::from))?;
    set(libc::TCP_CORK, tcp.and_then(|t| t.cork).or_else(|| stream?.cork).map(u32::from))
}

fn timeout(fd: BorrowedFd<'_>, name: i32, seconds: u64, micros: u64) -> Result<()> {
    if (seconds, micros) == (0, 0) {
        return Ok(());
    }
    let time = [seconds.to_ne_bytes(), micros.to_ne_bytes()].concat();
    Ok(sys::fd::setsockopt(fd, libc::SOL_SOCKET, name, &time)?)
}
