//! A forked worker process.

use crate::error::check;
use crate::{Error, Result};
use std::sync::OnceLock;

/// How many threads can work at a time: what CPU affinity and control groups leave. Asked once,
/// as it takes a dozen system calls; best before tasks are held.
pub fn cpus() -> usize {
    static CPUS: OnceLock<usize> = OnceLock::new();
    *CPUS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

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

fn sigchld() -> libc::sigset_t {
    // SAFETY: all zero is a valid sigset_t.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` outlives the call.
    unsafe { libc::sigemptyset(&mut set) };
    // SAFETY: `set` was initialised above; SIGCHLD is a valid signal.
    unsafe { libc::sigaddset(&mut set, libc::SIGCHLD) };
    set
}

/// Blocks SIGCHLD in this thread, so that [`wait_sigchld`] sees it.
pub fn block_sigchld() {
    let set = sigchld();
    // SAFETY: `set` outlives the call; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
}

/// Sleeps until a child or tracee changed its state, at most `timeout`. SIGCHLD has to be
/// blocked: else this is only the sleep. Look at all of them afterwards: signals merge.
pub fn wait_sigchld(timeout: std::time::Duration) {
    let set = sigchld();
    let ts = libc::timespec {
        tv_sec: timeout.as_secs() as libc::time_t,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: `set` and `ts` outlive the call; a null siginfo is allowed.
    unsafe { libc::sigtimedwait(&set, std::ptr::null_mut(), &ts) };
}
