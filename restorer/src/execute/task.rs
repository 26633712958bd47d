//! A process of the tree, from its birth to the blob.

use crate::execute::arena::Arena;
use crate::execute::fork::Numbers;
use crate::execute::premap::{self, Pieces};
use crate::execute::scripts::{self, Late};
use crate::execute::stage::{Board, COMPARED, KEPT};
use crate::execute::{enter_blob, fork};
use crate::files::Files;
use crate::mm::{self, Fds, Space};
use crate::ns::{self, Made, NsPlan};
use crate::plan::Plan;
use crate::plan::tree::{Process, Role};
use crate::{Error, Request};
use images::checkpoint::{Live, NsKind, Task};
use images::proto::AmberTaskEntry;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use parasite_abi::restore::Stage;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;
use sys::arena::exit_now;

/// What processes of the tree get from the coordinator, and pass on.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) plan: &'a Plan<'a>,
    pub(crate) board: &'a Board,
    /// How their numbers are chosen.
    pub(crate) numbers: Rc<Numbers>,
    /// What each of them does first.
    pub(crate) born: fn(u32),
    /// The coordinator, as a pidfd: its number may mean nothing to us.
    pub(crate) coordinator: OwnedFd,
    /// Namespaces that were made for tasks other than the root.
    pub(crate) made: Made,
    /// Mounts that only the coordinator could open.
    pub(crate) outside: ns::mnt::Outside,
    pub(crate) request: &'a Request,
    /// Memory that was filled before the fork.
    pub(crate) premaps: Pieces,
    /// Files, as far as this process has them.
    pub(crate) files: Files<'a>,
}

/// The root task's life.
pub(crate) fn root(cx: &mut Context<'_>) -> ! {
    let pid = cx.plan.tree.processes[0].pid;
    (cx.born)(pid);
    if let Err(e) = prepare_root(cx) {
        fail(cx, pid, &e);
    }
    run(cx, 0)
}

fn prepare_root(cx: &mut Context<'_>) -> Result<(), Error> {
    let ns = &cx.plan.ns;
    let next = if ns.any() { Stage::PrepareNamespaces } else { Stage::Forking };
    // Our parent is the coordinator's; from the next stage on the coordinator traces us.
    while !cx.board.wait_at_most(next, Duration::from_millis(100)) {
        if ended(&cx.coordinator) {
            exit_now(1);
        }
    }
    let made = Made::new(cx.files.least());
    let mut env = ns::Cx {
        cp: cx.plan.cp,
        request: cx.request,
        proc: cx.files.proc(),
        outside: &cx.outside,
        made,
    };
    ns.prepare(&mut env)?;
    cx.made = env.made;
    if let Some(net) = &ns.net {
        for (which, number) in net.numbers(&cx.made).into_iter().enumerate() {
            cx.board.tell(which, number.cast_unsigned());
        }
    }
    cx.files.set_namespaces(&cx.made);
    cx.files.set_wholes(std::mem::take(&mut cx.made.wholes));
    cx.files.set_masters(std::mem::take(&mut cx.made.masters));
    if let Some(mnt) = &cx.plan.ns.mnt {
        cx.files.set_root_mounts(mnt.root_mounts());
    }
    for (mounts, root) in std::mem::take(&mut cx.made.roots) {
        cx.files.add_nested(&mounts, root)?;
    }
    if ns.any() {
        cx.board.report();
        cx.board.wait(Stage::Forking);
    }
    let own = cx.plan.cp.root().ids.as_ref().map_or(0, |ids| NsKind::Net.id(ids));
    cx.files.set_nets(&cx.made, own)?;
    cx.files.open_shared()?;
    // Files without a name are made, and nothing else is written to.
    ns::mnt::read_only(std::mem::take(&mut cx.made.read_only), cx.files.proc())?;
    for (shmid, size) in &cx.plan.segments {
        // Made and filled once; every task opens it anew.
        cx.files.open_anon_shared(*shmid, *size)?;
    }
    Ok(())
}

