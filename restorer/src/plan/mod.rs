//! What a restore will do, decided before anything is made.
//!
//! Pure: the same images, request and facts give the same plan. All that is wrong with the input
//! is found here, before the first fork.

pub(crate) mod cgroup;
pub(crate) mod cow;
pub(crate) mod pids;
mod text;
pub(crate) mod tree;
pub(crate) mod vdso;

use crate::execute::arena;
use crate::facts::{Facts, Range};
use crate::files::FilesPlan;
use crate::mm::{self, Space};
use crate::ns::NsPlan;
use crate::task::creds::Creds;
use crate::task::regs;
use crate::{Error, Request};
use cgroup::Cgroups;
use cow::{Premap, Sharing};
use images::checkpoint::{Checkpoint, Live, Task};
use images::proto::{AmberTaskEntry, AmberThreadEntry};
use std::collections::{BTreeMap, BTreeSet};
use tree::{Role, Tree};

/// A decided restore.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) cp: &'a Checkpoint,
    pub(crate) facts: Facts,
    pub(crate) ns: NsPlan,
    pub(crate) cgroups: Cgroups,
    pub(crate) tree: Tree,
    pub(crate) files: FilesPlan,
    /// Address space of each live task, by virtual pid.
    pub(crate) spaces: BTreeMap<u32, Space>,
    /// What CRIU's images have no room for, by virtual pid.
    pub(crate) amber: BTreeMap<u32, AmberTaskEntry>,
    /// Old-style shared segments to be made: size by shmid.
    pub(crate) segments: BTreeMap<u64, u64>,
    /// Helper threads for filling memory.
    pub(crate) helpers: u64,
    /// Tasks all threads of which have the same seccomp filters, by virtual pid.
    pub(crate) common_seccomp: BTreeSet<u32>,
    /// Some thread has seccomp filters.
    pub(crate) seccomp: bool,
}

impl<'a> Plan<'a> {
    /// Decides everything; `present` are the ranges that this process has mapped, `cpus` how many
    /// may work at once.
    pub(crate) fn new(
        cp: &'a Checkpoint,
        amber: BTreeMap<u32, AmberTaskEntry>,
        request: &Request,
        mut facts: Facts,
        present: &[Range],
        cpus: usize,
    ) -> Result<Self, Error> {
        let ns = NsPlan::new(cp, request)?;
        if let Some(creds) = ns.creds(&facts) {
            facts.creds = creds;
            facts.rights = 0;
        }
        crate::task::rlimits::tell(&cp.tasks, &facts);
        for (task, entry) in &amber {
            crate::task::amber::tell(*task, entry, &facts);
        }
        let cgroups = Cgroups::new(cp, request, &facts.cgroups)?;
        if cp.inventory.allow_uprobes == Some(true) && !request.allow_uprobes {
            return Err(Error::Option("--allow-uprobes"));
        }
        if cp.inventory.tcp_close == Some(true) && !request.tcp_close {
            return Err(Error::Option("--tcp-close"));
        }
        if let Some(name) = cp.inventory.plugins_entry.iter().flat_map(|p| &p.plugins).next() {
            return Err(Error::Plugin(name.clone()));
        }
        let mut files = FilesPlan::new(cp, request)?;
        files.contexts = facts.lsm.sockets(cp);
        let dead: Vec<u32> = files.dead_pids().into_iter().map(i32::cast_unsigned).collect();
        let tree = Tree::new(cp, request.shell_job, &dead)?;
        let hard = facts.rlimits.get(libc::RLIMIT_NOFILE as usize).map_or(u64::MAX, |l| l.1);
        if files.nofile() > hard {
            return Err(Error::Nofile { need: files.nofile(), hard });
        }
        let spaces = spaces(cp, &tree, &facts, present)?;
        let threads = || cp.tasks.iter().filter(|t| t.live.is_some()).flat_map(|t| &t.threads);
        let seccomp = threads().any(|t| crate::task::seccomp::used(t.thread_core()));
        let live_tasks = cp.tasks.iter().filter(|t| t.live.is_some());
        let common = live_tasks.filter(|t| crate::task::seccomp::common(cp, t)).map(|t| t.pid);
        Ok(Self {
            common_seccomp: common.collect(),
            segments: mm::segments(cp),
            helpers: cpus.saturating_sub(1) as u64,
            cp,
            amber,
            facts,
            ns,
            cgroups,
            tree,
            files,
            spaces,
            seccomp,
        })
    }

