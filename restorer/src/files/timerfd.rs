//! Timerfds: made early, armed when everything else is done.

use super::open::set_flags;
use super::{Error, Result};
use images::proto::TimerfdEntry;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// `TFD_TIMER_ABSTIME`.
const ABSTIME: u32 = 1;

pub(super) fn open(entry: &TimerfdEntry) -> Result<OwnedFd> {
    let clock = entry.clockid as i32;
    if !matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_MONOTONIC | libc::CLOCK_BOOTTIME) {
        return Err(Error::NotYet(format!("a timerfd of clock {clock}")));
    }
    let fd = sys::events::timerfd(clock, 0)?;
    set_flags(fd.as_fd(), entry.flags)?;
    Ok(fd)
}

/// Starts the timer with the time that was left.
pub(super) fn arm(entry: &TimerfdEntry, fd: BorrowedFd<'_>) -> Result<()> {
    let interval = (entry.isec as i64, entry.insec as i64);
    let mut value = (entry.vsec as i64, entry.vnsec as i64);
    if value == (0, 0) && interval != (0, 0) && entry.ticks > 0 {
        // The kernel shows an expired periodic timer so until somebody reads it. With 0 it
        // would never run again.
        value = interval;
    }
    if value != (0, 0) && entry.settime_flags & ABSTIME != 0 {
        let now = sys::events::clock(entry.clockid as i32)?;
        let nanos = value.1 + now.1;
        value = (value.0 + now.0 + nanos / 1_000_000_000, nanos % 1_000_000_000);
    }
    if value != (0, 0) {
        sys::events::timerfd_set(fd, entry.settime_flags as i32, interval, value)?;
    }
    if entry.ticks > 0 {
        sys::events::timerfd_set_ticks(fd, entry.ticks)?;
    }
    Ok(())
}
