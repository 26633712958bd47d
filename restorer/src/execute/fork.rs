//! Making processes with chosen numbers.
#![expect(unsafe_code, reason = "fork has no safe form")]

use sys::task::Forked;

/// Forks a process with pid `pid` (0 for any) which runs `child`, which does not return, and nothing
/// else. Its parent gets `exit_signal` at its end.
///
/// All processes of a restore are single-threaded copies of the coordinator until they enter the
/// blob, so everything works in them as it does in the coordinator.
pub(crate) fn fork(
    flags: u64,
    pid: i32,
    exit_signal: i32,
    child: impl FnOnce(),
) -> sys::Result<i32> {
    let wanted = [pid];
    let set_tid = if pid == 0 { &[] } else { &wanted[..] };
    // SAFETY: the coordinator is single-threaded by contract of `restore`, and so are its
    // descendants up to here: the child finds no lock that another thread held.
    match unsafe { sys::task::fork_with(flags, set_tid, exit_signal) }? {
        Forked::Parent(pid) => Ok(pid),
        Forked::Child => {
            child();
            sys::arena::exit_now(1)
        }
    }
}
