//! Signalfds.

use super::Result;
use super::open::set_flags;
use images::proto::SignalfdEntry;
use std::os::fd::{AsFd, OwnedFd};

pub(super) fn open(entry: &SignalfdEntry) -> Result<OwnedFd> {
    let fd = sys::events::signalfd(entry.sigmask, 0)?;
    set_flags(fd.as_fd(), entry.flags)?;
    Ok(fd)
}
