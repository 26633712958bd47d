//! Buffers of sockets, which may be larger than `net.core.wmem_max` and `rmem_max` let anybody
//! have who has no CAP_NET_ADMIN in the first user namespace.
//!
//! | who | may |
//! |---|---|
//! | a task in a user namespace | not force a size |
//! | the coordinator, outside of it ([`Outside`]) | force it for a task's socket |
//! | nobody, if the restore itself lacks the right | but whoever repairs connections may say how large new TCP sockets of their network namespace are |
//!
//! What cannot be had is told in the log.

use super::open::Files;
use super::{Result, failed, failed_io};
use images::proto::{InetSkEntry, SkOptsEntry, TcpStreamEntry};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Room in buffers beside what is put into them.
const ROOM: u32 = 1 << 20;

/// Somebody who does for tasks in a user namespace what only its outside may.
pub trait Outside: std::fmt::Debug {
    /// `setsockopt` of an int for descriptor `fd` of the calling task.
    fn set_option(&self, fd: RawFd, level: i32, name: i32, value: i32) -> sys::Result<()>;
}

/// A buffer of a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Buffer {
    what: &'static str,
    name: i32,
    force: i32,
    /// Its limit, and what new TCP sockets have: least, usual, most.
    limit: &'static str,
    tcp: &'static str,
}

pub(super) const SEND: Buffer = Buffer {
    what: "send buffer",
    name: libc::SO_SNDBUF,
    force: libc::SO_SNDBUFFORCE,
    limit: "net.core.wmem_max",
    tcp: "sys/net/ipv4/tcp_wmem",
};
pub(super) const RECEIVE: Buffer = Buffer {
    what: "receive buffer",
    name: libc::SO_RCVBUF,
    force: libc::SO_RCVBUFFORCE,
    limit: "net.core.rmem_max",
    tcp: "sys/net/ipv4/tcp_rmem",
};

impl Buffer {
    fn size(self, fd: BorrowedFd<'_>) -> Result<u32> {
        let mut now = [0u8; 4];
        sys::fd::getsockopt(fd, libc::SOL_SOCKET, self.name, &mut now)?;
        Ok(u32::from_ne_bytes(now))
    }

    /// As far as the limit allows. The kernel doubles what is set; images have what it shows.
    fn set(self, fd: BorrowedFd<'_>, size: u32) -> Result<()> {
        let half = (size / 2).to_ne_bytes();
        Ok(sys::fd::setsockopt(fd, libc::SOL_SOCKET, self.name, &half)?)
    }

    /// What counts when there is no room.
    pub(super) fn hint(self) -> String {
        format!(" (without CAP_NET_ADMIN outside of all user namespaces, {} counts)", self.limit)
    }

    /// The largest size without any right: what a new socket gets.
    fn most(self) -> Result<u32> {
        let (probe, _) = sys::net::socketpair(libc::SOCK_DGRAM)?;
        self.set(probe.as_fd(), i32::MAX as u32)?;
        self.size(probe.as_fd())
    }
}

