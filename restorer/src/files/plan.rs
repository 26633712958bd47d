//! Decides who opens what, from the images alone.
//!
//! Descriptions that can only be made together (the ends of a pipe, the sockets that are
//! connected with or queued in each other, both sides of a terminal, the watchers of one port)
//! form a *unit*. A unit that is used through one descriptor table is opened by the task that
//! owns the table; any other by the root task before it forks. What depends on pids that do not
//! exist yet is opened by the first of its users after the forks, at a number that is known
//! beforehand, where the others fetch it.

use super::set::{FileSet, Remap};
use super::{Error, Result, external};
use crate::Request;
use images::Checkpoint;
use images::proto::{EventpollFileEntry, FdTypes, FdinfoEntry, FileEntry, SkPacketEntry, TtyType};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::RawFd;

/// How many numbers above the images' are kept for the restorer itself.
const SERVICE: u32 = 64;

/// Who opens a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The root task, before it forks.
    Root,
    /// The task that owns the only table which uses it.
    Owner(i32),
    /// The same, after all tasks exist; other users fetch it from there.
    Late(i32),
}

/// Descriptions that are opened together, in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// File ids.
    pub(super) ids: Vec<u32>,
    /// Who opens it.
    pub(super) by: By,
    /// The table owners that use it, ascending in the order of the tree.
    pub(super) owners: Vec<i32>,
}

/// One entry of a descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) fd: RawFd,
    pub(super) id: u32,
    pub(super) cloexec: bool,
}

/// Who uses which file and who opens it.
#[derive(Debug, Default)]
pub struct FilesPlan {
    pub(super) set: FileSet,
    /// Contexts of SELinux for sockets, by file id, and for those of which none is known.
    pub(crate) contexts: Option<(BTreeMap<u32, String>, String)>,
    /// Tables by the virtual pid of the task that fills them; sorted by number.
    pub(super) tables: BTreeMap<i32, Vec<Slot>>,
    /// By virtual pid: whose table the task has.
    owner_of: HashMap<i32, i32>,
    pub(super) units: Vec<Unit>,
    /// Units of each table owner, in the order in which they are opened.
    pub(super) of_owner: HashMap<i32, Vec<usize>>,
    /// By file id: the unit.
    pub(super) unit_of: HashMap<u32, usize>,
    /// TCP connections that are in flight only: who opens each, and its fixed number there.
    pub(super) flying: BTreeMap<u32, (i32, RawFd)>,
    /// Masters of terminals whose old ones are outside of the tree, by id of the slave: who makes
    /// each, and its fixed number there.
    pub(super) masters: BTreeMap<u32, (i32, RawFd)>,
    /// Fixed numbers of descriptions that are opened late and shared.
    pub(super) late: BTreeMap<u32, RawFd>,
    /// Memory files (`inode_id`) that more than one task uses.
    pub(super) shared_memfds: BTreeSet<u64>,
    /// Memory files by `inode_id`: the description that `memfd_create` gave, which is not
    /// counted as a writer. Others were opened through `/proc`.
    pub(super) first_memfd: HashMap<u64, u32>,
    /// The task that sets owner and signal of a description, by file id.
    pub(super) master: HashMap<u32, i32>,
    base: RawFd,
    end: RawFd,
}

impl FilesPlan {
    /// Plans. Fails on what cannot be restored, before anything is made.
    pub fn new(checkpoint: &Checkpoint, request: &Request) -> Result<Self> {
        let mut set = FileSet::of(checkpoint);
        if !request.file_locks {
            set.locks.clear();
        }
        Self::of(set, request)
    }

    pub(super) fn of(set: FileSet, request: &Request) -> Result<Self> {
        let mut plan = Self::default();
        super::tcp_stream::check(&set, request)?;
        plan.tables(&set)?;
        super::file_lock::check(&set, &plan)?;
        plan.units(&set, request)?;
        plan.memfds(&set);
        plan.fetched(&set, request);
        plan.numbers()?;
        plan.set = set;
        Ok(plan)
    }

    /// The first number above all of the images' descriptors: from here on numbers belong to
    /// the restore, up to the last instruction of a task.
    pub fn base_fd(&self) -> RawFd {
        self.base
    }

