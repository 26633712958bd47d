//! A connection whose users say how it is waited for.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recv, sendmsg};

/// How somebody waits.
pub trait Wait {
    /// Comes back when `socket` may be ready for `event`, or with why it is given up.
    fn wait(&self, socket: BorrowedFd<'_>, event: PollFlags) -> io::Result<()>;
}

/// A connected socket. No call on it blocks, whoever else may have made it blocking or not: what
/// was given to us may be either.
#[derive(Debug)]
pub struct Stream<W> {
    socket: OwnedFd,
    wait: W,
}

impl<W: Wait> Stream<W> {
    /// All waits on `socket` are `wait`'s.
    pub fn new(socket: OwnedFd, wait: W) -> Self {
        Self { socket, wait }
    }

    /// Repeats what would block.
    fn when<T>(
        &self,
        event: PollFlags,
        mut call: impl FnMut(i32) -> nix::Result<T>,
    ) -> io::Result<T> {
        loop {
            match call(self.socket.as_raw_fd()) {
                Err(nix::Error::EAGAIN) => self.wait.wait(self.socket.as_fd(), event)?,
                done => return Ok(done?),
            }
        }
    }
}

impl<W: Wait> Read for Stream<W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.when(PollFlags::POLLIN, |socket| recv(socket, buf, MsgFlags::MSG_DONTWAIT))
    }
}

impl<W: Wait> Write for Stream<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(buf)])
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        self.when(PollFlags::POLLOUT, |socket| sendmsg::<()>(socket, bufs, &[], flags, None))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
