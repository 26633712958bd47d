//! A forked worker process.

use crate::error::check;
use crate::{Error, Result};

/// Runs `work` in a child made by `fork(2)` and returns the child's pid. The child ends with
/// `_exit` and the answer of `work`; it has copies of everything, and only this thread.
///
/// libc's fork keeps the allocator usable in the child. A lock that another thread of this
/// process holds stays locked in the child for ever: call it from single-threaded programs,
/// or let `work` use nothing that others lock.
pub fn fork(work: impl FnOnce() -> i32) -> Result<i32> {
    // SAFETY: the child continues on a copy of this stack with a usable allocator (libc's
    // atfork handlers run); it never returns into the caller's frames, as it ends by _exit.
    let pid = unsafe { libc::fork() };
    match check(pid.into(), || "fork()".into())? {
        0 => {
            let code = work();
            // SAFETY: ends this process without running the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(pid as i32),
    }
}

/// `waitpid(2)` for one child, through interruptions: its raw wait status.
pub fn wait(pid: i32) -> Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        if unsafe { libc::waitpid(pid, &mut status, 0) } == pid {
            return Ok(status);
        }
        let e = Error::last(format_args!("waitpid({pid})"));
        if e.errno() != libc::EINTR {
            return Err(e);
        }
    }
}

/// `setsid(2)`: this process leads a new session and group.
pub fn setsid() -> Result<()> {
    // SAFETY: no arguments.
    let ret = unsafe { libc::setsid() };
    check(ret.into(), || "setsid()".into()).map(|_| ())
}