    /// Open in a table as soon as it is complete: what its sharers wait for.
    pub(super) fn marker(&self) -> RawFd {
        self.base + self.fixed() as RawFd
    }

    /// The least number for descriptors which the restorer itself keeps open in tasks.
    pub fn service_fd(&self) -> RawFd {
        self.marker() + 1
    }

    /// The number behind the restore's own ones: the next of the images' descriptors, if they
    /// go on above.
    pub fn service_end(&self) -> RawFd {
        let all = self.tables.values().flatten().map(|s| s.fd);
        all.filter(|fd| *fd >= self.base).min().unwrap_or(RawFd::MAX)
    }

    /// The RLIMIT_NOFILE that the restore itself needs.
    pub fn nofile(&self) -> u64 {
        self.end as u64
    }

    /// Whose descriptor table `vpid` has: that task installs it, this one only shares it.
    pub fn table_owner(&self, vpid: i32) -> i32 {
        self.owner_of.get(&vpid).copied().unwrap_or(vpid)
    }

    /// Dead pids whose files in `/proc` are open: a task has to hold each until all tasks have
    /// installed their files.
    pub fn dead_pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .set
            .remaps
            .values()
            .filter_map(|r| match r {
                Remap::Procfs(pid) => Some(*pid as i32),
                _ => None,
            })
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    fn tables(&mut self, set: &FileSet) -> Result<()> {
        let by_pid: HashMap<i32, u32> = set.tasks.iter().map(|t| (t.vpid, t.files_id)).collect();
        for task in &set.tasks {
            let shares = by_pid.get(&task.ppid) == Some(&task.files_id);
            let owner = if shares { self.table_owner(task.ppid) } else { task.vpid };
            self.owner_of.insert(task.vpid, owner);
            if owner != task.vpid {
                continue;
            }
            let entries = set.tables.get(&task.files_id).map_or(&[][..], |t| &t[..]);
            self.tables.insert(task.vpid, table(set, task.files_id, entries)?);
        }
        Ok(())
    }

    fn units(&mut self, set: &FileSet, request: &Request) -> Result<()> {
        let mut users: BTreeMap<u32, Vec<i32>> = BTreeMap::new();
        // In the order of the tree, so that the first user is the one nearest to the root.
        for task in &set.tasks {
            for slot in self.tables.get(&task.vpid).map_or(&[][..], Vec::as_slice) {
                let owners = users.entry(slot.id).or_default();
                if owners.last() != Some(&task.vpid) {
                    owners.push(task.vpid);
                }
            }
        }
        let flying: Vec<u32> =
            set.packets.values().flatten().flat_map(|(p, _)| rights(p)).collect();
        for id in flying {
            users.entry(id).or_default();
        }
        for (id, owners) in ctty_users(set, &users, self) {
            users.entry(id).or_default().push(owners);
        }
        let order: HashMap<i32, usize> =
            set.tasks.iter().enumerate().map(|(i, t)| (t.vpid, i)).collect();
        let pids: HashSet<i32> = set.tasks.iter().map(|t| t.vpid).collect();
        for ids in ties(set, users.keys().copied().collect()) {
            let users_of = |id: &u32| users.get(id).map_or(&[][..], Vec::as_slice);
            let mut owners: Vec<i32> =
                ids.iter().flat_map(|id| users_of(id).iter().copied()).collect();
            owners.sort_by_key(|o| order.get(o).copied());
            owners.dedup();
            let external =
                ids.iter().any(|id| external::is(set, *id, request) || is_dead(set, *id));
            let late = ids.iter().any(|id| needs_pids(set, *id, &pids));
            let by = match (&owners[..], external, late) {
                ([], _, _) => continue,
                ([first, ..], false, true) => By::Late(*first),
                ([only], false, false) => By::Owner(*only),
                _ => By::Root,
            };
            if late && ids.len() > 1 {
                let text = format!("file {}: depends on a pid and is in flight", ids[0]);
                return Err(Error::NotYet(text));
            }
            let index = self.units.len();
            for id in &ids {
                self.unit_of.insert(*id, index);
                if let Some(first) = users_of(id).first() {
                    self.master.insert(*id, *first);
                } else if let Some(epoll) = set.files.get(id).and_then(|f| f.epfd.as_ref()) {
                    self.master.extend(self.receiver(epoll, &owners)?.map(|first| (*id, first)));
                }
            }
            match by {
                By::Root => {}
                By::Owner(owner) => self.of_owner.entry(owner).or_default().push(index),
                By::Late(_) => {
                    for owner in &owners {
                        self.of_owner.entry(*owner).or_default().push(index);
                    }
                    if owners.len() > 1 {
                        self.late.insert(ids[0], 0);
                    }
                }
            }
            self.units.push(Unit { ids, by, owners });
        }
        Ok(())
    }

