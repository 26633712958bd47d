//! Terminals.

use crate::Result;
use crate::error::check;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `ioctl(TIOCGPTPEER)` (4.13): opens the slave of a pseudo terminal, whatever is mounted where.
/// `request` is given by the caller, as its number differs between architectures.
///
/// The descriptor is close-on-exec, but the call is not told so: the kernel would keep the flag
/// in the description, where `F_GETFL` and `fdinfo` show it for every copy.
pub fn open_peer(master: BorrowedFd<'_>, request: u64, flags: i32) -> Result<OwnedFd> {
    let raw = master.as_raw_fd();
    let flags = flags & !libc::O_CLOEXEC;
    // SAFETY: the argument is an integer; the answer is a descriptor or -1.
    let ret = unsafe { libc::ioctl(raw, request as libc::Ioctl, flags) };
    let fd = check(ret.into(), || format!("ioctl({raw}, TIOCGPTPEER, {flags:#o})"))?;
    // SAFETY: the kernel has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    crate::fd::fcntl(fd.as_fd(), libc::F_SETFD, libc::FD_CLOEXEC as u64)?;
    Ok(fd)
}