/// Whether the process behind a pidfd is dead.
fn ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// Life of any other process, and of the root once it is prepared.
fn run(cx: &mut Context<'_>, index: usize) -> ! {
    let process = &cx.plan.tree.processes[index];
    let kind = match process.role {
        Role::Live(_) => "task",
        Role::Zombie(_) => "zombie",
        Role::Helper => "helper",
    };
    log::info!("Restoring {kind} {}", process.pid);
    let done = match process.role {
        Role::Live(i) => live(cx, process, &cx.plan.cp.tasks[i]),
        Role::Zombie(i) => zombie(cx, process, &cx.plan.cp.tasks[i]),
        Role::Helper => helper(cx, process),
    };
    match done {
        Err(e) => fail(cx, process.pid, &e),
    }
}

/// Reports and waits to be killed.
fn fail(cx: &Context<'_>, pid: u32, error: &Error) -> ! {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(e) = source {
        let more = e.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = e.source();
    }
    // The coordinator logs it as an error.
    log::debug!("failed: {text}");
    cx.board.fail(pid, &text);
    cx.board.wait(Stage::Complete);
    exit_now(1)
}

/// Nobody outlives a failed restore: each process dies with the one that made it.
fn die_with_parent(parent: i32) -> Result<(), Error> {
    sys::task::prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as u64, 0, 0, 0])?;
    // It may have died before the call. In a new pid namespace its number reads 0.
    let now = sys::arena::getppid();
    if now != parent && now != 0 {
        exit_now(1);
    }
    Ok(())
}

/// Forks children, in the right session each.
fn family(cx: &mut Context<'_>, process: &Process) -> Result<(), Error> {
    if process.adopts {
        sys::task::prctl(libc::PR_SET_CHILD_SUBREAPER, [1, 0, 0, 0])?;
    }
    for child in &process.early {
        make(cx, process, *child)?;
    }
    if process.setsid {
        sys::arena::setsid()?;
    }
    if process.pgid == process.pid {
        sys::arena::setpgid(0, 0)?;
    }
    for child in &process.late {
        make(cx, process, *child)?;
    }
    Ok(())
}

fn make(cx: &mut Context<'_>, process: &Process, child: usize) -> Result<(), Error> {
    let new = &cx.plan.tree.processes[child];
    let flags = if new.share_files { libc::CLONE_FILES as u64 } else { 0 };
    let (parent, pid) = (process.pid.cast_signed(), new.pid);
    let at_end = cx.plan.amber.get(&pid).and_then(|a| a.exit_signal);
    let at_end = at_end.map_or(libc::SIGCHLD, u32::cast_signed);
    let (numbers, board) = (Rc::clone(&cx.numbers), cx.board);
    let made = fork::fork(&numbers, board, (flags, at_end), pid.cast_signed(), fork::reap, || {
        (cx.born)(pid);
        if let Err(e) = die_with_parent(parent) {
            fail(cx, pid, &e);
        }
        run(cx, child)
    });
    let real = made.map_err(|e| Error::from(e).of_task(pid))?;
    log::debug!("forked {pid} as {real}");
    Ok(())
}

/// All processes exist: joins a group that another leads.
fn join_group(process: &Process) -> Result<(), Error> {
    if process.pgid != 0 && process.pgid != process.pid {
        sys::arena::setpgid(0, process.pgid.cast_signed())?;
    }
    Ok(())
}

fn helper(cx: &mut Context<'_>, process: &Process) -> Result<Infallible, Error> {
    family(cx, process)?;
    cx.board.report();
    cx.board.wait(Stage::Restore);
    join_group(process)?;
    cx.board.wait(Stage::RestoreSigchld);
    // Our death kills those that have not died yet by themselves.
    for child in process.early.iter().chain(&process.late) {
        let child = &cx.plan.tree.processes[*child];
        if matches!(child.role, Role::Zombie(_)) {
            let pid = Id::Pid(Pid::from_raw(child.pid.cast_signed()));
            let how = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
            let done = waitid(pid, how);
            done.map_err(|e| sys::Error::new(format_args!("waitid({})", child.pid), e as i32))?;
        }
    }
    exit_now(0)
}

