//! The process that leads the tree through the stages.

use crate::execute::cgroup::{self, Groups};
use crate::execute::guard::Front;
use crate::execute::progress::Memory;
use crate::execute::root::{Quiet, fork_root};
use crate::execute::stage::{Board, COMPARED, Failure, KEPT, describe};
use crate::execute::{fill, finish, guard, scripts};
use crate::facts::{Facts, Range, map_line};
use crate::files;
use crate::hooks::ORPHAN_PTS_MASTER;
use crate::ns::pid::Pids;
use crate::plan::tree::Role;
use crate::plan::{Plan, pids};
use crate::task::amber::personality_of_criu;
use crate::{Action, Error, Hooks, Request, Restored};
use images::checkpoint::{Checkpoint, Task};
use images::pages::Origin;
use images::proto::{AmberTaskEntry, RestoreStatsEntry};
use images::{Dir, Image};
use nix::fcntl::{FallocateFlags, fallocate};
use parasite_abi::restore::Stage;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use sys::ptrace::{self, Wait};

/// How often the coordinator looks after its children while it waits for reports.
const PATROL: Duration = Duration::from_millis(20);

/// A restore from images to a running tree.
pub(crate) fn run(request: &Request, hooks: &mut dyn Hooks) -> Result<Restored, Error> {
    let begun = Instant::now();
    let dir = Dir::open(&request.images_dir)?;
    let cp = Checkpoint::load(&dir)?;
    let cpus = sys::worker::cpus();
    let mut facts = Facts::gather()?;
    facts.lsm.asked(request.lsm_profile.as_deref(), &cp);
    facts.lsm.look_up(&cp);
    let plan = Plan::new(&cp, amber(&cp)?, request, facts, &present()?, cpus)?;
    if plan.ns.pid.is_none() {
        pids::check(pids::wanted(&cp, &plan.tree), plan.facts.pid_max, pids::owner)?;
    }
    // Last: what is wrong in itself is told in its own words.
    let boot = sys::file::boot_id();
    let check = |dir: &_| images::manifest::check_images(dir, cpus, boot.as_deref());
    cp.chain.layers().iter().try_for_each(check)?;
    log::debug!("plan:\n{}", plan.tree);
    raise_nofile(&plan.facts);
    hook(hooks, Action::PreRestore, None)?;

    let board = Board::new()?;
    let born = hooks.in_task();
    let wanted: BTreeSet<i32> = pids::wanted(&cp, &plan.tree).map(|p| p.cast_signed()).collect();
    guard::run(
        |pid| wanted.contains(&pid),
        |front| {
            hooks.leads();
            lead(&plan, request, hooks, (&board, &front), begun)
        },
        |worker| {
            let _quiet = Quiet::enter()?;
            fork_root(&plan, request, &board, (worker, born), |_| ())
        },
        cgroup::take_back,
    )
}

/// Leads the tree of `plan` into life, in the worker of `front`.
fn lead(
    plan: &Plan<'_>,
    request: &Request,
    hooks: &mut dyn Hooks,
    (board, front): (&Board, &Front),
    begun: Instant,
) -> Result<Restored, Error> {
    let lock = files::net_lock::Lock::new(plan.cp, &plan.files, request, plan.ns.has_net(plan.cp))?;
    let saved = Saved::enter()?;
    let pids = Pids::default();
    let born = hooks.in_task();
    let mut tree = Tree { plan, request, board, front, root: 0, born, pids, leaders: false };
    let groups = Groups::make(plan, request.cgroup_yard.as_deref(), front);
    let result = groups.and_then(|groups| {
        let result = tree.restore(hooks, &groups, lock, begun);
        match &result {
            Ok(_) => groups.finish(),
            // Before the groups are removed.
            Err(_) => tree.destroy(),
        }
        result
    });
    saved.leave();
    let stats = result?;
    Ok(Restored { pid: tree.root, stats })
}

/// What CRIU's images have no room for.
pub(crate) fn amber(cp: &Checkpoint) -> Result<BTreeMap<u32, AmberTaskEntry>, Error> {
    let mut all = BTreeMap::new();
    for task in cp.tasks.iter().filter(|t| t.live.is_some()) {
        let mut entry: Option<AmberTaskEntry> = cp.dir.read_opt(Image::Amber(task.pid))?;
        let personality = personality_of_criu(task.tc().personality);
        if entry.is_none() && personality.is_some() {
            entry = Some(AmberTaskEntry { personality, ..AmberTaskEntry::default() });
        }
        all.extend(entry.map(|e| (task.pid, e)));
    }
    Ok(all)
}

