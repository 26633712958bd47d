//! All that the threads of one process do in the blob, in order.

use crate::Error;
use crate::execute::arena::{Arena, Ready, THREAD_STACK};
use crate::files::file_lock;
use crate::mm::{self, Fds, Space};
use crate::ns;
use crate::plan::Plan;
use crate::plan::tree::{Process, Role};
use crate::script::{Data, Script};
use crate::task::creds::{self, Creds};
use crate::task::{amber, core, lsm, rlimits, seccomp, sigacts, signals, timers};
use images::checkpoint::{Live, Task, Thread};
use parasite_abi::restore::{Op, Stage, What};
use std::collections::HashMap;
use std::os::fd::RawFd;

/// What of files is left for the blob.
#[derive(Debug, Default)]
pub(crate) struct Late {
    /// Of `ns_last_pid`, if threads get their numbers by it.
    pub(crate) last_pid: Option<RawFd>,
    /// Seals to be added: (descriptor, seals).
    pub(crate) seals: Vec<(RawFd, u32)>,
    /// First descriptor that is ours and not the task's, and the next that is not.
    pub(crate) close: (RawFd, RawFd),
    /// Files of `/proc/self/attr`, and what to write there.
    pub(crate) attrs: Vec<(RawFd, String)>,
    /// Owners of files under leases, by descriptor, where they matter.
    pub(crate) lease_owners: HashMap<RawFd, u32>,
}

/// Whether a thread has something to do once it is traced.
pub(crate) fn has_last_stage(plan: &Plan<'_>, task: &Task, thread: &Thread) -> bool {
    let core = thread.thread_core();
    seccomp::used(core) && !plan.common_seccomp.contains(&task.pid)
        || core.pdeath_sig.unwrap_or(0) != 0
        || core.creds.as_ref().is_some_and(|c| Creds::of(c, &plan.facts) != plan.facts.creds)
}

/// Writes header, steps and data of a process into its arena.
pub(crate) fn write(
    plan: &Plan<'_>,
    process: &Process,
    (task, live, space): (&Task, &Live, &Space),
    fds: &Fds,
    late: &Late,
    mut arena: Arena,
) -> Result<Ready, Error> {
    let shared = arena.shared();
    let places = arena.places(plan.helpers);
    let stacks: Vec<u64> = (0..task.threads.len()).map(|i| arena.thread_stack(i)).collect();
    let mut data = arena.data();
    let header = data.room(size_of::<parasite_abi::restore::Header>(), 8)?;

    let mut script = Script::default();
    let amber = plan.amber.get(&task.pid);
    let extra = amber.map_or(&[][..], |a| &a.vmas[..]);
    let policy = plan.amber_thread(task.pid, task.pid).filter(|t| t.mempolicy.is_some());
    if let Some(leader) = policy {
        amber::mempolicy(leader, &mut script, &mut data)?;
    }
    mm::steps(live, space, extra, fds, &places, &mut script, &mut data)?;
    let all = &task.threads[1..];
    let list = threads(plan, task, &stacks, shared, &mut data)?;
    leader_restore(plan, process, task, live, (list, all.len()), late, &mut script, &mut data)?;
    leader_last(plan, process, (task, live), late, &mut script, &mut data)?;
    let steps = script.place(&mut data)?;

    let last_pid = i64::from(late.last_pid.unwrap_or(-1)).cast_unsigned();
    let words = [shared, steps, u64::from(task.pid), last_pid];
    for (word, to) in words.iter().zip(data.at(header, 32).chunks_mut(8)) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    Ok(arena.ready(header))
}

fn comm<'a>(task: &'a Task, thread: &'a Thread) -> &'a [u8] {
    thread.thread_core().comm.as_ref().unwrap_or_else(|| &task.tc().comm)
}

/// Steps of all threads but the leader; returns the address of the array of their descriptors.
fn threads(
    plan: &Plan<'_>,
    task: &Task,
    stacks: &[u64],
    shared: u64,
    data: &mut Data<'_>,
) -> Result<u64, Error> {
    let mut descriptors = Vec::new();
    for (thread, stack) in task.threads[1..].iter().zip(stacks) {
        let mut script = Script::default();
        let state = thread.thread_core();
        core::thread(thread, comm(task, thread), &mut script, data)?;
        signals::private(task.pid, thread.tid, state.signals_p.as_ref(), &mut script, data)?;
        if plan.amber_thread(task.pid, task.pid).is_some_and(|t| t.mempolicy.is_some()) {
            amber::no_mempolicy(&mut script);
        }
        if let Some(amber) = plan.amber_thread(task.pid, thread.tid) {
            amber::mempolicy(amber, &mut script, data)?;
            amber::thread(amber, &mut script, data)?;
        }
        core::sched(state, &plan.facts, &mut script, data)?;
        let leader = lsm_of(plan, task, task.leader());
        let attrs = plan.facts.lsm.thread(leader, lsm_of(plan, task, thread));
        lsm::thread_steps(&attrs, &mut script, data)?;
        if has_last_stage(plan, task, thread) {
            script.stage(Stage::RestoreCreds);
            last_stage(plan, task, thread, &mut script, data)?;
        }
        script.park();
        let steps = script.place(data)?;
        // struct Thread
        descriptors.push([shared, steps, thread.tid.into(), *stack, THREAD_STACK, 0, 0]);
    }
    data.align(8);
    let list = data.next();
    for d in &descriptors {
        data.put_u64s(d)?;
    }
    Ok(list)
}