fn zombie(cx: &mut Context<'_>, process: &Process, task: &Task) -> Result<Infallible, Error> {
    family(cx, process)?;
    set_comm(cx.files.proc(), &task.tc().comm)?;
    cx.board.report();
    cx.board.wait(Stage::Restore);
    join_group(process)?;
    // By then the tasks that we made, if any, do not die with us any more.
    cx.board.wait(Stage::RestoreSigchld);
    let status = task.tc().exit_code;
    let signo = (status & 0x7f).cast_signed();
    if signo == 0 {
        exit_now((status >> 8 & 0xff).cast_signed());
    }
    // The core-dump bit of the status is lost: it would take a dump to set it.
    sys::task::prctl(libc::PR_SET_DUMPABLE, [0; 4])?;
    if signo != libc::SIGKILL {
        sys::arena::default_action(signo)?;
    }
    sys::arena::swap_signal_mask(!(1 << (signo - 1)))?;
    sys::task::kill(process.pid.cast_signed(), signo)?;
    // Signals that do not kill cannot be in the status of a zombie.
    Err(Error::Field { what: "exit_code", value: status.into() })
}

fn set_comm(proc: BorrowedFd<'_>, comm: &[u8]) -> Result<(), Error> {
    write_self(proc, "comm", &comm[..comm.len().min(15)])
        .map_err(|e| sys::Error::io("write(/proc/self/comm)", &e).into())
}

fn open_self(proc: BorrowedFd<'_>, name: &str, flags: OFlag) -> std::io::Result<fs::File> {
    let path = format!("self/{name}");
    let fd = nix::fcntl::openat(proc, path.as_str(), flags | OFlag::O_CLOEXEC, Mode::empty())?;
    Ok(fd.into())
}

fn write_self(proc: BorrowedFd<'_>, name: &str, text: &[u8]) -> std::io::Result<()> {
    open_self(proc, name, OFlag::O_WRONLY)?.write_all(text)
}

fn live(cx: &mut Context<'_>, process: &Process, task: &Task) -> Result<Infallible, Error> {
    let (Some(live), Some(space)) = (&task.live, cx.plan.spaces.get(&task.pid)) else {
        return Err(Error::NoHole);
    };
    if let Some(parent) = task.parent {
        NsPlan::join(task, &cx.plan.cp.tasks[parent], &cx.made)?;
        cx.files.set_own_net(task.ids.as_ref().map_or(0, |ids| NsKind::Net.id(ids)));
    }
    let counts =
        premap::fill(&space.premaps, live, &mut cx.files, &mut cx.premaps, cx.board.filled())?;
    cx.board.count(COMPARED, counts.compared);
    cx.board.count(KEPT, counts.kept);
    log::debug!("{} pages compared with the parent's, {} kept", counts.compared, counts.kept);
    family(cx, process)?;
    let vpid = task.pid.cast_signed();
    let (mut fds, mut kept) = open(cx, vpid, live, space)?;
    cx.board.report();
    cx.board.wait(Stage::Restore);
    // The coordinator traces us now, and its death kills us; parents may go.
    sys::task::prctl(libc::PR_SET_PDEATHSIG, [0; 4])?;
    join_group(process)?;
    cx.files.install(vpid)?;
    log::debug!("files are in their places");
    for id in mm::mapped_sockets(&live.mm) {
        let fd = cx.files.installed(vpid, id)?;
        fds.sockets.insert(id, fd.as_raw_fd());
        kept.push(fd);
    }
    cx.files.set_fs(vpid)?;
    proc_files(cx.files.proc(), task, cx.plan.amber.get(&task.pid))?;
    let arena = Arena::map(&space.arena, kept[0].as_fd(), task.threads.len() - 1)?;
    let attrs = attrs(cx, task, &mut kept)?;
    let late = Late {
        attrs,
        last_pid: cx.numbers.fd(),
        seals: cx.files.seals(),
        close: (cx.plan.files.base_fd(), cx.plan.files.service_end()),
        lease_owners: if cx.plan.ns.in_user_ns() {
            cx.files.lease_owners(task.pid.cast_signed())?
        } else {
            HashMap::new()
        },
    };
    log::debug!("{} threads, memory and the rest by the restorer blob", task.threads.len());
    let ready = scripts::write(cx.plan, process, (task, live, space), &fds, &late, arena)?;
    enter_blob::enter(&ready)
}

