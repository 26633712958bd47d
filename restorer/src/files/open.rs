//! Opens what the plan says, in the order it says, and puts it into the table.

use super::path::open_flags;
use super::place::{Move, moves};
use super::plan::{By, FilesPlan, Unit};
use super::set::{FileSet, TaskFiles};
use super::sk_buf::Outside;
use super::{At, Error, Result, failed};
use crate::Request;
use crate::ns::Made;
use crate::ns::mnt::Whole;
use images::checkpoint::NsKind;
use images::pages::Chain;
use images::proto::{FownEntry, TtyType};
use images::{Dir, Extent};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

/// Status flags that are set on descriptors which were not opened by a path.
const STATUS: i32 = libc::O_APPEND | libc::O_NONBLOCK | libc::O_DIRECT | libc::O_NOATIME;
const F_SEAL_WRITE: u32 = 8;
/// How long a description of another task is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The files of one restore, as one process of it has them: made in the coordinator, it goes
/// through the forks like all memory does.
#[derive(Debug)]
pub struct Files<'a> {
    pub(super) plan: &'a FilesPlan,
    pub(super) set: &'a FileSet,
    pub(super) request: &'a Request,
    pub(super) chain: &'a Chain,
    /// Pages of memory that were filled, of 4 KiB.
    pub(super) filled: &'a AtomicU32,
    /// Who has the rights that tasks in a user namespace lack.
    pub(super) outside: Option<&'a dyn Outside>,
    /// `/proc` of the coordinator: `self` in it is whoever looks.
    pub(super) proc: OwnedFd,
    /// The coordinator's number there.
    pub(super) coordinator: u32,
    root: Option<OwnedFd>,
    /// Namespaces that were made for others than the root task.
    pub(super) namespaces: HashMap<(NsKind, u32), Rc<OwnedFd>>,
    /// Masters of terminals that had to be made for mounts, by index.
    pub(super) masters: RefCell<Vec<(u32, OwnedFd)>>,
    /// Mounts of which others are parts, as long as files without a name are made.
    pub(super) wholes: Vec<Whole>,
    /// Roots of mount namespaces that are not the root task's, by the ids of their mounts.
    nested: HashMap<u32, Rc<OwnedFd>>,
    /// Their root mounts, and the root task's: ids.
    root_mounts: HashSet<u32>,
    /// Descriptions that several tasks use or that are still worked on, above the base.
    pub(super) held: HashMap<u32, OwnedFd>,
    /// Files without a name, open by `O_PATH`.
    pub(super) handles: HashMap<u32, OwnedFd>,
    /// Memory files by `inode_id`, open for reading and writing.
    pub(super) memfds: HashMap<u64, OwnedFd>,
    /// Network namespaces.
    pub(super) nets: super::net::Nets,
    /// Regular files that have been compared with their entries.
    valid: HashSet<u32>,
}

/// Descriptions by file id, opened and not yet in their place.
pub(super) type Opened = HashMap<u32, OwnedFd>;

impl<'a> Files<'a> {
    /// Prepares; in the coordinator, before there are namespaces. Pages of shared memory are counted
    /// in `filled`.
    pub fn new(
        plan: &'a FilesPlan,
        request: &'a Request,
        chain: &'a Chain,
        filled: &'a AtomicU32,
        outside: Option<&'a dyn Outside>,
    ) -> Result<Self> {
        let flags = nix::fcntl::OFlag::O_PATH
            | nix::fcntl::OFlag::O_DIRECTORY
            | nix::fcntl::OFlag::O_CLOEXEC;
        let proc = nix::fcntl::open("/proc", flags, nix::sys::stat::Mode::empty())
            .map_err(|e| failed("open(/proc)", e))?;
        let mut files = Self {
            plan,
            set: &plan.set,
            request,
            chain,
            filled,
            outside,
            proc,
            coordinator: std::process::id(),
            root: None,
            namespaces: HashMap::new(),
            masters: RefCell::default(),
            wholes: Vec::new(),
            nested: HashMap::new(),
            root_mounts: HashSet::new(),
            held: HashMap::new(),
            handles: HashMap::new(),
            memfds: HashMap::new(),
            nets: super::net::Nets::default(),
            valid: HashSet::new(),
        };
        files.proc = files.raise(files.proc.as_fd())?;
        Ok(files)
    }

