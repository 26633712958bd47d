//! The process that restores, apart from the one that asked for it.
//!
//! [`run`] forks a *worker*, which makes and traces the tree. Its parent, the *front*, only waits.
//! (The worker stays in the session and group of the front: jobs of a shell inherit them.) The tree dies with its tracer until it is let go, task by task; so
//! whatever kills the front (a user's Ctrl-C, SIGKILL, a supervisor's timeout) leaves a worker
//! behind that notices, and either takes all down or has let all go: never a half.
//!
//! The root task becomes a child of the front, as if that had made it; or its sibling: then the
//! front forks it, as the worker's siblings are the front's children.
//!
//! A worker that is killed itself (by hand, for want of memory) takes its tree with it. What it did
//! outside of the tree, it has told the front beforehand, which takes it back.

use crate::execute::fork;
use crate::{Error, Restored};
use images::proto::RestoreStatsEntry;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use prost::Message;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use sys::ptrace::{self, Wait};
use sys::worker;

/// Signals that end a restore: SIGHUP, SIGINT, SIGQUIT, SIGALRM, SIGTERM.
pub(crate) const STOPPING: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 13 | 1 << 14;
/// How long killed tasks may take to be gone.
pub(crate) const REAP: Duration = Duration::from_secs(10);
/// How often the front looks for signals, in ms.
const PATROL: u16 = 50;
/// How often a worker with a number that a task wants is forked anew.
const TRIES: usize = 1000;

/// First byte of the worker's message.
mod tag {
    /// Success: the root's pid, then the length and the encoded statistics.
    pub(super) const DONE: u8 = b'D';
    /// Failure: its errno, then the length and the text.
    pub(super) const FAILED: u8 = b'F';
    /// A hook failed: its exit code, then the length and its name.
    pub(super) const HOOK: u8 = b'h';
    /// A child of the front's that ends at once, as somebody else had taken its number: its pid.
    pub(super) const REAP: u8 = b'Z';
    /// The worker's wish that the front fork the root, and the answer: the root's pid.
    pub(super) const ROOT: u8 = b'R';
    /// Something is going to be done outside of the tree: what, for who takes it back.
    pub(super) const DOES: u8 = b'O';
    /// All of that stays: the tree is going to be let go.
    pub(super) const KEEP: u8 = b'K';
}

/// The front, as the worker sees it.
#[derive(Debug)]
pub(crate) struct Front {
    pid: i32,
    stream: UnixStream,
}

impl Front {
    /// Whether nobody wants the restore any more.
    pub(crate) fn is_gone(&self) -> bool {
        sys::arena::getppid() != self.pid
    }

    /// Has the front wait for its child that ends at once.
    pub(crate) fn reap(&self, pid: i32) {
        // It may be gone itself: then another does.
        let _ = send(&self.stream, tag::REAP, pid, &[]);
    }

    /// Tells the front what is going to be done outside of the tree, for it to take back if this process
    /// is killed.
    pub(crate) fn does(&self, what: &[u8]) {
        let _ = send(&self.stream, tag::DOES, 0, what);
    }

    /// From now on nothing of that is taken back.
    pub(crate) fn keep(&self) {
        let _ = send(&self.stream, tag::KEEP, 0, &[]);
    }

    /// Has the front fork the root task, which then is its sibling: for `--restore-sibling`.
    pub(crate) fn fork_root(&self) -> Result<i32, Error> {
        let io = |e: std::io::Error| Error::Sys(sys::Error::io("the restore's front", &e));
        send(&self.stream, tag::ROOT, 0, &[]).map_err(io)?;
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        // The root may hold the stream, so that its end does not show.
        while poll(&mut fds, PollTimeout::from(PATROL)).unwrap_or(0) == 0 {
            if self.is_gone() {
                return Err(Error::Interrupted);
            }
        }
        let (answer, number, body) = receive(&self.stream).map_err(io)?;
        match answer {
            tag::ROOT => Ok(number),
            _ => Err(Error::Failed {
                text: String::from_utf8_lossy(&body).into_owned(),
                errno: number,
            }),
        }
    }
}

/// Runs `work` in a worker, which has a number that is not `wanted`. `fork_root`: done here when
/// the worker asks for it, with the worker's pid. `take_back`: what a worker did that was killed, in
/// its own words ([`Front::does`]), when its tree is gone.
pub(crate) fn run(
    wanted: impl Fn(i32) -> bool,
    work: impl FnOnce(Front) -> Result<Restored, Error>,
    fork_root: impl Fn(i32) -> Result<i32, Error>,
    take_back: impl FnOnce(&[Vec<u8>]),
) -> Result<Restored, Error> {
    let io = |e: std::io::Error| Error::Sys(sys::Error::io("socketpair", &e));
    // Orphans of a failed restore come to us, and are reaped.
    sys::task::prctl(libc::PR_SET_CHILD_SUBREAPER, [1, 0, 0, 0])?;
    let mask = sys::arena::swap_signal_mask(STOPPING)?;
    let (front, back) = UnixStream::pair().map_err(io)?;
    let front_pid = std::process::id().cast_signed();
    let mut front = Some(front);
    let child = || {
        // In the child's copy of the memory.
        drop(front.take());
        let Ok(stream) = back.try_clone() else { return 1 };
        let result = work(Front { pid: front_pid, stream });
        i32::from(report(&back, &result).is_err())
    };
    let mut done = Vec::new();
    let result = fork(wanted, child).and_then(|pid| {
        drop(back);
        let answer = front.as_ref().map(|front| listen(front, pid, &fork_root, &mut done));
        let status = worker::wait(pid)?;
        if let Some(Ok(result)) = answer {
            // What it did not want to stay, it has taken back.
            done.clear();
            return result;
        }
        Err(Error::Failed {
            text: format!("the restoring process ended with wait status {status:#x}"),
            errno: libc::EIO,
        })
    });
    if result.is_err() {
        reap();
        take_back(&done);
    }
    let _ = sys::arena::swap_signal_mask(mask);
    let _ = sys::task::prctl(libc::PR_SET_CHILD_SUBREAPER, [0; 4]);
    result
}

