//! The process that dumps, apart from the one that asked for it.
//!
//! [`run`] forks a *worker* in a session of its own, which traces the tree and writes the
//! images. Its parent, the *front*, only waits, and runs the hooks. So whatever kills the
//! front (a user's Ctrl-C, SIGKILL, a supervisor's timeout) leaves a process behind that
//! notices (see [`Stop`]), lets the tree go as it was, and ends.

use crate::freezer::Freezer;
use crate::hooks::{Action, Hooks, Progress, QUERY_EXT_FILES};
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
    /// Ask for external files. The answer is an exit code (`i32`) and, if that is 0, their
    /// number and each with its length.
    pub(super) const EXT_FILES: u8 = b'E';
    /// Success: the length, then the encoded statistics.
    pub(super) const DONE: u8 = b'D';
    /// Failure: its errno (`i32`), the length, then the text.
    pub(super) const FAILED: u8 = b'F';
    /// A hook had failed: one byte says which, then its exit code.
    pub(super) const HOOK_FAILED: u8 = b'h';
}

const ACTIONS: [Action; 4] =
    [Action::PreDump, Action::NetworkLock, Action::NetworkUnlock, Action::PostDump];

/// By which an action goes over the wire; [`QUERY_EXT_FILES`] is no action, and the last.
fn number(action: &str) -> u8 {
    ACTIONS.iter().position(|a| a.name() == action).unwrap_or(ACTIONS.len()) as u8
}

fn name(number: u8) -> &'static str {
    ACTIONS.get(usize::from(number)).map_or(QUERY_EXT_FILES, |a| a.name())
}

/// Hooks as the worker sees them: run by the front.
struct Ask<'a> {
    front: &'a UnixStream,
    /// A copy: what is shown is shown by the worker.
    progress: &'a dyn Progress,
    /// The front has somebody to tell.
    heard: bool,
}

impl Hooks for Ask<'_> {
    fn run(&mut self, action: Action, _: i32) -> Result<(), i32> {
        if !self.heard {
            return Ok(());
        }
        let mut front = self.front;
        // A front that is gone is noticed by `Stop` as well: any failure will do.
        front.write_all(&[tag::HOOK, number(action.name())]).map_err(|_| 1)?;
        match int(front).map_err(|_| 1)? {
            0 => Ok(()),
            code => Err(code),
        }
    }

    fn query_ext_files(&mut self, _: i32) -> Result<Vec<String>, i32> {
        if !self.heard {
            return Ok(Vec::new());
        }
        let mut front = self.front;
        front.write_all(&[tag::EXT_FILES]).map_err(|_| 1)?;
        match int(front).map_err(|_| 1)? {
            0 => {}
            code => return Err(code),
        }
        let count = int(front).map_err(|_| 1)?;
        let one = |_| text(front).map_err(|_| 1);
        (0..count).map(one).collect()
    }

    fn progress(&self) -> &dyn Progress {
        self.progress
    }
}

fn bytes(mut from: &UnixStream, n: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; n];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn int(mut from: &UnixStream) -> std::io::Result<i32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(i32::from_ne_bytes(bytes))
}

/// A length and as many bytes.
fn body(from: &UnixStream) -> std::io::Result<Vec<u8>> {
    let len = int(from)?.cast_unsigned() as usize;
    bytes(from, len)
}

fn text(from: &UnixStream) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&body(from)?).into_owned())
}

fn send_body(mut to: &UnixStream, body: &[u8]) -> std::io::Result<()> {
    to.write_all(&(body.len() as u32).to_ne_bytes())?;
    to.write_all(body)
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
    let freezer = request.freeze_cgroup.as_deref().map(Freezer::open).transpose()?;
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
        let heard = hooks.anybody();
        let mut ask = Ask { front: &back, progress: hooks.progress(), heard };
        let result = work(request, &mut ask, stop);
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
        Err(_) => {
            if let Some(mut freezer) = freezer {
                freezer.rescue();
            }
            Err(Error::WorkerDied { status })
        }
    }
}

fn report(mut front: &UnixStream, result: &Result<Stats, Error>) -> std::io::Result<()> {
    match result {
        Ok(stats) => {
            front.write_all(&[tag::DONE])?;
            send_body(front, &stats.encode_to_vec())
        }
        Err(Error::Hook { action, code }) => {
            front.write_all(&[tag::HOOK_FAILED, number(action)])?;
            front.write_all(&code.to_ne_bytes())
        }
        Err(e) => {
            front.write_all(&[tag::FAILED])?;
            front.write_all(&e.errno().to_ne_bytes())?;
            send_body(front, e.to_string().as_bytes())
        }
    }
}

/// Serves the worker until it is done. The outer error: it ended without a result.
fn relay(
    mut worker: &UnixStream,
    root: i32,
    hooks: &mut dyn Hooks,
) -> std::io::Result<Result<Stats, Error>> {
    let action = || -> std::io::Result<Action> {
        Ok(ACTIONS[usize::from(bytes(worker, 1)?[0]) % ACTIONS.len()])
    };
    loop {
        match bytes(worker, 1)?[0] {
            tag::HOOK => {
                let code = hooks.run(action()?, root).err().unwrap_or(0);
                worker.write_all(&code.to_ne_bytes())?;
            }
            tag::EXT_FILES => match hooks.query_ext_files(root) {
                Ok(files) => {
                    worker.write_all(&0i32.to_ne_bytes())?;
                    worker.write_all(&(files.len() as u32).to_ne_bytes())?;
                    files.iter().try_for_each(|file| send_body(worker, file.as_bytes()))?;
                }
                Err(code) => worker.write_all(&code.to_ne_bytes())?,
            },
            tag::HOOK_FAILED => {
                let action = name(bytes(worker, 1)?[0]);
                return Ok(Err(Error::Hook { action, code: int(worker)? }));
            }
            tag::DONE => {
                let malformed = |e: prost::DecodeError| Error::Failed {
                    text: e.to_string(),
                    errno: libc::EPROTO,
                };
                return Ok(Stats::decode(&body(worker)?[..]).map_err(malformed));
            }
            _ => {
                let errno = int(worker)?;
                return Ok(Err(Error::Failed { text: text(worker)?, errno }));
            }
        }
    }
}
