//! Peer groups without `MOVE_MOUNT_SET_GROUP` (before Linux 5.15, `--mntns-compat-mode`).
//!
//! Peers are then copies of each other, made while mounts are still alone in the yard. What is
//! moved onto one of them afterwards appears on the others by itself, where the images have it
//! too: it is taken for what belongs there. Trees whose peers carry different mounts cannot be
//! made in this way; a comparison at the end finds them.

use super::build::{Builder, failed, missing, own_ns, part};
use super::groups::Step;
use super::plan::below;
use crate::Error;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use sys::mount::{self, Propagation};

/// What a mount has become.
#[derive(Clone, Copy, Default)]
struct Made {
    parent: u64,
    shared: u32,
    master: u32,
}

/// Mounts by id, of `mountinfo`.
fn parse(text: &str) -> HashMap<u64, Made> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        let id = words.next()?.parse().ok()?;
        let parent = words.next()?.parse().ok()?;
        let mut made = Made { parent, ..Made::default() };
        for word in words.skip(4).take_while(|w| *w != "-") {
            match word.split_once(':') {
                Some(("shared", n)) => made.shared = n.parse().ok()?,
                Some(("master", n)) => made.master = n.parse().ok()?,
                _ => {}
            }
        }
        Some((id, made))
    };
    text.lines().filter_map(line).collect()
}

fn differs(what: &str) -> Error {
    let hint = "peers with different mounts need MOVE_MOUNT_SET_GROUP (Linux 5.15)";
    Error::MountPlan(format!("{what}: {hint}"))
}

