//! The dump's end of a connection.

use std::io::{IoSlice, Read, Write};

use super::{Command, Header, NAME};
use crate::pages::{PageFlags, PageRange, PageSet};
use crate::{Error, Result};

/// Pieces that the kernel takes at once (`IOV_MAX`).
const MOST_PIECES: usize = 1024;

/// Speaks with a page server over `S`.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
    force: bool,
    /// What errors call it.
    name: String,
}

impl<S: Read + Write> Client<S> {
    /// `force`: others may have the connection open, so the server is told to end.
    pub fn new(stream: S, force: bool) -> Self {
        Self { stream, force, name: NAME.to_owned() }
    }

    /// Errors are to call it `page server NAME`.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: format!("{NAME} {name}"), ..self }
    }

    /// Asks whether the parent images of the server have `set`.
    pub fn has_parent(&mut self, set: PageSet) -> Result<bool> {
        self.send(&[IoSlice::new(&Header::about(Command::Parent, set).encode())])?;
        let mut answer = [0; 4];
        self.receive(&mut answer)?;
        match i32::from_ne_bytes(answer) {
            0 => Ok(false),
            1 => Ok(true),
            other => {
                Err(Error::invalid(&self.name, format!("asked for a parent, it answered {other}")))
            }
        }
    }

    /// Begins the memory of `set`; whether the parent images of the server have it, too.
    pub fn open(&mut self, set: PageSet) -> Result<bool> {
        self.send(&[IoSlice::new(&Header::about(Command::Open2, set).encode())])?;
        let mut answer = [0; 1];
        self.receive(&mut answer)?;
        Ok(answer[0] != 0)
    }

    /// The header for pages of `set`, to be sent before their contents.
    #[must_use]
    pub fn header(set: PageSet, range: PageRange) -> [u8; super::HEADER_LEN] {
        let PageRange { vaddr, pages, flags } = range;
        Header { flags, pages, vaddr, ..Header::about(Command::AddFlags, set) }.encode()
    }

    /// Tells of pages whose contents are elsewhere.
    pub fn hole(&mut self, set: PageSet, vaddr: u64, pages: u64, flags: PageFlags) -> Result<()> {
        let flags = flags - PageFlags::PRESENT;
        let header = Self::header(set, PageRange { vaddr, pages, flags });
        self.send(&[IoSlice::new(&header)])
    }

    /// Sends bytes, all of them.
    pub fn send(&mut self, pieces: &[IoSlice<'_>]) -> Result<()> {
        let mut pieces = pieces.to_vec();
        let mut rest = &mut pieces[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let batch = rest.len().min(MOST_PIECES);
            match self.stream.write_vectored(&rest[..batch]) {
                Ok(0) => return Err(Error::io(&self.name, "send")(nix::errno::Errno::EPIPE)),
                Ok(n) => IoSlice::advance_slices(&mut rest, n),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(&self.name, "send")(e)),
            }
        }
        Ok(())
    }

    fn receive(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.stream.read_exact(bytes).map_err(Error::io(&self.name, "recv"))
    }

    /// Ends; all that was sent is in the server's images then.
    pub fn finish(mut self) -> Result<()> {
        let command = if self.force { Command::ForceClose } else { Command::Close };
        let header = Header { id: 0, ..Header::about(command, PageSet::Task(0)) };
        self.send(&[IoSlice::new(&header.encode())])?;
        let mut status = [0; 4];
        self.receive(&mut status)?;
        match i32::from_ne_bytes(status) {
            0 => Ok(()),
            status => Err(Error::invalid(&self.name, format!("it failed with {status}"))),
        }
    }
}
