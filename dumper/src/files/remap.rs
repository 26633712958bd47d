//! Files whose path does not lead to them any more.
//!
//! | found | treatment |
//! |---|---|
//! | no name left | ghost: the content goes into the images |
//! | another name left | link-remap: a hard link `link_remap.N` beside the old name |
//! | `/proc/PID/…` of a dead task | the restorer makes a task of that number for a while |
//! | another file at the path | refused |

use super::FileTable;
use super::error::{Why, call, text};
use super::ghost::Ghost;
use super::kind::magic;
use super::mounts::below;
use super::reg_file::{MaybeLost, Path};
use images::proto::{RegFileEntry, RemapFilePathEntry, RemapType};
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::sys::statfs::fstatfs;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const DELETED: &[u8] = b" (deleted)";

/// Why a path does not lead to its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It has no name left.
    Unlinked,
    /// It has other names, or one that will go away with its last user.
    Renamed,
    /// It is in `/proc/PID` of a task that is gone.
    DeadProc(i32),
}

/// What has been done about lost files.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Ghosts, by device and inode: `remap_id`.
    known: HashMap<(u64, u64), u32>,
    /// Links, by device, inode and mount: `remap_id`. Nobody links from one mount to another.
    linked: HashMap<(u64, u64, i32), u32>,
    pub(crate) ghosts: Vec<Ghost>,
    pub(crate) links: Links,
}

/// Hard links made for the images. Dropping it removes them again.
#[derive(Debug, Default)]
pub(crate) struct Links(Vec<(OwnedFd, Vec<u8>)>);

impl Links {
    /// The images need them: they stay.
    pub(crate) fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for (dir, name) in &self.0 {
            let flag = nix::unistd::UnlinkatFlags::NoRemoveDir;
            if let Err(e) = nix::unistd::unlinkat(dir, name.as_slice(), flag) {
                log::warn!("{}: unlink: {e}", text(name));
            }
        }
    }
}

