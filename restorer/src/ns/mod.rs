//! Namespaces of the tree's own, made again.
//!
//! [`NsPlan::new`] decides (pure, as all of `plan`); the rest is done in this order:
//!
//! 1. The coordinator forks the root with [`NsPlan::clone_flags`] (pid, user), then writes the id
//!    maps of a user namespace.
//! 2. Stage `PrepareNamespaces`: the root task alone runs [`NsPlan::prepare`], before it forks
//!    or has opened any file: time, cgroup, uts, ipc, net, mnt. Everything is inherited from there.
//! 3. A task in another net or mnt namespace than the root calls [`NsPlan::join`].
//!
//! Each kind is a module with
//!
//! ```text
//! plan(cp: &Checkpoint, request: &Request) -> Result<Option<XPlan>, Error>   pure; None: not ours
//! XPlan::prepare(&self, cx: &mut Cx) -> Result<(), Error>                      in the root task
//! ```
//!
//! `prepare` makes the namespace itself (`unshare`, or `setns` into one that was given) and fills
//! it. Nested namespaces (only net and mnt have them) are made by the root too, which puts their
//! descriptors into [`Cx::made`]; tasks inherit these and enter by [`NsPlan::join`]. Namespaces
//! vanish with their processes; what outlives them (links outside, mounts) has to be undone by
//! whoever made it.
//!
//! `/proc` of the coordinator stays reachable by [`Cx::proc`] (`self` in it is whoever looks);
//! the path `/proc` may lead nowhere, or to another pid namespace.

pub(crate) mod cgroup;
pub(crate) mod ipc;
pub(crate) mod join;
pub(crate) mod mnt;
pub(crate) mod net;
pub(crate) mod pid;
pub(crate) mod time;
pub(crate) mod user;
pub(crate) mod uts;

use crate::facts::Facts;
use crate::task::creds::Creds;
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, NsKind, Task};
use nix::sched::{CloneFlags, setns, unshare};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

/// The namespaces of a tree: `None` for kinds that stay the restorer's.
#[derive(Debug, Default)]
pub(crate) struct NsPlan {
    pub(crate) pid: Option<pid::PidPlan>,
    pub(crate) user: Option<user::UserPlan>,
    pub(crate) time: Option<time::TimePlan>,
    pub(crate) cgroup: Option<cgroup::CgroupPlan>,
    pub(crate) uts: Option<uts::UtsPlan>,
    pub(crate) ipc: Option<ipc::IpcPlan>,
    pub(crate) net: Option<net::NetPlan>,
    pub(crate) mnt: Option<mnt::MntPlan>,
    /// Namespaces that exist already and take the place of the tree's own.
    pub(crate) joins: Vec<join::Join>,
}

/// What [`NsPlan::prepare`] works with.
#[derive(Debug)]
pub(crate) struct Cx<'a> {
    /// The images.
    pub(crate) cp: &'a Checkpoint,
    /// What was asked for.
    #[expect(dead_code, reason = "for kinds to come")]
    pub(crate) request: &'a Request,
    /// `/proc` of the coordinator.
    pub(crate) proc: BorrowedFd<'a>,
    /// Mounts that only the coordinator could open.
    pub(crate) outside: &'a mnt::Outside,
    /// Namespaces for other tasks.
    pub(crate) made: Made,
}

/// Namespaces that tasks other than the root enter, by kind and id.
#[derive(Debug)]
pub(crate) struct Made {
    /// Descriptors below belong to the images.
    least: RawFd,
    fds: HashMap<(NsKind, u32), Rc<OwnedFd>>,
    /// Mount namespaces that only other tasks are in: ids of their mounts, root directory.
    pub(crate) roots: Vec<(Vec<u32>, OwnedFd)>,
    /// Mounts that become read-only when all files are open.
    pub(crate) read_only: Vec<mnt::ReadOnly>,
    /// Mounts of which others are parts.
    pub(crate) wholes: Vec<mnt::Whole>,
    /// Masters of terminals that are mounted somewhere (`/dev/console`), by index.
    pub(crate) masters: Vec<(u32, OwnedFd)>,
}

impl Made {
    /// None yet; descriptors are kept at `least` and above.
    pub(crate) fn new(least: RawFd) -> Self {
        Self {
            least,
            fds: HashMap::new(),
            roots: Vec::new(),
            read_only: Vec::new(),
            wholes: Vec::new(),
            masters: Vec::new(),
        }
    }

