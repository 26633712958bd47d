// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A client: starts `criu swrk` and speaks with it.

use images::proto::{CriuNotify, CriuOpts, CriuReq, CriuReqType, CriuResp};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket, socketpair,
};
use prost::Message;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    socket: OwnedFd,
    /// The `swrk`; there is none behind a service.
    child: Option<Child>,
}

impl Client {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| ())
    }

    pub(crate) fn start_with(change: impl FnOnce(&mut Command)) -> Self {
        let kind = SockType::SeqPacket;
        let pair = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = pair.expect("socketpair");
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).expect("F_SETFD");
        let mut command = Command::new(std::env::var_os(crate::CRIU).expect("path of criu"));
        command.arg("swrk").arg(theirs.as_raw_fd().to_string()).stdin(Stdio::null());
        change(&mut command);
        let child = command.spawn().expect("criu starts");
        Self { socket: ours, child: Some(child) }
    }

    /// Connects to the service of the sandbox.
    pub(crate) fn connect() -> Self {
        let kind = SockType::SeqPacket;
        let socket = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None);
        let socket = socket.expect("socket");
        let at = UnixAddr::new(&dir().join("service")).expect("path");
        connect(socket.as_raw_fd(), &at).expect("connect");
        Self { socket, child: None }
    }

    pub(crate) fn send(&self, request: &CriuReq) {
        self.send_bytes(&request.encode_to_vec());
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8]) {
        send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).expect("send");
    }

    /// The next message and a descriptor that came with it.
    pub(crate) fn receive_fd(&self) -> (CriuResp, Option<OwnedFd>) {
        let message = sys::socket::recv_msg(self.socket.as_fd(), 64 << 10, 0).expect("a message");
        let response = CriuResp::decode(&message.data[..]).expect("a response");
        (response, message.fds.into_iter().next())
    }

    /// The next message, if it has not hung up.
    pub(crate) fn receive(&self) -> Option<CriuResp> {
        let mut packet = vec![0; 64 << 10];
        let len = recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap_or(0);
        (len > 0).then(|| CriuResp::decode(&packet[..len]).expect("a response"))
    }

    /// Sends a request, and answers notifications with what `agree` says of them.
    pub(crate) fn call(
        &self,
        request: &CriuReq,
        mut agree: impl FnMut(&CriuNotify) -> bool,
    ) -> CriuResp {
        self.send(request);
        loop {
            let response = self.receive().expect("an answer");
            let Some(notify) = &response.notify else { return response };
            assert_eq!(response.r#type(), CriuReqType::Notify);
            let answer = CriuReq {
                r#type: CriuReqType::Notify.into(),
                notify_success: Some(agree(notify)),
                ..CriuReq::default()
            };
            self.send(&answer);
        }
    }

    pub(crate) fn ask(&self, request: &CriuReq) -> CriuResp {
        self.call(request, |n| panic!("not asked for: {n:?}"))
    }

    /// Agrees to every notification until the answer comes or it hangs up; `None` if neither does.
    pub(crate) fn answer_all(&self, limit: Duration) -> Option<()> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            if left.is_zero() || poll(&mut fds, timeout) == Ok(0) {
                return None;
            }
            let Some(response) = self.receive() else { return Some(()) };
            if response.notify.is_none() {
                return Some(());
            }
            let agreed = CriuReq { notify_success: Some(true), ..bare(CriuReqType::Notify) };
            self.send(&agreed);
        }
    }

    /// Hangs up; how criu ends.
    pub(crate) fn end(mut self) -> std::process::ExitStatus {
        drop(self.socket);
        self.child.as_mut().expect("swrk").wait().expect("criu ends")
    }
}

pub(crate) fn dir() -> PathBuf {
    std::env::var_os(crate::DIR).expect("directory").into()
}

pub(crate) fn pid() -> i32 {
    std::env::var(crate::PID).expect("pid").parse().expect("number")
}

/// A zombie that its parent has not seen yet is as good as gone.
pub(crate) fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Images, and the descriptor of their directory, which is open as long as this.
pub(crate) struct Images(File);

impl Images {
    pub(crate) fn open() -> Self {
        Self(File::open(dir().join("images")).expect("images"))
    }

    pub(crate) fn opts(&self, log: &str) -> CriuOpts {
        CriuOpts {
            images_dir_fd: self.0.as_raw_fd(),
            log_level: Some(4),
            log_file: Some(log.into()),
            ..CriuOpts::default()
        }
    }

    pub(crate) fn dump(&self) -> CriuReq {
        let opts = CriuOpts { pid: Some(pid()), ..self.opts("dump.log") };
        request(CriuReqType::Dump, opts)
    }

    pub(crate) fn restore(&self) -> CriuReq {
        request(CriuReqType::Restore, self.opts("restore.log"))
    }
}

pub(crate) fn request(kind: CriuReqType, opts: CriuOpts) -> CriuReq {
    CriuReq { opts: Some(opts), ..bare(kind) }
}

pub(crate) fn bare(kind: CriuReqType) -> CriuReq {
    CriuReq { r#type: kind.into(), ..CriuReq::default() }
}

/// Changes the options of a request.
pub(crate) fn with(mut request: CriuReq, change: impl FnOnce(&mut CriuOpts)) -> CriuReq {
    change(request.opts.as_mut().expect("options"));
    request
}
