//! Collects files, directories, devices and links: all that is opened again by a path.

use super::error::{Why, call};
use super::remap::Lost;
use super::{FileTable, MappedFile, Open, entry};
use crate::FileValidation;
use images::proto::{FdTypes, FownEntry, RegFileEntry};
use nix::sys::stat::{FileStat, fstat};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

/// Build-ids are looked for in this many bytes.
const BUILD_ID_WINDOW: usize = 1 << 20;

/// What has been asked before.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Build-id by device and inode.
    build_ids: HashMap<(u64, u64), Vec<u32>>,
    /// Entries of mappings and executables: device, inode, mount → file id.
    mapped: HashMap<(u64, u64, i32), u32>,
}

/// A file that an entry is to be made for.
#[derive(Debug)]
pub(crate) struct Path<'a> {
    pub(crate) id: u32,
    pub(crate) pid: i32,
    pub(crate) link: &'a [u8],
    pub(crate) own: BorrowedFd<'a>,
    pub(crate) stat: &'a FileStat,
    pub(crate) flags: u32,
    pub(crate) pos: u64,
    pub(crate) mnt_id: i32,
    pub(crate) fown: FownEntry,
}

impl<'a> Path<'a> {
    /// The file behind a descriptor.
    pub(crate) fn of(open: &'a Open<'_>, id: u32) -> Self {
        Self {
            id,
            pid: open.pid,
            link: open.link,
            own: open.own,
            stat: &open.stat,
            flags: open.info.flags,
            pos: open.info.pos,
            mnt_id: open.info.mnt_id,
            fown: open.fown,
        }
    }
}

impl FileTable {
    /// A descriptor of a file with a path.
    pub(crate) fn reg_file(&mut self, open: &Open<'_>) -> Result<(), Why> {
        self.path_entry(&Path::of(open, open.id))
    }

    /// Makes the `reg` entry of `path`, and what else its name needs.
    pub(crate) fn path_entry(&mut self, path: &Path<'_>) -> Result<(), Why> {
        let mut reg = RegFileEntry {
            id: path.id,
            flags: open_flags(path.flags),
            pos: path.pos,
            fown: path.fown,
            mode: Some(path.stat.st_mode),
            ..RegFileEntry::default()
        };
        if self.external.has_file(path.mnt_id, path.stat.st_ino) {
            // As CRIU does: the key is all that a restore needs.
            reg.name = format!("file[{:x}:{:x}]", path.mnt_id, path.stat.st_ino).into_bytes();
            reg.ext = Some(true);
            self.push_reg(reg);
            return Ok(());
        }
        let (name, lost) = match self.mounts.mnt_id(path.pid, path.mnt_id) {
            Ok(id) => {
                reg.mnt_id = id;
                self.name_of(path)?
            }
            Err(why) => {
                reg.mnt_id = Some(self.evasive(path).ok_or(why)?);
                (path.link.to_vec(), None)
            }
        };
        reg.name = name;
        if path.stat.st_mode & libc::S_IFMT == libc::S_IFREG {
            let appends = path.flags & libc::O_ACCMODE as u32 == libc::O_WRONLY as u32
                && path.flags & libc::O_APPEND as u32 != 0;
            // A log that others append to may grow until the restore.
            reg.size = (!appends).then_some(path.stat.st_size as u64);
            // What is copied or linked comes back as it is; what is found by name may not.
            if lost.is_none() && self.request.file_validation == FileValidation::BuildId {
                reg.build_id = self.build_id(path)?;
            }
        }
        if let Some(lost) = lost {
            self.remap(path, &reg, lost)?;
        }
        self.push_reg(reg);
        Ok(())
    }

    /// The mount of a device like that of `path` at the same path, where any will do.
    fn evasive(&mut self, path: &Path<'_>) -> Option<i32> {
        let kind = path.stat.st_mode & libc::S_IFMT;
        let device = kind == libc::S_IFCHR || kind == libc::S_IFBLK;
        let root = self.mounts.root(path.pid).ok()?;
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
        let there = nix::sys::stat::fstatat(root, super::mounts::below(path.link), flags).ok()?;
        let alike = there.st_mode & libc::S_IFMT == kind && there.st_rdev == path.stat.st_rdev;
        if !(self.request.evasive_devices && device && alike) {
            return None;
        }
        self.mounts.mount_at(path.pid, path.link).ok().flatten()
    }

    pub(crate) fn push_reg(&mut self, reg: RegFileEntry) {
        let mut file = entry(FdTypes::Reg, reg.id);
        file.reg = Some(reg);
        self.files.push(file);
    }

    fn build_id(&mut self, path: &Path<'_>) -> Result<Vec<u32>, Why> {
        let key = (path.stat.st_dev, path.stat.st_ino);
        if let Some(id) = self.regular.build_ids.get(&key) {
            return Ok(id.clone());
        }
        let leased = self.walk.is_leased(path.stat.st_ino);
        let id = readable(path, leased).and_then(|file| read_build_id(path, &file));
        let id = id.unwrap_or_default();
        self.regular.build_ids.insert(key, id.clone());
        Ok(id)
    }

    /// File id of a mapped file or an executable: one entry for all who map it alike.
    pub(crate) fn mapped_file(&mut self, pid: i32, file: &MappedFile) -> Result<u32, Why> {
        let own = file.fd.as_fd();
        let stat = call(|| "fstat".into(), fstat(own))?;
        let (link, mnt_id) = super::ident::own_place(own)?;
        let key = (stat.st_dev, stat.st_ino, mnt_id);
        if let Some(&id) = self.regular.mapped.get(&key) {
            return Ok(id);
        }
        let id = self.next_id();
        self.path_entry(&Path {
            id,
            pid,
            link: &link,
            own,
            stat: &stat,
            // The access mode stands in each VMA.
            flags: 0,
            pos: 0,
            mnt_id,
            fown: FownEntry::default(),
        })?;
        self.regular.mapped.insert(key, id);
        Ok(id)
    }
}

/// Without what says how the file was made.
fn open_flags(flags: u32) -> u32 {
    let tmpfile = libc::O_TMPFILE as u32;
    if flags & tmpfile == tmpfile { flags & !tmpfile } else { flags }
}

/// The file, to be read. Opening it anew would break a lease.
fn readable(path: &Path<'_>, leased: bool) -> Option<File> {
    let odd = libc::O_PATH | libc::O_DIRECT;
    let flags = path.flags as i32;
    if flags & odd == 0 && flags & libc::O_ACCMODE != libc::O_WRONLY {
        return path.own.try_clone_to_owned().ok().map(File::from);
    }
    let anew = || File::open(format!("/proc/self/fd/{}", path.own.as_raw_fd())).ok();
    if leased { None } else { anew() }
}

/// `None`: no ELF file, no note, or a file that cannot be read. Then the size has to do.
fn read_build_id(path: &Path<'_>, file: &File) -> Option<Vec<u32>> {
    let mut head = [0u8; 4];
    file.read_exact_at(&mut head, 0).ok()?;
    if &head != b"\x7fELF" {
        return None;
    }
    // Notes are near the beginning in nearly all files.
    for window in [4096, BUILD_ID_WINDOW] {
        let mut bytes = vec![0u8; window.min(path.stat.st_size as usize)];
        let mut len = 0;
        while let Ok(n @ 1..) = file.read_at(&mut bytes[len..], len as u64) {
            len += n;
        }
        if let Some(id) = super::parse::build_id(&bytes[..len]) {
            return Some(id);
        }
    }
    None
}

/// A file whose path does not lead to it, and why.
pub(crate) type MaybeLost = Option<Lost>;
