//! The process at the other end, as the kernel knows it.

use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

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

    /// A directory that the peer has open, by its descriptor there.
    pub(crate) fn dir(&self, fd: i32) -> PathBuf {
        format!("/proc/{}/fd/{fd}", self.pid).into()
    }
}
