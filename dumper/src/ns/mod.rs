//! Namespaces: which the tree lives in, and what is in them.
//!
//! [`Namespaces::collect`] numbers all namespaces of a frozen tree, one id for each kernel
//! object, in one space over all kinds; those of the dumper itself have fixed ids. Each kind of
//! namespace is a module with one entry:
//!
//! ```text
//! kind::dump(ns: &Namespace, cx: &Cx) -> Result<(), Error>
//! ```
//!
//! [`dump`] calls it for every namespace of the kind which is not the dumper's own
//! ([`Role::Root`]: the root task's; [`Role::Nested`]: only of other tasks) and not external.
//! It writes the images numbered `ns.id`. Code that has to run in a namespace does so by
//! [`Namespace::inside`], in a thread of ours. Tasks are frozen and whole; a failure before or in
//! an entry leaves them as they were, so entries only look, or undo what they do on drop.
//!
//! `pid` numbers: [`Task::pid`] and all of `/proc` are of our pid namespace; what goes into
//! images is [`Task::vpid`], a number in the tree's.

mod cgroup;
pub mod fuzz;
pub(crate) mod ipc;
pub(crate) mod mnt;
mod net;
mod pid;
mod time;
pub(crate) mod user;
mod uts;

use crate::files::tun;
use crate::task::ids::OWN;
use crate::tree::{Task, Tree};
use crate::{Error, Request};
use images::Dir;
use images::checkpoint::NsKind;
use images::proto::TaskKobjIdsEntry;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat};
use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// All kinds, in the order of their numbers: that of CRIU.
const KINDS: [NsKind; 8] = [
    NsKind::Pid,
    NsKind::Net,
    NsKind::Ipc,
    NsKind::Uts,
    NsKind::Time,
    NsKind::Mnt,
    NsKind::User,
    NsKind::Cgroup,
];

fn place(kind: NsKind) -> usize {
    KINDS.iter().position(|k| *k == kind).unwrap_or(0)
}

/// Number in the images of the dumper's own namespace of this kind.
pub(crate) fn own_id(kind: NsKind) -> u32 {
    place(kind) as u32 + 1
}

/// Whose a namespace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The dumper is in it: not part of the checkpoint.
    Criu,
    /// The root task is in it, and the dumper is not.
    Root,
    /// Only other tasks are in it.
    Nested,
}

/// A namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// Its kind.
    pub(crate) kind: NsKind,
    /// Its number in the images.
    pub(crate) id: u32,
    /// Its inode in nsfs.
    pub(crate) ino: u64,
    /// Whose it is.
    pub(crate) role: Role,
    /// A task in it, by its pid in our namespace.
    pub(crate) holder: i32,
    /// It.
    pub(crate) fd: OwnedFd,
    /// `--external KIND[INODE]:KEY`: made by somebody else, then as now.
    pub(crate) external: Option<String>,
}

impl Namespace {
    /// The dumper is in it.
    pub(crate) fn is_ours(&self) -> bool {
        self.role == Role::Criu
    }

    /// Runs `work` in this namespace (net, uts, ipc), in a thread that ends with it.
    pub(crate) fn inside<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        if self.role == Role::Criu {
            return work();
        }
        let flag = CloneFlags::from_bits_retain(self.kind.clone_flag().cast_signed());
        let (fd, name) = (self.fd.as_fd(), self.kind.name());
        let enter = || {
            setns(fd, flag).map_err(|e| {
                sys::Error::new(format_args!("setns({name}:[{}])", self.ino), e as i32)
            })
        };
        std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                enter()?;
                work()
            });
            let died = || Error::Failed {
                text: format!("the thread in the {name} namespace died"),
                errno: libc::EIO,
            };
            done.join().map_err(|_| died())?
        })
    }
}

