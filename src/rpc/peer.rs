//! The process at the other end, as the kernel knows it.

use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use nix::sys::socket::{UnixAddr, getpeername, getsockname, getsockopt, sockopt::PeerCredentials};

use crate::rpc::socket::Socket;

/// The process that made the socket, or connected it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// In our pid namespace; 0 if it is not seen from there.
    pub(crate) pid: i32,
    /// Its user.
    pub(crate) uid: u32,
    /// Its group.
    pub(crate) gid: u32,
}

impl Peer {
    /// Asks the kernel.
    pub(crate) fn of(socket: &Socket) -> anyhow::Result<Self> {
        let creds = getsockopt(socket, PeerCredentials)?;
        Ok(Self { pid: creds.pid(), uid: creds.uid(), gid: creds.gid() })
    }

    /// Its supplementary groups (`SO_PEERGROUPS`, 4.13).
    pub(crate) fn groups(&self, socket: &Socket) -> sys::Result<Vec<u32>> {
        const SO_PEERGROUPS: i32 = 59;
        /// `NGROUPS_MAX` numbers of 4 bytes.
        const MOST: usize = 65536 * 4;
        let mut bytes = vec![0; MOST];
        let len = sys::fd::getsockopt(socket.as_fd(), libc::SOL_SOCKET, SO_PEERGROUPS, &mut bytes)?;
        let number = |b: &[u8]| u32::from_ne_bytes(b.try_into().unwrap_or_default());
        Ok(bytes[..len].chunks_exact(4).map(number).collect())
    }

    /// Whether a descriptor of the peer can keep pidfds: a unix datagram socket that is connected
    /// and has no name.
    pub(crate) fn is_pidfd_store(&self, fd: i32) -> sys::Result<bool> {
        let pidfd = sys::fd::pidfd_open(self.pid, 0)?;
        let fd = sys::fd::pidfd_getfd(pidfd.as_fd(), fd)?;
        let option = |name| {
            let mut value = [0; 4];
            sys::fd::getsockopt(fd.as_fd(), libc::SOL_SOCKET, name, &mut value).ok()?;
            Some(i32::from_ne_bytes(value))
        };
        let datagrams = option(libc::SO_DOMAIN) == Some(libc::AF_UNIX)
            && option(libc::SO_TYPE) == Some(libc::SOCK_DGRAM);
        let name = getsockname::<UnixAddr>(fd.as_raw_fd());
        let unnamed = name.is_ok_and(|name| name.is_unnamed());
        Ok(datagrams && unnamed && getpeername::<UnixAddr>(fd.as_raw_fd()).is_ok())
    }

    /// A directory that the peer has open, by its descriptor there.
    pub(crate) fn dir(&self, fd: i32) -> PathBuf {
        format!("/proc/{}/fd/{fd}", self.pid).into()
    }
}
