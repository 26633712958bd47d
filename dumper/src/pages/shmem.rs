//! Contents of shared memory: once per segment, however many tasks map it.

use super::Error;
use super::select::Run;
use images::pages::PAGE_SIZE;
use nix::errno::Errno;
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

/// A memfd, or shared memory without a name, whose contents are to be saved.
#[derive(Debug)]
pub struct Shmem<'a> {
    /// Names its image: `pagemap-shmem-<shmid>`.
    pub shmid: u64,
    /// Any descriptor of it.
    pub fd: BorrowedFd<'a>,
}

impl Shmem<'_> {
    /// Opens it anew: for reading, whatever the descriptor was opened for, and with a position
    /// that no task shares.
    pub(super) fn open(&self) -> Result<File, Error> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        File::open(path).map_err(|source| self.error(source))
    }

    fn error(&self, source: std::io::Error) -> Error {
        Error::Shmem { name: format!("shared segment {}", self.shmid), source }
    }

    /// Which of its pages exist.
    pub(super) fn runs(&self, file: &File) -> Result<Vec<Run>, Error> {
        let io = |e: Errno| self.error(e.into());
        if fstatfs(file).map_err(io)?.filesystem_type() == HUGETLBFS_MAGIC {
            return huge_runs(file).map_err(|e| self.error(e));
        }
        let mut runs = Vec::new();
        let mut at = 0;
        loop {
            let start = match lseek(file, at, Whence::SeekData) {
                Ok(start) => start,
                Err(Errno::ENXIO) => return Ok(runs),
                Err(e) => return Err(io(e)),
            };
            at = lseek(file, start, Whence::SeekHole).map_err(io)?;
            push(&mut runs, start as u64, at as u64);
        }
    }
}

fn push(runs: &mut Vec<Run>, start: u64, end: u64) {
    let start = start - start % PAGE_SIZE;
    let pages = (end - start).div_ceil(PAGE_SIZE);
    match runs.last_mut() {
        Some(last) if last.end() == start => last.pages += pages,
        _ => runs.push(Run { start, pages, lazy: false, readable: true }),
    }
}

/// hugetlbfs does not tell holes from data: what is all zero counts as a hole.
fn huge_runs(file: &File) -> std::io::Result<Vec<Run>> {
    let size = file.metadata()?.len();
    let mut runs = Vec::new();
    let mut buf = vec![0; 2 << 20];
    let mut at = 0;
    while at < size {
        let len = (size - at).min(buf.len() as u64);
        let piece = &mut buf[..len as usize];
        file.read_exact_at(piece, at)?;
        if piece.iter().any(|&b| b != 0) {
            push(&mut runs, at, at + len);
        }
        at += len;
    }
    Ok(runs)
}
