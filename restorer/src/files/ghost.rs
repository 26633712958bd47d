//! Files that have no name any more, or another one: made to have it while they are opened.
//!
//! All in the root task, directories before what is in them: each is made empty, opened
//! (`O_PATH`), loses its name again, and is filled only then. Directories and files with several
//! names keep them until the others are made. What has to be opened later is opened through the
//! handle. So a name lives for a moment only, and a restore that dies hardly leaves one.

use super::open::Files;
use super::path::{directory, lookup, open_name, show, split, unlink};
use super::set::{Ghost, Remap};
use super::{At, Error, Result, failed, failed_io};
use crate::ns::mnt::Whole;
use images::proto::{AmberXattrEntry, FileEntry};
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// A name that is to be taken away.
pub(super) struct Name {
    dir: OwnedFd,
    name: Vec<u8>,
    is_dir: bool,
}

/// A name and the mount that it leads into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place<'a> {
    name: &'a [u8],
    mnt_id: Option<i32>,
}

/// Where a ghost was made.
struct First {
    /// Its file.
    id: u32,
    name: Vec<u8>,
    mnt_id: Option<i32>,
}

impl First {
    fn place(&self) -> Place<'_> {
        Place { name: &self.name, mnt_id: self.mnt_id }
    }
}

impl Files<'_> {
    /// Opens all files that have no path: ghosts and link-remaps.
    pub(super) fn make_named(&mut self) -> Result<()> {
        let terminal = |f: &FileEntry| f.tty.as_ref()?.regf_id;
        let terminals: HashSet<u32> = self.set.files.values().filter_map(terminal).collect();
        let mut all: Vec<(&[u8], u32, Remap)> = Vec::new();
        for (id, remap) in &self.set.remaps {
            // The node of a terminal is there as long as the terminal is.
            if terminals.contains(id) {
                continue;
            }
            if let Some(entry) = self.set.regs.get(id)
                && !matches!(remap, Remap::Procfs(_))
            {
                all.push((&entry.name, *id, *remap));
            }
        }
        all.sort_unstable_by_key(|(name, id, _)| (*name, *id));
        let mut names = Vec::new();
        let made = self.make_all(&all, &mut names);
        let gone = take_away(names);
        made.and(gone)
    }

    fn make_all(&mut self, all: &[(&[u8], u32, Remap)], names: &mut Vec<Name>) -> Result<()> {
        // By ghost: its first handle, and how many names it still gets.
        let mut first: HashMap<u32, First> = HashMap::new();
        let mut left: HashMap<u32, HashSet<Place<'_>>> = HashMap::new();
        let place =
            |name, id: u32| Ok::<_, Error>(Place { name, mnt_id: self.set.reg(id)?.mnt_id });
        for (name, id, remap) in all {
            if let Remap::Ghost(ghost) = remap {
                left.entry(*ghost).or_default().insert(place(name, *id)?);
            }
        }
        let mut known: HashMap<(bool, u32, Place<'_>), u32> = HashMap::new();
        for (name, id, remap) in all {
            let at = || format!("file {id} {:?}, which has no name", show(name));
            let place = Place { name, mnt_id: self.set.reg(*id)?.mnt_id };
            let key = match remap {
                Remap::Linked(id) => (false, *id, place),
                Remap::Ghost(id) => (true, *id, place),
                Remap::Procfs(_) => continue,
            };
            if let Some(other) = known.get(&key) {
                let fd = self.raise(self.handles[other].as_fd())?;
                self.handles.insert(*id, fd);
                continue;
            }
            known.insert(key, *id);
            let before = names.len();
            let fd = match remap {
                Remap::Linked(link) => self.linked(place, *link, names),
                Remap::Ghost(ghost) => self.ghost(place, *ghost, &first, names),
                Remap::Procfs(_) => continue,
            };
            let fd = self.raise_owned(fd.at(at)?)?;
            self.handles.insert(*id, fd);
            let Remap::Ghost(ghost) = *remap else { continue };
            let is_first = !first.contains_key(&ghost);
            if is_first && let Some(made) = names.last() {
                let (dir, _) = split(name);
                let name = [dir, b"/", &made.name].concat();
                first.insert(ghost, First { id: *id, name, mnt_id: place.mnt_id });
            }
            let more = left.get_mut(&ghost).is_none_or(|l| {
                l.remove(&place);
                !l.is_empty()
            });
            // The name goes before the contents come, unless something needs it still.
            if !more && names.last().is_some_and(|n| !n.is_dir) && is_first {
                take_away(names.split_off(before))?;
            }
            if is_first {
                self.fill(&self.handles[id], &self.set.ghosts[&ghost]).at(at)?;
            }
        }
        Ok(())
    }

    fn linked(&self, place: Place<'_>, link: u32, names: &mut Vec<Name>) -> Result<OwnedFd> {
        let name = place.name;
        let link = self.set.reg(link)?;
        // It is beside the old name, in the same mount.
        let mnt_id = link.mnt_id.filter(|id| *id != -1).or(place.mnt_id);
        let root = self.root_of(mnt_id)?;
        let handle = sys::path::open_in_root(root, &link.name, libc::O_PATH | libc::O_NOFOLLOW)?;
        let (dir, last) = self.parents(self.root_of(place.mnt_id)?, name, names)?;
        if same_file(&handle, &dir, last) {
            // Made for another mount of the same directory.
            return open_name(dir.as_fd(), last, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0);
        }
        let from = Place { name: &link.name, mnt_id };
        match self.link((&handle, from), (&dir, last, place)) {
            Ok(()) => {}
            // The name has been given to another file: do without.
            Err(nix::Error::EEXIST) => return Ok(handle),
            Err(e) => return Err(failed(format_args!("linkat({:?})", show(name)), e)),
        }
        let fd = open_name(dir.as_fd(), last, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0)?;
        names.push(Name { dir, name: last.to_vec(), is_dir: false });
        Ok(fd)
    }

    fn ghost(
        &self,
        place: Place<'_>,
        id: u32,
        first: &HashMap<u32, First>,
        names: &mut Vec<Name>,
    ) -> Result<OwnedFd> {
        let ghost = self.set.ghosts.get(&id);
        let ghost =
            ghost.ok_or_else(|| Error::Refused(format!("there is no ghost-file-{id:x}.img")))?;
        let (dir, last) = self.parents(self.root_of(place.mnt_id)?, place.name, names)?;
        if first.get(&id).is_some_and(|other| same_file(&self.handles[&other.id], &dir, last)) {
            return open_name(dir.as_fd(), last, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0);
        }
        let spare = [last, format!(".cr.{id:x}.ghost").as_bytes()].concat();
        let is_dir = ghost.entry.mode & libc::S_IFMT == libc::S_IFDIR;
        let mut used = last.to_vec();
        let make = |name: &[u8]| match first.get(&id) {
            Some(other) => {
                self.link((&self.handles[&other.id], other.place()), (&dir, name, place))
            }
            None => create(dir.as_fd(), name, ghost),
        };
        let mut made = make(&used);
        if made == Err(nix::Error::EEXIST) {
            // Somebody has the name: the file gets another one, which shows in /proc/PID/fd.
            used = spare;
            if lookup(dir.as_fd(), &used).is_some() {
                unlink(dir.as_fd(), &used, is_dir).ok();
            }
            made = make(&used);
        }
        made.map_err(|e| failed(format_args!("create({:?})", show(&used)), e))?;
        let at = dir.try_clone().map_err(|e| failed_io("dup", &e))?;
        names.push(Name { dir: at, name: used.clone(), is_dir });
        open_name(dir.as_fd(), &used, OFlag::O_PATH | OFlag::O_NOFOLLOW, 0)
    }

    /// Links a file, which is at a place, to a name in a directory, which is that of another place.
    fn link(
        &self,
        (file, from): (&OwnedFd, Place<'_>),
        (dir, name, to): (&OwnedFd, &[u8], Place<'_>),
    ) -> Result<(), nix::Error> {
        let path = Files::self_path(file.as_raw_fd());
        let follow = nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW;
        match nix::unistd::linkat(&self.proc, &path[..], dir, super::path::os(name), follow) {
            // Not within one mount: it is done in the one that both are parts of.
            Err(nix::Error::EXDEV) => {}
            done => return done,
        }
        let (to_dir, _) = split(to.name);
        let at = |whole: &Whole| {
            let from = whole.within(from.mnt_id, from.name)?;
            Some((from, whole.within(to.mnt_id, &[to_dir, b"/", name].concat())?))
        };
        let found = self.wholes.iter().find_map(|w| Some((w, at(w)?)));
        let (whole, (from, to)) = found.ok_or(nix::Error::EXDEV)?;
        let parent = |path: &[u8]| {
            directory(whole.mount.as_fd(), split(path).0).map_err(|_| nix::Error::EXDEV)
        };
        let (old, new) = (parent(&from)?, parent(&to)?);
        let none = AtFlags::empty();
        nix::unistd::linkat(
            &old,
            super::path::os(split(&from).1),
            &new,
            super::path::os(name),
            none,
        )
    }

    /// Contents, owner, extended attributes, mode and times of a fresh ghost.
    fn fill(&self, handle: &OwnedFd, ghost: &Ghost) -> Result<()> {
        let e = &ghost.entry;
        let kind = e.mode & libc::S_IFMT;
        if kind == libc::S_IFREG {
            let file = File::from(self.reopen(handle.as_raw_fd(), libc::O_WRONLY)?);
            for (offset, extent) in &ghost.body {
                let mut at = 0;
                // In pieces, so that a big one needs no memory.
                while at < extent.len {
                    let len = (extent.len - at).min(1 << 20);
                    let piece =
                        images::Extent { image: extent.image, offset: extent.offset + at, len };
                    file.write_all_at(&self.extent(piece)?, offset + at)
                        .map_err(|e| failed_io("pwrite", &e))?;
                    at += len;
                }
            }
            if let Some(size) = e.size {
                file.set_len(size).map_err(|e| failed_io("ftruncate", &e))?;
            }
        }
        let (uid, gid) = (Some(e.uid.into()), Some(e.gid.into()));
        nix::unistd::fchownat(handle, "", uid, gid, AtFlags::AT_EMPTY_PATH)
            .map_err(|x| failed(format_args!("fchownat({}, {})", e.uid, e.gid), x))?;
        // A new owner takes capabilities away.
        set_xattrs(handle, &ghost.xattrs)?;
        if kind == libc::S_IFLNK {
            return Ok(());
        }
        let path = Self::self_path(handle.as_raw_fd());
        let mode = Mode::from_bits_truncate(e.mode);
        let follow = FchmodatFlags::FollowSymlink;
        nix::sys::stat::fchmodat(&self.proc, &path[..], mode, follow)
            .map_err(|x| failed(format_args!("fchmodat({:#o})", e.mode), x))?;
        if let (Some(a), Some(m)) = (&e.atim, &e.mtim) {
            let spec = |t: &images::proto::Timeval| {
                TimeSpec::new(t.tv_sec as i64, t.tv_usec as i64 * 1000)
            };
            let follow = UtimensatFlags::FollowSymlink;
            nix::sys::stat::utimensat(&self.proc, &path[..], &spec(a), &spec(m), follow)
                .map_err(|e| failed("utimensat", e))?;
        }
        Ok(())
    }

    /// Opens the directory of a path; directories that are gone are made for the moment.
    pub(super) fn parents<'n>(
        &self,
        root: BorrowedFd<'_>,
        path: &'n [u8],
        names: &mut Vec<Name>,
    ) -> Result<(OwnedFd, &'n [u8])> {
        let (dir, last) = split(path);
        if let Ok(fd) = directory(root, dir) {
            return Ok((fd, last));
        }
        let mut at = directory(root, b"")?;
        for part in dir.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
            let next = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
            let below = match open_name(at.as_fd(), part, next, 0) {
                Ok(fd) => fd,
                Err(_) => {
                    nix::sys::stat::mkdirat(&at, super::path::os(part), Mode::S_IRWXU)
                        .map_err(|e| failed(format_args!("mkdirat({:?})", show(part)), e))?;
                    let fd = open_name(at.as_fd(), part, next, 0)?;
                    names.push(Name { dir: at, name: part.to_vec(), is_dir: true });
                    fd
                }
            };
            at = below;
        }
        Ok((at, last))
    }
}