/// All namespaces of a tree.
#[derive(Debug)]
pub(crate) struct Namespaces {
    all: Vec<Namespace>,
    /// Ids of the tree's user namespace.
    pub(crate) maps: user::Maps,
    /// By virtual pid: the position in `all` for each of [`KINDS`], if the kernel has the kind.
    of_task: HashMap<i32, [Option<usize>; KINDS.len()]>,
    /// What is mounted in the tree's own.
    pub(crate) mounts: mnt::Mounts,
    /// Those in which no task lives, found by descriptors.
    held: RefCell<Vec<Rc<Namespace>>>,
    /// Tun links that the tree has open, by namespace and name.
    tuns: RefCell<HashMap<(u32, String), tun::Sizes>>,
}

impl Namespaces {
    /// Those of the dumper.
    pub(crate) fn ours() -> Result<Self, Error> {
        let mut ours = Self {
            all: Vec::new(),
            maps: user::Maps::default(),
            of_task: HashMap::new(),
            mounts: mnt::Mounts::default(),
            held: RefCell::default(),
            tuns: RefCell::default(),
        };
        ours.look("self", std::process::id() as i32, Role::Criu, None)?;
        Ok(ours)
    }

    /// Looks at all living tasks, and refuses what has no image. `self`: [`Namespaces::ours`].
    pub(crate) fn collect(self, tree: &Tree, request: &Request) -> Result<Self, Error> {
        let mut all = self;
        for ns in &mut all.all {
            ns.external = external(request, ns.kind, ns.ino);
        }
        for task in tree.alive() {
            let role = if task.vpid == tree.root().vpid { Role::Root } else { Role::Nested };
            let dir = task.pid.to_string();
            let of = all.look(&dir, task.pid, role, Some(request)).map_err(Error::on(task.pid))?;
            all.of_task.insert(task.vpid, of);
        }
        // Ids of the dumper's own are as fixed as CRIU's; others count on from there.
        let mut next = KINDS.len() as u32;
        for ns in &mut all.all {
            ns.id = if ns.role == Role::Criu { own_id(ns.kind) } else { next + 1 };
            next += u32::from(ns.role != Role::Criu);
        }
        all.check(tree)?;
        if all.root(NsKind::User).is_some() {
            all.maps = user::Maps::read(tree.root().pid)?;
        }
        all.mounts = mnt::Mounts::collect(&all, request)?;
        Ok(all)
    }

