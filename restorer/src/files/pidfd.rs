//! Pidfds: of tasks of the tree, and of ones that are dead.

use super::open::{Files, Opened, set_flags};
use super::{At, Result};
use images::proto::PidfdEntry;
use std::os::fd::{AsFd, OwnedFd};

pub(super) fn open(entry: &PidfdEntry) -> Result<OwnedFd> {
    // PIDFD_THREAD is O_EXCL.
    let thread = entry.flags & libc::O_EXCL as u32;
    let fd = sys::fd::pidfd_open(entry.nspid, thread)?;
    set_flags(fd.as_fd(), entry.flags)?;
    Ok(fd)
}

impl Files<'_> {
    /// Opens all pidfds of one dead task: of a child that ends when they are open.
    pub(super) fn open_dead_pidfds(&self, ids: &[u32], opened: &mut Opened) -> Result<()> {
        let Some(first) = ids.first() else { return Ok(()) };
        let (read, write) = sys::events::pipe(0)?;
        let child = sys::worker::fork(|| {
            // Ends with the writing end, be it that we die.
            nix::unistd::close(std::os::fd::AsRawFd::as_raw_fd(&write)).ok();
            nix::unistd::read(&read, &mut [0u8]).ok();
            0
        })?;
        let open = || {
            for id in ids {
                if let Some(entry) = &self.set.file(*id)?.pidfd {
                    let fd = sys::fd::pidfd_open(child, 0)?;
                    set_flags(fd.as_fd(), entry.flags)?;
                    opened.insert(*id, fd);
                }
            }
            Ok(())
        };
        let done: Result<()> = { open }();
        drop(write);
        sys::worker::wait(child)?;
        done.at(|| format!("file {first}, pidfd of a dead task"))
    }
}
