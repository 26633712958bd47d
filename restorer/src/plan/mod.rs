//! What a restore will do, decided before anything is made.
//!
//! Pure: the same images, request and facts give the same plan. All that is wrong with the input
//! is found here, before the first fork.

pub(crate) mod pids;
mod text;
pub(crate) mod tree;
pub(crate) mod vdso;

use crate::facts::{Facts, Range};
use crate::files::FilesPlan;
use crate::mm::{self, Space};
use crate::task::creds::Creds;
use crate::task::regs;
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, Live, Task};
use images::proto::{AmberTaskEntry, AmberThreadEntry};
use std::collections::BTreeMap;
use tree::{Role, Tree};

/// A decided restore.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) cp: &'a Checkpoint,
    pub(crate) facts: Facts,
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
        facts: Facts,
        present: &[Range],
        cpus: usize,
    ) -> Result<Self, Error> {
        refuse_namespaces(cp)?;
        let files = FilesPlan::new(cp, request)?;
        let dead: Vec<u32> = files.dead_pids().into_iter().map(i32::cast_unsigned).collect();
        let tree = Tree::new(cp, request.shell_job, &dead)?;
        let hard = facts.rlimits.get(libc::RLIMIT_NOFILE as usize).map_or(u64::MAX, |l| l.1);
        if files.nofile() > hard {
            return Err(Error::Nofile { need: files.nofile(), hard });
        }
        let mut spaces = BTreeMap::new();
        for task in &cp.tasks {
            let Some(live) = &task.live else { continue };
            check_task(task, &facts).map_err(|e| e.of_task(task.pid))?;
            let space = mm::plan(live, &facts, present).map_err(|e| e.of_task(task.pid))?;
            spaces.insert(task.pid, space);
        }
        let threads = || cp.tasks.iter().filter(|t| t.live.is_some()).flat_map(|t| &t.threads);
        let seccomp = threads().any(|t| crate::task::seccomp::used(t.thread_core()));
        Ok(Self {
            segments: mm::segments(cp),
            helpers: cpus.saturating_sub(1) as u64,
            cp,
            amber,
            facts,
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
            if entry.lsm_profile.as_ref().is_some_and(|p| !p.is_empty() && p != "unconfined") {
                let profile = entry.lsm_profile.clone().unwrap_or_default();
                return Err(Error::Lsm { tid: thread.tid, profile });
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

/// Namespaces of the tasks' own come with later work.
fn refuse_namespaces(cp: &Checkpoint) -> Result<(), Error> {
    let host = &cp.root_ids;
    for task in &cp.tasks {
        let Some(ids) = &task.ids else { continue };
        let kinds = [
            ("pid", ids.pid_ns_id, host.pid_ns_id),
            ("net", ids.net_ns_id, host.net_ns_id),
            ("ipc", ids.ipc_ns_id, host.ipc_ns_id),
            ("uts", ids.uts_ns_id, host.uts_ns_id),
            ("mnt", ids.mnt_ns_id, host.mnt_ns_id),
            ("user", ids.user_ns_id, host.user_ns_id),
        ];
        if let Some((kind, ..)) = kinds.iter().find(|(_, a, b)| a.unwrap_or(0) != b.unwrap_or(0)) {
            return Err(Error::Namespace { pid: task.pid, kind });
        }
    }
    Ok(())
}