    /// What CRIU's images have no room for: of a task, of a thread.
    pub(crate) fn amber_thread(&self, pid: u32, tid: u32) -> Option<&AmberThreadEntry> {
        self.amber.get(&pid)?.threads.iter().find(|t| t.tid == tid)
    }

    /// Live tasks with their processes.
    pub(crate) fn live(&self) -> impl Iterator<Item = (&tree::Process, &'a Task, &'a Live)> {
        self.tree.processes.iter().filter_map(|p| match p.role {
            Role::Live(i) => {
                let task = &self.cp.tasks[i];
                Some((p, task, task.live.as_ref()?))
            }
            _ => None,
        })
    }
}

/// The address space of each live task. All arenas are at one place if there is such a place:
/// only then can memory be inherited.
fn spaces(
    cp: &Checkpoint,
    tree: &Tree,
    facts: &Facts,
    present: &[Range],
) -> Result<BTreeMap<u32, Space>, Error> {
    let sharing = Sharing::new(cp, tree);
    let all = cp.tasks.iter().filter_map(|t| t.live.as_ref());
    let common = mm::common_hole(all, present, sharing.len);
    let live = cp.tasks.iter().filter_map(|t| t.live.as_ref());
    let from_outside = live.flat_map(|l| l.pages.files()).any(|file| file.frames.is_some());
    let mut spaces = BTreeMap::new();
    for task in &cp.tasks {
        let Some(live) = &task.live else { continue };
        let planned = check_task(task, facts).and_then(|()| {
            let one = || mm::common_hole(std::iter::once(live), present, 0);
            let hole = common.clone().or_else(one).ok_or(Error::NoHole)?;
            mm::plan(live, facts, hole)
        });
        let mut space = planned.map_err(|e| e.of_task(task.pid))?;
        if let (Some(arena), Some(premaps)) = (&common, sharing.of.get(&task.pid)) {
            let place = |p: &Premap| Premap { at: arena::more(arena) + p.at, ..p.clone() };
            space.premaps = premaps.iter().map(place).collect();
        }
        space.from_outside = from_outside;
        spaces.insert(task.pid, space);
    }
    Ok(spaces)
}

/// Everything of one task that can be refused beforehand.
fn check_task(task: &Task, facts: &Facts) -> Result<(), Error> {
    for thread in &task.threads {
        let info = thread.core.thread_info.as_ref().ok_or(Error::Architecture)?;
        regs::general(info)?;
        regs::check(&info.fpregs, &facts.xsave)?;
        let core = thread.thread_core();
        if let Some(entry) = &core.creds {
            let want = Creds::of(entry, facts);
            let lacks = want.permitted & !facts.creds.permitted;
            if lacks != 0 {
                return Err(Error::Capability { tid: thread.tid, cap: lacks.trailing_zeros() });
            }
            if let Some(profile) = facts.lsm.label(entry) {
                facts.lsm.check(&profile).map_err(|why| Error::Lsm {
                    tid: thread.tid,
                    profile,
                    why,
                })?;
            }
        }
        let signo = core.pdeath_sig.unwrap_or(0);
        if signo > 64 {
            return Err(Error::Field { what: "pdeath_sig", value: signo.into() });
        }
        sched(core)?;
    }
    Ok(())
}

fn sched(core: &images::proto::ThreadCoreEntry) -> Result<(), Error> {
    let policy = core.sched_policy.unwrap_or(0) & !0x4000_0000;
    let prio = core.sched_prio.unwrap_or(0);
    let good = match policy {
        0 | 3 | 5 | 7 => prio == 0,
        1 | 2 => (1..=99).contains(&prio),
        _ => return Err(Error::Field { what: "sched_policy", value: policy.into() }),
    };
    if good { Ok(()) } else { Err(Error::Field { what: "sched_prio", value: prio.into() }) }
}