    /// Keeps a namespace for those that enter it.
    pub(crate) fn put(&mut self, kind: NsKind, id: u32, fd: BorrowedFd<'_>) -> Result<(), Error> {
        self.fds.insert((kind, id), Rc::new(sys::fd::dup_above(fd, self.least)?));
        Ok(())
    }

    /// A copy of a descriptor, at a number that is nobody's.
    pub(crate) fn raise(&self, fd: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
        Ok(sys::fd::dup_above(fd, self.least)?)
    }

    /// All that were made.
    pub(crate) fn all(&self) -> &HashMap<(NsKind, u32), Rc<OwnedFd>> {
        &self.fds
    }

    /// All of one kind, with their ids.
    pub(crate) fn of(&self, kind: NsKind) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        self.fds.iter().filter(move |((k, _), _)| *k == kind).map(|((_, id), fd)| (*id, fd.as_fd()))
    }

    /// A namespace that was made.
    pub(crate) fn get(&self, kind: NsKind, id: u32) -> Option<BorrowedFd<'_>> {
        self.fds.get(&(kind, id)).map(|fd| fd.as_fd())
    }
}

impl NsPlan {
    /// Decides which namespaces are made, and finds what cannot be.
    pub(crate) fn new(cp: &Checkpoint, request: &Request) -> Result<Self, Error> {
        check_nested(cp)?;
        let joins = join::plan(request)?;
        let mut plan = Self {
            pid: pid::plan(cp, request)?,
            user: user::plan(cp, request)?,
            time: time::plan(cp, request)?,
            cgroup: cgroup::plan(cp, request)?,
            uts: uts::plan(cp, request)?,
            ipc: ipc::plan(cp, request)?,
            net: net::plan(cp, request)?,
            mnt: mnt::plan(cp, request)?,
            joins,
        };
        for kind in plan.joins.iter().map(|join| join.kind).collect::<Vec<_>>() {
            // Clocks are moved whether there is a namespace or not.
            let left_out = match kind {
                NsKind::Time => plan.time.take().is_some_and(|t| t.own),
                NsKind::Uts => plan.uts.take().is_some(),
                NsKind::Ipc => plan.ipc.take().is_some(),
                NsKind::Net => plan.net.take().is_some(),
                NsKind::Mnt => plan.mnt.take().is_some(),
                NsKind::User => plan.user.take().is_some(),
                NsKind::Pid | NsKind::Cgroup => false,
            };
            if left_out {
                let name = kind.name();
                log::warn!(
                    "--join-ns {name}: what the images have of the tree's own {name} namespace is \
                     left out; the one that is joined stays as it is"
                );
            }
        }
        Ok(plan)
    }

    /// Credentials that tasks begin with, if not the restorer's.
    pub(crate) fn creds(&self, facts: &Facts) -> Option<Creds> {
        let joined = self.joins.iter().find(|join| join.kind == NsKind::User);
        joined.map(|j| j.creds(facts)).or_else(|| Some(self.user.as_ref()?.creds(facts)))
    }

    /// Whether tasks are in another user namespace than the restorer.
    pub(crate) fn in_user_ns(&self) -> bool {
        self.user.is_some() || self.joins.iter().any(|join| join.kind == NsKind::User)
    }

    /// Whether tasks are in another network namespace than the restorer, and were when dumped:
    /// all of it was locked, not some connections of the dumper's.
    pub(crate) fn has_net(&self, cp: &Checkpoint) -> bool {
        let joined = || self.joins.iter().any(|join| join.kind == NsKind::Net);
        self.net.is_some() || joined() && own(cp, NsKind::Net).is_some()
    }

    /// Whether the tree has namespaces of its own. Moving clocks does not count, as in CRIU.
    pub(crate) fn any(&self) -> bool {
        let time = self.time.as_ref().is_some_and(|t| t.own);
        self.pid.is_some()
            || self.user.is_some()
            || time
            || self.cgroup.is_some()
            || self.uts.is_some()
            || self.ipc.is_some()
            || self.net.is_some()
            || self.mnt.is_some()
            || !self.joins.is_empty()
    }

    /// Flags with which the root task is forked.
    pub(crate) fn clone_flags(&self) -> u64 {
        let flag = |on: bool, kind: NsKind| if on { u64::from(kind.clone_flag()) } else { 0 };
        flag(self.net.as_ref().is_some_and(net::NetPlan::is_new), NsKind::Net)
            | flag(self.pid.as_ref().is_some_and(pid::PidPlan::is_new), NsKind::Pid)
            | flag(self.user.is_some(), NsKind::User)
    }