    /// `/proc` of the coordinator: `self` in it is whoever looks.
    pub(crate) fn proc(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }

    /// Namespaces that were made for others than the root task.
    pub(crate) fn set_namespaces(&mut self, made: &Made) {
        self.namespaces = made.all().clone();
    }

    /// Mounts of which others are parts.
    pub(crate) fn set_wholes(&mut self, wholes: Vec<Whole>) {
        self.wholes = wholes;
    }

    /// Masters of terminals that had to be made for mounts, by index.
    pub(crate) fn set_masters(&mut self, masters: Vec<(u32, OwnedFd)>) {
        self.masters = masters.into();
    }

    /// Numbers from this on are nobody's.
    pub(crate) fn least(&self) -> RawFd {
        self.plan.service_fd()
    }

    /// Makes everything that more than one task uses. In the root task, as soon as its
    /// namespaces are filled, before it forks.
    pub fn open_shared(&mut self) -> Result<()> {
        let flags = nix::fcntl::OFlag::O_PATH
            | nix::fcntl::OFlag::O_DIRECTORY
            | nix::fcntl::OFlag::O_CLOEXEC;
        let root = nix::fcntl::open("/", flags, nix::sys::stat::Mode::empty())
            .map_err(|e| failed("open(/)", e))?;
        self.root = Some(self.raise(root.as_fd())?);
        self.make_named()?;
        self.wholes.clear();
        let plan = self.plan;
        for inode in &plan.shared_memfds {
            self.memfd_inode(*inode)?;
        }
        for unit in plan.units.iter().filter(|u| u.by == By::Root) {
            for (id, fd) in self.open_unit(unit)? {
                let fd = self.raise(fd.as_fd())?;
                self.held.insert(id, fd);
            }
        }
        self.validate_mapped()
    }

    /// Fills the descriptor table of task `vpid`, which must be the caller. After all tasks are
    /// forked and in their sessions and groups. Only numbers from `base_fd` on stay in use
    /// besides the image's. Descriptors that the caller holds below are gone afterwards.
    pub fn install(&mut self, vpid: i32) -> Result<()> {
        let plan = self.plan;
        if plan.table_owner(vpid) != vpid {
            // The owner fills the table that is also ours; numbers change meaning meanwhile.
            let begin = Instant::now();
            while !sys::fd::is_open(plan.marker()) && begin.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
            return self.take_terminal(vpid, &Opened::new());
        }
        let mut opened = Opened::new();
        for index in plan.of_owner.get(&vpid).into_iter().flatten() {
            let unit = &plan.units[*index];
            if unit.by == By::Owner(vpid) {
                opened.extend(self.open_unit(unit)?);
            }
        }
        self.take_terminal(vpid, &opened)?;
        for index in plan.of_owner.get(&vpid).into_iter().flatten() {
            let unit = &plan.units[*index];
            let By::Late(first) = unit.by else { continue };
            let id = unit.ids[0];
            if first == vpid {
                opened.extend(self.open_unit(unit)?);
                self.offer(id, &opened)?;
            } else {
                opened.insert(id, self.fetch(id, first)?);
            }
        }
        let unfinished = self.unfinished(vpid);
        for id in &unfinished {
            if let Some(fd) = opened.get(id) {
                let copy = self.raise(fd.as_fd())?;
                self.held.insert(*id, copy);
            }
        }
        self.place(vpid, opened)?;
        for id in unfinished {
            self.finish(id, vpid).at(|| format!("file {id}"))?;
        }
        Ok(sys::fd::dup3(self.proc.as_fd(), plan.marker(), true)?)
    }