    /// Who fills an epoll that is in a queue: the one among `owners` that has its targets.
    fn receiver(&self, epoll: &EventpollFileEntry, owners: &[i32]) -> Result<Option<i32>> {
        if epoll.tfd.is_empty() {
            return Ok(None);
        }
        let has_all = |owner: &&i32| {
            let table = self.tables.get(owner).map_or(&[][..], Vec::as_slice);
            epoll.tfd.iter().all(|t| table.iter().any(|s| s.fd == t.tfd as RawFd))
        };
        let mut able = owners.iter().filter(has_all);
        match (able.next(), able.next()) {
            (Some(only), None) => Ok(Some(*only)),
            _ => Err(Error::NotYet(format!(
                "file {}: an epoll in the queue of a socket of several tasks",
                epoll.id
            ))),
        }
    }

    /// How many numbers are fixed.
    fn fixed(&self) -> usize {
        self.late.len() + self.flying.len() + self.masters.len()
    }

    /// What the coordinator will fetch from the tasks.
    fn fetched(&mut self, set: &FileSet, request: &Request) {
        let root = set.tasks.first().map_or(0, |t| t.vpid);
        let placed: HashSet<u32> = self.tables.values().flatten().map(|s| s.id).collect();
        for unit in &self.units {
            let by = match unit.by {
                By::Root => root,
                By::Owner(by) | By::Late(by) => by,
            };
            for id in &unit.ids {
                if let Some(slave) = super::tty::orphan(set, request, *id) {
                    self.masters.insert(slave, (by, 0));
                }
            }
            for id in unit.ids.iter().filter(|id| !placed.contains(*id)) {
                let Some(sk) = set.files.get(id).and_then(|f| f.isk.as_ref()) else { continue };
                if super::tcp_stream::stream(set, request, sk).is_some() {
                    self.flying.insert(*id, (by, 0));
                }
            }
        }
    }

    fn memfds(&mut self, set: &FileSet) {
        // Ascending ids: the lowest stays.
        for memfd in set.files.values().filter_map(|f| f.memfd.as_ref()) {
            if memfd.flags as i32 & libc::O_ACCMODE == libc::O_RDWR {
                self.first_memfd.entry(memfd.inode_id.into()).or_insert(memfd.id);
            }
        }
        let mut users: BTreeMap<u64, BTreeSet<i32>> = BTreeMap::new();
        let inode = |id: &u32| set.files.get(id)?.memfd.as_ref().map(|m| u64::from(m.inode_id));
        for (owner, table) in &self.tables {
            for id in table.iter().filter_map(|s| inode(&s.id)) {
                users.entry(id).or_default().insert(*owner);
            }
        }
        for task in &set.tasks {
            let ids = task.mapped.iter().chain([&task.exe, &task.fs.cwd_id]);
            for id in ids.filter_map(inode) {
                users.entry(id).or_default().insert(task.vpid);
            }
        }
        // In flight, or of a unit which the root opens.
        for unit in self.units.iter().filter(|u| u.by == By::Root) {
            for id in unit.ids.iter().filter_map(inode) {
                users.entry(id).or_default().extend([0, -1]);
            }
        }
        self.shared_memfds =
            users.into_iter().filter(|(_, tasks)| tasks.len() > 1).map(|(id, _)| id).collect();
    }

