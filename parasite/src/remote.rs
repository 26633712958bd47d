//! One system call in a stopped thread, by its own `syscall` instruction.

use crate::tracee::{Stop, Thread, next_stop};
use crate::{Error, Limits, Result};
use std::time::{Duration, Instant};
use sys::ptrace::{self, Regs};

/// No system call is to be restarted.
pub(crate) const NO_CALL: u64 = u64::MAX;
/// Without single-step, direction and alignment-check flags.
pub(crate) const PLAIN_FLAGS: u64 = 0x202;

/// Where a call is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Address of a `syscall` instruction.
    pub(crate) rip: u64,
    /// Stack pointer; the thread's own when not given.
    pub(crate) rsp: Option<u64>,
}

/// Makes the call in `thread`, whose signals are blocked meanwhile, and gives it its registers
/// and mask back at once: without a [`Shelter`](crate::shelter::Shelter) this is the only time
/// when the death of the tracer would leave the thread at a foreign address.
pub(crate) fn call(
    thread: &mut Thread,
    place: Place,
    nr: i64,
    args: [u64; 6],
    limits: &Limits<'_>,
) -> Result<i64> {
    let tid = thread.tid;
    let own = thread.saved()?.regs;
    thread.dirty = true;
    thread.visited = true;
    let regs = Regs {
        rax: nr as u64,
        rdi: args[0],
        rsi: args[1],
        rdx: args[2],
        r10: args[3],
        r8: args[4],
        r9: args[5],
        rip: place.rip,
        rsp: place.rsp.unwrap_or(own.rsp),
        orig_rax: NO_CALL,
        eflags: PLAIN_FLAGS,
        ..own
    };
    // In this order: a tracer that dies in between leaves a thread that finds home (if it is
    // sheltered), and not one with a foreign mask.
    ptrace::set_regs(tid, &regs)?;
    ptrace::set_sigmask(tid, u64::MAX)?;
    let done =
        run(thread, limits).inspect_err(|_| catch(thread)).and_then(|()| Ok(ptrace::regs(tid)?));
    thread.put_back()?;
    Ok(done?.rax as i64)
}

/// Runs to the end of the call.
fn run(thread: &mut Thread, limits: &Limits<'_>) -> Result<()> {
    // One stop before the call, one after it.
    for _ in 0..2 {
        loop {
            ptrace::syscall(thread.tid, 0)?;
            match next_stop(thread.tid, limits)? {
                Stop::Syscall => break,
                other => absorb(thread, other, "a remote call")?,
            }
        }
    }
    Ok(())
}

/// Stops a thread that did not come back, so that it can be given its registers; it may be
/// dead as well.
pub(crate) fn catch(thread: &Thread) {
    let limits =
        Limits { deadline: Some(Instant::now() + Duration::from_secs(1)), stop: &|| false };
    if ptrace::interrupt(thread.tid).is_ok() {
        let _ = next_stop(thread.tid, &limits);
    }
}

/// Deals with a stop that has nothing to do with what we run: the thread is to be resumed.
pub(crate) fn absorb(thread: &mut Thread, stop: Stop, what: &'static str) -> Result<()> {
    let tid = thread.tid;
    match stop {
        // A group stop reports once more for each interrupt that we sent.
        Stop::Event(_) => Ok(()),
        // Cannot be blocked: it is for later.
        Stop::Signal(libc::SIGSTOP) => {
            thread.requeue.push(libc::SIGSTOP);
            Ok(())
        }
        Stop::Ended => Err(Error::Ended { tid }),
        Stop::Signal(signo) => Err(Error::Unexpected { tid, signo, event: 0, what }),
        Stop::Syscall => Err(Error::Unexpected { tid, signo: 0x85, event: 0, what }),
    }
}
