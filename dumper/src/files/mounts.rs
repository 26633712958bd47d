//! Mount namespaces of tasks, as far as paths need them.

use super::error::{Why, call};
use super::parse::{Mount, mountinfo};
use crate::ns::Namespaces;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, stat};
use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// What has been asked before.
#[derive(Debug)]
pub(crate) struct State {
    /// The tree's own namespaces, and what is mounted in them.
    all: Rc<Namespaces>,
    /// Inode of the mount namespace by pid.
    ns: HashMap<i32, u64>,
    /// Our own root directory.
    root: Option<OwnedFd>,
    /// Our own mounts.
    mounts: Option<Vec<Mount>>,
}

impl State {
    pub(crate) fn new(all: Rc<Namespaces>) -> Self {
        Self { all, ns: HashMap::new(), root: None, mounts: None }
    }

    fn ns_of(&mut self, pid: i32) -> Result<u64, Why> {
        if let Some(&ino) = self.ns.get(&pid) {
            return Ok(ino);
        }
        let path = format!("/proc/{pid}/ns/mnt");
        let ino = call(|| format!("stat({path})"), stat(path.as_str()))?.st_ino;
        self.ns.insert(pid, ino);
        Ok(ino)
    }

    fn is_ours(&mut self, pid: i32) -> Result<bool, Why> {
        let own = self.ns_of(std::process::id() as i32)?;
        Ok(self.ns_of(pid)? == own)
    }

    /// What goes into an image: nothing in our own mount namespace, where ids mean nothing to
    /// the restorer.
    pub(crate) fn mnt_id(&mut self, pid: i32, id: i32) -> Result<Option<i32>, Why> {
        if self.all.mounts.home(id.cast_unsigned()).is_some() {
            return Ok(Some(id));
        }
        if self.is_ours(pid)? {
            return Ok(None);
        }
        Err(Why::refused(format!(
            "Can't lookup mount={id}: it is of a mount namespace that no task of the tree is in, \
             or it was unmounted"
        )))
    }

    /// Root directory of the mount namespace of `pid`.
    pub(crate) fn root(&mut self, pid: i32) -> Result<BorrowedFd<'_>, Why> {
        let ino = self.ns_of(pid)?;
        if self.all.mounts.root(ino).is_none() && self.root.is_none() {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            self.root = Some(call(|| "open(/)".into(), open("/", flags, Mode::empty()))?);
        }
        let own = self.root.as_ref().map(OwnedFd::as_fd);
        let root = self.all.mounts.root(ino).or(own);
        root.ok_or_else(|| Why::refused(format!("the mount namespace of {pid} is not known")))
    }

    /// Root directory of the mount namespace that a mount is in which `pid` uses.
    pub(crate) fn root_of(&mut self, pid: i32, id: i32) -> Result<BorrowedFd<'_>, Why> {
        match self.all.mounts.home(id.cast_unsigned()).map(|(ino, _)| ino) {
            None => self.root(pid),
            Some(ino) => {
                let missing = || Why::refused(format!("Can't lookup mount={id}"));
                self.all.mounts.root(ino).ok_or_else(missing)
            }
        }
    }

    /// Whether a path of the namespace of a mount leads to that mount, not to another over it.
    pub(crate) fn is_visible(&self, id: i32, path: &[u8]) -> Result<bool, Why> {
        let Some((_, root)) = self.all.mounts.home(id.cast_unsigned()) else { return Ok(true) };
        let path = CString::new(below(path)).map_err(|_| Why::refused("a path with NUL"))?;
        let there = sys::mount::id_of(root, &path)?;
        Ok(there.is_none_or(|there| there == u64::from(id.cast_unsigned())))
    }

    /// The mount that a path of the namespace of `pid` leads to.
    pub(crate) fn mount_at(&mut self, pid: i32, path: &[u8]) -> Result<Option<i32>, Why> {
        let path = CString::new(below(path)).map_err(|_| Why::refused("a path with NUL"))?;
        let id = sys::mount::id_of(self.root(pid)?, &path)?;
        Ok(id.and_then(|id| i32::try_from(id).ok()))
    }

    /// Mounts of the namespace of `pid` with this device, whole file systems first.
    pub(crate) fn with_dev(&mut self, pid: i32, dev: u32) -> Result<Vec<Mount>, Why> {
        let ino = self.ns_of(pid)?;
        let mut found: Vec<Mount> = if self.all.mounts.root(ino).is_some() {
            self.all.mounts.with_dev(ino, dev)
        } else {
            let all = self.ours(pid)?.iter();
            all.filter(|m| m.dev == dev).cloned().collect()
        };
        found.sort_by_key(|m| m.root.len());
        Ok(found)
    }

    /// Mounts with this device in the tree's other namespaces than that of `pid`.
    pub(crate) fn elsewhere(&mut self, pid: i32, dev: u32) -> Result<Vec<Mount>, Why> {
        let ino = self.ns_of(pid)?;
        let others = self.all.mounts.namespaces().filter(|other| *other != ino);
        let mut found: Vec<Mount> =
            others.flat_map(|ino| self.all.mounts.with_dev(ino, dev)).collect();
        found.sort_by_key(|m| m.root.len());
        Ok(found)
    }

    /// A mount of the namespace of `pid`, or of any of the tree's own.
    pub(crate) fn mount(&mut self, pid: i32, id: i32) -> Result<Option<Mount>, Why> {
        let own = self.all.mounts.mount(id.cast_unsigned());
        if own.is_some() || !self.is_ours(pid)? {
            return Ok(own);
        }
        Ok(self.ours(pid)?.iter().find(|m| m.id == id).cloned())
    }

    /// Our own mounts; `pid` is in our namespace.
    fn ours(&mut self, pid: i32) -> Result<&[Mount], Why> {
        if self.mounts.is_none() {
            let text = crate::proc::read(format!("/proc/{pid}/mountinfo"))
                .map_err(|e| Why::Text(e.to_string()))?;
            self.mounts = Some(mountinfo(&text));
        }
        Ok(self.mounts.as_deref().unwrap_or_default())
    }
}

/// A path of the images below an open root: without the leading slash, `.` for the root.
pub(crate) fn below(path: &[u8]) -> &[u8] {
    match path.strip_prefix(b"/").unwrap_or(path) {
        b"" => b".",
        rest => rest,
    }
}
