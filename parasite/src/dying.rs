//! The end of a tree that is not to run on.

use crate::Process;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use sys::{fd, ptrace, worker};

/// Bytes of memory whose freeing is worth a second processor.
const WORTH_HELP: u64 = 32 << 20;
/// How long a kill waits for the thread that is to help, and how long that waits for the kill.
const HELP_STARTS: Duration = Duration::from_millis(1);
const HELP_COMES: Duration = Duration::from_millis(20);

/// How long to sleep at most before the tasks are looked at again.
const SIGCHLD_LOST: Duration = Duration::from_millis(20);

/// Tasks on their way out. Dropping it waits until they are dead.
#[derive(Debug)]
#[must_use = "dropping it waits"]
pub struct Dying {
    processes: Vec<Process>,
    killed: Instant,
    _help: Option<Help>,
}

impl Dying {
    /// A dying process frees its memory alone, which takes as long as all else that is done to end
    /// a large one: the largest gets help from here.
    pub(crate) fn kill(processes: Vec<Process>) -> Self {
        let alive = || processes.iter().filter(|p| !p.zombie);
        let large = alive().max_by_key(|p| p.status().rss_anon);
        let large = large.filter(|p| p.status().rss_anon >= WORTH_HELP);
        let kill = |p: &Process| {
            if let Err(e) = fd::pidfd_send_signal(p.pidfd.as_fd(), libc::SIGKILL) {
                log::warn!("task {}: {e}", p.pid);
            }
        };
        let help = large.and_then(|p| Help::prepare(p.pidfd.as_fd()));
        alive().filter(|p| large.is_none_or(|large| large.pid != p.pid)).for_each(kill);
        large.into_iter().for_each(kill);
        Self { killed: Instant::now(), _help: help, processes }
    }

    /// When the last of them had been sent its signal.
    pub fn since(&self) -> Instant {
        self.killed
    }
}

impl Drop for Dying {
    fn drop(&mut self) {
        // The last thread of a pid namespace's init to die, and that may be any of them, waits until
        // all others in the namespace are waited for, which we as their tracer have to do. So
        // those of inits are waited for in whatever order they come, after all others.
        let alive = || self.processes.iter().rev().filter(|p| !p.zombie);
        // A leader is reported only when it is the last one.
        for t in alive().filter(|p| !p.is_init()).flat_map(|p| p.threads.iter().rev()) {
            while !ended(t.tid, true) {}
        }
        let mut inits: Vec<i32> = alive()
            .filter(|p| p.is_init())
            .flat_map(|p| p.threads.iter().rev())
            .map(|t| t.tid)
            .collect();
        worker::block_sigchld();
        loop {
            inits.retain(|&tid| !ended(tid, false));
            if inits.is_empty() {
                break;
            }
            worker::wait_sigchld(SIGCHLD_LOST);
        }
    }
}

/// A thread that frees memory of a process, beside the process itself, as soon as that is killed: a
/// moment later the process has left its memory, and nobody gets at it any more. Both walk the same
/// way, and where one is at work the other goes on behind it. Dropping it waits.
#[derive(Debug)]
struct Help(Option<JoinHandle<()>>);

impl Help {
    /// `None` if that cannot be: the process ends as well without.
    fn prepare(pidfd: BorrowedFd<'_>) -> Option<Self> {
        let pidfd = pidfd.try_clone_to_owned().ok()?;
        let ready = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let tell = Arc::clone(&ready);
        let work = move || {
            tell.store(true, Ordering::Release);
            // Until the signal is sent, the kernel says that it is not dying.
            let dying = |e: &sys::Error| e.errno() != libc::EINVAL;
            while begun.elapsed() < HELP_COMES {
                match fd::process_mrelease(pidfd.as_fd()) {
                    Err(e) if !dying(&e) => std::hint::spin_loop(),
                    Err(e) => return log::debug!("no help for a dying process: {e}"),
                    Ok(()) => return,
                }
            }
        };
        let thread = std::thread::Builder::new().spawn(work).ok()?;
        while !ready.load(Ordering::Acquire) && begun.elapsed() < HELP_STARTS {
            std::thread::yield_now();
        }
        Some(Self(Some(thread)))
    }
}

impl Drop for Help {
    fn drop(&mut self) {
        // It does not panic.
        let _ = self.0.take().map(JoinHandle::join);
    }
}

/// Whether a killed tracee is dead, and waited for; if not, `block` sleeps until it changes.
fn ended(tid: i32, block: bool) -> bool {
    match ptrace::wait(tid, block) {
        Ok((_, what)) => matches!(what, ptrace::Wait::Gone(_)),
        Err(e) => e.errno() != libc::EINTR,
    }
}
