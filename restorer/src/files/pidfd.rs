//! Pidfds of tasks of the tree.

use super::open::set_flags;
use super::{Error, Result};
use images::proto::PidfdEntry;
use std::os::fd::{AsFd, OwnedFd};

pub(super) fn open(entry: &PidfdEntry) -> Result<OwnedFd> {
    if entry.nspid <= 0 {
        return Err(Error::NotYet("a pidfd of a task that is dead".to_owned()));
    }
    // PIDFD_THREAD is O_EXCL.
    let thread = entry.flags & libc::O_EXCL as u32;
    let fd = sys::fd::pidfd_open(entry.nspid, thread)?;
    set_flags(fd.as_fd(), entry.flags)?;
    Ok(fd)
}