    /// Opens a file for mappings. `fdflags`: access mode. The number is above the base.
    pub fn open_mapped(&mut self, id: u32, fdflags: u32) -> Result<OwnedFd> {
        let mode = fdflags as i32 & libc::O_ACCMODE;
        if let Some(memfd) = self.set.files.get(&id).and_then(|f| f.memfd.as_ref()) {
            let id = memfd.inode_id.into();
            let inode = self.memfd_inode(id)?;
            // A mapping that could become writable would forbid the seal against writing; under
            // the seal there was none.
            let sealed = self.set.memfds.get(&id).is_some_and(|m| m.seals & F_SEAL_WRITE != 0);
            if mode == libc::O_RDWR && !sealed {
                // Not opened anew: that would count as a writer, which `execve` minds.
                return self.raise(self.memfds[&id].as_fd());
            }
            return self.raise_owned(self.reopen(inode, libc::O_RDONLY)?);
        }
        let entry = self.set.reg(id)?;
        let fd = if let Some(fd) = super::external::take(self.set, id, self.request)? {
            fd
        } else {
            let fd = self
                .open_as(entry, mode | libc::O_NOCTTY)
                .at(|| format!("mapped file {id} {:?}", super::path::show(&entry.name)))?;
            if self.valid.insert(id) {
                self.validate(entry, &fd)
                    .at(|| format!("mapped file {id} {:?}", super::path::show(&entry.name)))?;
            }
            fd
        };
        self.raise_owned(fd)
    }

    /// Opens the program file of a task, for `PR_SET_MM_EXE_FILE`.
    pub fn open_exe(&mut self, vpid: i32) -> Result<OwnedFd> {
        let task = self.task(vpid)?;
        self.open_mapped(task.exe, libc::O_RDONLY as u32)
    }

    /// Seals for memory files that this process made: (descriptor, seals). To be added when
    /// all tasks have mapped what they map.
    pub fn seals(&self) -> Vec<(RawFd, u32)> {
        // Just F_SEAL_SEAL means that sealing was never allowed.
        let sealed = |(id, fd): (&u64, &OwnedFd)| {
            let seals = self.set.memfds.get(id)?.seals;
            (seals & !1 != 0).then(|| (fd.as_raw_fd(), seals))
        };
        self.memfds.iter().filter_map(sealed).collect()
    }

