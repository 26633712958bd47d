//! One thread under ptrace.

use crate::proc::Status;
use crate::sigframe::xstate_size;
use crate::{Error, Limits, Result};
use std::time::Duration;
use sys::ptrace::{self, Regs, RseqConfiguration, Wait};
use sys::vm;

/// `PTRACE_EVENT_STOP`.
const EVENT_STOP: i32 = 128;
/// Signal of a system call stop with `PTRACE_O_TRACESYSGOOD`.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// A stopped thread of a frozen process.
#[derive(Debug)]
pub struct Thread {
    /// In our pid namespace.
    pub tid: i32,
    /// Its `/proc/PID/task/TID/status`, read after it stopped.
    pub status: Status,
    /// The signal that had stopped it before we came.
    pub stopped_by: Option<i32>,
    /// It has stopped.
    pub(crate) held: bool,
    /// Registers and mask as they were when it stopped.
    saved: Option<Box<Saved>>,
    /// The thread has other registers or another mask than its own at the moment.
    pub(crate) dirty: bool,
    /// Its own code ran on after a visit of ours, or will: rseq needs its pointer back.
    pub(crate) visited: bool,
    /// Signals taken from it which it gets again when it is let go.
    pub(crate) requeue: Vec<i32>,
}

/// What a thread works with.
#[derive(Clone, Debug)]
pub struct Saved {
    /// General registers, untouched: `orig_rax` and `rax` tell of an interrupted call.
    pub regs: Regs,
    /// Blocked signals.
    pub mask: u64,
    /// xsave area in standard layout, as long as the thread's features ask for.
    pub xsave: Vec<u8>,
    /// Its rseq registration; `rseq_abi_pointer` 0: none.
    pub rseq: RseqConfiguration,
    /// The pointer in `struct rseq` to the critical section it was in, 0 for none.
    pub rseq_cs: u64,
    /// That section, if the thread was inside it.
    pub critical: Option<RseqCs>,
}

/// A restartable sequence: `struct rseq_cs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RseqCs {
    /// `RSEQ_CS_FLAG_*`.
    pub flags: u32,
    /// First address.
    pub start_ip: u64,
    /// Length of the section.
    pub post_commit_offset: u64,
    /// Where an interrupted section goes on.
    pub abort_ip: u64,
}

/// `RSEQ_CS_FLAG_NO_RESTART_ON_SIGNAL`.
pub(crate) const NO_RESTART_ON_SIGNAL: u32 = 2;

impl Saved {
    /// A thread with this xsave area and nothing else, for tests of what is made of it.
    #[doc(hidden)]
    pub fn with_xsave(xsave: Vec<u8>) -> Self {
        let regs = ptrace::zero_regs();
        let rseq = RseqConfiguration::default();
        Self { regs, mask: 0, xsave, rseq, rseq_cs: 0, critical: None }
    }

    /// Where a thread at `rip` has to go on after somebody else's code ran in it: at the abort
    /// handler, when it was inside a restartable sequence.
    pub fn home(&self, rip: u64) -> u64 {
        match self.critical {
            Some(cs) if cs.flags & NO_RESTART_ON_SIGNAL == 0 => cs.abort_ip,
            _ => rip,
        }
    }

    fn read(tid: i32) -> Result<Self> {
        let regs = ptrace::regs(tid)?;
        let mask = ptrace::sigmask(tid)?;
        // Larger than any xsave area; a buffer that is too short would be cut silently.
        let mut xsave = [0u8; 16384];
        let n = ptrace::regset(tid, ptrace::NT_X86_XSTATE, &mut xsave)?;
        let xsave = &xsave[..n];
        let mut saved = Self {
            regs,
            mask,
            xsave: xsave[..xstate_size(xsave).min(n)].to_vec(),
            rseq: ptrace::rseq_configuration(tid)?,
            rseq_cs: 0,
            critical: None,
        };
        if saved.rseq.rseq_abi_pointer != 0 {
            saved.read_critical(tid)?;
        }
        Ok(saved)
    }

    fn read_critical(&mut self, tid: i32) -> Result<()> {
        let mut pointer = [0; 8];
        vm::read_exact(tid, self.rseq.rseq_abi_pointer + 8, &mut pointer)?;
        self.rseq_cs = u64::from_ne_bytes(pointer);
        if self.rseq_cs == 0 {
            return Ok(());
        }
        let mut b = [0; 32];
        vm::read_exact(tid, self.rseq_cs, &mut b)?;
        let word = |i: usize| u64::from_ne_bytes(b[i..i + 8].try_into().unwrap_or([0; 8]));
        let cs = RseqCs {
            flags: (word(0) >> 32) as u32,
            start_ip: word(8),
            post_commit_offset: word(16),
            abort_ip: word(24),
        };
        if self.regs.rip.wrapping_sub(cs.start_ip) < cs.post_commit_offset {
            self.critical = Some(cs);
        }
        Ok(())
    }
}