    /// The namespaces of one process, by its directory in `/proc`.
    fn look(
        &mut self,
        dir: &str,
        pid: i32,
        role: Role,
        request: Option<&Request>,
    ) -> Result<[Option<usize>; KINDS.len()], Error> {
        let path = format!("/proc/{dir}/ns");
        let failed = |what: String, e: nix::Error| sys::Error::new(what, e as i32);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(path.as_str(), flags, Mode::empty())
            .map_err(|e| failed(format!("open({path})"), e))?;
        let link = |name: &str| -> Option<u64> {
            let text = readlinkat(&dir, name).ok()?.into_string().ok()?;
            text.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
        };
        for (kind, children) in [("pid", "pid_for_children"), ("time", "time_for_children")] {
            if role != Role::Criu && link(kind) != link(children) && link(children).is_some() {
                return Err(Error::Refused(format!(
                    "its children will be in another {kind} namespace than itself \
                     ({children}): this has no image"
                )));
            }
        }
        let mut found = [None; KINDS.len()];
        for (kind, found) in KINDS.iter().zip(&mut found) {
            let Some(ino) = link(kind.name()) else { continue };
            let known = self.all.iter().position(|ns| ns.ino == ino && ns.kind == *kind);
            if known.is_some() {
                *found = known;
                continue;
            }
            let fd = openat(&dir, kind.name(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|e| failed(format!("open({path}/{})", kind.name()), e))?;
            let external = request.and_then(|r| external(r, *kind, ino));
            *found = Some(self.all.len());
            self.all.push(Namespace { kind: *kind, id: 0, ino, role, holder: pid, fd, external });
        }
        Ok(found)
    }

    fn check(&self, tree: &Tree) -> Result<(), Error> {
        let root = self.of_task.get(&tree.root().vpid);
        for task in tree.alive() {
            let of = &self.of_task[&task.vpid];
            for (at, kind) in KINDS.iter().enumerate() {
                let Some(ns) = of[at].map(|i| &self.all[i]) else { continue };
                let nested = root.is_some_and(|r| r[at] != of[at]);
                let has_image = matches!(kind, NsKind::Mnt | NsKind::Net);
                if nested && (!has_image || ns.role == Role::Criu) {
                    return Err(Error::Refused(format!(
                        "task {}: Can't dump nested {} namespace: it differs from the root task's",
                        task.pid,
                        kind.name()
                    )));
                }
            }
        }
        pid::check(self, tree)?;
        Ok(())
    }

    /// The inode of the dumper's own namespace of this kind.
    pub(crate) fn own_ino(&self, kind: NsKind) -> Option<u64> {
        self.all.iter().find(|ns| ns.kind == kind && ns.role == Role::Criu).map(|ns| ns.ino)
    }

    /// All that are not the dumper's own, of one kind.
    pub(crate) fn foreign(&self, kind: NsKind) -> impl Iterator<Item = &Namespace> {
        self.all.iter().filter(move |ns| ns.kind == kind && ns.role != Role::Criu)
    }

    /// The namespace of this kind that a living task is in.
    pub(crate) fn of(&self, task: &Task, kind: NsKind) -> Option<&Namespace> {
        self.of_task.get(&task.vpid)?[place(kind)].map(|i| &self.all[i])
    }

    /// The root task's namespace of this kind, if the dumper is not in it.
    pub(crate) fn root(&self, kind: NsKind) -> Option<&Namespace> {
        self.foreign(kind).find(|ns| ns.role == Role::Root)
    }

    /// The namespace with this inode, the dumper's own included.
    pub(crate) fn by_ino(&self, kind: NsKind, ino: u64) -> Option<&Namespace> {
        self.all.iter().find(|ns| ns.kind == kind && ns.ino == ino)
    }

    /// The id of the namespace behind a descriptor of ours, even if no task lives in it: `None`
    /// if it cannot be saved then. It belongs to the task `holder`.
    pub(crate) fn id_of(
        &self,
        kind: NsKind,
        fd: BorrowedFd<'_>,
        holder: i32,
    ) -> Result<Option<u32>, sys::Error> {
        let stat = fstat(fd).map_err(|e| sys::Error::new("fstat(nsfs)", e as i32))?;
        let ino = stat.st_ino;
        if let Some(ns) = self.by_ino(kind, ino) {
            return Ok(Some(ns.id));
        }
        let mut held = self.held.borrow_mut();
        if let Some(ns) = held.iter().find(|ns| ns.kind == kind && ns.ino == ino) {
            return Ok(Some(ns.id));
        }
        if kind != NsKind::Net {
            return Ok(None);
        }
        let fd = fd.try_clone_to_owned().map_err(|e| sys::Error::io("dup", &e))?;
        let last = self.all.iter().map(|ns| ns.id).max().unwrap_or(0);
        let id = last.max(KINDS.len() as u32) + 1 + held.len() as u32;
        let role = Role::Nested;
        held.push(Rc::new(Namespace { kind, id, ino, role, holder, fd, external: None }));
        Ok(Some(id))
    }

    /// Notes a tun link that the tree has open.
    pub(crate) fn add_tun(&self, ns: u32, name: &str, sizes: tun::Sizes) {
        self.tuns.borrow_mut().insert((ns, name.to_owned()), sizes);
    }

    /// The tun links of a namespace that the tree has open.
    pub(crate) fn tuns(&self, ns: u32) -> HashMap<String, tun::Sizes> {
        let all = self.tuns.borrow();
        let of_ns = all.iter().filter(|((id, _), _)| *id == ns);
        of_ns.map(|((_, name), sizes)| (name.clone(), *sizes)).collect()
    }

    /// `ids` of a living task.
    pub(crate) fn ids(&self, task: &Task, own: u32) -> TaskKobjIdsEntry {
        let id = |kind| self.of(task, kind).map(|ns| ns.id);
        ids(id, own, task.files_id)
    }

    /// `ids` of the dumper.
    pub(crate) fn own_ids() -> TaskKobjIdsEntry {
        ids(|kind| Some(own_id(kind)), OWN, OWN)
    }
}

fn ids(ns: impl Fn(NsKind) -> Option<u32>, own: u32, files_id: u32) -> TaskKobjIdsEntry {
    TaskKobjIdsEntry {
        vm_id: own,
        files_id,
        fs_id: own,
        sighand_id: own,
        pid_ns_id: ns(NsKind::Pid),
        net_ns_id: ns(NsKind::Net),
        ipc_ns_id: ns(NsKind::Ipc),
        uts_ns_id: ns(NsKind::Uts),
        time_ns_id: ns(NsKind::Time),
        mnt_ns_id: ns(NsKind::Mnt),
        user_ns_id: ns(NsKind::User),
        cgroup_ns_id: ns(NsKind::Cgroup),
    }
}

/// The key of `--external KIND[INO]:KEY`. CRIU has it for net and pid only.
fn external(request: &Request, kind: NsKind, ino: u64) -> Option<String> {
    if !matches!(kind, NsKind::Net | NsKind::Pid) {
        return None;
    }
    let this = format!("{}[{ino}]:", kind.name());
    request.external.iter().find_map(|e| e.strip_prefix(&this)).map(str::to_owned)
}

/// What the entries of all kinds get.
#[derive(Debug)]
pub(crate) struct Cx<'a> {
    /// The frozen tree.
    pub(crate) tree: &'a Tree,
    /// What was asked for.
    pub(crate) request: &'a Request,
    /// Where the images go.
    pub(crate) dir: &'a Dir,
    /// All namespaces.
    pub(crate) all: &'a Namespaces,
    /// Segments of System V shared memory.
    pub(crate) segments: &'a [ipc::Segment],
}

