//! Terminals.

use crate::Result;
use crate::error::check;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `ioctl(TIOCGPTPEER)` (4.13): opens the slave of a pseudo terminal, whatever is mounted where.
/// `request` is given by the caller, as its number differs between architectures.
pub fn open_peer(master: BorrowedFd<'_>, request: u64, flags: i32) -> Result<OwnedFd> {
    let raw = master.as_raw_fd();
    // SAFETY: the argument is an integer; the answer is a descriptor or -1.
    let ret = unsafe { libc::ioctl(raw, request as libc::Ioctl, flags) };
    let fd = check(ret.into(), || format!("ioctl({raw}, TIOCGPTPEER, {flags:#o})"))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