    pub(super) fn task(&self, vpid: i32) -> Result<&'a TaskFiles> {
        let task = self.set.tasks.iter().find(|t| t.vpid == vpid);
        task.ok_or_else(|| Error::Refused(format!("no task {vpid} in the images")))
    }

    /// The root of the mount namespace.
    pub(super) fn root(&self) -> Result<BorrowedFd<'_>> {
        let root = self.root.as_ref().map(OwnedFd::as_fd);
        root.ok_or_else(|| Error::Refused("files are opened before the root task is".to_owned()))
    }

    /// The root of the mount namespace that a mount of the images is in.
    pub(super) fn root_of(&self, mnt_id: Option<i32>) -> Result<BorrowedFd<'_>> {
        let nested = mnt_id.and_then(|id| self.nested.get(&id.cast_unsigned()));
        nested.map_or_else(|| self.root(), |root| Ok(root.as_fd()))
    }

    /// A root from which `dir` leads into a mount of the images: that of its namespace, or, where
    /// something covers the root mount there, that mount alone.
    pub(super) fn view(&self, mnt_id: Option<i32>, dir: &[u8]) -> Result<OwnedFd> {
        let root = self.root_of(mnt_id)?;
        let is_root = mnt_id.is_some_and(|id| self.root_mounts.contains(&id.cast_unsigned()));
        if is_root && let Ok(there) = super::path::directory(root, dir) {
            let covered = sys::mount::id_of(there.as_fd(), c"")? != sys::mount::id_of(root, c"")?;
            if covered {
                return Ok(sys::mount::clone_tree(root, false)?);
            }
        }
        root.try_clone_to_owned().map_err(|e| super::failed_io("dup", &e))
    }

    /// The root mounts of all mount namespaces of the tree's own.
    pub(crate) fn set_root_mounts(&mut self, ids: impl Iterator<Item = u32>) {
        self.root_mounts = ids.collect();
    }

    /// A mount namespace that only other tasks than the root are in: its mounts, its root.
    pub(crate) fn add_nested(&mut self, mounts: &[u32], root: OwnedFd) -> Result<()> {
        let root = Rc::new(self.raise_owned(root)?);
        self.nested.extend(mounts.iter().map(|id| (*id, Rc::clone(&root))));
        Ok(())
    }

    /// The images.
    pub(super) fn dir(&self) -> &Dir {
        &self.chain.layers()[0]
    }

    /// Bytes of a payload in the images.
    pub(super) fn extent(&self, extent: Extent) -> Result<Vec<u8>> {
        Ok(self.dir().read_extent(extent)?)
    }

    /// The handle of a file without a name.
    pub(super) fn handle(&self, id: u32) -> Option<&OwnedFd> {
        self.handles.get(&id)
    }

    /// Path of a descriptor of ours below `/proc`.
    pub(super) fn self_path(fd: RawFd) -> String {
        format!("self/fd/{fd}")
    }

    /// Opens what a descriptor of ours refers to once more.
    pub(super) fn reopen(&self, fd: RawFd, flags: i32) -> Result<OwnedFd> {
        let path = Self::self_path(fd);
        let flags = nix::fcntl::OFlag::from_bits_retain(flags | libc::O_CLOEXEC);
        nix::fcntl::openat(&self.proc, &path[..], flags, nix::sys::stat::Mode::empty())
            .map_err(|e| failed(format_args!("open(/proc/{path}, {flags:?})"), e))
    }

    /// A copy at a number that is nobody's.
    pub(super) fn raise(&self, fd: BorrowedFd<'_>) -> Result<OwnedFd> {
        Ok(sys::fd::dup_above(fd, self.plan.service_fd())?)
    }

    /// Moves a descriptor to a number that is nobody's.
    pub(super) fn raise_owned(&self, fd: OwnedFd) -> Result<OwnedFd> {
        if fd.as_raw_fd() >= self.plan.service_fd() { Ok(fd) } else { self.raise(fd.as_fd()) }
    }

    /// Compares the files that are mapped or run with their entries, once for all tasks.
    fn validate_mapped(&mut self) -> Result<()> {
        let tasks = &self.set.tasks;
        let mut ids: Vec<u32> =
            tasks.iter().flat_map(|t| t.mapped.iter().chain([&t.exe])).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        // Name, size, mode, build-id: what was compared once need not be again.
        let mut same = HashSet::new();
        for id in ids {
            let Some(entry) = self.set.regs.get(&id) else { continue };
            let what = (&entry.name[..], entry.size, entry.mode, &entry.build_id[..]);
            // Opening a device may do something; all that is compared is a regular file's.
            let device = entry.mode.is_some_and(|m| m & libc::S_IFMT != libc::S_IFREG);
            let is_external = super::external::find(self.set, id, self.request).is_some();
            let unnamed = self.set.remaps.contains_key(&id);
            if !same.insert(what) || device || is_external || unnamed {
                self.valid.insert(id);
                continue;
            }
            let name = || format!("mapped file {id} {:?}", super::path::show(&entry.name));
            let fd = self.open_as(entry, libc::O_RDONLY | libc::O_NONBLOCK).at(name)?;
            self.validate(entry, &fd).at(name)?;
            self.valid.insert(id);
        }
        Ok(())
    }

    /// Opens all descriptions of a unit.
    fn open_unit(&mut self, unit: &Unit) -> Result<Opened> {
        let mut opened = Opened::with_capacity(unit.ids.len());
        let (mut pipes, mut fifos, mut ttys) = (vec![], vec![], vec![]);
        let (mut socks, mut inets, mut dead) = (vec![], vec![], vec![]);
        for id in &unit.ids {
            match self.set.files.get(id) {
                Some(f) if f.pipe.is_some() => pipes.push(*id),
                Some(f) if f.fifo.is_some() => fifos.push(*id),
                Some(f) if f.tty.is_some() => ttys.push(*id),
                Some(f) if f.usk.is_some() => socks.push(*id),
                Some(f) if f.isk.is_some() => inets.push(*id),
                Some(f) if f.pidfd.as_ref().is_some_and(|p| p.nspid <= 0) => dead.push(*id),
                Some(_) | None => _ = opened.insert(*id, self.open_single(*id)?),
            }
        }
        self.open_pipes(&pipes, &mut opened)?;
        self.open_fifos(&fifos, &mut opened)?;
        self.open_ttys(&ttys, &mut opened)?;
        self.open_inets(&inets, &mut opened)?;
        self.open_dead_pidfds(&dead, &mut opened)?;
        self.open_unix(&socks, &mut opened)?;
        Ok(opened)
    }

    /// Opens a description that depends on no other.
    fn open_single(&mut self, id: u32) -> Result<OwnedFd> {
        let Some(f) = self.set.files.get(&id) else { return self.open_reg(id) };
        let not_yet = |what: &str| Err(Error::NotYet(format!("file {id}: {what}")));
        let opened = if let Some(e) = &f.efd {
            super::eventfd::open(e)
        } else if let Some(e) = &f.epfd {
            super::eventpoll::open(e)
        } else if let Some(e) = &f.sgfd {
            super::signalfd::open(e)
        } else if let Some(e) = &f.tfd {
            super::timerfd::open(e)
        } else if let Some(e) = &f.ify {
            self.open_inotify(e)
        } else if let Some(e) = &f.ffy {
            self.open_fanotify(e)
        } else if let Some(e) = &f.memfd {
            self.open_memfd(e)
        } else if let Some(e) = &f.nlsk {
            self.in_context(id)?;
            let _away = self.in_net(e.ns_id)?;
            self.open_netlink(e)
        } else if let Some(e) = &f.pidfd {
            super::pidfd::open(e)
        } else if let Some(e) = &f.nsf {
            self.open_namespace(e)
        } else if let Some(e) = &f.psk {
            self.in_context(id)?;
            let _away = self.in_net(e.ns_id)?;
            self.open_packet(e)
        } else if let Some(e) = &f.tunf {
            self.open_tun(e)
        } else if f.bpf.is_some() {
            return not_yet("a BPF map");
        } else if f.ext.is_some() {
            return not_yet("a file of a plugin");
        } else {
            let text = format!("files.img: file {id} of type {} has no entry", f.r#type);
            return Err(Error::Refused(text));
        };
        opened.at(|| format!("file {id}"))
    }

    /// Makes a description available to the other tasks that use it.
    fn offer(&self, id: u32, opened: &Opened) -> Result<()> {
        let (Some(number), Some(fd)) = (self.plan.late.get(&id), opened.get(&id)) else {
            return Ok(());
        };
        Ok(sys::fd::dup3(fd.as_fd(), *number, true)?)
    }

    /// Gets a description from the task that opens it, waiting until it has.
    fn fetch(&self, id: u32, from: i32) -> Result<OwnedFd> {
        let number = self.plan.late.get(&id).copied().unwrap_or(-1);
        let task = sys::fd::pidfd_open(from, 0)?;
        let begin = Instant::now();
        loop {
            match sys::fd::pidfd_getfd(task.as_fd(), number) {
                Err(e) if e.errno() == libc::EBADF && begin.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => return other.at(|| format!("file {id}, opened by task {from}")),
            }
        }
    }

    /// Brings the table into its final state.
    fn place(&self, vpid: i32, opened: Opened) -> Result<()> {
        let table = self.plan.tables.get(&vpid).map_or(&[][..], Vec::as_slice);
        // From here on numbers change their meaning: nothing may close by itself.
        let opened: HashMap<u32, RawFd> =
            opened.into_iter().map(|(id, fd)| (id, fd.into_raw_fd())).collect();
        let source = |id: &u32| opened.get(id).copied().or_else(|| self.raw_held(*id));
        let mut wanted = Vec::with_capacity(table.len());
        for slot in table {
            let from = source(&slot.id).ok_or_else(|| {
                Error::Refused(format!("fd {}: file {} was not opened", slot.fd, slot.id))
            })?;
            wanted.push((slot.fd, from, slot.cloexec));
        }
        let mut saved = Vec::new();
        for step in moves(&wanted) {
            match step {
                Move::Save { from } => {
                    saved.push(sys::fd::dup_number_above(from, self.plan.service_fd())?);
                }
                Move::Dup { from, to, cloexec } => {
                    let from = if from < 0 { saved[(-1 - from) as usize] } else { from };
                    sys::fd::dup_number(from, to, cloexec)?;
                }
            }
        }
        self.close_gaps(table.iter().map(|s| s.fd))
    }

    fn raw_held(&self, id: u32) -> Option<RawFd> {
        self.held.get(&id).map(AsRawFd::as_raw_fd)
    }

    /// Closes whatever is neither in the image nor the restore's own.
    fn close_gaps(&self, used: impl Iterator<Item = RawFd>) -> Result<()> {
        let base = self.plan.base_fd();
        let mut next: RawFd = 0;
        let close = |from: RawFd, to: RawFd| -> Result<()> {
            // The restore's numbers may lie in a gap: they reach to its end.
            let to = if from <= base && base < to { base } else { to };
            if from < to && from != base {
                sys::fd::close_range(from as u32, to as u32 - 1)?;
            }
            Ok(())
        };
        for fd in used {
            close(next, fd)?;
            next = fd + 1;
        }
        close(next, RawFd::MAX)
    }

    /// Descriptions which this task has to finish when its table is complete.
    fn unfinished(&self, vpid: i32) -> Vec<u32> {
        let mut ids: Vec<u32> = self
            .plan
            .master
            .iter()
            .filter(|(_, master)| **master == vpid)
            .map(|(id, _)| *id)
            .filter(|id| {
                let epoll = self.set.files.get(id).and_then(|f| f.epfd.as_ref());
                let (flags, owner) = self.flags_and_owner(*id);
                epoll.is_some_and(|e| !e.tfd.is_empty())
                    || flags & libc::O_ASYNC as u32 != 0
                    || owner.is_some_and(|o| o.pid != 0 || o.signum != 0)
            })
            .collect();
        ids.sort_unstable();
        ids
    }

    fn finish(&self, id: u32, vpid: i32) -> Result<()> {
        let Some(fd) = self.held.get(&id) else { return Ok(()) };
        let (flags, owner) = self.flags_and_owner(id);
        let table = self.plan.tables.get(&vpid).map_or(&[][..], Vec::as_slice);
        if let Some(owner) = owner {
            super::fown::restore(fd.as_fd(), owner)?;
        }
        if flags & libc::O_ASYNC as u32 != 0 {
            // Signals tell the number by which this was asked for.
            let number = table.iter().find(|s| s.id == id).map_or_else(|| fd.as_raw_fd(), |s| s.fd);
            let now = sys::fd::fcntl(fd.as_fd(), libc::F_GETFL, 0)?;
            sys::fd::fcntl_number(number, libc::F_SETFL, (now | libc::O_ASYNC) as u64)?;
        }
        if let Some(epoll) = self.set.files.get(&id).and_then(|f| f.epfd.as_ref()) {
            super::eventpoll::add(fd.as_fd(), epoll, table)?;
        }
        Ok(())
    }

    /// Status flags and owner of any description.
    fn flags_and_owner(&self, id: u32) -> (u32, Option<&'a FownEntry>) {
        let reg = |id: u32| self.set.regs.get(&id).map_or((0, None), |r| (r.flags, Some(&r.fown)));
        let Some(f) = self.set.files.get(&id) else { return reg(id) };
        macro_rules! kinds {
            ($($field:ident)*) => { $(if let Some(e) = &f.$field {
                return (e.flags, Some(&e.fown));
            })* };
        }
        kinds!(efd epfd sgfd tfd ify ffy memfd isk usk nlsk psk pipe tty bpf pidfd);
        if f.tunf.is_some() {
            return reg(id);
        }
        f.fifo.as_ref().map_or((0, None), |fifo| reg(fifo.regf_id()))
    }
}

/// Sets the status flags of a description that was not opened by a path.
pub(super) fn set_flags(fd: BorrowedFd<'_>, flags: u32) -> Result<()> {
    let flags = flags as i32 & STATUS;
    if flags != 0 {
        let now = sys::fd::fcntl(fd, libc::F_GETFL, 0)?;
        sys::fd::fcntl(fd, libc::F_SETFL, ((now & !STATUS) | flags) as u64)?;
    }
    Ok(())
}

/// Whether a terminal is the one that `/dev/tty` means.
pub(super) fn is_ctty(kind: i32) -> bool {
    kind == TtyType::Ctty as i32
}

/// Flags for opening a path a second time with the access mode of `flags`.
pub(super) fn mode_of(flags: u32) -> i32 {
    open_flags(flags) & (libc::O_ACCMODE | libc::O_NONBLOCK)
}
