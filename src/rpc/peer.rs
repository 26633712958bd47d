//! The process at the other end, as the kernel knows it.

use std::path::PathBuf;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::rpc::socket::Socket;

/// The process that made the socket, or connected it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// In our pid namespace; 0 if it is not seen from there.
    pub(crate) pid: i32,
}

impl Peer {
    /// Asks the kernel.
    pub(crate) fn of(socket: &Socket) -> anyhow::Result<Self> {
        let creds = getsockopt(socket, PeerCredentials)?;
        Ok(Self { pid: creds.pid() })
    }

    /// A directory that the peer has open, by its descriptor there.
    pub(crate) fn dir(&self, fd: i32) -> PathBuf {
        format!("/proc/{}/fd/{fd}", self.pid).into()
    }
}
