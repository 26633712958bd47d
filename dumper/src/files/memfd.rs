//! Collects memfds, and shared anonymous memory, which the kernel keeps in files of that kind.
//!
//! The inode is one entry of `memfd.img`, each description one of `files.img`. Contents are
//! pages: the dump of shared memory gets them from [`FileTable::shmems`].

use super::error::{Why, call};
use super::{FileTable, MappedFile, Open, entry, ident};
use crate::pages::Shmem;
use images::proto::{FdTypes, FownEntry, MemfdFileEntry, MemfdInodeEntry};
use nix::sys::stat::{FileStat, fstat};
use nix::sys::statfs::fstatfs;
use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const F_SEAL_SEAL: u32 = 1;
const MFD_HUGETLB: u32 = 4;

/// Inodes seen so far.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Position in `inodes` by device and inode.
    known: HashMap<(u64, u64), usize>,
    pub(crate) inodes: Vec<MemfdInodeEntry>,
    /// Open for reading, beside each inode.
    contents: Vec<OwnedFd>,
    shmids: HashSet<u32>,
    /// File ids of mappings by inode.
    mapped: HashMap<u64, u32>,
}

impl FileTable {
    /// Memfds, and shared memory without a name: segments whose contents are to be saved.
    /// Complete once descriptors and mappings of all tasks are collected.
    pub fn shmems(&self) -> Vec<Shmem<'_>> {
        let both = self.memfds.inodes.iter().zip(&self.memfds.contents);
        both.map(|(i, fd)| Shmem { shmid: i.shmid.into(), fd: fd.as_fd() }).collect()
    }

    pub(crate) fn memfd(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let inode_id = self.memfd_inode(open.own, open.link, &open.stat)?;
        self.push_memfd(open.id, open.info.flags, open.info.pos, open.fown, inode_id);
        Ok(())
    }

    fn push_memfd(&mut self, id: u32, flags: u32, pos: u64, fown: FownEntry, inode_id: u64) {
        let mut file = entry(FdTypes::Memfd, id);
        let inode_id = inode_id as u32;
        file.memfd = Some(MemfdFileEntry { id, flags, pos, fown, inode_id });
        self.files.push(file);
    }

    pub(crate) fn mapped_memfd(&mut self, _pid: i32, file: &MappedFile) -> Result<u32, Why> {
        let own = file.fd.as_fd();
        let stat = call(|| "fstat".into(), fstat(own))?;
        let (link, _) = ident::own_texts(own)?;
        let inode_id = self.memfd_inode(own, &link, &stat)?;
        if let Some(&id) = self.memfds.mapped.get(&inode_id) {
            return Ok(id);
        }
        let id = self.next_id();
        self.push_memfd(id, 0, 0, FownEntry::default(), inode_id);
        self.memfds.mapped.insert(inode_id, id);
        Ok(id)
    }

    /// Number of the inode in `memfd.img`, from 1.
    fn memfd_inode(
        &mut self,
        own: BorrowedFd<'_>,
        link: &[u8],
        stat: &FileStat,
    ) -> Result<u64, Why> {
        let key = (stat.st_dev, stat.st_ino);
        if let Some(&at) = self.memfds.known.get(&key) {
            return Ok(self.memfds.inodes[at].inode_id);
        }
        let fd = reopen(own)?;
        // F_GET_SEALS (1034) refuses descriptors that only name the file.
        let seals = match sys::fd::fcntl(fd.as_fd(), 1034, 0) {
            Err(e) if e.errno() == libc::EINVAL => F_SEAL_SEAL,
            seals => seals? as u32,
        };
        let fs = call(|| "fstatfs".into(), fstatfs(&fd))?;
        let huge = fs.filesystem_type().0 == super::kind::magic::HUGETLBFS;
        let huge = huge.then(|| MFD_HUGETLB | (fs.block_size() as u64).trailing_zeros() << 26);
        // Inode numbers of several file systems may meet, and may be longer than the field.
        let mut shmid = stat.st_ino as u32;
        while !self.memfds.shmids.insert(shmid) {
            shmid = shmid.wrapping_add(1 << 20);
        }
        let inode_id = self.memfds.inodes.len() as u64 + 1;
        self.memfds.known.insert(key, self.memfds.inodes.len());
        self.memfds.inodes.push(MemfdInodeEntry {
            name: name(link).to_vec(),
            uid: self.ns.maps.uid(stat.st_uid),
            gid: self.ns.maps.gid(stat.st_gid),
            size: stat.st_size as u64,
            shmid,
            seals,
            inode_id,
            hugetlb_flag: huge,
            mode: Some(stat.st_mode),
        });
        self.memfds.contents.push(fd);
        Ok(inode_id)
    }
}

/// What was given to `memfd_create`; `/dev/zero` for shared anonymous memory.
fn name(link: &[u8]) -> &[u8] {
    let name = link.strip_suffix(b" (deleted)").unwrap_or(link);
    name.strip_prefix(b"/memfd:").unwrap_or(name)
}

/// The program's descriptor may be write-only.
fn reopen(own: BorrowedFd<'_>) -> Result<OwnedFd, Why> {
    let path = format!("/proc/self/fd/{}", own.as_raw_fd());
    let file = OpenOptions::new().read(true).open(&path);
    Ok(file.map_err(|e| sys::Error::io(format!("open({path})"), &e))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_what_the_kernel_added() {
        assert_eq!(name(b"/memfd:my mem (deleted)"), b"my mem");
        assert_eq!(name(b"/memfd: (deleted) (deleted)"), b" (deleted)");
        assert_eq!(name(b"/dev/zero (deleted)"), b"/dev/zero");
    }
}
