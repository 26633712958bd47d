//! The process that keeps the userfaultfds of a tree between two dumps.
//!
//! Write-protection lasts as long as somebody holds the userfaultfd, and a dump ends. So a
//! child of the dump stays: it sleeps until a dump of the same tree asks for what it holds, or
//! until the root of the tree ends. It listens at an abstract socket whose name tells the tree,
//! and talks only to the user it runs as. Killing it harms nobody: the kernel takes the
//! protection off, and the next dump finds nothing known and saves all.
//!
//! It also keeps the *generation*: which images (their `dump_criu_run_id`) the protection is
//! relative to. A dump that writes new images takes the generation away before it changes any
//! protection and gives a new one when its images are complete, so that a dump that dies in
//! between leaves no wrong knowledge behind.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect,
    getsockopt, listen, sendmsg, socket, sockopt,
};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// A process, once and for all: its pid here, and when it began, in clock ticks.
pub type Id = (i32, u64);

/// What is known of the tasks of a tree: those whose changes are tracked, each with its
/// userfaultfd if that is the way.
pub type Known = HashMap<Id, Option<OwnedFd>>;

mod tag {
    /// To the holder: tell all.
    pub(super) const ASK: u8 = b'?';
    /// To the holder: there is no generation any more, and nothing is known.
    pub(super) const FORGET: u8 = b'f';
    /// Either way: tasks and their descriptors.
    pub(super) const TASKS: u8 = b't';
    /// Either way: the generation, which ends a list of tasks.
    pub(super) const GENERATION: u8 = b'g';
    /// From the holder: done.
    pub(super) const DONE: u8 = b'.';
}

/// Tasks of one message: the kernel passes 253 descriptors at a time.
const BATCH: usize = 200;
/// Bytes of a task: pid, start, whether a descriptor belongs to it.
const TASK: usize = 13;
/// Longest message.
const MESSAGE: usize = 1 + BATCH * TASK;
/// How long a holder without a generation waits for somebody.
const IDLE: Duration = Duration::from_secs(10);
/// A dump does not wait longer for its holder.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection to the holder of a tree.
#[derive(Debug)]
pub struct Holder {
    socket: OwnedFd,
}

/// The address of the holder of the tree below `root`.
fn address(root: Id) -> Result<UnixAddr> {
    let ns = std::fs::metadata("/proc/self/ns/pid")?.ino();
    let name = format!("criu-tracks/{ns}/{}/{}", root.0, root.1);
    Ok(UnixAddr::new_abstract(name.as_bytes())?)
}

fn seqpacket() -> Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

/// The one at the other end is who we are.
fn check_peer(socket: BorrowedFd<'_>) -> Result<()> {
    let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
    match peer.uid() == nix::unistd::geteuid().as_raw() {
        true => Ok(()),
        false => Err(ErrorKind::PermissionDenied.into()),
    }
}

