//! Epolls: made with the others, filled when the table is complete, as targets are numbers.

use super::open::set_flags;
use super::plan::Slot;
use super::{At, Error, Result};
use images::proto::EventpollFileEntry;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub(super) fn open(entry: &EventpollFileEntry) -> Result<OwnedFd> {
    let fd = sys::events::epoll()?;
    set_flags(fd.as_fd(), entry.flags)?;
    Ok(fd)
}

/// Adds the targets, which are descriptors of the caller.
pub(super) fn add(fd: BorrowedFd<'_>, entry: &EventpollFileEntry, table: &[Slot]) -> Result<()> {
    for target in &entry.tfd {
        let number = target.tfd as i32;
        if table.binary_search_by_key(&number, |s| s.fd).is_err() {
            let text = format!("epoll: target {number} is no descriptor of the task");
            return Err(Error::Refused(text));
        }
        sys::events::epoll_add(fd, number, target.events, target.data).at(|| "epoll".to_owned())?;
    }
    Ok(())
}
