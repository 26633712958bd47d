//! Writes what was collected.

use super::error::Error as FilesError;
use super::tcp_stream::Repaired;
use super::tty::Queues;
use super::{FileTable, net_lock, remap};
use crate::{Error, Request};
use images::{Dir, Image};
use sys::net_lock::{Guard, Method};

/// What a dump has changed outside its images. Dropping it undoes that; [`Finished::keep`]
/// says that the images are all there will be.
#[derive(Debug)]
#[must_use = "dropping it undoes what the images need"]
pub struct Finished {
    /// The first to go.
    net_lock: Option<Guard>,
    connections: Repaired,
    queues: Queues,
    links: remap::Links,
}

impl Finished {
    /// The tasks live on: what the images refer to stays, what was taken from the tasks is put
    /// back.
    pub fn keep_links(mut self) {
        self.links.keep();
    }

    /// How the network is locked, or would be.
    pub fn lock_method(&self, request: &Request) -> Method {
        self.net_lock.as_ref().map_or_else(|| net_lock::method(request), Guard::method)
    }

    /// The tasks die now: what the images refer to stays, what dies with them is not put back,
    /// and the network stays locked until their restore.
    pub fn keep(mut self) -> Result<(), Error> {
        if let Some(guard) = self.net_lock.take() {
            guard.keep()?;
        }
        self.connections.forget();
        self.queues.forget();
        self.links.keep();
        Ok(())
    }
}

impl FileTable {
    /// Writes `files.img` and the images that go with it.
    pub fn finish(mut self, dir: &Dir) -> Result<Finished, Error> {
        self.write(dir).map_err(Error::Files)
    }

    fn write(&mut self, dir: &Dir) -> Result<Finished, FilesError> {
        self.check_peers()?;
        self.check_ttys()?;
        let connections = self.write_tcp_streams(dir)?;
        let mut out = dir.writer(Image::Files)?;
        for file in &self.files {
            out.write(file)?;
        }
        out.finish()?;
        self.write_locks(dir)?;
        let mut out = dir.writer(Image::RemapFpath)?;
        for remap in &self.remaps {
            out.write(remap)?;
        }
        out.finish()?;
        for ghost in &self.remap.ghosts {
            ghost.write(dir).map_err(FilesError::Tree)?;
        }
        let mut out = dir.writer(Image::Memfd)?;
        for inode in &self.memfds.inodes {
            out.write(inode)?;
        }
        out.finish()?;
        self.write_pipe_data(dir).map_err(FilesError::Tree)?;
        self.write_queues(dir).map_err(FilesError::Tree)?;
        let queues = self.write_ttys(dir)?;
        let net_lock = self.net_lock.guard.take();
        Ok(Finished { net_lock, connections, queues, links: std::mem::take(&mut self.remap.links) })
    }
}