impl Files<'_> {
    /// Sets an option that may take a right outside of all user namespaces. False: nobody here has
    /// it.
    pub(super) fn set_option(
        &self,
        fd: BorrowedFd<'_>,
        (level, name): (i32, i32),
        value: i32,
    ) -> Result<bool> {
        let denied = |done: sys::Result<()>| match done {
            Err(e) if e.errno() == libc::EPERM => Ok(false),
            other => other.map(|()| true),
        };
        if denied(sys::fd::setsockopt(fd, level, name, &value.to_ne_bytes()))? {
            return Ok(true);
        }
        let Some(outside) = self.outside else { return Ok(false) };
        Ok(denied(outside.set_option(fd.as_raw_fd(), level, name, value))?)
    }

    /// Gives a buffer the size that the image has.
    fn set_buffer(&self, id: u32, fd: BorrowedFd<'_>, buffer: Buffer, size: u32) -> Result<()> {
        if buffer.size(fd)? == size || self.set_exactly(fd, buffer, size)? {
            return Ok(());
        }
        // It may have been made larger than is allowed now.
        if buffer.size(fd)? < size {
            buffer.set(fd, size)?;
        }
        let now = buffer.size(fd)?;
        let what = buffer.what;
        log::warn!("file {id}: the {what} is {now}, not {size} bytes{}", buffer.hint());
        Ok(())
    }

    fn set_exactly(&self, fd: BorrowedFd<'_>, buffer: Buffer, size: u32) -> Result<bool> {
        // What needs no right needs nobody to be asked.
        if self.outside.is_some() && size <= buffer.most()? {
            return buffer.set(fd, size).map(|()| true);
        }
        let half = (size / 2).cast_signed();
        if self.set_option(fd, (libc::SOL_SOCKET, buffer.force), half)? {
            return Ok(true);
        }
        let enough = size <= buffer.most()?;
        if enough {
            buffer.set(fd, size)?;
        }
        Ok(enough)
    }

    /// Both buffers of the socket with file id `id`.
    pub(super) fn set_buffers(
        &self,
        id: u32,
        fd: BorrowedFd<'_>,
        opts: &SkOptsEntry,
    ) -> Result<()> {
        self.set_buffer(id, fd, SEND, opts.so_sndbuf)?;
        self.set_buffer(id, fd, RECEIVE, opts.so_rcvbuf)
    }

    /// Makes a buffer at least so large for the moment, or as large as may be: whether that is
    /// enough.
    pub(super) fn make_room(&self, fd: BorrowedFd<'_>, buffer: Buffer, size: u32) -> Result<bool> {
        let size = size.min(i32::MAX as u32 - 1);
        if buffer.size(fd)? >= size || self.set_exactly(fd, buffer, size)? {
            return Ok(true);
        }
        buffer.set(fd, size)?;
        Ok(false)
    }

    /// A socket with room for what is queued in a connection.
    pub(super) fn roomy_socket(&self, e: &InetSkEntry, tcp: &TcpStreamEntry) -> Result<OwnedFd> {
        let make = || sys::net::socket(e.family as i32, e.r#type as i32, e.proto as i32);
        let room = |size: u32, queued: u32| size.max(queued.saturating_add(ROOM).saturating_mul(2));
        let rooms = [
            (RECEIVE, room(e.opts.so_rcvbuf, tcp.inq_len)),
            (SEND, room(e.opts.so_sndbuf, tcp.outq_len)),
        ];
        let fd = make()?;
        let mut small = Vec::new();
        for (buffer, size) in rooms {
            if !self.make_room(fd.as_fd(), buffer, size)? {
                small.push((buffer, size));
            }
        }
        let raise = |(buffer, size): &(Buffer, u32)| Usual::raise(self, *buffer, *size);
        let raised = match small.iter().map(raise).collect::<Result<Vec<_>>>() {
            Ok(raised) if raised.is_empty() => return Ok(fd),
            Ok(raised) => raised,
            Err(e) => {
                log::warn!("{e}: what is queued in a connection may find no room");
                return Ok(fd);
            }
        };
        let made = make();
        for usual in raised {
            usual.put_back()?;
        }
        let fd = made?;
        for (buffer, size) in rooms {
            if small.iter().all(|(b, _)| b.name != buffer.name) {
                self.make_room(fd.as_fd(), buffer, size)?;
            }
        }
        Ok(fd)
    }
}

/// What new TCP sockets of a network namespace have, raised. A lock keeps others from taking that
/// for the usual.
#[derive(Debug)]
struct Usual {
    path: &'static str,
    file: File,
    old: String,
}

impl Usual {
    fn raise(files: &Files<'_>, buffer: Buffer, size: u32) -> Result<Self> {
        let path = buffer.tcp;
        let call = || format!("/proc/{path}");
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let file = nix::fcntl::openat(&files.proc, path, flags, Mode::empty())
            .map_err(|e| failed(call(), e))?;
        let mut usual = Self { path, file: file.into(), old: String::new() };
        usual.file.lock().map_err(|e| failed_io(call(), &e))?;
        usual.file.read_to_string(&mut usual.old).map_err(|e| failed_io(call(), &e))?;
        let mut words: Vec<&str> = usual.old.split_whitespace().collect();
        let size = (size.min(i32::MAX as u32)).to_string();
        if let Some(word) = words.get_mut(1) {
            *word = &size;
        }
        let text = words.join(" ");
        usual.write(&text)?;
        Ok(usual)
    }

    fn write(&mut self, text: &str) -> Result<()> {
        let done = self.file.rewind().and_then(|()| self.file.write_all(text.as_bytes()));
        done.map_err(|e| failed_io(format_args!("write(/proc/{}, {text:?})", self.path), &e))
    }

    fn put_back(mut self) -> Result<()> {
        let old = std::mem::take(&mut self.old);
        self.write(&old)
    }
}