/// What this file system has no room for, or whoever restores may not give, is told: the file is
/// whole without it. So is a label that the policy here does not know.
fn set_xattrs(handle: &OwnedFd, wanted: &[AmberXattrEntry]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let path = path.as_bytes();
    let there = sys::file::xattrs(path, true).unwrap_or_default();
    // A fresh file may have its label already, from its directory or its mount.
    let missing = |x: &&AmberXattrEntry| {
        !there.iter().any(|(name, value)| (name, value) == (&x.name, &x.value))
    };
    for x in wanted.iter().filter(missing) {
        let Err(e) = sys::file::set_xattr(path, true, &x.name, &x.value) else { continue };
        let told = match e.errno() {
            libc::EOPNOTSUPP | libc::EPERM | libc::EACCES => true,
            libc::EINVAL => x.name == b"security.selinux",
            _ => false,
        };
        if !told {
            return Err(e.into());
        }
        log::warn!("a file without a name does not get its {} back: {e}", show(&x.name));
    }
    Ok(())
}

/// Whether a name in a directory is that of a file.
fn same_file(file: &OwnedFd, dir: &OwnedFd, name: &[u8]) -> bool {
    let there = lookup(dir.as_fd(), name);
    let file = nix::sys::stat::fstat(file);
    there.zip(file.ok()).is_some_and(|(a, b)| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

fn create(dir: BorrowedFd<'_>, name: &[u8], ghost: &Ghost) -> Result<(), nix::Error> {
    let e = &ghost.entry;
    let what = super::path::os(name);
    let private = Mode::S_IRUSR | Mode::S_IWUSR;
    match e.mode & libc::S_IFMT {
        libc::S_IFREG => {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            nix::fcntl::openat(dir, what, flags, private).map(drop)
        }
        libc::S_IFDIR => nix::sys::stat::mkdirat(dir, what, Mode::S_IRWXU),
        libc::S_IFLNK => {
            let target = e.symlnk_target.as_deref().unwrap_or_default();
            nix::unistd::symlinkat(super::path::os(target), dir, what)
        }
        kind => {
            let kind = SFlag::from_bits_truncate(kind);
            // Images have the 32-bit form of user space, of which dev_t is a superset.
            let dev = libc::dev_t::from(e.rdev());
            nix::sys::stat::mknodat(dir, what, kind, private, dev)
        }
    }
}

/// Takes all names away, the last one first.
pub(super) fn take_away(names: Vec<Name>) -> Result<()> {
    let mut result = Ok(());
    for Name { dir, name, is_dir } in names.into_iter().rev() {
        match unlink(dir.as_fd(), &name, is_dir) {
            Ok(()) | Err(nix::Error::ENOENT) => {}
            Err(e) => {
                let error = failed(format_args!("unlinkat({:?})", show(&name)), e);
                log::warn!("{error}");
                result = Err(error);
            }
        }
    }
    result
}
