//! Mount namespaces of tasks, as far as paths need them.

use super::error::{Why, call};
use super::parse::{Mount, mountinfo};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, stat};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What has been asked before.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Inode of the mount namespace by pid.
    ns: HashMap<i32, u64>,
    /// Its root directory, by inode.
    roots: HashMap<u64, OwnedFd>,
    /// Its mounts, by inode.
    mounts: HashMap<u64, Vec<Mount>>,
}

impl State {
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
        Ok((!self.is_ours(pid)?).then_some(id))
    }

    /// Root directory of the mount namespace of `pid`.
    pub(crate) fn root(&mut self, pid: i32) -> Result<BorrowedFd<'_>, Why> {
        let ns = self.ns_of(pid)?;
        if !self.roots.contains_key(&ns) {
            let ours = self.is_ours(pid)?;
            let path = if ours { "/".to_owned() } else { format!("/proc/{pid}/root") };
            if !ours {
                let seen =
                    call(|| format!("readlink({path})"), nix::fcntl::readlink(path.as_str()))?;
                if seen != "/" {
                    return Err(Why::yet("a mount namespace whose tasks are all in a chroot"));
                }
            }
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let fd = call(|| format!("open({path})"), open(path.as_str(), flags, Mode::empty()))?;
            self.roots.insert(ns, fd);
        }
        Ok(self.roots[&ns].as_fd())
    }

    /// Mounts of the namespace of `pid` with this device, whole file systems first.
    pub(crate) fn with_dev(&mut self, pid: i32, dev: u32) -> Result<Vec<Mount>, Why> {
        let ns = self.ns_of(pid)?;
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.mounts.entry(ns) {
            let text = crate::proc::read(format!("/proc/{pid}/mountinfo"))
                .map_err(|e| Why::Text(e.to_string()))?;
            vacant.insert(mountinfo(&text));
        }
        let mut found: Vec<Mount> =
            self.mounts[&ns].iter().filter(|m| m.dev == dev).cloned().collect();
        found.sort_by_key(|m| m.root.len());
        Ok(found)
    }
}

/// A path of the images below an open root: without the leading slash, `.` for the root.
pub(crate) fn below(path: &[u8]) -> &[u8] {
    match path.strip_prefix(b"/").unwrap_or(path) {
        b"" => b".",
        rest => rest,
    }
}