fn hook(hooks: &mut dyn Hooks, action: Action, pid: Option<i32>) -> Result<(), Error> {
    hooks.run(action, pid).map_err(|code| Error::Hook { action: action.name(), code })
}

/// Ranges that are mapped in this process, and in those forked from it.
fn present() -> Result<Vec<Range>, Error> {
    let maps = fs::read("/proc/self/maps");
    let maps = maps.map_err(|e| sys::Error::io("read(/proc/self/maps)", &e))?;
    let maps = String::from_utf8_lossy(&maps);
    Ok(maps.lines().filter_map(map_line).map(|(range, _)| range).collect())
}

/// Tasks may have more descriptors open than our soft limit allows.
fn raise_nofile(facts: &Facts) {
    let nofile = libc::RLIMIT_NOFILE;
    if let Some((soft, hard)) = facts.rlimits.get(nofile as usize)
        && soft < hard
    {
        let _ = sys::task::set_rlimit(0, nofile, *hard, *hard);
    }
}

/// What the worker changes of itself.
struct Saved(#[expect(dead_code, reason = "ends with the value")] Quiet);

impl Saved {
    fn enter() -> Result<Self, Error> {
        // Orphans of a failed restore come to us, and are reaped.
        sys::task::prctl(libc::PR_SET_CHILD_SUBREAPER, [1, 0, 0, 0])?;
        Ok(Self(Quiet::enter()?))
    }

    fn leave(self) {
        let _ = sys::task::prctl(libc::PR_SET_CHILD_SUBREAPER, [0; 4]);
    }
}

struct Tree<'a> {
    plan: &'a Plan<'a>,
    request: &'a Request,
    board: &'a Board,
    /// Who asked for the restore, and waits for us.
    front: &'a Front,
    /// Pid of the root task, 0 before it exists.
    root: i32,
    /// What tasks do first.
    born: fn(u32),
    /// Numbers of the others.
    pids: Pids,
    /// Whether the leaders of live tasks are traced.
    leaders: bool,
}

