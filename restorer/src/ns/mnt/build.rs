//! Makes the mounts of a plan, in the root task.
//!
//! ```text
//! coordinator   Outside::open    --root, external mounts: detached copies, inherited by fork
//! root task     MntPlan::prepare
//!   yard        every mount alone, at yard/N: nothing hides, nothing propagates
//!   trees       nested namespaces in copies of ours, then our own: moved into place, pivot_root
//!   late        overlays and what is on them
//!   groups      peers and masters
//! ```
//! All is private until the end, and in a mount namespace that nobody else is in: a restore that
//! fails leaves nothing.

use super::MntPlan;
use super::content;
use super::context::{split, unquoted};
use super::groups::Step;
use super::plan::{Mount, NewFs, Outer, Source};
use crate::files::tty;
use crate::ns::{Cx, make};
use crate::{Error, Request};
use images::Image;
use images::checkpoint::NsKind;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat, mknodat};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use sys::mount::{self, Fs, Propagation};

/// What only the restorer's own namespaces have: detached mounts, by position in the plan.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    mounts: HashMap<usize, OwnedFd>,
    /// Copies of those that stay peers.
    pub(super) peers: HashMap<usize, OwnedFd>,
}

fn show(path: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(path)
}

impl Mount {
    pub(super) fn at(&self, e: impl Into<Error>) -> Error {
        Error::Mount {
            id: self.id,
            point: show(&self.point).into_owned(),
            source: Box::new(e.into()),
        }
    }
}

pub(super) fn failed(call: impl std::fmt::Display, e: nix::Error) -> Error {
    sys::Error::new(call, e as i32).into()
}

