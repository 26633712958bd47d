//! The client while its request is served: notifications, and whether it is still there.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use images::proto::{CriuNotify, CriuReq, CriuReqType, CriuResp};

use crate::rpc::socket::Socket;

/// What a refused or failed notification ends with, as a script with this exit code.
const REFUSED: i32 = 1;

/// The notification at which nothing is frozen yet.
const BEFORE: &str = "pre-dump";

/// How many times `--timeout` a client may take to answer, if it gives one.
const STILL: u32 = 6;

/// After this long a client that does not answer is told of; then after twice as long, and so on.
const WARN: Duration = Duration::from_secs(30);

/// Who asked for what is being done.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: Rc<Socket>,
    wants_notifications: bool,
    /// How long a tree is kept frozen for an answer.
    patience: Option<Duration>,
}

impl Client {
    /// The client at the other end of `socket`.
    pub(crate) fn new(socket: Rc<Socket>, wants_notifications: bool) -> Self {
        Self { socket, wants_notifications, patience: None }
    }

    /// A client that is given up while a tree is frozen, after six times `timeout` seconds. What an
    /// engine does at a notification may take long, so that nobody is given up who has not said
    /// what is too long.
    pub(crate) fn with_patience(self, timeout: Option<u32>) -> Self {
        let seconds = timeout.filter(|s| *s > 0).map(|s| Duration::from_secs(s.into()));
        Self { patience: seconds.map(|limit| limit.saturating_mul(STILL)), ..self }
    }

    /// Tells what is about to happen, and waits until the client agrees.
    pub(crate) fn notify(&self, script: &str, pid: Option<i32>) -> Result<(), i32> {
        self.ask(script, pid, &[]).map(drop)
    }

    /// Asks for more `external` resources: `query-ext-files`.
    pub(crate) fn query_ext_files(&self) -> Result<Vec<String>, i32> {
        let answer = self.ask("query-ext-files", None, &[])?;
        let opts = answer.and_then(|a| a.opts);
        Ok(opts.map(|o| o.external).unwrap_or_default())
    }

    /// Hands the master of a new pseudo terminal over: `orphan-pts-master`.
    pub(crate) fn give_pts_master(&self, master: BorrowedFd<'_>) -> Result<(), i32> {
        self.ask("orphan-pts-master", None, &[master.as_raw_fd()]).map(drop)
    }

    /// Inode of our end of the connection.
    pub(crate) fn inode(&self) -> Option<u32> {
        let stat = nix::sys::stat::fstat(&*self.socket).ok()?;
        u32::try_from(stat.st_ino).ok()
    }

    /// Whether nobody is there any more to be told the result.
    pub(crate) fn has_gone(&self) -> bool {
        self.socket.is_hung_up()
    }

    /// `None` if the client does not want to hear.
    fn ask(&self, script: &str, pid: Option<i32>, fds: &[RawFd]) -> Result<Option<CriuReq>, i32> {
        if !self.wants_notifications {
            return Ok(None);
        }
        log::debug!("Sending {script} notification to the RPC client");
        let notification = CriuResp {
            notify: Some(CriuNotify { script: Some(script.into()), pid }),
            ..response(CriuReqType::Notify, true)
        };
        let failed = |why: &dyn std::fmt::Display| {
            log::error!("{script}: notification of the RPC client failed: {why}");
            REFUSED
        };
        self.socket.send(&notification, fds).map_err(|e| failed(&e))?;
        self.wait(script).map_err(|e| failed(&e))?;
        let answer = self.socket.receive().map_err(|e| failed(&e))?;
        let answer = answer.ok_or_else(|| failed(&"it has hung up"))?;
        if answer.r#type() != CriuReqType::Notify {
            return Err(failed(&format!("it answered with {}", answer.r#type().as_str_name())));
        }
        if answer.notify_success != Some(true) {
            log::error!("{script}: the RPC client refused (notify_success is false)");
            return Err(REFUSED);
        }
        Ok(Some(answer))
    }

    /// Waits for an answer, and does not hide that.
    fn wait(&self, script: &str) -> Result<(), String> {
        let began = Instant::now();
        let limit = self.patience.filter(|_| script != BEFORE);
        let mut warn = WARN;
        loop {
            let next = limit.map_or(warn, |limit| limit.min(warn));
            if self.socket.wait(next.saturating_sub(began.elapsed())).map_err(|e| e.to_string())? {
                return Ok(());
            }
            let waited = began.elapsed();
            let secs = waited.as_secs();
            if limit.is_some_and(|limit| waited >= limit) {
                return Err(format!("no answer for {secs} s ({STILL} times the timeout it gave)"));
            }
            if waited >= warn {
                log::warn!("{script}: the RPC client has not answered for {secs} s, all waits");
                warn *= 2;
            }
        }
    }
}

/// A response with nothing in it yet.
pub(crate) fn response(kind: CriuReqType, success: bool) -> CriuResp {
    CriuResp { r#type: kind.into(), success, ..CriuResp::default() }
}
