//! One connection: requests in, responses out, until the client has what it wants.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::rc::Rc;

use images::proto::{
    CriuDumpResp, CriuFeatures, CriuOpts, CriuPageServerInfo, CriuReq, CriuReqType, CriuResp,
    CriuRestoreResp, CriuVersion,
};

use crate::options::Raw;
use crate::place::Place;
use crate::request::{self, Command};
use crate::rpc::client::{Client, response};
use crate::rpc::peer::Peer;
use crate::rpc::socket::Socket;
use crate::rpc::{errno, options};
use crate::run::{self, Done};
use crate::{FAILURE, check, daemon, log, page_server};

/// Whose descriptors and children ours are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `criu swrk`: started by the client.
    Swrk,
    /// `criu service`: the client has only the socket.
    Service,
}

/// A connection with one client.
#[derive(Debug)]
pub(crate) struct Session {
    socket: Rc<Socket>,
    peer: Peer,
    /// Options of our command line and the config files, below those of a request.
    base: Raw,
    kind: Kind,
}

/// A request as it went: its response without what all have, or why it failed.
type Answer = anyhow::Result<CriuResp>;

impl Session {
    /// A session with the peer of `socket`.
    pub(crate) fn new(socket: Socket, base: Raw, kind: Kind) -> anyhow::Result<Self> {
        let peer = Peer::of(&socket)?;
        Ok(Self { socket: Rc::new(socket), peer, base, kind })
    }

    /// Serves the client until it is done; the answer is the exit code.
    pub(crate) fn serve(&self) -> u8 {
        // For a client that never asks.
        let mut code = FAILURE;
        loop {
            log::forget_first_error();
            match self.socket.receive() {
                Ok(Some(request)) => {
                    code = if self.serve_one(&request) { 0 } else { FAILURE };
                    if !goes_on(&request) {
                        return code;
                    }
                }
                Ok(None) => return code,
                Err(e) => {
                    ::log::error!("{e}");
                    self.reply(CriuReqType::Empty, Err(e.into()));
                    return FAILURE;
                }
            }
        }
    }

