//! Memory files: memfds and shared anonymous memory.

use super::open::{Files, mode_of, set_flags};
use super::path::show;
use super::{At, Error, Result, failed, failed_io};
use images::pages::{PAGE_SIZE, PageSet, PageSource};
use images::proto::{MemfdFileEntry, MemfdInodeEntry};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

/// Just this seal: the file was made without `MFD_ALLOW_SEALING`.
const F_SEAL_SEAL: u32 = 1;
/// How much is copied at a time: stays in the cache between reading and writing.
const CHUNK: u64 = 1 << 20;
/// Under this name images have what `mmap(MAP_SHARED|MAP_ANONYMOUS)` made.
const ANONYMOUS: &[u8] = b"/dev/zero";
/// Bits of the flags that tell the size of huge pages.
const HUGE_SIZE: u32 = 0x3f << 26;
/// The same with `MAP_HUGETLB`.
const ANONYMOUS_HUGE: &[u8] = b"/anon_hugepage";

impl Files<'_> {
    /// The number of a descriptor of the memory itself; made and filled when first asked for.
    pub(super) fn memfd_inode(&mut self, id: u64) -> Result<RawFd> {
        if let Some(fd) = self.memfds.get(&id) {
            return Ok(fd.as_raw_fd());
        }
        let entry = self.set.memfds.get(&id);
        let entry = entry.ok_or_else(|| Error::Refused(format!("memfd.img: no inode {id}")))?;
        let fd = self.make_memfd(entry).at(|| format!("memfd {:?}", show(&entry.name)))?;
        let fd = self.raise_owned(fd)?;
        let raw = fd.as_raw_fd();
        self.memfds.insert(id, fd);
        Ok(raw)
    }

    /// Opens a description of a memory file.
    pub(super) fn open_memfd(&mut self, entry: &MemfdFileEntry) -> Result<OwnedFd> {
        if let Some(fd) = super::external::take(self.set, entry.id, self.request)? {
            return Ok(fd);
        }
        let id = u64::from(entry.inode_id);
        let inode = self.memfd_inode(id)?;
        let fd = if self.plan.first_memfd.get(&id) == Some(&entry.id) {
            self.memfds[&id].try_clone().map_err(|e| failed_io("dup", &e))?
        } else {
            self.reopen(inode, mode_of(entry.flags))?
        };
        set_flags(fd.as_fd(), entry.flags)?;
        if entry.pos != 0 && entry.pos != u64::MAX {
            nix::unistd::lseek(&fd, entry.pos as i64, nix::unistd::Whence::SeekSet)
                .map_err(|e| failed(format_args!("lseek({})", entry.pos), e))?;
        }
        Ok(fd)
    }

    /// An old anonymous shared segment (`ANON_SHARED`), of which only number and size are known.
    pub fn open_anon_shared(&mut self, shmid: u64, size: u64) -> Result<OwnedFd> {
        // Above all inode ids of memfds, which are 32 bits wide.
        let key = shmid | 1 << 63;
        if !self.memfds.contains_key(&key) {
            let fd = self.anonymous(size, 0)?;
            self.fill_memfd(&fd, shmid, size, false).at(|| format!("shared memory {shmid}"))?;
            let fd = self.raise_owned(fd)?;
            self.memfds.insert(key, fd);
        }
        let fd = self.reopen(self.memfds[&key].as_raw_fd(), libc::O_RDWR)?;
        self.raise_owned(fd)
    }

    fn make_memfd(&self, entry: &MemfdInodeEntry) -> Result<OwnedFd> {
        let huge = entry.hugetlb_flag();
        let anonymous = entry.name == if huge == 0 { ANONYMOUS } else { ANONYMOUS_HUGE };
        if anonymous && entry.seals == F_SEAL_SEAL && entry.size > 0 {
            let fd = self.anonymous(entry.size, huge)?;
            if !entry.size.is_multiple_of(PAGE_SIZE) {
                // A mapping makes whole pages.
                nix::unistd::ftruncate(&fd, entry.size as i64)
                    .map_err(|e| failed(format_args!("ftruncate({})", entry.size), e))?;
            }
            self.fill_memfd(&fd, entry.shmid.into(), entry.size, huge != 0)?;
            return Ok(fd);
        }
        let mut flags = libc::MFD_CLOEXEC | huge;
        if entry.seals != F_SEAL_SEAL {
            flags |= libc::MFD_ALLOW_SEALING;
        }
        let fd = sys::fd::memfd_create(&entry.name, flags)?;
        nix::unistd::ftruncate(&fd, entry.size as i64)
            .map_err(|e| failed(format_args!("ftruncate({})", entry.size), e))?;
        self.fill_memfd(&fd, entry.shmid.into(), entry.size, huge != 0)?;
        if entry.uid != 0 || entry.gid != 0 {
            let (uid, gid) = (entry.uid.into(), entry.gid.into());
            nix::unistd::fchown(&fd, Some(uid), Some(gid))
                .map_err(|e| failed(format_args!("fchown({}, {})", entry.uid, entry.gid), e))?;
        }
        if let Some(mode) = entry.mode {
            let bits = nix::sys::stat::Mode::from_bits_truncate(mode);
            nix::sys::stat::fchmod(&fd, bits)
                .map_err(|e| failed(format_args!("fchmod({mode:#o})"), e))?;
        }
        Ok(fd)
    }

    /// Memory that shows as `/dev/zero (deleted)` when it is mapped, or at least a memfd.
    fn anonymous(&self, size: u64, huge: u32) -> Result<OwnedFd> {
        let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
        let us = nix::fcntl::openat(&self.proc, "self", flags, nix::sys::stat::Mode::empty())
            .map_err(|e| failed("open(/proc/self)", e))?;
        // memfd_create and mmap have the size of huge pages in the same bits.
        let flags = if huge == 0 { 0 } else { libc::MAP_HUGETLB | (huge & HUGE_SIZE) as i32 };
        if let Ok(fd) = sys::events::shared_anonymous(size as usize, flags, us.as_fd()) {
            return Ok(fd);
        }
        let name = if huge == 0 { ANONYMOUS } else { ANONYMOUS_HUGE };
        let fd = sys::fd::memfd_create(name, libc::MFD_CLOEXEC | huge)?;
        nix::unistd::ftruncate(&fd, size as i64)
            .map_err(|e| failed(format_args!("ftruncate({size})"), e))?;
        Ok(fd)
    }

    fn fill_memfd(&self, fd: &OwnedFd, shmid: u64, size: u64, huge: bool) -> Result<()> {
        if size == 0 {
            return Ok(());
        }
        let Some(source) = self.chain.load(PageSet::Shmem(shmid))? else {
            return Err(Error::Refused(format!("there is no pagemap-shmem-{shmid}.img")));
        };
        if huge {
            fill_mapped(fd, &source, size)?;
            let bytes: u64 = source.segments().iter().map(|s| s.end() - s.vaddr).sum();
            self.filled.fetch_add((bytes / PAGE_SIZE) as u32, Ordering::Relaxed);
            return Ok(());
        }
        let file = File::from(fd.try_clone().map_err(|e| failed_io("dup", &e))?);
        let mut buffer = vec![0u8; CHUNK as usize];
        for segment in source.segments() {
            let mut at = segment.vaddr;
            let end = segment.end().min(size.next_multiple_of(PAGE_SIZE));
            while at < end {
                let len = (end - at).min(CHUNK);
                let piece = segment.clip(&(at..at + len));
                let buffer = &mut buffer[..len as usize];
                source.read(piece.unwrap_or(*segment), buffer)?;
                // A last page may stick out of a file whose size is not a multiple of pages.
                let inside = (size.saturating_sub(at)).min(len) as usize;
                file.write_all_at(&buffer[..inside], at)
                    .map_err(|e| failed_io(format_args!("pwrite({inside}, {at:#x})"), &e))?;
                at += len;
                self.filled.fetch_add((len / PAGE_SIZE) as u32, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Fills a file that takes no `write`.
fn fill_mapped(fd: &OwnedFd, source: &PageSource, size: u64) -> Result<()> {
    if size == 0 {
        return Ok(());
    }
    sys::events::with_mapped(fd.as_fd(), 0, size as usize, |bytes| {
        for segment in source.segments() {
            let range = segment.vaddr as usize..segment.end().min(size) as usize;
            if let Some(bytes) = bytes.get_mut(range) {
                source.read(*segment, bytes)?;
            }
        }
        Ok(())
    })?
}