    /// Makes and fills all namespaces, in the root task.
    pub(crate) fn prepare(&self, cx: &mut Cx<'_>) -> Result<(), Error> {
        // Inside a user namespace the others become that one's.
        if let Some(user) = &self.user {
            user.enter()?;
        }
        if let Some(time) = &self.time {
            time.prepare(cx)?;
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.prepare(cx)?;
        }
        if let Some(uts) = &self.uts {
            uts.prepare(cx)?;
        }
        if let Some(ipc) = &self.ipc {
            ipc.prepare(cx)?;
        }
        if let Some(net) = &self.net {
            net.prepare(cx)?;
        }
        if let Some(mnt) = &self.mnt {
            mnt.prepare(cx)?;
        }
        for join in &self.joins {
            join.prepare(cx)?;
        }
        Ok(())
    }

    /// Enters the namespaces that `task` has not got from its `parent`.
    pub(crate) fn join(task: &Task, parent: &Task, made: &Made) -> Result<(), Error> {
        let (Some(to), Some(from)) = (&task.ids, &parent.ids) else { return Ok(()) };
        for kind in [NsKind::Net, NsKind::Mnt] {
            let id = kind.id(to);
            if id == kind.id(from) {
                continue;
            }
            let fd = made.get(kind, id);
            let missing = || Error::Namespace { pid: task.pid, kind: kind.name() };
            enter(kind, fd.ok_or_else(missing)?)?;
        }
        Ok(())
    }
}

/// Only mount and network namespaces may differ within a tree.
fn check_nested(cp: &Checkpoint) -> Result<(), Error> {
    let Some(root) = cp.root().ids.as_ref() else { return Ok(()) };
    for task in &cp.tasks {
        let Some(ids) = &task.ids else { continue };
        for kind in NsKind::ALL {
            let nested = kind.id(ids) != kind.id(root);
            if nested && !matches!(kind, NsKind::Net | NsKind::Mnt) {
                return Err(Error::Nested { pid: task.pid, kind: kind.name() });
            }
        }
    }
    Ok(())
}

/// Number of the root's namespace of this kind, if it is the tree's own.
pub(crate) fn own(cp: &Checkpoint, kind: NsKind) -> Option<u32> {
    let ids = cp.root().ids.as_ref()?;
    kind.differs(ids, &cp.root_ids).then(|| kind.id(ids))
}

/// The descriptor of ours that was given for a key (`--inherit-fd fd[N]:KEY`).
fn inherited(request: &Request, key: &str) -> Option<RawFd> {
    request.inherit_fd.iter().find(|(_, k)| k == key).map(|(fd, _)| *fd)
}

/// The namespace that was given for an external one.
fn external(request: &Request, kind: NsKind, key: &str) -> Result<RawFd, Error> {
    let missing = || Error::External { kind: kind.name(), key: key.to_owned() };
    inherited(request, key).ok_or_else(missing)
}

/// `setns(2)`.
fn enter(kind: NsKind, fd: impl AsFd) -> Result<(), Error> {
    let flag = CloneFlags::from_bits_retain(kind.clone_flag().cast_signed());
    setns(fd, flag)
        .map_err(|e| sys::Error::new(format_args!("setns({})", kind.name()), e as i32).into())
}

/// `unshare(2)`.
fn make(kind: NsKind) -> Result<(), Error> {
    let flag = CloneFlags::from_bits_retain(kind.clone_flag().cast_signed());
    unshare(flag)
        .map_err(|e| sys::Error::new(format_args!("unshare({})", kind.name()), e as i32).into())
}

/// Opens a file below the coordinator's `/proc` for reading.
fn open_proc(proc: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Error> {
    let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
    nix::fcntl::openat(proc, path, flags, nix::sys::stat::Mode::empty())
        .map_err(|e| sys::Error::new(format_args!("open(/proc/{path})"), e as i32).into())
}

/// Writes a file below the coordinator's `/proc`.
fn write_proc(proc: BorrowedFd<'_>, path: &str, text: &str) -> Result<(), Error> {
    use std::io::Write;
    let failed =
        |e: &std::io::Error| sys::Error::io(format_args!("write(/proc/{path}, {text:?})"), e);
    let flags = nix::fcntl::OFlag::O_WRONLY | nix::fcntl::OFlag::O_CLOEXEC;
    let fd = nix::fcntl::openat(proc, path, flags, nix::sys::stat::Mode::empty())
        .map_err(|e| failed(&e.into()))?;
    std::fs::File::from(fd).write_all(text.as_bytes()).map_err(|e| failed(&e))?;
    Ok(())
}
