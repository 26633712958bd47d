//! Open files: descriptors, cwd, root, the executable, mapped files.

use crate::tree::{Task, Tree};
use crate::{Error, Request, Stats};
use images::Dir;
use images::proto::{FdinfoEntry, FsEntry};
use std::os::fd::OwnedFd;

/// A file that a VMA maps.
#[derive(Debug)]
pub struct MappedFile {
    /// Its text in `/proc/PID/maps`.
    pub path: Vec<u8>,
    /// Opened through `map_files`.
    pub fd: OwnedFd,
    /// `O_RDONLY` or `O_RDWR`.
    pub flags: u32,
}

/// All files the tree uses, each once, with the ids they have in the images.
#[derive(Debug)]
pub struct FileTable {}

impl FileTable {
    /// An empty table for `tree`.
    pub fn new(_request: &Request, _tree: &Tree) -> Result<Self, Error> {
        Ok(Self {})
    }

    /// The descriptors of `task`: contents of `fdinfo-<files_id>.img`.
    /// Called once for each `files_id`.
    pub fn collect_fds(&mut self, _task: &Task) -> Result<Vec<FdinfoEntry>, Error> {
        Err(Error::NotYet("descriptors".into()))
    }

    /// cwd, root and umask of `task`.
    pub fn collect_fs(&mut self, _task: &Task) -> Result<FsEntry, Error> {
        Err(Error::NotYet("cwd and root".into()))
    }

    /// File id of the executable of `task`.
    pub fn exe(&mut self, _task: &Task) -> Result<u32, Error> {
        Err(Error::NotYet("executable".into()))
    }

    /// File id of a file that `task` maps.
    pub fn mapped(&mut self, _task: &Task, _file: &MappedFile) -> Result<u32, Error> {
        Err(Error::NotYet("mapped files".into()))
    }

    /// File id of a memfd (also: shared anonymous memory, named `/dev/zero`) that `task` maps.
    pub fn memfd_mapped(&mut self, _task: &Task, _file: &MappedFile) -> Result<u32, Error> {
        Err(Error::NotYet("mapped memfds".into()))
    }

    /// Memfds, and shared memory without a name: segments whose contents are to be saved.
    pub fn shmems(&self) -> Vec<crate::pages::Shmem<'_>> {
        Vec::new()
    }

    /// Writes `files.img` and the images that go with it.
    pub fn finish(self, _request: &Request, _dir: &Dir, _stats: &mut Stats) -> Result<(), Error> {
        Err(Error::NotYet("files".into()))
    }
}