/// Opens what the memory of a task is made of, all at numbers which the task itself does not use.
fn open(
    cx: &mut Context<'_>,
    vpid: i32,
    live: &Live,
    space: &Space,
) -> Result<(Fds, Vec<OwnedFd>), Error> {
    let least = cx.plan.files.service_fd();
    let mut kept = Vec::new();
    let mut keep = |fd: OwnedFd| -> RawFd {
        let raw = fd.as_raw_fd();
        kept.push(fd);
        raw
    };
    let mut fds = Fds::default();
    // The first: `live` maps it.
    keep(sys::fd::dup_above(cx.board.page().fd(), least)?);
    for key in mm::mapped_files(&live.mm, space) {
        fds.files.insert(key, keep(cx.files.open_mapped(key.0, key.1)?));
    }
    for shmid in mm::mapped_segments(&live.mm) {
        let size = cx.plan.segments.get(&shmid).copied().unwrap_or(0);
        fds.segments.insert(shmid, keep(cx.files.open_anon_shared(shmid, size)?));
    }
    for file in live.pages.files() {
        fds.pages.push(match file.frames {
            None => keep(sys::fd::dup_above(file.open()?.as_fd(), least)?),
            Some(_) => -1,
        });
    }
    fds.exe = keep(cx.files.open_exe(vpid)?);
    for ring in &live.mm.aios {
        let mut saved = vec![0; ring.ring_len as usize];
        live.pages.read_at(ring.id, &mut saved)?;
        fds.rings.push(saved);
    }
    fds.null = -1;
    if !live.mm.aios.is_empty() {
        let null = fs::File::options()
            .write(true)
            .open("/dev/null")
            .map_err(|e| sys::Error::io("open(/dev/null)", &e))?;
        fds.null = keep(sys::fd::dup_above(null.as_fd(), least)?);
    }
    Ok((fds, kept))
}

/// Opens what the leader takes on its contexts of SELinux by, at numbers which the task does not use.
fn attrs(
    cx: &Context<'_>,
    task: &Task,
    kept: &mut Vec<OwnedFd>,
) -> Result<Vec<(RawFd, String)>, Error> {
    let creds = task.leader().thread_core().creds.as_ref();
    let wanted = cx.plan.facts.lsm.leader((creds, cx.plan.amber_thread(task.pid, task.pid)));
    let least = cx.plan.files.service_fd();
    let open = |(name, text): (&str, String)| {
        let name = format!("attr/{name}");
        let file = open_self(cx.files.proc(), &name, OFlag::O_WRONLY);
        let file = file.map_err(|e| sys::Error::io(format_args!("open(/proc/self/{name})"), &e))?;
        let fd = sys::fd::dup_above(file.as_fd(), least)?;
        let raw = fd.as_raw_fd();
        kept.push(fd);
        Ok((raw, text))
    };
    wanted.into_iter().map(open).collect()
}

/// What is set by writing to files of /proc.
fn proc_files(
    proc: BorrowedFd<'_>,
    task: &Task,
    amber: Option<&AmberTaskEntry>,
) -> Result<(), Error> {
    if let Some(filter) = amber.and_then(|a| a.coredump_filter) {
        let name = "coredump_filter";
        let done = write_self(proc, name, format!("{filter:#x}").as_bytes());
        let call = || format!("write(/proc/self/{name}, {filter:#x})");
        done.map_err(|e| sys::Error::io(call(), &e))?;
    }

    let tc = task.tc();
    if let Some(adj) = tc.oom_score_adj {
        set_number(proc, "oom_score_adj", adj.into(), false)?;
    }
    if let Some(uid) = tc.loginuid.filter(|uid| *uid != u32::MAX) {
        set_number(proc, "loginuid", uid.into(), true)?;
    }
    Ok(())
}

fn set_number(proc: BorrowedFd<'_>, name: &str, value: i64, fatal: bool) -> Result<(), Error> {
    // Absent where the kernel was built without it.
    let Ok(now) = open_self(proc, name, OFlag::O_RDONLY).and_then(std::io::read_to_string) else {
        return Ok(());
    };
    if now.trim().parse() == Ok(value) {
        return Ok(());
    }
    match write_self(proc, name, value.to_string().as_bytes()) {
        Ok(()) => Ok(()),
        Err(e) if fatal => {
            Err(sys::Error::io(format_args!("write(/proc/self/{name}, {value})"), &e).into())
        }
        Err(e) => {
            log::warn!("/proc/self/{name} cannot be set to {value}: {e}");
            Ok(())
        }
    }
}
