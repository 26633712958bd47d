//! Regular files, directories, devices and links: whatever is opened by a path.

use super::open::Files;
use super::path::{open_flags, show};
use super::{At, Error, Result, build_id, external, failed, failed_io};
use images::proto::RegFileEntry;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

impl Files<'_> {
    /// Opens a regular file as its entry tells, at its position.
    pub(super) fn open_reg(&self, id: u32) -> Result<OwnedFd> {
        let entry = self.set.reg(id)?;
        self.open_reg_entry(entry).at(|| format!("file {id} {:?}", show(&entry.name)))
    }

    fn open_reg_entry(&self, entry: &RegFileEntry) -> Result<OwnedFd> {
        if let Some(fd) = external::take(self.set, entry.id, self.request)? {
            return Ok(fd);
        }
        if entry.ext() {
            let key = show(&entry.name);
            return Err(Error::Refused(format!("is external: needs --inherit-fd fd[N]:{key}")));
        }
        let fd = self.open_as(entry, open_flags(entry.flags))?;
        self.validate(entry, &fd)?;
        // O_PATH descriptors have no position, and a fresh one is at 0.
        if entry.pos != 0 && entry.pos != u64::MAX && entry.flags & libc::O_PATH as u32 == 0 {
            let pos = entry.pos as i64;
            nix::unistd::lseek(&fd, pos, nix::unistd::Whence::SeekSet)
                .map_err(|e| failed(format_args!("lseek({pos})"), e))?;
        }
        Ok(fd)
    }

    /// Opens the path of an entry with other flags.
    pub(super) fn open_as(&self, entry: &RegFileEntry, flags: i32) -> Result<OwnedFd> {
        if let Some(handle) = self.handle(entry.id) {
            // Through /proc a link stands for the file itself, which O_NOFOLLOW forbids.
            return self.reopen(handle.as_raw_fd(), flags & !libc::O_NOFOLLOW);
        }
        Ok(sys::path::open_in_root(self.root_of(entry.mnt_id)?, &entry.name, flags)?)
    }

    /// Whether the file is still what it was: type, mode, size, build-id.
    pub(super) fn validate(&self, entry: &RegFileEntry, fd: &OwnedFd) -> Result<()> {
        if entry.size.is_none() && entry.mode.is_none() {
            return Ok(());
        }
        let stat = nix::sys::stat::fstat(fd).map_err(|e| failed("fstat", e))?;
        if let Some(want) = entry.mode {
            let mask = if self.request.skip_file_rwx_check { libc::S_IFMT } else { u32::MAX };
            if stat.st_mode & mask != want & mask {
                let got = stat.st_mode;
                let text = format!("bad mode {got:#o} (expected {want:#o}): the file has changed");
                return Err(Error::Refused(text));
            }
        }
        let regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
        if let Some(want) = entry.size.filter(|_| regular)
            && stat.st_size as u64 != want
        {
            let text = format!("bad size {} (expected {want}): the file has changed", stat.st_size);
            return Err(Error::Refused(text));
        }
        if entry.build_id.is_empty() || !self.request.validate_build_id || !regular {
            return Ok(());
        }
        self.validate_build_id(entry, fd)
    }

    fn validate_build_id(&self, entry: &RegFileEntry, fd: &OwnedFd) -> Result<()> {
        let readable = entry.flags & (libc::O_PATH | libc::O_ACCMODE) as u32
            != libc::O_WRONLY as u32
            && entry.flags & libc::O_PATH as u32 == 0;
        let copy = if readable {
            fd.try_clone().map_err(|e| failed_io("dup", &e))?
        } else {
            self.reopen(fd.as_fd().as_raw_fd(), libc::O_RDONLY)?
        };
        match build_id::of(&File::from(copy)) {
            Some(got) if got == entry.build_id => Ok(()),
            _ => Err(Error::Refused("bad build-ID: the file has changed".to_owned())),
        }
    }
}