    /// Whether it succeeded.
    fn serve_one(&self, request: &CriuReq) -> bool {
        let kind = request.r#type();
        match kind {
            CriuReqType::Version => self.reply(kind, Ok(version())),
            CriuReqType::WaitPid => self.reply(kind, wait_pid(request)),
            CriuReqType::Dump => self.reply(kind, self.dump(request)),
            CriuReqType::Restore => self.restore(request),
            CriuReqType::PreDump | CriuReqType::SinglePreDump => {
                self.apart(kind, || self.command(Command::PreDump, request))
            }
            // CRIU answers both with the first one's type.
            CriuReqType::PageServer => self.apart(kind, || self.page_server(request)),
            CriuReqType::PageServerChld => self.page_server_child(request),
            CriuReqType::Check => self.apart(kind, || self.check(request)),
            CriuReqType::CpuinfoDump => {
                self.apart(kind, || self.command(Command::CpuinfoDump, request))
            }
            CriuReqType::CpuinfoCheck => {
                self.apart(kind, || self.command(Command::CpuinfoCheck, request))
            }
            CriuReqType::FeatureCheck => self.apart(kind, || self.feature_check(request)),
            CriuReqType::Empty | CriuReqType::Notify => {
                // Types that we do not know count as the first.
                let name = CriuReqType::try_from(request.r#type).map(|kind| kind.as_str_name());
                let name = name.map_or_else(|_| request.r#type.to_string(), str::to_owned);
                let why = format!("Invalid req: type {name}");
                ::log::error!("{why}");
                self.reply(CriuReqType::Empty, Err(anyhow::anyhow!(why)))
            }
        }
    }

    /// Does `work` and replies in a process of its own: what it opens, logs and changes does
    /// not outlive the request, as others may follow on this connection.
    fn apart(&self, kind: CriuReqType, work: impl FnOnce() -> Answer) -> bool {
        let child = sys::worker::fork(|| {
            let ok = self.reply(kind, work());
            log::close();
            i32::from(!ok)
        });
        let how = match child.and_then(sys::worker::wait) {
            Ok(status) if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) <= 1 => {
                return libc::WEXITSTATUS(status) == 0;
            }
            Ok(status) => format!("the process that served the request ended by {status:#x}"),
            Err(e) => e.to_string(),
        };
        ::log::error!("{how}");
        self.reply(kind, Err(anyhow::anyhow!(how)))
    }

    /// Sends a response of type `kind`; whether it tells of success, and could be sent.
    fn reply(&self, kind: CriuReqType, answer: Answer) -> bool {
        let mut reply = match answer {
            Ok(answer) => answer,
            Err(e) => {
                crate::report(&e);
                failure(kind, errno::of(&e))
            }
        };
        reply.r#type = kind.into();
        reply.cr_errmsg = log::first_error();
        match self.socket.send(&reply, &[]) {
            Ok(()) => reply.success,
            Err(e) => {
                ::log::error!("Can't send response: {e}");
                false
            }
        }
    }

    /// Puts a request's options together, and changes to its directories and its log.
    fn prepare(&self, command: Command, opts: &CriuOpts) -> anyhow::Result<(Raw, Place)> {
        let mut raw = self.base.clone();
        options::apply(&mut raw, opts, &self.peer, self.kind)?;
        log::set_verbosity(raw.verbosity);
        match command {
            // Without a pid a client wants to be dumped itself.
            Command::Dump | Command::PreDump => raw.tree = raw.tree.or(Some(self.peer.pid)),
            // There is nobody to wait with us.
            Command::Restore => raw.detached = true,
            _ => {}
        }
        if let Some(why) = crate::lacks_privileges(&raw) {
            return Err(request::Error::Says(why.into()).into());
        }
        request::validate(command, &raw)?;
        let place = Place::enter(&options::images_dir(&raw)?, raw.work_dir.as_deref())?;
        crate::open_log(&raw)?;
        request::refuse_unbuilt(command, &raw)?;
        Ok((raw, place))
    }

    fn client(&self, opts: &CriuOpts) -> Client {
        Client::new(self.socket.clone(), opts.notify_scripts == Some(true))
    }

    /// A command whose response holds nothing but its success.
    fn command(&self, command: Command, request: &CriuReq) -> Answer {
        let opts = request.opts.clone().unwrap_or_else(no_opts);
        let (raw, place) = self.prepare(command, &opts)?;
        let client = self.client(&opts).with_patience(raw.timeout);
        run::run(command, &raw, &place, Some(&client))?;
        Ok(response(request.r#type(), true))
    }

    /// Starts a page server that outlives us.
    fn page_server(&self, request: &CriuReq) -> Answer {
        let opts = request.opts.clone().unwrap_or_else(no_opts);
        let (raw, place) = self.prepare(Command::PageServer, &opts)?;
        let waiting = page_server::Waiting::new(&raw, &place)?;
        let port = waiting.port();
        let pid = daemon::start(|| {
            self.hang_up();
            waiting.serve()
        })?;
        Ok(page_server_at(pid, port))
    }

    /// Starts a page server that is a child of ours, for WAIT_PID.
    fn page_server_child(&self, request: &CriuReq) -> bool {
        let kind = CriuReqType::PageServer;
        let serve = |mut ready: std::io::PipeWriter| {
            let opts = request.opts.clone().unwrap_or_else(no_opts);
            let waiting = self.prepare(Command::PageServer, &opts);
            let waiting = waiting.and_then(|(raw, place)| page_server::Waiting::new(&raw, &place));
            let code = match waiting {
                Ok(waiting) => {
                    let pid = std::process::id().cast_signed();
                    let told = self.reply(kind, Ok(page_server_at(pid, waiting.port())));
                    self.hang_up();
                    let _ = ready.write_all(&[u8::from(told)]);
                    drop(ready);
                    waiting.serve()
                }
                Err(e) => {
                    self.reply(kind, Err(e));
                    let _ = ready.write_all(&[0]);
                    FAILURE
                }
            };
            log::close();
            i32::from(code)
        };
        let started = || -> anyhow::Result<Option<u8>> {
            let (mut reader, writer) = std::io::pipe()?;
            let mut writer = Some(writer);
            // In the child's copy of the memory the writer is still there.
            sys::worker::fork(|| writer.take().map_or_else(|| i32::from(FAILURE), serve))?;
            drop(writer);
            let mut told = Vec::new();
            reader.read_to_end(&mut told)?;
            Ok(told.first().copied())
        };
        match started() {
            Ok(Some(told)) => told == 1,
            Ok(None) => self.reply(kind, Err(anyhow::anyhow!("the page server died"))),
            Err(e) => self.reply(kind, Err(e)),
        }
    }

    /// In a process that goes on without the client: the connection is our parent's only.
    fn hang_up(&self) {
        if let Ok(null) = std::fs::File::open("/dev/null") {
            let _ = sys::fd::dup3(null.as_fd(), self.socket.as_fd().as_raw_fd(), true);
        }
    }

    fn dump(&self, request: &CriuReq) -> Answer {
        let done = self.command(Command::Dump, request)?;
        Ok(CriuResp { dump: Some(CriuDumpResp { restored: Some(false) }), ..done })
    }

    fn restore(&self, request: &CriuReq) -> bool {
        let kind = CriuReqType::Restore;
        let opts = request.opts.clone().unwrap_or_else(no_opts);
        let restored = self.prepare(Command::Restore, &opts).and_then(|(raw, place)| {
            let done = run::run(Command::Restore, &raw, &place, Some(&self.client(&opts)))?;
            Ok((raw, done))
        });
        let (raw, root) = match restored {
            Ok((raw, Done::Restored(root))) => (raw, root),
            Ok((_, Done::Code(code))) => {
                return self.reply(kind, Err(anyhow::anyhow!("restore ended with {code}")));
            }
            Err(e) => return self.reply(kind, Err(e)),
        };
        let restore = Some(CriuRestoreResp { pid: root });
        let told = self.reply(kind, Ok(CriuResp { restore, ..response(kind, true) }));
        if opts.exec_cmd.is_empty() {
            return told;
        }
        if let Err(e) = log::become_stdio() {
            ::log::warn!("the log could not become standard output: {e}");
        }
        let operands: Vec<OsString> = opts.exec_cmd.iter().map(OsString::from).collect();
        run::after_restore(&raw, root, &operands) == 0
    }

    /// `criu check` of what every dump needs. Directories only matter for the log.
    fn check(&self, request: &CriuReq) -> Answer {
        let raw = self.prepare_loosely(Command::Check, request)?;
        let groups = check::Groups {
            extra: raw.check_extra,
            unprivileged: raw.unprivileged,
            ..check::Groups::default()
        };
        match check::check(groups) {
            0 => Ok(response(CriuReqType::Check, true)),
            _ => anyhow::bail!("the kernel lacks what every dump needs: see the log"),
        }
    }

    /// Says of each feature that was asked for whether it is there.
    fn feature_check(&self, request: &CriuReq) -> Answer {
        self.prepare_loosely(Command::Check, request)?;
        let Some(asked) = request.features else {
            anyhow::bail!("a feature check without features");
        };
        let is = |asked: Option<bool>, name| {
            let asked = asked == Some(true);
            asked.then(|| check::has(name))
        };
        let features = CriuFeatures {
            mem_track: is(asked.mem_track, "mem_dirty_track"),
            lazy_pages: is(asked.lazy_pages, "uffd-noncoop"),
            pidfd_store: is(asked.pidfd_store, "pidfd_store"),
        };
        let features = Some(features);
        Ok(CriuResp { features, ..response(CriuReqType::FeatureCheck, true) })
    }

    /// As [`Self::prepare`] for requests that work without options, and without directories.
    fn prepare_loosely(&self, command: Command, request: &CriuReq) -> anyhow::Result<Raw> {
        let Some(opts) = &request.opts else { return Ok(self.base.clone()) };
        if opts.images_dir_fd >= 0 || opts.images_dir.is_some() {
            return self.prepare(command, opts).map(|(raw, _)| raw);
        }
        let mut raw = self.base.clone();
        options::apply(&mut raw, opts, &self.peer, self.kind)?;
        log::set_verbosity(raw.verbosity);
        if opts.log_file.is_some()
            && let Some(work) = raw.work_dir.as_deref()
        {
            Place::enter(Path::new("."), Some(work))?;
            crate::open_log(&raw)?;
        }
        Ok(raw)
    }
}

/// Options that were not sent: there are none, and no directory.
fn no_opts() -> CriuOpts {
    CriuOpts { images_dir_fd: -1, ..CriuOpts::default() }
}

/// Whether another request may come on the same connection.
fn goes_on(request: &CriuReq) -> bool {
    match request.r#type() {
        // One after the other, and a dump in the end.
        CriuReqType::PreDump => true,
        CriuReqType::Dump
        | CriuReqType::Restore
        | CriuReqType::SinglePreDump
        | CriuReqType::Empty
        | CriuReqType::Notify => false,
        _ => request.keep_open == Some(true),
    }
}

/// A failure has the parts that the success of its type has.
fn failure(kind: CriuReqType, errno: i32) -> CriuResp {
    let mut reply = CriuResp { cr_errno: Some(errno), ..response(kind, false) };
    match kind {
        CriuReqType::Dump => reply.dump = Some(CriuDumpResp { restored: Some(false) }),
        CriuReqType::Restore => reply.restore = Some(CriuRestoreResp { pid: -1 }),
        _ => {}
    }
    reply
}

fn page_server_at(pid: i32, port: u16) -> CriuResp {
    let ps = CriuPageServerInfo {
        pid: Some(pid),
        port: Some(port.into()),
        ..CriuPageServerInfo::default()
    };
    CriuResp { ps: Some(ps), ..response(CriuReqType::PageServer, true) }
}

fn version() -> CriuResp {
    let version = CriuVersion {
        major_number: 4,
        minor_number: 2,
        sublevel: Some(1),
        name: Some(format!("Amber {}", env!("CARGO_PKG_VERSION"))),
        ..CriuVersion::default()
    };
    CriuResp { version: Some(version), ..response(CriuReqType::Version, true) }
}

/// Waits for a child of ours: a page server.
fn wait_pid(request: &CriuReq) -> Answer {
    let pid = request.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
    let pid = pid.ok_or_else(|| anyhow::anyhow!("WAIT_PID without a pid"))?;
    let status = sys::worker::wait(pid)?;
    Ok(CriuResp { status: Some(status), ..response(CriuReqType::WaitPid, true) })
}
