//! CRIU's RPC: a `criu_req` per packet of a unix socket, answered by a `criu_resp`.
//!
//! `criu swrk FD` serves the one client that started it, on the socket it inherited; `criu
//! service` listens, and has a worker for each connection. Both come to a [`session::Session`].
//! A request's options become the same [`Raw`] as those of a command line
//! (see [`options`]) and go the same way from there.

mod client;
mod errno;
mod options;
mod peer;
mod service;
mod session;
mod socket;

use std::ffi::OsString;

use anyhow::Context as _;

use crate::options::Raw;

pub(crate) use client::Client;
pub(crate) use service::run as service;

/// `criu swrk FD`: serves the client at the other end of an inherited socket.
pub(crate) fn swrk(raw: &Raw, operands: &[OsString]) -> anyhow::Result<u8> {
    let [fd] = operands else { anyhow::bail!("swrk takes one descriptor") };
    let fd = fd.to_str().and_then(|fd| fd.parse().ok());
    let fd = fd.with_context(|| format!("swrk: {} is no descriptor", operands[0].display()))?;
    let socket = sys::fd::inherited(fd).and_then(socket::Socket::new);
    let socket = socket.with_context(|| format!("swrk: descriptor {fd}"))?;
    Ok(session::Session::new(socket, raw.clone(), session::Kind::Swrk)?.serve())
}