/// What images say of a thread's labels.
fn lsm_of<'a>(plan: &'a Plan<'_>, task: &Task, thread: &'a Thread) -> lsm::Saved<'a> {
    (thread.thread_core().creds.as_ref(), plan.amber_thread(task.pid, thread.tid))
}

/// Seccomp and credentials of one thread.
fn last_stage(
    plan: &Plan<'_>,
    task: &Task,
    thread: &Thread,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Error> {
    let state = thread.thread_core();
    let common = plan.common_seccomp.contains(&task.pid);
    if !common || thread.tid == task.pid {
        seccomp::steps(plan.cp, state, common, script, data)?;
    }
    if let Some(entry) = &state.creds {
        let to = Creds::of(entry, &plan.facts);
        creds::steps(&plan.facts.creds, &to, script, data)?;
    }
    core::after_creds(state, script);
    Ok(())
}

/// The leader from a complete address space to the end of the RESTORE stage, and what follows
/// once all children that have to die are dead.
#[expect(clippy::too_many_arguments, reason = "called once; each is needed")]
fn leader_restore(
    plan: &Plan<'_>,
    process: &Process,
    task: &Task,
    live: &Live,
    (list, count): (u64, usize),
    late: &Late,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Error> {
    let facts = &plan.facts;
    let leader = task.leader();
    let tc = task.tc();
    let amber = plan.amber.get(&task.pid);
    core::thp(live.mm.thp_disabled.unwrap_or(false), amber::thp_flags(amber), script);
    if let Some(amber) = amber {
        amber::before_threads(amber, script);
    }
    core::thread(leader, comm(task, leader), script, data)?;
    sigacts::steps(&tc.sigactions, script, data)?;
    lsm::leader_steps(&late.attrs, script, data)?;
    if count > 0 {
        script.op(What::Thread, Op::Threads, [list, count as u64]);
    }
    if let Some(amber) = plan.amber_thread(task.pid, task.pid) {
        amber::thread(amber, script, data)?;
    }
    core::sched(leader.thread_core(), facts, script, data)?;
    if let Some(t) = &tc.timers {
        timers::create(task.pid, &t.posix, facts, script, data)?;
    }
    core::membarrier(task, script);
    script.stage(Stage::RestoreSigchld);

    // All tasks have mapped what they map; a seal would have been in their way.
    for (fd, seals) in &late.seals {
        let args = [*fd as u64, libc::F_ADD_SEALS as u64, (*seals).into()];
        script.call(What::Files, libc::SYS_fcntl, args);
    }
    let (first, end) = late.close;
    let args = [first as u64, end as u64 - 1, 0];
    script.call(What::Files, libc::SYS_close_range, args);
    children(plan, process, script);
    sigacts::sigchld(&[], script, data)?;
    script.op(What::SignalQueue, Op::DrainSignals, []);
    sigacts::sigchld(&tc.sigactions, script, data)?;
    signals::shared(task.pid, tc.signals_s.as_ref(), script, data)?;
    let private = leader.thread_core().signals_p.as_ref();
    signals::private(task.pid, task.pid, private, script, data)?;
    script.stage(Stage::RestoreCreds);
    Ok(())
}

/// Waits for the children that only had to live until now.
fn children(plan: &Plan<'_>, process: &Process, script: &mut Script) {
    let wall = libc::__WALL as u64;
    for i in process.early.iter().chain(&process.late) {
        let child = &plan.tree.processes[*i];
        let pid = child.pid.into();
        match child.role {
            Role::Live(_) => {}
            // Reaped, and its number is free again.
            Role::Helper => {
                script.call_expecting(What::Child, libc::SYS_wait4, [pid, 0, wall, 0], pid);
            }
            // Dead, and left for the task to wait for.
            Role::Zombie(_) => {
                let how = (libc::WEXITED | libc::WNOWAIT | libc::__WALL) as u64;
                script.call(What::Child, libc::SYS_waitid, [libc::P_PID.into(), pid, 0, how, 0]);
            }
        }
    }
}

/// What segments of System V get once everybody has attached them.
fn segments(plan: &Plan<'_>, script: &mut Script) {
    const SHM_LOCK: u64 = 11;
    for id in ns::ipc::locked(plan.cp) {
        script.call(What::Lock, libc::SYS_shmctl, [id.into(), SHM_LOCK, 0]);
    }
    for id in ns::ipc::removed(plan.cp) {
        script.call(What::Vma, libc::SYS_shmctl, [id.into(), libc::IPC_RMID as u64, 0]);
    }
}

/// The leader once everything is traced: what cannot be undone by itself any more.
fn leader_last(
    plan: &Plan<'_>,
    process: &Process,
    (task, live): (&Task, &Live),
    late: &Late,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Error> {
    let tc = task.tc();
    if process.parent.is_none() {
        segments(plan, script);
    }
    if let Some(amber) = plan.amber.get(&task.pid) {
        amber::lock_future(amber, script);
        amber::sem_undo(amber, script, data)?;
    }
    // Nothing but the task's own descriptors is open any more, in any task.
    let who = (task.pid.cast_signed(), plan.facts.creds.uids[3]);
    file_lock::steps(&plan.files, who, &late.lease_owners, script, data)?;
    if let Some(limits) = &tc.rlimits {
        rlimits::steps(&limits.rlimits, &plan.facts, script, data)?;
    }
    if let Some(t) = &tc.timers {
        timers::arm(t, script, data)?;
    }
    last_stage(plan, task, task.leader(), script, data)?;
    if let Some(amber) = plan.amber.get(&task.pid) {
        amber::seals(amber, script);
    }
    core::process_after_creds(task, live.mm.dumpable, script);
    script.park();
    Ok(())
}
