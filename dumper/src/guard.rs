//! The process that dumps, apart from the one that asked for it.
//!
//! [`run`] forks a *worker* in a session of its own, which traces the tree and writes the
//! images. Its parent, the *front*, only waits, and runs the hooks. So whatever kills the
//! front (a user's Ctrl-C, SIGKILL, a supervisor's timeout) leaves a process behind that
//! notices (see [`Stop`]), lets the tree go as it was, and ends.

use crate::hooks::{Action, Hooks, Progress};
use crate::stop::Stop;
use crate::{Error, Request, Stats};
use prost::Message;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use sys::worker;

/// First byte of a message from the worker.
mod tag {
    /// Run a hook: one more byte says which. The answer is its exit code (`i32`).
    pub(super) const HOOK: u8 = b'H';
    /// Success: the length, then the encoded statistics.
    pub(super) const DONE: u8 = b'D';
    /// Failure: the length, then the text.
    pub(super) const FAILED: u8 = b'F';
    /// A hook had failed: one byte says which, then its exit code.
    pub(super) const HOOK_FAILED: u8 = b'h';
}

const ACTIONS: [Action; 4] =
    [Action::PreDump, Action::NetworkLock, Action::NetworkUnlock, Action::PostDump];

fn number(action: &str) -> u8 {
    ACTIONS.iter().position(|a| a.name() == action).unwrap_or(0) as u8
}

/// Hooks as the worker sees them: run by the front.
struct Ask<'a> {
    front: &'a UnixStream,
    /// A copy: what is shown is shown by the worker.
    progress: &'a dyn Progress,
}

impl Hooks for Ask<'_> {
    fn run(&mut self, action: Action, _: i32) -> Result<(), i32> {
        let mut answer = [0; 4];
        let mut front = self.front;
        // A front that is gone is noticed by `Stop` as well: any failure will do.
        front.write_all(&[tag::HOOK, number(action.name())]).map_err(|_| 1)?;
        front.read_exact(&mut answer).map_err(|_| 1)?;
        match i32::from_ne_bytes(answer) {
            0 => Ok(()),
            code => Err(code),
        }
    }

    fn progress(&self) -> &dyn Progress {
        self.progress
    }
}

/// Runs `work` in a worker process.
pub(crate) fn run(
    request: &Request,
    hooks: &mut dyn Hooks,
    work: fn(&Request, &mut dyn Hooks, Stop) -> Result<Stats, Error>,
) -> Result<Stats, Error> {
    let io = |e: std::io::Error| Error::Sys(sys::Error::io("socketpair", &e));
    let (front, back) = UnixStream::pair().map_err(io)?;
    let front_pid = std::process::id();
    let mut front = Some(front);
    let pid = worker::fork(|| {
        // In the child's copy of the memory: its copy of the front's end would keep it from
        // noticing the front's death.
        drop(front.take());
        let stop = Stop::watching(front_pid);
        // Out of reach of signals to the front's group and terminal.
        let _ = worker::setsid();
        // Waiting for tracees sleeps until one of them stops.
        worker::block_sigchld();
        // The machine may be short of memory for what we write: not our end, if it lets us.
        let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
        let result = work(request, &mut Ask { front: &back, progress: hooks.progress() }, stop);
        i32::from(report(&back, &result).is_err())
    })?;
    drop(back);
    let answer = match &front {
        Some(front) => relay(front, request.pid, hooks),
        None => Err(std::io::ErrorKind::BrokenPipe.into()),
    };
    let status = worker::wait(pid)?;
    match answer {
        Ok(result) => result,
        Err(_) => Err(Error::WorkerDied { status }),
    }
}

fn report(mut front: &UnixStream, result: &Result<Stats, Error>) -> std::io::Result<()> {
    let (tag, body) = match result {
        Ok(stats) => (tag::DONE, stats.encode_to_vec()),
        Err(Error::Hook { action, code }) => {
            front.write_all(&[tag::HOOK_FAILED, number(action)])?;
            return front.write_all(&code.to_ne_bytes());
        }
        Err(e) => (tag::FAILED, e.to_string().into_bytes()),
    };
    front.write_all(&[tag])?;
    front.write_all(&(body.len() as u32).to_ne_bytes())?;
    front.write_all(&body)
}

/// Serves the worker until it is done. The outer error: it ended without a result.
fn relay(
    mut worker: &UnixStream,
    root: i32,
    hooks: &mut dyn Hooks,
) -> std::io::Result<Result<Stats, Error>> {
    let mut worker_read = worker;
    let mut bytes = |n: usize| -> std::io::Result<Vec<u8>> {
        let mut b = vec![0; n];
        worker_read.read_exact(&mut b)?;
        Ok(b)
    };
    let int = |b: &[u8]| i32::from_ne_bytes(b.try_into().unwrap_or([0; 4]));
    let action = |b: &[u8]| ACTIONS[usize::from(b[0]) % ACTIONS.len()];
    loop {
        match bytes(1)?[0] {
            tag::HOOK => {
                let code = hooks.run(action(&bytes(1)?), root).err().unwrap_or(0);
                worker.write_all(&code.to_ne_bytes())?;
            }
            tag::HOOK_FAILED => {
                let action = action(&bytes(1)?);
                let code = int(&bytes(4)?);
                return Ok(Err(Error::Hook { action: action.name(), code }));
            }
            tag => {
                let len = int(&bytes(4)?) as usize;
                let body = bytes(len)?;
                if tag != tag::DONE {
                    return Ok(Err(Error::Failed(String::from_utf8_lossy(&body).into_owned())));
                }
                return Ok(Stats::decode(&body[..]).map_err(|e| Error::Failed(e.to_string())));
            }
        }
    }
}