/// Refuses namespaces that cannot be saved, before anything is done.
pub(crate) fn check(cx: &Cx<'_>) -> Result<(), Error> {
    each(cx, |ns, cx| match ns.kind {
        NsKind::Ipc => ipc::check(ns, cx),
        NsKind::Net => net::check(ns, cx),
        NsKind::Mnt => mnt::check(ns, cx),
        NsKind::User => user::check(ns, cx),
        NsKind::Cgroup => cgroup::check(ns, cx),
        NsKind::Uts | NsKind::Time | NsKind::Pid => Ok(()),
    })
}

/// Writes the images of all namespaces that are not the dumper's own.
pub(crate) fn dump(cx: &Cx<'_>) -> Result<(), Error> {
    time::dump(cx)?;
    each(cx, |ns, cx| match ns.kind {
        NsKind::Pid => pid::dump(ns, cx),
        NsKind::Uts => uts::dump(ns, cx),
        NsKind::Ipc => ipc::dump(ns, cx),
        NsKind::Net => net::dump(ns, cx),
        NsKind::Mnt => mnt::dump(ns, cx),
        NsKind::User => user::dump(ns, cx),
        NsKind::Cgroup => cgroup::dump(ns, cx),
        NsKind::Time => Ok(()),
    })
}

fn each(cx: &Cx<'_>, work: impl Fn(&Namespace, &Cx<'_>) -> Result<(), Error>) -> Result<(), Error> {
    for ns in cx.all.all.iter().filter(|ns| ns.role != Role::Criu) {
        work(ns, cx).map_err(Error::on(ns.holder))?;
    }
    let held = cx.all.held.borrow().clone();
    for ns in &held {
        work(ns, cx).map_err(Error::on(ns.holder))?;
    }
    Ok(())
}
