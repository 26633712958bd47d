//! Collects pipes and fifos, and copies what is queued in them.

use super::error::{Why, call};
use super::reg_file::Path;
use super::{FileTable, Open, entry};
use images::proto::{FdTypes, FifoEntry, PipeDataEntry, PipeEntry};
use images::{Dir, Image};
use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

const F_SETPIPE_SZ: i32 = 1031;
const F_GETPIPE_SZ: i32 = 1032;
const DEFAULT_SIZE: u32 = 65536;

/// Content of the pipes and fifos seen so far.
#[derive(Debug, Default)]
pub(crate) struct State {
    seen: HashSet<(u64, u64)>,
    pipes: Vec<(PipeDataEntry, Vec<u8>)>,
    fifos: Vec<(PipeDataEntry, Vec<u8>)>,
}

impl FileTable {
    pub(crate) fn pipe(&mut self, open: &Open<'_>) -> Result<(), Why> {
        if open.info.flags & libc::O_DIRECT as u32 != 0 {
            return Err(Why::refused("The packetized mode for pipes is not supported yet"));
        }
        let pipe_id = open.stat.st_ino as u32;
        if let Some(data) = self.content(open)? {
            self.pipes.pipes.push(data);
        }
        let mut file = entry(FdTypes::Pipe, open.id);
        let flags = open.info.flags;
        file.pipe = Some(PipeEntry { id: open.id, pipe_id, flags, fown: open.fown });
        self.files.push(file);
        Ok(())
    }

    pub(crate) fn fifo(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let regf_id = self.next_id();
        self.path_entry(&Path::of(open, regf_id))?;
        if let Some(data) = self.content(open)? {
            self.pipes.fifos.push(data);
        }
        let pipe_id = open.stat.st_ino as u32;
        let mut file = entry(FdTypes::Fifo, open.id);
        file.fifo = Some(FifoEntry { id: open.id, pipe_id, regf_id: Some(regf_id) });
        self.files.push(file);
        Ok(())
    }

    /// Size and content of a pipe that has not been seen; nothing for an empty one of the usual
    /// size.
    fn content(&mut self, open: &Open<'_>) -> Result<Option<(PipeDataEntry, Vec<u8>)>, Why> {
        if !self.pipes.seen.insert((open.stat.st_dev, open.stat.st_ino)) {
            return Ok(None);
        }
        let size = sys::fd::fcntl(open.own, F_GETPIPE_SZ, 0)? as u32;
        let bytes = if open.info.flags & libc::O_ACCMODE as u32 == libc::O_WRONLY as u32 {
            queued(read_end(open.own)?.as_fd(), size)?
        } else {
            queued(open.own, size)?
        };
        if bytes.is_empty() && size == DEFAULT_SIZE {
            return Ok(None);
        }
        let pipe_id = open.stat.st_ino as u32;
        let entry = PipeDataEntry { pipe_id, bytes: bytes.len() as u32, size: Some(size) };
        Ok(Some((entry, bytes)))
    }

    pub(crate) fn write_pipe_data(&self, dir: &Dir) -> Result<(), Why> {
        for (image, list) in
            [(Image::PipesData, &self.pipes.pipes), (Image::FifoData, &self.pipes.fifos)]
        {
            let mut out = dir.writer(image)?;
            for (entry, bytes) in list {
                out.write(entry)?;
                out.write_payload(bytes)?;
            }
            out.finish()?;
        }
        Ok(())
    }
}

/// A read end of our own, for a pipe whose write end is all there is.
fn read_end(own: BorrowedFd<'_>) -> Result<OwnedFd, Why> {
    let path = format!("/proc/self/fd/{}", own.as_raw_fd());
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
    Ok(file.map_err(|e| sys::Error::io(format!("open({path})"), &e))?.into())
}

/// Copies what is queued without taking it out.
fn queued(from: BorrowedFd<'_>, size: u32) -> Result<Vec<u8>, Why> {
    let mut there = [0u8; 4];
    sys::fd::ioctl_bytes(from, libc::FIONREAD, &mut there)?;
    let len = u32::from_ne_bytes(there) as usize;
    if len == 0 {
        return Ok(Vec::new());
    }
    let (out, into) = call(|| "pipe2".into(), nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC))?;
    // As many buffers as the other has, or not all of them can be shared.
    sys::fd::fcntl(into.as_fd(), F_SETPIPE_SZ, size.into())?;
    let got = sys::file::tee(from, into.as_fd(), len)?;
    drop(into);
    let mut bytes = Vec::with_capacity(got);
    File::from(out).read_to_end(&mut bytes).map_err(|e| sys::Error::io("read(pipe)", &e))?;
    if bytes.len() != len {
        let got = bytes.len();
        return Err(Why::Text(format!("tee copied {got} of {len} queued bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_is_queued_is_copied_and_stays() {
        let (r, w) = nix::unistd::pipe().unwrap();
        let mut w = File::from(w);
        for part in 0..100u8 {
            w.write_all(&[part; 300]).unwrap();
        }
        let size = sys::fd::fcntl(r.as_fd(), F_GETPIPE_SZ, 0).unwrap() as u32;
        for _ in 0..2 {
            let got = queued(r.as_fd(), size).unwrap();
            assert_eq!((got.len(), got[299], got[300]), (30_000, 0, 1));
        }
        let end = read_end(w.as_fd()).unwrap();
        assert_eq!(queued(end.as_fd(), size).unwrap().len(), 30_000);
    }
}