fn open_path(path: &Path) -> Result<OwnedFd, Error> {
    // Our working directory has moved to the images.
    let path = &Path::new("/").join(path);
    open(path.as_path(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| failed(format_args!("open({})", path.display()), e))
}

impl Outside {
    /// Opens all of it, in the coordinator. Descriptors are `least` or higher.
    pub(crate) fn open(plan: &MntPlan, request: &Request, least: i32) -> Result<Self, Error> {
        let mut out = Self::default();
        for (i, m) in plan.trees.mounts.iter().enumerate() {
            let made = match &m.source {
                Source::Root => {
                    copy(request.root.as_deref().unwrap_or_else(|| Path::new("/")), m.outer)
                }
                Source::Host(path) => copy(path, m.outer).and_then(|fd| {
                    if m.outer == Outer::Peer {
                        let peer = mount::clone_tree(open_path(path)?.as_fd(), false)?;
                        out.peers.insert(i, sys::fd::dup_above(peer.as_fd(), least)?);
                    }
                    Ok(fd)
                }),
                Source::New(fs) if fs.privileged => new(fs),
                Source::New(_) | Source::Bind { .. } => continue,
            };
            let fd = made.map_err(|e| m.at(e))?;
            let fd = sys::fd::dup_above(fd.as_fd(), least)?;
            out.mounts.insert(i, fd);
        }
        Ok(out)
    }
}

/// A copy of the mount at a path of ours, attached nowhere.
fn copy(path: &Path, outer: Outer) -> Result<OwnedFd, Error> {
    let at = open_path(path)?;
    let fd = mount::clone_tree(at.as_fd(), false)
        .map_err(|e| sys::Error::new(format_args!("open_tree({})", path.display()), e.errno()))?;
    let keep = if outer == Outer::Slave { Propagation::Slave } else { Propagation::Private };
    mount::set_propagation(fd.as_fd(), keep, false)?;
    Ok(fd)
}

/// Mounts a file system, attached nowhere.
fn new(fs: &NewFs) -> Result<OwnedFd, Error> {
    let made = Fs::open(&fs.name)?;
    if !fs.source.is_empty() && fs.source != b"none" {
        made.set(b"source", &fs.source)?;
    }
    // Only the first cgroup namespace may set it.
    let wanted = |o: &&[u8]| {
        // "seclabel" only tells that SELinux labels each file by itself.
        !o.is_empty() && !o.starts_with(b"release_agent=") && *o != b"seclabel"
    };
    for option in split(&fs.options).into_iter().filter(wanted) {
        match option.iter().position(|b| *b == b'=') {
            Some(at) => made.set(&option[..at], unquoted(&option[at + 1..]))?,
            None => made.set_flag(option)?,
        }
    }
    // "sync" is 4 in CRIU's images, by mistake. A tmpfs is to be filled first.
    let read_only = fs.sb_flags & 1 != 0 && !fs.content;
    let flags = [
        (read_only, "ro"),
        (fs.sb_flags & (4 | 0x10) != 0, "sync"),
        (fs.sb_flags & 0x80 != 0, "dirsync"),
        (fs.sb_flags & 0x40 != 0, "mand"),
        (fs.sb_flags & 0x200_0000 != 0, "lazytime"),
    ];
    for (_, name) in flags.iter().filter(|(on, _)| *on) {
        made.set_flag(name.as_bytes())?;
    }
    let whole = made.mount(0)?;
    if fs.path.is_empty() { Ok(whole) } else { part(whole.as_fd(), &fs.path) }
}

/// A copy of a part of a mount.
pub(super) fn part(of: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Error> {
    let at = sys::path::open_in_root(of, path, libc::O_PATH | libc::O_NOFOLLOW)?;
    Ok(mount::clone_tree(at.as_fd(), false)?)
}

/// All that a mount may have of its own.
pub(super) const ATTRS: u64 = mount::ATTR_NOSUID
    | mount::ATTR_NODEV
    | mount::ATTR_NOEXEC
    | mount::ATTR_NODIRATIME
    | mount::ATTR_ATIME;

/// Runs in the root task.
pub(super) struct Builder<'a> {
    pub(super) plan: &'a MntPlan,
    pub(super) outside: &'a Outside,
    /// Our root, before the tree's is.
    root: OwnedFd,
    yard: OwnedFd,
    /// Each mount alone; later in its place.
    pub(super) fds: Vec<Option<OwnedFd>>,
    /// The namespaces, once they are made.
    pub(super) namespaces: Vec<Option<OwnedFd>>,
    pub(super) proc: BorrowedFd<'a>,
    /// What was made to be bound.
    remade: Vec<Remade>,
    /// Masters of terminals that are bound, by index.
    masters: Vec<(u32, OwnedFd)>,
    /// Groups are there before mounts are moved to their places.
    compat: bool,
}

impl MntPlan {
    /// Makes and fills all mount namespaces. The caller is then in that of the root task.
    pub(crate) fn prepare(&self, cx: &mut Cx<'_>) -> Result<(), Error> {
        make(NsKind::Mnt)?;
        let root = open_path(Path::new("/"))?;
        mount::set_propagation(root.as_fd(), Propagation::Private, true)?;
        // On top of the root, where paths of ours do not look.
        let yard = Fs::open("tmpfs").and_then(|fs| fs.mount(0))?;
        mount::move_onto(yard.as_fd(), root.as_fd())?;
        let count = self.trees.mounts.len();
        let mut build = Builder {
            plan: self,
            outside: cx.outside,
            root,
            yard,
            fds: (0..count).map(|_| None).collect(),
            namespaces: self.trees.namespaces.iter().map(|_| None).collect(),
            proc: cx.proc,
            remade: Vec::new(),
            masters: Vec::new(),
            compat: false,
        };
        build.plain(cx)?;
        build.keep_wholes(cx)?;
        let steps = &self.trees.steps;
        let copies = steps.iter().any(|s| matches!(s, Step::Copy(..) | Step::Outside(_)));
        build.compat = self.compat || copies && !mount::has_set_group();
        if build.compat {
            log::debug!("peer groups are made by binds");
            build.plain_groups()?;
        }
        build.nested()?;
        build.enter(0)?;
        for (index, master) in std::mem::take(&mut build.masters) {
            let master = cx.made.raise(master.as_fd())?;
            cx.made.masters.push((index, master));
        }
        // The kernel moves no mount of what is deleted.
        for remade in std::mem::take(&mut build.remade) {
            remade.remove()?;
        }
        if build.compat {
            build.compare()?;
        } else {
            build.groups()?;
        }
        let count = self.trees.namespaces.len();
        for (tree, fd) in self.trees.namespaces.iter().zip(&build.namespaces) {
            if let Some(fd) = fd.as_ref().filter(|_| count > 1) {
                cx.made.put(NsKind::Mnt, tree.id, fd.as_fd())?;
            }
        }
        for (n, tree) in self.trees.namespaces.iter().enumerate().skip(1) {
            if let Some(root) = tree.order.first().and_then(|i| build.fds[*i].as_ref()) {
                let mounts = self.trees.mounts.iter().filter(|m| m.ns == n).map(|m| m.id);
                cx.made.roots.push((mounts.collect(), cx.made.raise(root.as_fd())?));
            }
        }
        build.read_only(cx)
    }
}

/// A mount that becomes read-only as soon as all files without a name have been made.
#[derive(Debug)]
pub(crate) struct ReadOnly {
    ns: OwnedFd,
    mount: OwnedFd,
    /// The file system as a whole.
    file_system: bool,
    /// This mount of it.
    mount_itself: bool,
    what: (u32, String),
}

/// Does it, in the root task.
pub(crate) fn read_only(list: Vec<ReadOnly>, proc: BorrowedFd<'_>) -> Result<(), Error> {
    if list.is_empty() {
        return Ok(());
    }
    let own = own_ns(proc)?;
    for one in &list {
        let done = || {
            if one.file_system {
                let fs = Fs::pick(one.mount.as_fd())?;
                fs.set_flag(b"ro").and_then(|()| fs.reconfigure())?;
            }
            if one.mount_itself {
                mount::enter_ns(one.ns.as_fd())?;
                mount::set_attr(one.mount.as_fd(), sys::mount::ATTR_RDONLY, 0)?;
            }
            Ok(())
        };
        done().map_err(|e: sys::Error| Error::Mount {
            id: one.what.0,
            point: one.what.1.clone(),
            source: Box::new(e.into()),
        })?;
    }
    Ok(mount::enter_ns(own.as_fd())?)
}

pub(super) fn own_ns(proc: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let name = "thread-self/ns/mnt";
    openat(proc, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| failed("open(/proc/thread-self/ns/mnt)", e))
}

impl Builder<'_> {
    /// Every mount for itself, in the yard.
    fn plain(&mut self, cx: &Cx<'_>) -> Result<(), Error> {
        let mounts = &self.plan.trees.mounts;
        let bind = |m: &Mount| matches!(m.source, Source::Bind { .. });
        let first = (0..mounts.len()).filter(|i| !bind(&mounts[*i]));
        let order: Vec<usize> =
            first.chain((0..mounts.len()).filter(|i| bind(&mounts[*i]))).collect();
        for i in order {
            let m = &mounts[i];
            if m.late && !matches!(m.source, Source::New(ref fs) if fs.name != "overlay") {
                continue;
            }
            self.one(i, cx).map_err(|e| m.at(e))?;
        }
        Ok(())
    }

    fn one(&mut self, i: usize, cx: &Cx<'_>) -> Result<(), Error> {
        let m = &self.plan.trees.mounts[i];
        let mut undo = None;
        let fd = match &m.source {
            Source::Root | Source::Host(_) => self.given(i)?,
            Source::New(fs) if fs.privileged => self.given(i)?,
            Source::New(fs) => new(fs)?,
            Source::Bind { of, path, deleted } => {
                if let Some(index) = self.terminal(*of, path) {
                    self.hold_terminal(*of, index)?;
                }
                let of = self.fds[*of].as_ref().ok_or_else(|| missing(*of))?;
                if *deleted {
                    undo = Some(self.remake(i, of, path)?);
                }
                part(of.as_fd(), undo.as_ref().map_or(&path[..], |u| &u.path))?
            }
        };
        self.remade.extend(undo);
        if !m.late {
            self.park(i, &fd)?;
        }
        if let Source::New(fs) = &m.source
            && fs.content
        {
            fill(&fd, fs, cx)?;
        }
        mount::set_attr(fd.as_fd(), m.attr, ATTRS)?;
        self.fds[i] = Some(fd);
        Ok(())
    }

    /// The index of the terminal that `path` of a new devpts is.
    fn terminal(&self, of: usize, path: &[u8]) -> Option<u32> {
        let Source::New(fs) = &self.plan.trees.mounts[of].source else { return None };
        let index = std::str::from_utf8(path).ok()?.trim_start_matches('/').parse().ok()?;
        (fs.name == "devpts").then_some(index)
    }

    /// Makes a terminal, so that it can be bound; its master is kept for the files.
    fn hold_terminal(&mut self, of: usize, index: u32) -> Result<(), Error> {
        if self.masters.iter().any(|(known, _)| *known == index) {
            return Ok(());
        }
        let devpts = self.fds[of].as_ref().ok_or_else(|| missing(of))?;
        let master = tty::open_master(index, || {
            sys::path::open_in_root(devpts.as_fd(), b"ptmx", libc::O_RDWR | libc::O_NOCTTY)
        })?;
        self.masters.push((index, master));
        Ok(())
    }

    fn given(&self, i: usize) -> Result<OwnedFd, Error> {
        let fd = self.outside.mounts.get(&i).ok_or_else(|| missing(i))?;
        fd.try_clone().map_err(|e| sys::Error::io("dup", &e).into())
    }

    /// Attaches a mount at `yard/i`.
    fn park(&self, i: usize, fd: &OwnedFd) -> Result<(), Error> {
        let name = i.to_string();
        if is_dir(fd)? {
            mkdirat(&self.yard, name.as_str(), Mode::S_IRWXU).map_err(|e| failed("mkdir", e))?;
        } else {
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            mknodat(&self.yard, name.as_str(), SFlag::S_IFREG, mode, 0)
                .map_err(|e| failed("mknod", e))?;
        }
        Ok(mount::move_onto(fd.as_fd(), self.yard_place(i)?.as_fd())?)
    }

    /// Where a mount is put in the yard.
    pub(super) fn yard_place(&self, i: usize) -> Result<OwnedFd, Error> {
        let name = i.to_string();
        openat(&self.yard, name.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| failed("open(yard)", e))
    }
}