    /// Chooses numbers for the restore: above all of the images, or in a gap between them when
    /// they go so high that a table up to there would be a waste.
    fn numbers(&mut self) -> Result<()> {
        const HIGH: RawFd = 1 << 16;
        let held: usize = self.units.iter().map(|u| u.ids.len() + 1).sum();
        let need = SERVICE + 2 * held as u32 + self.fixed() as u32;
        let mut used: Vec<RawFd> = self.tables.values().flatten().map(|s| s.fd).collect();
        used.sort_unstable();
        used.dedup();
        let top = used.last().map_or(3, |last| last + 1).max(3);
        let mut base = top;
        if top > HIGH {
            let gaps = used.windows(2).map(|w| (w[0] + 1, w[1] - w[0] - 1));
            let gap = gaps.filter(|(at, len)| *at >= 3 && *len as u32 > need).map(|(at, _)| at);
            base = gap.min().unwrap_or(top);
        }
        self.base = base;
        let fetched = self.flying.values_mut().chain(self.masters.values_mut());
        let fetched = fetched.map(|(_, number)| number);
        for (i, number) in self.late.values_mut().chain(fetched).enumerate() {
            *number = base + i as RawFd;
        }
        self.end = top.max(base + need as RawFd);
        Ok(())
    }
}

/// Checks and sorts a table.
fn table(set: &FileSet, files_id: u32, entries: &[FdinfoEntry]) -> Result<Vec<Slot>> {
    let mut slots = Vec::with_capacity(entries.len());
    for e in entries {
        let known = match FdTypes::try_from(e.r#type) {
            Ok(FdTypes::Reg) => set.regs.contains_key(&e.id),
            _ => set.files.get(&e.id).is_some_and(|f| f.r#type == e.r#type),
        };
        if !known {
            let text = format!(
                "fdinfo-{files_id}.img: no file for fd {} id {} type {}",
                e.fd, e.id, e.r#type
            );
            return Err(Error::Refused(text));
        }
        let Ok(fd) = RawFd::try_from(e.fd) else {
            return Err(Error::Refused(format!("fdinfo-{files_id}.img: fd {} is too high", e.fd)));
        };
        slots.push(Slot { fd, id: e.id, cloexec: e.flags & 1 != 0 });
    }
    slots.sort_unstable_by_key(|s| s.fd);
    if let Some(twice) = slots.windows(2).find(|w| w[0].fd == w[1].fd) {
        let text = format!("fdinfo-{files_id}.img: fd {} stands there twice", twice[0].fd);
        return Err(Error::Refused(text));
    }
    Ok(slots)
}

/// File ids that a queued message carries.
pub(super) fn rights(packet: &SkPacketEntry) -> Vec<u32> {
    packet.scm.iter().flat_map(|scm| scm.rights.iter().copied()).collect()
}

/// Session leaders of the tree use their controlling terminal, be it open in their table or not.
fn ctty_users(set: &FileSet, users: &BTreeMap<u32, Vec<i32>>, plan: &FilesPlan) -> Vec<(u32, i32)> {
    let leaders: HashSet<i32> =
        set.tasks.iter().filter(|t| t.sid == t.vpid).map(|t| t.vpid).collect();
    let tty = |id: &u32| {
        let info = set.ttys.get(&set.files.get(id)?.tty.as_ref()?.tty_info_id)?;
        let leader = info.sid as i32;
        leaders.contains(&leader).then(|| (*id, plan.table_owner(leader)))
    };
    users.keys().filter_map(tty).collect()
}

/// Whether it can only be opened once the tasks exist.
fn needs_pids(set: &FileSet, id: u32, pids: &HashSet<i32>) -> bool {
    if let Some(file) = set.files.get(&id) {
        let ctty = || {
            let info = file.tty.as_ref().and_then(|t| set.ttys.get(&t.tty_info_id));
            info.is_some_and(|i| i.r#type == TtyType::Ctty as i32)
        };
        let alive = file.pidfd.as_ref().is_some_and(|p| p.nspid > 0);
        return alive || file.nsf.is_some() || ctty();
    }
    if matches!(set.remaps.get(&id), Some(Remap::Procfs(_))) {
        return true;
    }
    let name = set.regs.get(&id).map_or(&[][..], |r| &r.name);
    let Some(rest) = name.strip_prefix(b"/proc/") else { return false };
    let digits = rest.split(|b| *b == b'/').next().unwrap_or_default();
    let pid = std::str::from_utf8(digits).ok().and_then(|d| d.parse().ok());
    pid.is_some_and(|pid| pids.contains(&pid))
}

/// A pidfd of a dead task: needs a task that dies, whose number must not be one that another
/// task of the tree is about to get. So before the forks.
fn is_dead(set: &FileSet, id: u32) -> bool {
    set.files.get(&id).and_then(|f| f.pidfd.as_ref()).is_some_and(|p| p.nspid <= 0)
}

/// What ties descriptions together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Tie<'a> {
    Pipe(u32),
    Fifo(u32),
    Unix(u32),
    UnixName(&'a [u8]),
    Pty(u32),
    Tty(u32),
    DeadPid(u32),
    Port(u32, u32),
    File(u32),
}

fn ties_of<'a>(set: &'a FileSet, file: &'a FileEntry) -> Vec<Tie<'a>> {
    let mut ties = Vec::new();
    if let Some(pipe) = &file.pipe {
        ties.push(Tie::Pipe(pipe.pipe_id));
    }
    if let Some(fifo) = &file.fifo {
        ties.push(Tie::Fifo(fifo.pipe_id));
    }
    if let Some(sk) = &file.usk {
        ties.push(Tie::Unix(sk.ino));
        if sk.peer != 0 {
            ties.push(Tie::Unix(sk.peer));
        }
        if !sk.name.is_empty() {
            ties.push(Tie::UnixName(&sk.name));
        }
        for (packet, _) in set.packets.get(&file.id).into_iter().flatten() {
            ties.extend(rights(packet).into_iter().map(Tie::File));
            // Whoever has the name sends it again.
            let sender = packet.amber_sender.as_deref().and_then(|a| a.get(2..));
            ties.extend(sender.filter(|name| !name.is_empty()).map(Tie::UnixName));
        }
    }
    if let Some(sk) = &file.isk
        && sk.src_port != 0
    {
        // What an MPTCP listener accepts has its port, and may be TCP.
        let multipath = sk.proto as i32 == libc::IPPROTO_MPTCP;
        let proto = if multipath { libc::IPPROTO_TCP as u32 } else { sk.proto };
        ties.push(Tie::Port(proto, sk.src_port));
    }
    if let Some(pidfd) = file.pidfd.as_ref().filter(|p| p.nspid <= 0) {
        ties.push(Tie::DeadPid(pidfd.ino));
    }
    if let Some(tty) = &file.tty {
        let info = set.ttys.get(&tty.tty_info_id);
        match info.and_then(|i| i.pty.as_ref()) {
            Some(pty) => ties.push(Tie::Pty(pty.index)),
            // `/dev/tty` is opened by whoever has it, each for itself.
            None if info.is_some_and(|i| i.r#type == TtyType::Ctty as i32) => {}
            None => ties.push(Tie::Tty(tty.tty_info_id)),
        }
    }
    ties
}

/// Groups descriptions into units: lists of ascending ids, by their first id.
fn ties(set: &FileSet, mut ids: BTreeSet<u32>) -> Vec<Vec<u32>> {
    // Peers outside the tree have an entry and no user.
    ids.extend(set.files.values().filter(|f| f.usk.is_some()).map(|f| f.id));
    let ids: Vec<u32> = ids.into_iter().collect();
    let mut parent: Vec<usize> = (0..ids.len()).collect();
    let mut seen: HashMap<Tie<'_>, usize> = HashMap::new();
    for (i, id) in ids.iter().enumerate() {
        let mut all = set.files.get(id).map_or_else(Vec::new, |f| ties_of(set, f));
        all.push(Tie::File(*id));
        for tie in all {
            match seen.get(&tie) {
                Some(&other) => {
                    let (a, b) = (root(&mut parent, i), root(&mut parent, other));
                    parent[a.max(b)] = a.min(b);
                }
                None => _ = seen.insert(tie, i),
            }
        }
    }
    let mut units: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for (i, id) in ids.iter().enumerate() {
        units.entry(root(&mut parent, i)).or_default().push(*id);
    }
    units.into_values().collect()
}

fn root(parent: &mut [usize], mut i: usize) -> usize {
    while parent[i] != i {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    i
}