impl Tree<'_> {
    fn restore(
        &mut self,
        hooks: &mut dyn Hooks,
        groups: &Groups<'_>,
        mut lock: files::net_lock::Lock,
        begun: Instant,
    ) -> Result<RestoreStatsEntry, Error> {
        let plan = self.plan;
        let board = self.board;
        let forking = Instant::now();
        board.open(Stage::RootTask, 0);
        self.make_root()?;
        groups.place_root(plan, self.root)?;
        let mut outside = None;
        if plan.ns.any() {
            hook(hooks, Action::SetupNamespaces, Some(self.root))?;
            self.stage(board, Stage::PrepareNamespaces, 1)?;
            lock.enter(self.root)?;
            groups.place_root_inside(plan, self.root)?;
            if let Some(net) = &plan.ns.net {
                outside = Some(net.fill(plan.cp, self.root, |at| board.told(at))?);
            }
            lock.pass_rules(&plan.files, self.request)?;
            hook(hooks, Action::PostSetupNamespaces, Some(self.root))?;
        }
        let mut memory = Memory::new(plan, board, hooks.progress());
        self.watched_stage(Stage::Forking, plan.tree.processes.len(), &mut memory)?;
        let forking_time = micros(forking);
        groups.place_processes(plan, &self.pids)?;

        self.leaders = true;
        finish::seize_leaders(plan, &self.pids)?;
        let threads = plan.live().map(|(_, task, _)| task.threads.len()).sum();
        self.memory(threads, &mut memory)?;
        groups.place_threads(plan, &self.pids)?;
        let pid_of = |vpid: i32| self.pids.real(vpid.cast_unsigned()).unwrap_or(-1);
        let flying = files::tcp_stream::flying(&plan.files, &pid_of)?;
        for master in files::tty::masters(&plan.files, &pid_of)? {
            let given = hooks.orphan_pts_master(master.as_fd());
            given.map_err(|code| Error::Hook { action: ORPHAN_PTS_MASTER, code })?;
        }
        self.stage(board, Stage::RestoreSigchld, plan.live().count())?;

        groups.set_limits()?;
        hook(hooks, Action::PostRestore, Some(self.root))?;
        finish::seize_threads(plan, &self.pids)?;
        let last = |task: &Task| {
            1 + task.threads[1..].iter().filter(|t| scripts::has_last_stage(plan, task, t)).count()
        };
        let count = plan.live().map(|(_, task, _)| last(task)).sum();
        self.stage(board, Stage::RestoreCreds, count)?;

        finish::stop_all(plan, &self.pids)?;
        finish::unmap_arenas(plan, &self.pids)?;
        finish::set_registers(plan, &self.pids)?;
        finish::stop_signals(plan, &self.pids, self.request)?;
        files::file_lock::break_leases(&plan.files, &pid_of)?;
        if lock.is_whole()
            && let Err(code) = hooks.run(Action::NetworkUnlock, Some(self.root))
        {
            log::warn!("network-unlock hook failed with {code}");
        }
        lock.unlock();
        files::tcp_stream::finish(&plan.files, self.request, flying, &pid_of)?;
        if let Err(code) = hooks.run(Action::PreResume, Some(self.root)) {
            log::warn!("pre-resume hook failed with {code}");
        }
        files::late(&plan.files, &pid_of)?;
        let leftovers = finish::leftovers(plan, &self.pids, self.root)?;
        let restore_time = micros(begun);
        self.still_wanted()?;
        self.front.keep();
        finish::detach_all(plan, &self.pids)?;
        finish::await_stops(plan, &self.pids, self.request);
        if let Some(links) = outside {
            links.keep();
        }
        if let Err(code) = hooks.run(Action::PostResume, Some(self.root)) {
            log::warn!("post-resume hook failed with {code}");
        }
        for (links, root) in leftovers {
            files::cleanup(&links, root.as_fd());
        }
        if self.request.auto_dedup {
            dedup(plan);
        }
        let pages = |live: &images::checkpoint::Live| -> u64 {
            live.pages.segments().iter().map(|s| s.pages).sum()
        };
        Ok(RestoreStatsEntry {
            pages_compared: board.counted(COMPARED),
            pages_skipped_cow: board.counted(KEPT),
            forking_time,
            restore_time,
            pages_restored: Some(plan.live().map(|(_, _, live)| pages(live)).sum()),
        })
    }

    fn make_root(&mut self) -> Result<(), Error> {
        let ns = &self.plan.ns;
        self.root = if self.request.sibling {
            // Our siblings would be children of the front.
            self.front.fork_root()?
        } else {
            let own = std::process::id().cast_signed();
            fork_root(self.plan, self.request, self.board, (own, self.born), |pid| {
                self.front.reap(pid)
            })?
        };
        self.pids = Pids::new(self.root, ns.pid.is_some())?;
        ptrace::seize(self.root, finish::options(self.plan))?;
        if let Some(user) = &ns.user {
            user.map(self.root)?;
        }
        Ok(())
    }

    /// Has all memory filled, by the tasks or for them.
    fn memory(&self, threads: usize, memory: &mut Memory<'_>) -> Result<(), Error> {
        let plan = self.plan;
        if plan.spaces.values().any(|s| s.from_outside) {
            self.watched_stage(Stage::Restore, plan.live().count(), memory)?;
            fill::fill(plan, &self.pids, self.board.filled(), memory)?;
            self.stage(self.board, Stage::RestoreMemory, threads)?;
        } else {
            self.watched_stage(Stage::Restore, threads, memory)?;
        }
        memory.end();
        Ok(())
    }

    /// Opens a stage and waits for all reports of it.
    fn stage(&self, board: &Board, stage: Stage, count: usize) -> Result<(), Error> {
        self.watch(board, stage, count, &mut || ())
    }

    /// The same, in which memory is filled.
    fn watched_stage(
        &self,
        stage: Stage,
        count: usize,
        memory: &mut Memory<'_>,
    ) -> Result<(), Error> {
        self.watch(self.board, stage, count, &mut || memory.look())
    }

    fn watch(
        &self,
        board: &Board,
        stage: Stage,
        count: usize,
        look: &mut dyn FnMut(),
    ) -> Result<(), Error> {
        log::debug!("stage {stage:?}: {count} to report");
        board.open(stage, count);
        loop {
            let done = count == 0 || board.wait_reports(PATROL);
            board.answer(&self.pids);
            look();
            if let Some(failure) = board.failure() {
                return Err(reported(failure));
            }
            if done {
                return Ok(());
            }
            self.still_wanted()?;
            self.patrol()?;
        }
    }

    /// Fails when a signal asks to stop, or whoever asked for the restore is gone.
    fn still_wanted(&self) -> Result<(), Error> {
        if self.front.is_gone() || sys::arena::take_signal(guard::STOPPING)? != 0 {
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    /// Looks for deaths and stops that should not be.
    fn patrol(&self) -> Result<(), Error> {
        loop {
            let (pid, wait) = match ptrace::wait(-1, false) {
                Ok(found) => found,
                Err(e) if e.errno() == libc::ECHILD => return Ok(()),
                Err(e) => return Err(e.into()),
            };
            match wait {
                Wait::Nothing => return Ok(()),
                Wait::Gone(status) if self.wanted_alive(pid) => {
                    return Err(Error::Died { pid, how: how(status) });
                }
                Wait::Gone(_) => {}
                Wait::Stopped { signo, event: 0 } if fatal(signo) => {
                    let rip = ptrace::regs(pid).map_or(0, |r| r.rip);
                    return Err(Error::Crashed { pid, signo, rip });
                }
                Wait::Stopped { .. } => ptrace::cont(pid, 0)?,
            }
        }
    }

    fn wanted_alive(&self, pid: i32) -> bool {
        let live = |p: &&crate::plan::tree::Process| matches!(p.role, Role::Live(_));
        let mut all = self.plan.tree.processes.iter().filter(live);
        pid == self.root || all.any(|p| self.pids.known(p.pid) == Some(pid))
    }

    /// Kills all there is and waits until it is gone.
    fn destroy(&self) {
        if self.root == 0 {
            return;
        }
        // Each process dies with its parent, or is traced by us.
        let _ = sys::task::kill(self.root, libc::SIGKILL);
        if self.leaders {
            for (_, task, _) in self.plan.live() {
                let Ok(pid) = self.pids.real(task.pid) else { continue };
                // Only if it is still ours to trace: the number may be another's.
                if ptrace::set_options(pid, 0).is_ok() || traced_by_us(pid) {
                    let _ = sys::task::kill(pid, libc::SIGKILL);
                }
            }
        }
        guard::reap();
    }
}

/// Frees the disk space of pages that are restored (`--auto-dedup`). The tree runs already, so
/// nothing of it may fail the restore.
fn dedup(plan: &Plan<'_>) {
    let shared = plan.cp.shmem.values().map(|s| &s.pages);
    let sources = plan.live().map(|(_, _, live)| &live.pages).chain(shared);
    for source in sources {
        for segment in source.segments() {
            let Origin::File { file, offset } = segment.origin else { continue };
            let pages = &source.files()[file];
            if pages.frames.is_some() {
                continue;
            }
            let _ = images::manifest::remove(&pages.dir);
            let punched = pages.dir.open_file_rw(&pages.image.file_name()).map(|file| {
                let flags =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let len = segment.end() - segment.vaddr;
                file.map(|f| fallocate(f, flags, offset.cast_signed(), len.cast_signed()))
            });
            match punched {
                Ok(Some(Ok(())) | None) => {}
                Ok(Some(Err(e))) => log::warn!("{}: fallocate: {e}", pages.image.file_name()),
                Err(e) => log::warn!("{e}"),
            }
        }
    }
}

fn traced_by_us(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|l| l.strip_prefix("TracerPid:"));
    tracer.and_then(|t| t.trim().parse().ok()) == Some(std::process::id())
}

fn fatal(signo: i32) -> bool {
    let by_fault = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
    by_fault.contains(&signo) || signo == libc::SIGSYS
}

fn reported(failure: Failure) -> Error {
    match failure {
        Failure::Text { tid, text } => Error::Reported { tid, text },
        Failure::Step { tid, step } => Error::Reported { tid, text: describe(&step) },
    }
}

/// A wait status in words.
pub(crate) fn how(status: i32) -> String {
    if libc::WIFSIGNALED(status) {
        format!("killed by signal {}", libc::WTERMSIG(status))
    } else {
        format!("exit code {}", libc::WEXITSTATUS(status))
    }
}

fn micros(since: Instant) -> u32 {
    since.elapsed().as_micros() as u32
}