/// Forks until the number is nobody's.
fn fork(wanted: impl Fn(i32) -> bool, child: impl FnOnce() -> i32) -> Result<i32, Error> {
    let mut child = Some(child);
    for _ in 0..TRIES {
        let pid = worker::fork(|| {
            if wanted(std::process::id().cast_signed()) {
                return 0;
            }
            child.take().map_or(1, |child| child())
        })?;
        if !wanted(pid) {
            return Ok(pid);
        }
        worker::wait(pid)?;
    }
    let text = "no process number is left that no task wants".to_owned();
    Err(Error::Failed { text, errno: libc::EAGAIN })
}

fn report(front: &UnixStream, result: &Result<Restored, Error>) -> std::io::Result<()> {
    let (tag, number, body) = match result {
        Ok(restored) => (tag::DONE, restored.pid, restored.stats.encode_to_vec()),
        Err(Error::Hook { action, code }) => (tag::HOOK, *code, action.as_bytes().to_vec()),
        Err(e) => (tag::FAILED, e.errno(), whole_text(e).into_bytes()),
    };
    send(front, tag, number, &body)
}

fn send(mut to: &UnixStream, tag: u8, number: i32, body: &[u8]) -> std::io::Result<()> {
    let mut message = vec![tag];
    message.extend_from_slice(&number.to_ne_bytes());
    message.extend_from_slice(&(body.len() as u32).to_ne_bytes());
    message.extend_from_slice(body);
    to.write_all(&message)
}

fn receive(mut from: &UnixStream) -> std::io::Result<(u8, i32, Vec<u8>)> {
    let mut head = [0; 9];
    from.read_exact(&mut head)?;
    let word = |at: usize| -> [u8; 4] { std::array::from_fn(|i| head[at + i]) };
    let mut body = vec![0; u32::from_ne_bytes(word(5)) as usize];
    from.read_exact(&mut body)?;
    Ok((head[0], i32::from_ne_bytes(word(1)), body))
}

/// An error with its sources, as far as they say something new.
fn whole_text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(e) = source {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = e.source();
    }
    text
}

/// Waits for the worker's message; passes signals on. The outer error: there is none, and in `done` is
/// what it did outside of the tree.
fn listen(
    worker: &UnixStream,
    pid: i32,
    fork_root: &impl Fn(i32) -> Result<i32, Error>,
    done: &mut Vec<Vec<u8>>,
) -> std::io::Result<Result<Restored, Error>> {
    let mut fds = [PollFd::new(worker.as_fd(), PollFlags::POLLIN)];
    let mut kept = false;
    let (said, number, body) = loop {
        while poll(&mut fds, PollTimeout::from(PATROL)).unwrap_or(0) == 0 {
            if let Ok(signo @ 1..) = sys::arena::take_signal(STOPPING) {
                let _ = sys::task::kill(pid, signo);
            }
        }
        let (said, number, body) = receive(worker)?;
        match said {
            tag::REAP => fork::reap(number),
            tag::DOES if kept => {}
            tag::DOES => done.push(body),
            tag::KEEP => {
                kept = true;
                done.clear();
            }
            tag::ROOT => match fork_root(pid) {
                Ok(root) => send(worker, tag::ROOT, root, &[])?,
                Err(e) => send(worker, tag::FAILED, e.errno(), whole_text(&e).as_bytes())?,
            },
            _ => break (said, number, body),
        }
    };
    let text = || String::from_utf8_lossy(&body).into_owned();
    Ok(match said {
        tag::DONE => match RestoreStatsEntry::decode(&body[..]) {
            Ok(stats) => Ok(Restored { pid: number, stats }),
            Err(e) => Err(Error::Failed { text: e.to_string(), errno: libc::EIO }),
        },
        tag::HOOK => Err(Error::Hook { action: crate::hooks::name(&text()), code: number }),
        _ => Err(Error::Failed { text: text(), errno: number }),
    })
}

/// Waits until all children are gone: the killed root, and orphans.
pub(crate) fn reap() {
    let until = Instant::now() + REAP;
    while Instant::now() < until {
        match ptrace::wait(-1, false) {
            Err(_) => return,
            Ok((_, Wait::Nothing)) => std::thread::sleep(Duration::from_millis(1)),
            Ok((pid, Wait::Stopped { .. })) => {
                let _ = sys::task::kill(pid, libc::SIGKILL);
            }
            Ok(_) => {}
        }
    }
    log::error!("killed tasks are not gone after {REAP:?}");
}