impl Holder {
    /// The holder of the tree below `root`; `None` if there is none.
    pub fn find(root: Id) -> Result<Option<Self>> {
        let socket = seqpacket()?;
        match connect(socket.as_raw_fd(), &address(root)?) {
            Ok(()) => {}
            Err(nix::errno::Errno::ECONNREFUSED) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        check_peer(socket.as_fd())?;
        Ok(Some(Self { socket }))
    }

    /// Makes one. To be called by a process with one thread.
    pub fn start(root: Id) -> Result<Self> {
        let listener = seqpacket()?;
        bind(listener.as_raw_fd(), &address(root)?)?;
        listen(&listener, Backlog::new(8)?)?;
        let target = sys::fd::pidfd_open(root.0, 0).map_err(Error::other)?;
        sys::worker::fork(|| {
            let ended = serve(listener.as_fd(), target.as_fd(), root.0);
            i32::from(ended.is_err())
        })
        .map_err(Error::other)?;
        drop(listener);
        Self::find(root)?.ok_or_else(|| ErrorKind::ConnectionRefused.into())
    }

    /// What the tree's last dump left: the generation and the tasks.
    pub fn ask(&self) -> Result<(String, Known)> {
        send(self.socket.as_fd(), &[tag::ASK], &[])?;
        let mut known = Known::new();
        loop {
            let message = self.receive()?;
            match message.data.split_first() {
                Some((&tag::TASKS, body)) => known.extend(tasks(body, message.fds)?),
                Some((&tag::GENERATION, body)) => {
                    return Ok((String::from_utf8_lossy(body).into_owned(), known));
                }
                _ => return Err(ErrorKind::InvalidData.into()),
            }
        }
    }

    /// Nothing is known any more, until [`Holder::keep`].
    pub fn forget(&self) -> Result<()> {
        send(self.socket.as_fd(), &[tag::FORGET], &[])?;
        self.done()
    }

    /// What is known from now on, relative to the images of `generation`.
    pub fn keep(&self, generation: &str, known: &Known) -> Result<()> {
        send_all(self.socket.as_fd(), generation, known)?;
        self.done()
    }

    fn done(&self) -> Result<()> {
        match self.receive()?.data[..] {
            [tag::DONE] => Ok(()),
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }

    fn receive(&self) -> Result<sys::socket::Message> {
        if !readable(self.socket.as_fd(), PATIENCE)? {
            return Err(ErrorKind::TimedOut.into());
        }
        receive(self.socket.as_fd())?.ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }
}

fn readable(fd: BorrowedFd<'_>, limit: Duration) -> Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut fds, limit) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

fn receive(socket: BorrowedFd<'_>) -> Result<Option<sys::socket::Message>> {
    let message = sys::socket::recv_msg(socket, MESSAGE, 0).map_err(Error::other)?;
    Ok((!message.data.is_empty()).then_some(message))
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let iov = [IoSlice::new(bytes)];
    sendmsg::<UnixAddr>(socket.as_raw_fd(), &iov, control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

fn send_all(socket: BorrowedFd<'_>, generation: &str, known: &Known) -> Result<()> {
    let all: Vec<_> = known.iter().collect();
    for batch in all.chunks(BATCH) {
        let mut bytes = vec![tag::TASKS];
        for ((pid, start), fd) in batch {
            bytes.extend_from_slice(&pid.to_ne_bytes());
            bytes.extend_from_slice(&start.to_ne_bytes());
            bytes.push(fd.is_some().into());
        }
        let fds: Vec<_> =
            batch.iter().filter_map(|(_, fd)| Some(fd.as_ref()?.as_raw_fd())).collect();
        send(socket, &bytes, &fds)?;
    }
    let mut bytes = vec![tag::GENERATION];
    bytes.extend_from_slice(generation.as_bytes());
    send(socket, &bytes, &[])
}

fn tasks(body: &[u8], fds: Vec<OwnedFd>) -> Result<Known> {
    let mut fds = fds.into_iter();
    let (all, rest) = body.as_chunks::<TASK>();
    if !rest.is_empty() {
        return Err(ErrorKind::InvalidData.into());
    }
    let one = |task: &[u8; TASK]| {
        let pid = i32::from_ne_bytes(std::array::from_fn(|i| task[i]));
        let start = u64::from_ne_bytes(std::array::from_fn(|i| task[4 + i]));
        let fd = match task[12] {
            0 => None,
            _ => Some(fds.next().ok_or(ErrorKind::InvalidData)?),
        };
        Ok(((pid, start), fd))
    };
    all.iter().map(one).collect()
}

/// The holder's life.
fn serve(listener: BorrowedFd<'_>, target: BorrowedFd<'_>, root: i32) -> Result<()> {
    detach(listener, target, root)?;
    let mut state = State::default();
    let mut client: Option<OwnedFd> = None;
    loop {
        let mut fds = vec![PollFd::new(target, PollFlags::POLLIN)];
        // One at a time.
        let waiting = client.as_ref().map_or(listener, |c| c.as_fd());
        fds.push(PollFd::new(waiting, PollFlags::POLLIN));
        let idle = client.is_none() && state.generation.is_empty();
        let limit = if idle { PollTimeout::try_from(IDLE).ok() } else { None };
        match poll(&mut fds, limit.unwrap_or(PollTimeout::NONE)) {
            Err(nix::errno::Errno::EINTR) => continue,
            Ok(0) => return Ok(()),
            other => drop(other?),
        }
        if fds[0].any() == Some(true) {
            return Ok(());
        }
        match client.take() {
            None => client = accept(listener).ok(),
            Some(c) => {
                if state.answer(c.as_fd()).is_ok() {
                    client = Some(c);
                } else if state.generation.is_empty() {
                    // A dump that ended without complete images: all of this is worth nothing.
                    return Ok(());
                }
            }
        }
    }
}

fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd> {
    let client = sys::net::accept(listener).map_err(Error::other)?;
    check_peer(client.as_fd())?;
    Ok(client)
}

/// What a holder holds.
#[derive(Default)]
struct State {
    generation: String,
    known: Known,
    /// Tasks of a generation that is not named yet.
    coming: Known,
}

impl State {
    /// Does what the client wants; an error ends the connection.
    fn answer(&mut self, client: BorrowedFd<'_>) -> Result<()> {
        let message = receive(client)?.ok_or(ErrorKind::UnexpectedEof)?;
        match message.data.split_first() {
            Some((&tag::ASK, _)) => send_all(client, &self.generation, &self.known),
            Some((&tag::FORGET, _)) => {
                self.generation.clear();
                self.known.clear();
                send(client, &[tag::DONE], &[])
            }
            Some((&tag::TASKS, body)) => {
                self.coming.extend(tasks(body, message.fds)?);
                Ok(())
            }
            Some((&tag::GENERATION, body)) => {
                self.generation = String::from_utf8_lossy(body).into_owned();
                self.known = std::mem::take(&mut self.coming);
                send(client, &[tag::DONE], &[])
            }
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }
}

/// Gives back all that was inherited from the dump but the two descriptors: nobody may wait for
/// the end of a pipe, or keep a file system busy, because of us.
fn detach(listener: BorrowedFd<'_>, target: BorrowedFd<'_>, root: i32) -> Result<()> {
    // Has its own log no more; a panic would find standard error closed and end this.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for to in 0..3 {
        sys::fd::dup3(null.as_fd(), to, false).map_err(Error::other)?;
    }
    let mut keep = [listener.as_raw_fd(), target.as_raw_fd()].map(|fd| fd as u32);
    keep.sort_unstable();
    let mut from = 3;
    for fd in keep {
        if from < fd {
            sys::fd::close_range(from, fd - 1).map_err(Error::other)?;
        }
        from = from.max(fd + 1);
    }
    sys::fd::close_range(from, u32::MAX).map_err(Error::other)?;
    std::mem::forget(null);
    std::env::set_current_dir("/")?;
    let _ = sys::worker::setsid();
    // The dump may have made itself immune.
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
    let name = format!("criu:{root}");
    if let Ok(name) = std::ffi::CString::new(name) {
        let _ = nix::sys::prctl::set_name(&name);
    }
    Ok(())
}