/// How a resumed thread came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Asked for by `PTRACE_INTERRUPT` (signal SIGTRAP), or the group is stopped (its signal).
    Event(i32),
    /// Before or after a system call.
    Syscall,
    /// A signal is about to be delivered.
    Signal(i32),
    /// It is dead.
    Ended,
}

/// The stop of `tid` if there is one.
pub(crate) fn poll(tid: i32) -> Result<Option<Stop>> {
    let what = match ptrace::wait(tid, false) {
        Ok((_, what)) => what,
        Err(e) if e.errno() == libc::EINTR => return Ok(None),
        // Reaped: the thread that calls execve takes over the leader's number, and the other
        // threads vanish without a word.
        Err(e) if e.errno() == libc::ECHILD => return Ok(Some(Stop::Ended)),
        Err(e) => return Err(e.into()),
    };
    Ok(match what {
        Wait::Nothing => None,
        Wait::Gone(_) => Some(Stop::Ended),
        Wait::Stopped { signo, event: EVENT_STOP } => Some(Stop::Event(signo)),
        Wait::Stopped { signo: SYSCALL_STOP, event: 0 } => Some(Stop::Syscall),
        Wait::Stopped { signo, event: 0 } => Some(Stop::Signal(signo)),
        Wait::Stopped { signo, event } => {
            return Err(Error::Unexpected { tid, signo, event, what: "waiting" });
        }
    })
}

/// Waits for the next stop of a running thread.
pub(crate) fn next_stop(tid: i32, limits: &Limits<'_>) -> Result<Stop> {
    let mut pause = Pause::default();
    loop {
        if let Some(stop) = poll(tid)? {
            return Ok(stop);
        }
        pause.next(tid, limits)?;
    }
}

/// Waiting without a signal handler: a short busy start, as most answers come within
/// microseconds, then sleeps that SIGCHLD ends.
#[derive(Debug, Default)]
pub(crate) struct Pause {
    rounds: u32,
}

/// Polls before sleeping: some 50 microseconds. To be woken up takes as long, and the thread that is
/// waited for mostly needs less.
const BUSY: u32 = 100;

impl Pause {
    pub(crate) fn next(&mut self, tid: i32, limits: &Limits<'_>) -> Result<()> {
        self.rounds += 1;
        if self.rounds < BUSY {
            // It may wait for this very processor.
            std::thread::yield_now();
            return Ok(());
        }
        limits.check(tid)?;
        // The limit is for callers whose SIGCHLD is not blocked, and for what `limits` says.
        let nap = u64::from(self.rounds - BUSY).clamp(1, 20);
        sys::worker::wait_sigchld(Duration::from_millis(nap));
        Ok(())
    }
}

impl Thread {
    pub(crate) fn new(tid: i32) -> Self {
        Self {
            tid,
            status: Status::default(),
            stopped_by: None,
            held: false,
            saved: None,
            dirty: false,
            visited: false,
            requeue: Vec::new(),
        }
    }

    /// Registers, mask and rseq as they were when the thread stopped.
    pub fn saved(&mut self) -> Result<&Saved> {
        if self.saved.is_none() {
            self.saved = Some(Box::new(Saved::read(self.tid)?));
        }
        self.saved.as_deref().ok_or(Error::Ended { tid: self.tid })
    }

    /// What [`Thread::saved`] has read, if it was asked before.
    pub fn peek_saved(&self) -> Option<&Saved> {
        self.saved.as_deref()
    }

    /// Gives the thread its own registers and mask back.
    pub(crate) fn put_back(&mut self) -> Result<()> {
        if !self.dirty {
            return Ok(());
        }
        let Some(saved) = self.saved.as_deref() else { return Ok(()) };
        // In this order: a tracer that dies in between leaves a thread in the blob that finds
        // home, and not one with a foreign mask.
        ptrace::set_sigmask(self.tid, saved.mask)?;
        ptrace::set_regs(self.tid, &saved.regs)?;
        self.dirty = false;
        Ok(())
    }

    /// Lets the thread go on as if nobody had been there.
    pub(crate) fn release(&mut self, pid: i32) {
        // Each step is tried: a thread that was killed meanwhile fails all of them.
        let mut failed = self.put_back().err();
        if let Some(saved) = self.saved.as_deref()
            && self.visited
            && saved.critical.is_some()
        {
            // The kernel cleared the pointer when it saw other code run.
            let at = saved.rseq.rseq_abi_pointer + 8;
            if let Err(e) = vm::write_all(self.tid, at, &saved.rseq_cs.to_ne_bytes()) {
                failed = failed.or_else(|| Some(e.into()));
            }
        }
        for signo in self.requeue.drain(..) {
            let _ = sys::task::tgkill(pid, self.tid, signo);
        }
        if let Err(e) = ptrace::detach(self.tid, 0)
            && e.errno() != libc::ESRCH
        {
            failed = failed.or_else(|| Some(e.into()));
        }
        if let Some(e) = failed {
            log::warn!("task {}: letting go: {e}", self.tid);
        }
    }
}
