//! Messages over a `SOCK_SEQPACKET` socket: one packet each, of any size, without a length.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use images::proto::{CriuReq, CriuResp};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use prost::Message as _;

/// Longer requests are refused unread: the longest that make sense have some thousand paths.
const LONGEST: usize = 8 << 20;

/// Low numbers belong to descriptors that a client wants to be inherited by tasks.
const LOWEST_FD: RawFd = 1000;

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The socket does not work.
    #[error("Can't receive request: {0}")]
    Io(#[from] io::Error),
    /// A packet that is no request.
    #[error("Invalid req: {0}")]
    Malformed(String),
}

/// A connection with a client.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Takes the connection, out of the way of other descriptors.
    pub(crate) fn new(fd: OwnedFd) -> sys::Result<Self> {
        let high = sys::fd::dup_above(fd.as_fd(), LOWEST_FD);
        // EINVAL where RLIMIT_NOFILE is lower than that.
        high.or_else(|_| sys::fd::dup_above(fd.as_fd(), 3)).map(Self)
    }

    /// The next request; `None` when the client has hung up.
    pub(crate) fn receive(&self) -> Result<Option<CriuReq>, Error> {
        let peeked = self.receive_packet(&mut [], MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC)?;
        if peeked > LONGEST {
            return Err(Error::Malformed(format!("{peeked} bytes are too long")));
        }
        let mut packet = vec![0; peeked];
        let len = self.receive_packet(&mut packet, MsgFlags::empty())?;
        // A packet of nothing looks the same as the end, and is as little of a request.
        if len == 0 {
            return Ok(None);
        }
        packet.truncate(len);
        CriuReq::decode(&packet[..]).map(Some).map_err(|e| Error::Malformed(e.to_string()))
    }

    fn receive_packet(&self, buffer: &mut [u8], flags: MsgFlags) -> Result<usize, Error> {
        loop {
            match recv(self.0.as_raw_fd(), buffer, flags) {
                Ok(len) => return Ok(len),
                Err(Errno::EINTR) => {}
                Err(Errno::ECONNRESET) => return Ok(0),
                Err(e) => return Err(Error::Io(e.into())),
            }
        }
    }

    /// Sends a response, with descriptors attached.
    pub(crate) fn send(&self, response: &CriuResp, fds: &[RawFd]) -> sys::Result<()> {
        let packet = response.encode_to_vec();
        sys::net::send_msg(self.0.as_fd(), &packet, fds, &[], libc::MSG_NOSIGNAL).map(drop)
    }

    /// Waits until something comes or the other end is closed; false if neither does in time.
    pub(crate) fn wait(&self, time: Duration) -> io::Result<bool> {
        // Not a little too early.
        let time = time + Duration::from_millis(1);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)) {
            Ok(n) => Ok(n > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether the other end is closed.
    pub(crate) fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO);
        let ended = PollFlags::POLLHUP | PollFlags::POLLERR;
        polled.is_ok() && fds[0].revents().is_some_and(|got| got.intersects(ended))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
