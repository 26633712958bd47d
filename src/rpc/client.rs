//! The client while its request is served: notifications, and whether it is still there.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;

use images::proto::{CriuNotify, CriuReq, CriuReqType, CriuResp};

use crate::rpc::socket::Socket;

/// What a refused or failed notification ends with, as a script with this exit code.
const REFUSED: i32 = 1;

/// Who asked for what is being done.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: Rc<Socket>,
    wants_notifications: bool,
}

impl Client {
    /// The client at the other end of `socket`.
    pub(crate) fn new(socket: Rc<Socket>, wants_notifications: bool) -> Self {
        Self { socket, wants_notifications }
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
            log::error!("{script}: the RPC client was not notified: {why}");
            REFUSED
        };
        self.socket.send(&notification, fds).map_err(|e| failed(&e))?;
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
}

/// A response with nothing in it yet.
pub(crate) fn response(kind: CriuReqType, success: bool) -> CriuResp {
    CriuResp { r#type: kind.into(), success, ..CriuResp::default() }
}
