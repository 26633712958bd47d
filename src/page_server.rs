//! `criu page-server`: writes the pages that a dump elsewhere sends. One connection, then it ends.

use std::io;
use std::net::{Ipv4Addr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::Context as _;
use images::page_server::{Server, Settings, Stream, Wait};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::options::Raw;
use crate::place::Place;
use crate::{FAILURE, daemon, report};

/// A server that may be connected to.
#[derive(Debug)]
pub(crate) struct Waiting {
    from: From,
    dir: images::Dir,
    settings: Settings,
}

#[derive(Debug)]
enum From {
    Listener(TcpListener),
    /// Connected already (`--ps-socket`).
    Socket(OwnedFd),
}

/// The command: serves one connection.
pub(crate) fn run(raw: &Raw, place: &Place) -> anyhow::Result<u8> {
    let waiting = Waiting::new(raw, place)?;
    daemon::run(raw, place, || waiting.serve())
}

impl Waiting {
    /// Takes the address, or the socket.
    pub(crate) fn new(raw: &Raw, place: &Place) -> anyhow::Result<Self> {
        let dir = images::Dir::open(&place.dirs.images)?;
        if let Some(previous) = &raw.prev_images_dir {
            link_parent(&dir, previous)?;
        }
        let from = match raw.ps_socket {
            Some(fd) => From::Socket(sys::fd::inherited(fd).context("--ps-socket")?),
            None => From::Listener(listen(raw)?),
        };
        let settings = Settings { auto_dedup: raw.auto_dedup };
        let new = Self { from, dir, settings };
        if raw.port.unwrap_or(0) == 0 && raw.ps_socket.is_none() {
            log::info!("Using {} port", new.port());
        }
        Ok(new)
    }

    /// Where it listens; 0 if it is connected already.
    pub(crate) fn port(&self) -> u16 {
        match &self.from {
            From::Listener(listener) => listener.local_addr().map_or(0, |a| a.port()),
            From::Socket(_) => 0,
        }
    }

    /// Serves to the end; the exit code.
    pub(crate) fn serve(self) -> u8 {
        match self.one() {
            Ok(pages) => {
                log::info!("Page server: {pages} pages received");
                0
            }
            Err(e) => {
                report(&e);
                log::error!("Page server FAILED.");
                FAILURE
            }
        }
    }

    fn one(self) -> anyhow::Result<u64> {
        let socket: OwnedFd = match self.from {
            From::Socket(fd) => fd,
            From::Listener(listener) => {
                let (stream, peer) = listener.accept().context("accept")?;
                log::info!("Accepted connection from {peer}");
                stream.into()
            }
        };
        sys::net::keep_alive(socket.as_fd());
        Ok(Server::new(Stream::new(socket, Patience), &self.dir, self.settings)?.serve()?)
    }
}

/// Any port if none is given, on all addresses.
fn listen(raw: &Raw) -> anyhow::Result<TcpListener> {
    let port = raw.port.unwrap_or(0);
    let bound = match raw.address.as_deref() {
        None => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)),
        Some(address) => (address, port)
            .to_socket_addrs()
            .and_then(|all| TcpListener::bind(&*all.collect::<Vec<_>>())),
    };
    let address = raw.address.as_deref().unwrap_or("0.0.0.0");
    bound.with_context(|| format!("Can't bind page server to {address}:{port}"))
}

fn link_parent(dir: &images::Dir, previous: &Path) -> anyhow::Result<()> {
    dir.set_parent(previous)?;
    let missing = || format!("--prev-images-dir {}: no such directory", previous.display());
    let parent = dir.parent()?.with_context(missing)?;
    let itself = parent.identity()? == dir.identity()?;
    anyhow::ensure!(!itself, "--prev-images-dir is the images directory itself");
    Ok(())
}

/// Waits as long as it takes.
#[derive(Debug)]
struct Patience;

impl Wait for Patience {
    fn wait(&self, socket: BorrowedFd<'_>, event: PollFlags) -> io::Result<()> {
        match poll(&mut [PollFd::new(socket, event)], PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}