fn same(a: &FileStat, b: &FileStat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

fn stat_at(root: BorrowedFd<'_>, path: &[u8]) -> Option<FileStat> {
    fstatat(root, below(path), AtFlags::AT_SYMLINK_NOFOLLOW).ok()
}

impl FileTable {
    /// The path that goes into the image, and whether it leads to the file.
    pub(crate) fn name_of(&mut self, path: &Path<'_>) -> Result<(Vec<u8>, MaybeLost), Why> {
        if !path.link.starts_with(b"/") {
            return Err(Why::refused("Can't dump a file without a path"));
        }
        let fs = call(|| "fstatfs".into(), fstatfs(path.own))?.filesystem_type().0;
        let root = self.mounts.root_of(path.pid, path.mnt_id)?;
        if fs == magic::PROC {
            return proc_name(root, path, &self.walk.virtual_tids);
        }
        // The whole text first: a name may really end in " (deleted)".
        let there = stat_at(root, path.link);
        if there.as_ref().is_some_and(|s| same(s, path.stat)) {
            if !self.mounts.is_visible(path.mnt_id, path.link)? {
                return Err(Why::Overmounted(path.mnt_id));
            }
            let silly = fs == magic::NFS && basename(path.link).starts_with(b".nfs");
            return Ok((path.link.to_vec(), silly.then_some(Lost::Renamed)));
        }
        let Some(name) = path.link.strip_suffix(DELETED) else {
            return self.replaced(path, there);
        };
        if path.stat.st_nlink == 0 {
            return Ok((name.to_vec(), Some(Lost::Unlinked)));
        }
        match stat_at(root, name) {
            Some(other) if !same(&other, path.stat) => Err(Why::NameReused(text(name))),
            // Deleted and linked again since.
            Some(_) => Ok((name.to_vec(), None)),
            None => Ok((name.to_vec(), Some(Lost::Renamed))),
        }
    }

    fn replaced(
        &self,
        path: &Path<'_>,
        there: Option<FileStat>,
    ) -> Result<(Vec<u8>, MaybeLost), Why> {
        let Some(there) = there else {
            return Err(Why::refused(
                "the path is not to be found: the mount of the file is gone or covered, or a \
                 directory on the way is closed to us",
            ));
        };
        let device =
            |s: &FileStat| matches!(s.st_mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK);
        let alike = there.st_mode & libc::S_IFMT == path.stat.st_mode & libc::S_IFMT
            && there.st_rdev == path.stat.st_rdev;
        if self.request.evasive_devices && device(path.stat) && alike {
            return Ok((path.link.to_vec(), None));
        }
        Err(Why::NameReused(text(path.link)))
    }

    /// Saves what `lost` demands and joins it to the entry of `path`.
    pub(crate) fn remap(
        &mut self,
        path: &Path<'_>,
        reg: &RegFileEntry,
        lost: Lost,
    ) -> Result<(), Why> {
        let (dev, ino) = (path.stat.st_dev, path.stat.st_ino);
        let ghost = self.remap.known.get(&(dev, ino)).copied();
        let link = self.remap.linked.get(&(dev, ino, path.mnt_id)).copied();
        let (kind, remap_id) = match (lost, ghost, link) {
            (Lost::DeadProc(pid), ..) => (RemapType::Procfs, pid as u32),
            (_, Some(ghost), _) => (RemapType::Ghost, ghost),
            (_, _, Some(link)) => (RemapType::Linked, link),
            (Lost::Unlinked, ..) => self.unlinked(path, reg)?,
            (Lost::Renamed, ..) => self.renamed(path, reg)?,
        };
        match kind {
            RemapType::Ghost => drop(self.remap.known.insert((dev, ino), remap_id)),
            RemapType::Linked => drop(self.remap.linked.insert((dev, ino, path.mnt_id), remap_id)),
            RemapType::Procfs => {}
        }
        self.remaps.push(RemapFilePathEntry {
            orig_id: path.id,
            remap_id,
            remap_type: Some(kind.into()),
        });
        Ok(())
    }

    fn unlinked(&mut self, path: &Path<'_>, reg: &RegFileEntry) -> Result<(RemapType, u32), Why> {
        match self.ghost(path) {
            // Made with O_TMPFILE: such a file may still be given a name.
            Err(Why::GhostTooBig { .. })
                if self.request.link_remap
                    && path.flags & libc::O_TMPFILE as u32 == libc::O_TMPFILE as u32 =>
            {
                self.link(path, reg)
            }
            ghost => Ok((RemapType::Ghost, ghost?)),
        }
    }

    fn renamed(&mut self, path: &Path<'_>, reg: &RegFileEntry) -> Result<(RemapType, u32), Why> {
        if !self.request.link_remap {
            return Err(Why::NeedsLinkRemap(text(&reg.name)));
        }
        match self.link(path, reg) {
            // overlayfs counts a link that only its lower layer has.
            Err(Why::Sys(e)) if e.errno() == libc::ENOENT => {
                Ok((RemapType::Ghost, self.ghost(path)?))
            }
            done => done,
        }
    }

    /// Gives the file a name beside its old one. `ENOENT`: it cannot have one.
    fn link(&mut self, path: &Path<'_>, reg: &RegFileEntry) -> Result<(RemapType, u32), Why> {
        let id = self.next_id();
        let root = self.mounts.root_of(path.pid, path.mnt_id)?;
        let mut dir = parent(&reg.name);
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let at = loop {
            match openat(root, below(dir), flags, Mode::empty()) {
                Err(nix::errno::Errno::ENOENT) if dir != b"/" => dir = parent(dir),
                opened => break call(|| format!("open({})", text(dir)), opened)?,
            }
        };
        let mut number = id;
        let name = loop {
            let name = format!("link_remap.{number}").into_bytes();
            match self.link_fd(path.own, at.as_fd(), &name) {
                Err(e) if e.errno() == libc::EEXIST => number += 1,
                done => break done.map(|()| name)?,
            }
        };
        let mut link = reg.clone();
        link.id = id;
        link.mnt_id = None;
        link.name = join(dir, &name);
        self.push_reg(link);
        self.remap.links.0.push((at, name));
        Ok((RemapType::Linked, id))
    }

    /// `linkat`; in file systems of the tree's user namespace as its root, as nobody else has
    /// ids there.
    fn link_fd(
        &self,
        fd: BorrowedFd<'_>,
        dir: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), sys::Error> {
        let done = sys::file::link_fd(fd, dir, name);
        let Some((uid, gid)) = self.ns.maps.root() else { return done };
        if !done.as_ref().is_err_and(|e| e.errno() == libc::EOVERFLOW) {
            return done;
        }
        let as_root = || {
            sys::task::set_fs_ids(uid, gid)?;
            sys::file::link_fd(fd, dir, name)
        };
        // The ids are a thread's own.
        std::thread::scope(|scope| {
            let ended = scope.spawn(as_root).join();
            ended.unwrap_or_else(|_| Err(sys::Error::new("linkat", libc::ECANCELED)))
        })
    }
}

/// Names in `/proc` lead there again unless they are in the directory of a task that is gone;
/// only of that directory itself the link says that it is deleted.
fn proc_name(
    root: BorrowedFd<'_>,
    path: &Path<'_>,
    tids: &HashMap<i32, i32>,
) -> Result<(Vec<u8>, MaybeLost), Why> {
    let name = path.link.strip_suffix(DELETED).unwrap_or(path.link);
    if stat_at(root, name).is_some_and(|s| same(&s, path.stat)) {
        return Ok((name.to_vec(), None));
    }
    match pid_in(name) {
        Some(pid) if !tids.values().any(|&v| v == pid) => {
            Ok((name.to_vec(), Some(Lost::DeadProc(pid))))
        }
        Some(pid) => Err(Why::refused(format!(
            "the file is of a dead task whose number {pid} another task of the tree has now"
        ))),
        None => Err(Why::refused("Can't dump a file that has vanished from a proc file system")),
    }
}

/// The task in `…/PID` or `…/PID/…`, the first component that is a number.
fn pid_in(path: &[u8]) -> Option<i32> {
    path.split(|&b| b == b'/').find_map(|c| std::str::from_utf8(c).ok()?.parse().ok())
}

pub(crate) fn basename(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or_default()
}

pub(crate) fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&b| b == b'/') {
        None | Some(0) => b"/",
        Some(at) => &path[..at],
    }
}

pub(crate) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut out = dir.to_vec();
    if !out.ends_with(b"/") {
        out.push(b'/');
    }
    out.extend_from_slice(name);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_apart_and_together() {
        assert_eq!((parent(b"/a/b"), basename(b"/a/b")), (&b"/a"[..], &b"b"[..]));
        assert_eq!((parent(b"/a"), parent(b"/")), (&b"/"[..], &b"/"[..]));
        assert_eq!((join(b"/", b"x"), join(b"/a", b"x")), (b"/x".to_vec(), b"/a/x".to_vec()));
        assert_eq!((pid_in(b"/proc/12/status"), pid_in(b"/proc/stat")), (Some(12), None));
    }
}