impl Builder<'_> {
    /// Makes groups of what is alone in the yard.
    pub(super) fn plain_groups(&mut self) -> Result<(), Error> {
        let mounts = &self.plan.trees.mounts;
        for step in &self.plan.trees.steps {
            let i = match *step {
                Step::Copy(_, i) | Step::Outside(i) | Step::Slave(i) | Step::Share(i) => i,
                Step::Unbindable(_) => continue,
            };
            self.plain_group(*step, i).map_err(|e| mounts[i].at(e))?;
        }
        Ok(())
    }

    fn plain_group(&mut self, step: Step, i: usize) -> Result<(), Error> {
        let mounts = &self.plan.trees.mounts;
        let fd = |i: usize| self.fds[i].as_ref().map(AsFd::as_fd).ok_or_else(|| missing(i));
        let copy = match step {
            Step::Copy(from, to) => part(fd(from)?, &below(&mounts[from].root, &mounts[to].root))?,
            Step::Outside(i) => {
                let peer = self.outside.peers.get(&i).ok_or_else(|| missing(i))?;
                peer.try_clone().map_err(|e| sys::Error::io("dup", &e))?
            }
            Step::Slave(i) => {
                return Ok(mount::set_propagation(fd(i)?, Propagation::Slave, false)?);
            }
            Step::Share(i) => {
                return Ok(mount::set_propagation(fd(i)?, Propagation::Shared, false)?);
            }
            Step::Unbindable(_) => return Ok(()),
        };
        // It takes the place of the one that was made alone.
        mount::detach(fd(i)?)?;
        nix::unistd::chdir("/").map_err(|e| failed("chdir(/)", e))?;
        let at = self.yard_place(i)?;
        mount::move_onto(copy.as_fd(), at.as_fd())?;
        mount::set_attr(copy.as_fd(), mounts[i].attr, super::build::ATTRS)?;
        if matches!(step, Step::Outside(_)) {
            mount::set_propagation(copy.as_fd(), Propagation::Shared, false)?;
        }
        self.fds[i] = Some(copy);
        Ok(())
    }

    /// Moves a mount to its place, or takes what has appeared there already.
    pub(super) fn attach_or_adopt(&mut self, i: usize) -> Result<(), Error> {
        let m = &self.plan.trees.mounts[i];
        let Some(parent) = m.parent else { return Ok(()) };
        let on = self.fds[parent].as_ref().ok_or_else(|| missing(parent))?.as_fd();
        if !m.place.is_empty() {
            let flags = libc::O_PATH | libc::O_NOFOLLOW;
            let at = sys::path::open_in_root(on, &m.place, flags)?;
            if mount::id_of(at.as_fd(), c"")? != mount::id_of(on, c"")? {
                let own = self.fds[i].as_ref().ok_or_else(|| missing(i))?;
                if !same(own.as_fd(), at.as_fd())? {
                    return Err(differs("something else has appeared there"));
                }
                mount::set_attr(at.as_fd(), m.attr, super::build::ATTRS)?;
                self.fds[i] = Some(at);
                return self.alone(i);
            }
        }
        self.attach(i)?;
        self.alone(i)
    }

    /// What is moved onto a shared mount becomes shared; the images know whether it was.
    fn alone(&self, i: usize) -> Result<(), Error> {
        let m = &self.plan.trees.mounts[i];
        let fd = self.fds[i].as_ref().ok_or_else(|| missing(i))?;
        if m.shared == 0 && m.master == 0 {
            let to = if m.unbindable { Propagation::Unbindable } else { Propagation::Private };
            mount::set_propagation(fd.as_fd(), to, false)?;
        }
        Ok(())
    }

    /// Whether all has become what the images say.
    pub(super) fn compare(&self) -> Result<(), Error> {
        let mounts = &self.plan.trees.mounts;
        let own = own_ns(self.proc)?;
        let mut groups: HashMap<u32, u32> = HashMap::new();
        let mut back: HashMap<u32, u32> = HashMap::new();
        let mut all = HashMap::new();
        let mut ids = Vec::new();
        for (n, ns) in self.namespaces.iter().enumerate() {
            let Some(ns) = ns else { continue };
            mount::enter_ns(ns.as_fd())?;
            let made = self.mountinfo()?;
            let wanted = mounts.iter().filter(|m| m.ns == n).count();
            if made.len() != wanted {
                let have = made.len();
                return Err(differs(&format!("{have} mounts have become of {wanted}")));
            }
            all.extend(made);
        }
        mount::enter_ns(own.as_fd())?;
        for (i, fd) in self.fds.iter().enumerate() {
            let fd = fd.as_ref().ok_or_else(|| missing(i))?;
            ids.push(mount::id_of(fd.as_fd(), c"")?.unwrap_or(0));
        }
        for (m, id) in mounts.iter().zip(&ids) {
            let made = all.get(id).copied().ok_or_else(|| m.at(differs("it is not there")))?;
            if m.parent.is_some_and(|p| ids[p] != made.parent) {
                return Err(m.at(differs("it is on another mount")));
            }
            // A group of the images is one of the kernel's, and the other way round.
            let same = (m.shared == 0) == (made.shared == 0)
                && *groups.entry(m.shared).or_insert(made.shared) == made.shared
                && *back.entry(made.shared).or_insert(m.shared) == m.shared;
            if !same {
                return Err(m.at(differs("its peers are others")));
            }
        }
        for (m, id) in mounts.iter().zip(&ids) {
            let made = all.get(id).copied().unwrap_or_default();
            let inside = groups.get(&m.master).filter(|_| m.master != 0);
            if inside.is_some_and(|master| *master != made.master) {
                return Err(m.at(differs("its master is another")));
            }
        }
        Ok(())
    }

    fn mountinfo(&self) -> Result<HashMap<u64, Made>, Error> {
        let name = "thread-self/mountinfo";
        let fd = openat(self.proc, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| failed("open(/proc/thread-self/mountinfo)", e))?;
        let mut text = String::new();
        File::from(fd)
            .read_to_string(&mut text)
            .map_err(|e| sys::Error::io("read(/proc/thread-self/mountinfo)", &e))?;
        Ok(parse(&text))
    }
}

/// Whether both are the same file or directory.
fn same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Result<bool, Error> {
    let stat = |fd| fstat(fd).map_err(|e| failed("fstat", e));
    let (a, b) = (stat(a)?, stat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}
