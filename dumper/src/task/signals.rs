//! Pending signals.

use crate::Error;
use images::proto::{SiginfoEntry, SignalQueueEntry};
use sys::ptrace;

/// The queue of the process (`shared`) or of the thread, oldest first. `mask`: what
/// `/proc` says is pending there; nothing is asked when it is empty.
pub(crate) fn queue(tid: i32, mask: u64, shared: bool) -> Result<SignalQueueEntry, Error> {
    let mut entry = SignalQueueEntry::default();
    if mask == 0 {
        return Ok(entry);
    }
    for info in ptrace::pending_signals(tid, shared)? {
        let signo = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        // Stop signals that are not blocked have stopped the task already: that is its state.
        if signo == libc::SIGSTOP {
            continue;
        }
        entry.signals.push(SiginfoEntry { siginfo: info.to_vec() });
    }
    Ok(entry)
}
