//! Pipes and FIFOs: the ends share what is queued, and open without waiting for each other.

use super::open::{Files, Opened, mode_of, set_flags};
use super::{At, Error, Result, external, failed_io};
use images::Extent;
use images::proto::PipeDataEntry;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

impl Files<'_> {
    /// Opens all ends of one pipe.
    pub(super) fn open_pipes(&mut self, ids: &[u32], opened: &mut Opened) -> Result<()> {
        let mut pipes: std::collections::BTreeMap<u32, Vec<u32>> = Default::default();
        for id in ids {
            let pipe = self.set.file(*id)?.pipe.as_ref().map_or(0, |p| p.pipe_id);
            pipes.entry(pipe).or_default().push(*id);
        }
        for (pipe, ids) in pipes {
            self.open_pipe(pipe, &ids, opened).at(|| format!("pipe {pipe} (file {})", ids[0]))?;
        }
        Ok(())
    }

    fn open_pipe(&mut self, pipe: u32, ids: &[u32], opened: &mut Opened) -> Result<()> {
        let given = ids.iter().find_map(|id| external::find(self.set, *id, self.request));
        let (mut read, mut write) = (None, None);
        if let Some(number) = given {
            let fd = external::copy(number)?;
            let flags = sys::fd::fcntl(fd.as_fd(), libc::F_GETFL, 0)?;
            match flags & libc::O_ACCMODE {
                libc::O_WRONLY => write = Some(fd),
                _ => read = Some(fd),
            }
        } else {
            let (r, w) = sys::events::pipe(0)?;
            self.fill_pipe(self.set.pipes.get(&pipe), w.as_fd())?;
            (read, write) = (Some(r), Some(w));
        }
        // A descriptor that stays open when its own end has been handed out.
        let any = read.as_ref().or(write.as_ref()).map(|f| self.raise(f.as_fd())).transpose()?;
        for id in ids {
            let entry = self.set.file(*id)?.pipe.as_ref();
            let Some(entry) = entry else { continue };
            let ready = match entry.flags as i32 & libc::O_ACCMODE {
                libc::O_RDONLY => read.take(),
                libc::O_WRONLY => write.take(),
                _ => None,
            };
            let fd = match (ready, &any) {
                (Some(fd), _) => fd,
                (None, Some(any)) => self.reopen(any.as_raw_fd(), mode_of(entry.flags))?,
                (None, None) => return Err(Error::Refused("the pipe has no ends".to_owned())),
            };
            if given.is_none() {
                set_flags(fd.as_fd(), entry.flags)?;
            }
            opened.insert(*id, fd);
        }
        Ok(())
    }

    /// Opens all descriptions of FIFOs.
    pub(super) fn open_fifos(&mut self, ids: &[u32], opened: &mut Opened) -> Result<()> {
        // Open both ways until all are open, so that no end waits for the other and nothing
        // that is queued gets lost.
        let mut both: std::collections::HashMap<u32, OwnedFd> = Default::default();
        for id in ids {
            let Some(fifo) = &self.set.file(*id)?.fifo else { continue };
            let regf = fifo.regf_id.unwrap_or(*id);
            let at = || format!("fifo {} (file {id})", fifo.pipe_id);
            if external::find(self.set, *id, self.request).is_some() {
                opened.extend(external::take(self.set, *id, self.request)?.map(|fd| (*id, fd)));
                continue;
            }
            if let Entry::Vacant(vacant) = both.entry(fifo.pipe_id) {
                let entry = self.set.reg(regf)?;
                let fd = self.open_as(entry, libc::O_RDWR | libc::O_NONBLOCK).at(at)?;
                self.fill_pipe(self.set.fifos.get(&fifo.pipe_id), fd.as_fd()).at(at)?;
                vacant.insert(fd);
            }
            opened.insert(*id, self.open_reg(regf).at(at)?);
        }
        Ok(())
    }

    /// Sets the size of a pipe and puts back what was in it.
    fn fill_pipe(&self, data: Option<&(PipeDataEntry, Extent)>, end: BorrowedFd<'_>) -> Result<()> {
        let Some((entry, body)) = data else { return Ok(()) };
        if let Some(size) = entry.size.filter(|s| *s > 0) {
            let now = sys::fd::fcntl(end, libc::F_GETPIPE_SZ, 0)?;
            if now != size as i32
                && let Err(e) = sys::fd::fcntl(end, libc::F_SETPIPE_SZ, size.into())
            {
                // Larger than pipe-max-size, without CAP_SYS_RESOURCE: only what is queued
                // has to fit.
                if e.errno() != libc::EPERM || entry.bytes as i32 > now {
                    return Err(e.into());
                }
                log::warn!("{e}: the pipe keeps {now} bytes");
            }
        }
        let bytes = self.extent(*body)?;
        if bytes.is_empty() {
            return Ok(());
        }
        // A pipe that is too small must be an error, not a wait for ever.
        let end = end.try_clone_to_owned().map_err(|e| failed_io("dup", &e))?;
        let flags = sys::fd::fcntl(end.as_fd(), libc::F_GETFL, 0)?;
        sys::fd::fcntl(end.as_fd(), libc::F_SETFL, (flags | libc::O_NONBLOCK) as u64)?;
        let mut file = File::from(end);
        let done = file
            .write_all(&bytes)
            .map_err(|e| failed_io(format_args!("write({} bytes)", bytes.len()), &e));
        sys::fd::fcntl(file.as_fd(), libc::F_SETFL, flags as u64)?;
        done
    }
}