pub(super) fn missing(i: usize) -> Error {
    Error::MountPlan(format!("mount number {i} is used before it is made"))
}

fn is_dir(fd: &OwnedFd) -> Result<bool, Error> {
    let stat = fstat(fd).map_err(|e| failed("fstat", e))?;
    Ok(stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// Unpacks the archive of a tmpfs.
fn fill(fd: &OwnedFd, fs: &NewFs, cx: &Cx<'_>) -> Result<(), Error> {
    let image = Image::TmpfsDev(fs.dev);
    let archive = cx.cp.dir.open_raw(image)?;
    let archive = match archive {
        Some(archive) => archive,
        None => return Err(Error::MountPlan(format!("{}: no such image", image.file_name()))),
    };
    nix::unistd::fchdir(fd).map_err(|e| failed("fchdir", e))?;
    content::extract(archive)
        .map_err(|e| Error::MountPlan(format!("{}: {e}", image.file_name())))?;
    nix::unistd::chdir("/").map_err(|e| failed("chdir(/)", e))
}

/// A directory or file that is there only to be bound.
struct Remade {
    dir: OwnedFd,
    name: Vec<u8>,
    path: Vec<u8>,
    is_dir: bool,
    /// Directories above that were not there either, the deepest first.
    above: Vec<(OwnedFd, Vec<u8>)>,
}

impl Remade {
    fn remove(self) -> Result<(), Error> {
        use nix::unistd::{UnlinkatFlags, unlinkat};
        let flag = if self.is_dir { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        unlinkat(&self.dir, self.name.as_slice(), flag).map_err(|e| failed("unlink", e))?;
        for (dir, name) in &self.above {
            unlinkat(dir, name.as_slice(), UnlinkatFlags::RemoveDir)
                .map_err(|e| failed("rmdir", e))?;
        }
        Ok(())
    }
}

impl Builder<'_> {
    /// Makes again what was deleted after it had been bound.
    fn remake(&self, i: usize, of: &OwnedFd, path: &[u8]) -> Result<Remade, Error> {
        let m = &self.plan.trees.mounts[i];
        let parent = m.parent.and_then(|p| self.fds[p].as_ref());
        // What it is bound over tells whether it is a directory.
        let on = match parent {
            Some(parent) if !m.place.is_empty() => {
                let flags = libc::O_PATH | libc::O_NOFOLLOW;
                Some(sys::path::open_in_root(parent.as_fd(), &m.place, flags)?)
            }
            Some(parent) => Some(parent.try_clone().map_err(|e| sys::Error::io("dup", &e))?),
            None => None,
        };
        let is_dir = on.as_ref().map_or(Ok(true), is_dir)?;
        let (dirs, name) = match path.iter().rposition(|b| *b == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path),
        };
        let mut above = Vec::new();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut dir = of.try_clone().map_err(|e| sys::Error::io("dup", &e))?;
        for part in dirs.split(|b| *b == b'/').filter(|p| !p.is_empty()) {
            let next = match openat(&dir, part, flags, Mode::empty()) {
                Err(nix::Error::ENOENT) => {
                    mkdirat(&dir, part, Mode::S_IRWXU).map_err(|e| failed("mkdir", e))?;
                    let next = openat(&dir, part, flags, Mode::empty());
                    above.insert(0, (dir, part.to_vec()));
                    next
                }
                next => next,
            };
            dir = next.map_err(|e| failed(format_args!("open({})", show(part)), e))?;
        }
        let mut name = name.to_vec();
        let mode = Mode::S_IRWXU | Mode::S_IRGRP | Mode::S_IXGRP | Mode::S_IROTH | Mode::S_IXOTH;
        loop {
            let made = if is_dir {
                mkdirat(&dir, name.as_slice(), mode)
            } else {
                mknodat(&dir, name.as_slice(), SFlag::S_IFREG, mode, 0)
            };
            match made {
                // Another has the name by now.
                Err(nix::Error::EEXIST) => name.extend(b".cr"),
                Ok(()) => break,
                Err(e) => return Err(failed(format_args!("mkdir({})", show(&name)), e)),
            }
        }
        let mut path = dirs.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        Ok(Remade { dir, name, path, is_dir, above })
    }

    /// Namespaces other than the root task's: each in a copy of what we have by now.
    fn nested(&mut self) -> Result<(), Error> {
        let count = self.plan.trees.namespaces.len();
        if count < 2 {
            return Ok(());
        }
        let own = self.ns()?;
        for n in 1..count {
            nix::unistd::fchdir(&self.yard).map_err(|e| failed("fchdir(yard)", e))?;
            mount::unshare_mounts()?;
            // The cwd is in the copy now.
            for &i in &self.plan.trees.namespaces[n].order {
                if self.plan.trees.mounts[i].late {
                    continue;
                }
                let name = i.to_string();
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let fd = openat(nix::fcntl::AT_FDCWD, name.as_str(), flags, Mode::empty());
                self.fds[i] = Some(fd.map_err(|e| failed(format_args!("open(yard/{name})"), e))?);
            }
            self.enter(n)?;
            // That leads to what is on top of our root, the yard.
            mount::enter_ns(own.as_fd())?;
            nix::unistd::fchdir(&self.root).map_err(|e| failed("fchdir", e))?;
            nix::unistd::chroot(".").map_err(|e| failed("chroot", e))?;
        }
        Ok(())
    }

    fn ns(&self) -> Result<OwnedFd, Error> {
        own_ns(self.proc)
    }

    /// Builds a tree in the namespace that we are in, and makes it the root.
    fn enter(&mut self, n: usize) -> Result<(), Error> {
        let trees = &self.plan.trees;
        let order = &trees.namespaces[n].order;
        let mut late = HashMap::new();
        for &i in order {
            let m = &trees.mounts[i];
            if m.late {
                // What is alone in the yard goes away with it.
                if let Source::Bind { of, path, .. } = &m.source
                    && let Some(of) = self.fds[*of].as_ref().filter(|_| !trees.mounts[*of].late)
                {
                    late.insert(i, part(of.as_fd(), path).map_err(|e| m.at(e))?);
                }
                continue;
            }
            let done = if self.compat { self.attach_or_adopt(i) } else { self.attach(i) };
            done.map_err(|e| m.at(e))?;
        }
        let Some(&root) = order.first() else { return Ok(()) };
        let fd = self.fds[root].as_ref().ok_or_else(|| missing(root))?;
        // The yard lies on the old root.
        mount::enter_root(fd.as_fd(), 2)?;
        for &i in order.iter().filter(|i| trees.mounts[**i].late) {
            self.late(i, late.remove(&i)).map_err(|e| trees.mounts[i].at(e))?;
        }
        self.namespaces[n] = Some(self.ns()?);
        Ok(())
    }

    /// Moves a mount to its place.
    pub(super) fn attach(&self, i: usize) -> Result<(), Error> {
        let m = &self.plan.trees.mounts[i];
        let fd = self.fds[i].as_ref().ok_or_else(|| missing(i))?;
        let Some(parent) = m.parent else { return Ok(()) };
        let on = self.fds[parent].as_ref().ok_or_else(|| missing(parent))?;
        if m.place.is_empty() {
            return Ok(mount::move_onto(fd.as_fd(), on.as_fd())?);
        }
        let at = sys::path::open_in_root(on.as_fd(), &m.place, libc::O_PATH | libc::O_NOFOLLOW)?;
        Ok(mount::move_onto(fd.as_fd(), at.as_fd())?)
    }

    /// A mount that needs the tree to stand.
    fn late(&mut self, i: usize, ready: Option<OwnedFd>) -> Result<(), Error> {
        let m = &self.plan.trees.mounts[i];
        let fd = match (&m.source, ready) {
            (_, Some(fd)) => fd,
            (Source::Bind { of, path, .. }, None) => {
                part(self.fds[*of].as_ref().ok_or_else(|| missing(*of))?.as_fd(), path)?
            }
            (Source::New(fs), None) if self.fds[i].is_none() => new(fs)?,
            (_, None) => match self.fds[i].take() {
                Some(fd) => fd,
                None => self.given(i)?,
            },
        };
        mount::set_attr(fd.as_fd(), m.attr, ATTRS)?;
        self.fds[i] = Some(fd);
        self.attach(i)
    }

    /// Goes into a namespace that is made.
    fn go(&self, n: usize, at: &mut usize) -> Result<(), Error> {
        if *at != n
            && let Some(ns) = &self.namespaces[n]
        {
            mount::enter_ns(ns.as_fd())?;
            *at = n;
        }
        Ok(())
    }

    fn groups(&self) -> Result<(), Error> {
        let mounts = &self.plan.trees.mounts;
        let fd = |i: usize| self.fds[i].as_ref().map(AsFd::as_fd).ok_or_else(|| missing(i));
        let mut at = 0;
        for step in &self.plan.trees.steps {
            let (i, done) = match *step {
                Step::Copy(from, to) => (to, mount::set_group(fd(from)?, fd(to)?)),
                Step::Outside(i) => {
                    let peer = self.outside.peers.get(&i).ok_or_else(|| missing(i))?;
                    match mount::set_group(peer.as_fd(), fd(i)?) {
                        // It is private out there by now.
                        Err(e) if e.errno() == libc::EINVAL => {
                            self.go(mounts[i].ns, &mut at)?;
                            (i, mount::set_propagation(fd(i)?, Propagation::Shared, false))
                        }
                        done => (i, done),
                    }
                }
                Step::Slave(i) | Step::Share(i) | Step::Unbindable(i) => {
                    self.go(mounts[i].ns, &mut at)?;
                    let to = match step {
                        Step::Slave(_) => Propagation::Slave,
                        Step::Share(_) => Propagation::Shared,
                        _ => Propagation::Unbindable,
                    };
                    (i, mount::set_propagation(fd(i)?, to, false))
                }
            };
            done.map_err(|e| mounts[i].at(e))?;
        }
        self.go(0, &mut at)
    }

    fn read_only(&self, cx: &mut Cx<'_>) -> Result<(), Error> {
        for (m, fd) in self.plan.trees.mounts.iter().zip(&self.fds) {
            let (Some(fd), Some(ns)) = (fd, &self.namespaces[m.ns]) else { continue };
            let sb = matches!(&m.source, Source::New(fs) if fs.content && fs.sb_flags & 1 != 0);
            if sb || m.read_only {
                let (mount, ns) = (cx.made.raise(fd.as_fd())?, cx.made.raise(ns.as_fd())?);
                cx.made.read_only.push(ReadOnly {
                    ns,
                    mount,
                    file_system: sb,
                    mount_itself: m.read_only,
                    what: (m.id, show(&m.point).into_owned()),
                });
            }
        }
        Ok(())
    }
}
