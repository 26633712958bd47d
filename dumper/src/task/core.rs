//! `core-PID.img`: everything about a thread, and about its process in the leader's.

use crate::Error;
use crate::ns::user::Maps;
use crate::task::cgroup::Sets;
use crate::task::creds;
use crate::task::lsm::Lsm;
use crate::task::seccomp::{Filters, MODE_FILTER};
use crate::task::{rlimits, rseq, signals, timers, x86};
use crate::tree::{State, Task, Thread};
use images::proto::core_entry::March;
use images::proto::{
    AmberTaskEntry, AmberThreadEntry, CoreEntry, TaskCoreEntry, ThreadCoreEntry, ThreadSasEntry,
};
use parasite::proc::{self, Status};
use parasite::{Process, Restart};
use std::sync::OnceLock;
use sys::task as kernel;

/// States as the images number them.
mod state {
    pub(super) const ALIVE: u32 = 1;
    pub(super) const DEAD: u32 = 2;
    pub(super) const STOPPED: u32 = 3;
}

const SCHED_DEADLINE: u32 = 6;
const RESET_ON_FORK: u32 = 0x4000_0000;
/// `SCHED_FLAG_RESET_ON_FORK` of `sched_getattr`.
const FLAG_RESET_ON_FORK: u64 = 1;

/// What all tasks of a dump have in common.
pub(crate) struct Common {
    /// Filters of all threads.
    pub filters: Filters,
    /// Who labels tasks.
    pub lsm: Lsm,
    /// `sched_getaffinity` of a thread that was never restricted.
    pub all_cpus: &'static [u8],
    /// Ids as they are inside.
    pub maps: Maps,
}

/// What `sched_getaffinity` says for a thread that may run anywhere; asked once.
pub(crate) fn all_cpus() -> Result<&'static [u8], Error> {
    static ALL: OnceLock<Vec<u8>> = OnceLock::new();
    if ALL.get().is_none() {
        let _ = ALL.set(possible_cpus()?);
    }
    Ok(ALL.get().map_or(&[], Vec::as_slice))
}

fn possible_cpus() -> Result<Vec<u8>, Error> {
    let path = "/sys/devices/system/cpu/possible";
    let text = std::fs::read_to_string(path).map_err(|e| Error::Sys(sys::Error::io(path, &e)))?;
    let mut mask = kernel::affinity(0)?;
    mask.fill(0);
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else {
            continue;
        };
        for cpu in first..=last {
            if let Some(byte) = mask.get_mut(cpu / 8) {
                *byte |= 1 << (cpu % 8);
            }
        }
    }
    Ok(mask)
}

/// Core images of a task's threads, the leader's first, and what CRIU's images cannot hold.
pub(crate) struct Cores {
    /// By virtual tid.
    pub threads: Vec<(i32, CoreEntry)>,
    /// Threads' and process's further state.
    pub amber: AmberTaskEntry,
}

/// Collects the cores of a task.
pub(crate) fn collect(
    task: &Task,
    process: &mut Process,
    sets: &Sets,
    common: &mut Common,
) -> Result<Cores, Error> {
    if let State::Zombie(exit_code) = task.state {
        let mut tc = tc(task, state::DEAD)?;
        tc.exit_code = exit_code;
        let core = CoreEntry { mtype: March::X8664.into(), tc: Some(tc), ..CoreEntry::default() };
        let amber = AmberTaskEntry::default();
        return Ok(Cores { threads: vec![(task.vpid, core)], amber });
    }
    let mut amber = process_extras(task)?;
    let mut threads = Vec::with_capacity(task.threads.len());
    for (thread, held) in task.threads.iter().zip(&mut process.threads) {
        let (mut core, extras) =
            one_thread(task, thread, held, common).map_err(Error::on(thread.tid))?;
        if let Some(core) = &mut core.thread_core {
            core.cg_set = Some(sets.of(thread.tid));
        }
        if extras != (AmberThreadEntry { tid: extras.tid, ..AmberThreadEntry::default() }) {
            amber.threads.push(extras);
        }
        threads.push((thread.vtid, core));
    }
    let leader = &mut threads[0].1;
    let mut tc = alive_tc(task, process, &common.maps)?;
    tc.blk_sigset = process.threads[0].saved()?.mask;
    leader.tc = Some(tc);
    Ok(Cores { threads, amber })
}

fn tc(task: &Task, task_state: u32) -> Result<TaskCoreEntry, Error> {
    Ok(TaskCoreEntry {
        task_state,
        exit_code: 0,
        // CRIU writes a number here that it misreads and never restores: see amber.proto.
        personality: 0,
        flags: task.stat.flags,
        comm: task.status.comm(),
        timers: Some(timers::entry(&Default::default(), &[], |_| None)?),
        rlimits: Some(Default::default()),
        ..TaskCoreEntry::default()
    })
}

fn alive_tc(task: &Task, process: &Process, maps: &Maps) -> Result<TaskCoreEntry, Error> {
    let (task_state, stop_signo) = match task.state {
        State::Stopped(signo) => (state::STOPPED, Some(signo as u32)),
        _ => (state::ALIVE, None),
    };
    let inside = &task.inside;
    let vtid = |tid: i32| task.threads.iter().find(|t| t.tid == tid).map(|t| t.vtid);
    let status = process.status();
    let loginuid = number::<u32>(task.pid, "loginuid")?;
    Ok(TaskCoreEntry {
        timers: Some(timers::entry(&inside.itimers, &inside.posix_timers, vtid)?),
        rlimits: Some(rlimits::entry(task.pid)?),
        signals_s: Some(signals::queue(task.pid, status.shd_pnd, true)?),
        loginuid: loginuid.map(|uid| if uid == u32::MAX { uid } else { maps.uid(uid) }),
        oom_score_adj: number(task.pid, "oom_score_adj")?,
        sigactions: inside.sigactions.clone(),
        child_subreaper: Some(inside.child_subreaper),
        membarrier_registration_mask: (inside.membarrier != 0).then_some(inside.membarrier),
        stop_signo,
        ..tc(task, task_state)?
    })
}

/// The number in a file of `/proc/PID`; `None` where the kernel has no such file.
fn number<T: std::str::FromStr>(pid: i32, name: &'static str) -> Result<Option<T>, Error> {
    let path = format!("/proc/{pid}/{name}");
    match proc::read(&path) {
        Ok(text) => match String::from_utf8_lossy(&text).trim().parse() {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(proc::Error::Field { path: path.into(), field: name }.into()),
        },
        Err(e) if e.is_gone() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// A call that is on its way again after an earlier stop is only known as `restart_syscall`: the
/// code in front of it tells which it was, where that is code as of the C library.
fn restarted(tid: i32, regs: &sys::ptrace::Regs, nr: u64) -> u64 {
    let mut code = [0; 7];
    let is_again = nr == libc::SYS_restart_syscall as u64;
    if !is_again || sys::vm::read_exact(tid, regs.rip.wrapping_sub(7), &mut code).is_err() {
        return nr;
    }
    let mut stack = [0; 128];
    let stack = match sys::vm::read_exact(tid, regs.rsp, &mut stack) {
        Ok(()) => stack.as_chunks().0.iter().map(|w| u64::from_ne_bytes(*w)).collect(),
        Err(_) => Vec::new(),
    };
    call_of(&code, &stack).unwrap_or(nr)
}

/// The number of the call that `code` makes, if it is one that can be on its way again.
fn call_of(code: &[u8; 7], stack: &[u64]) -> Option<u64> {
    const RESTARTABLE: [i64; 4] =
        [libc::SYS_poll, libc::SYS_nanosleep, libc::SYS_futex, libc::SYS_clock_nanosleep];
    let restartable = |nr: &u64| RESTARTABLE.contains(&nr.cast_signed());
    match *code {
        // mov $NR, %eax; syscall
        [0xb8, a, b, c, d, 0x0f, 0x05] => Some(u32::from_le_bytes([a, b, c, d]).into()),
        // mov AT(%rsp), %rax; syscall: glibc from 2.41 on, with one thread.
        [0x48, 0x8b, 0x44, 0x24, at, 0x0f, 0x05] => stack.get(usize::from(at) / 8).copied(),
        // mov %r11, 8(%rsp); syscall: the same with several. The number is in the caller's frame,
        // behind what was kept for it and the way back.
        [0x4c, 0x89, 0x5c, 0x24, 8, 0x0f, 0x05] => {
            stack.iter().skip(3).find(|w| restartable(w)).copied()
        }
        _ => None,
    }
    .filter(restartable)
}

fn one_thread(
    task: &Task,
    thread: &Thread,
    held: &mut parasite::Thread,
    common: &mut Common,
) -> Result<(CoreEntry, AmberThreadEntry), Error> {
    let tid = thread.tid;
    let inside = &thread.inside;
    let status = held.status.clone();
    let saved = held.saved()?;
    let info = x86::thread_info(saved, inside.clear_tid_addr)?;
    let restart_call = Restart::lost_call(&saved.regs).map(|nr| restarted(tid, &saved.regs, nr));
    let (futex_rla, futex_rla_len) = kernel::robust_list(tid)?;
    let attr = kernel::sched_attr(tid)?;
    if attr.policy == SCHED_DEADLINE {
        return Err(Error::Refused("SCHED_DEADLINE, whose parameters have no image".into()));
    }
    let reset = if attr.flags & FLAG_RESET_ON_FORK != 0 { RESET_ON_FORK } else { 0 };
    let sas = inside.sas;
    let labels = (common.lsm.label(task.pid, tid), common.lsm.sockcreate(task.pid, tid));
    let core = ThreadCoreEntry {
        futex_rla,
        futex_rla_len: futex_rla_len as u32,
        sched_nice: Some(attr.nice),
        sched_policy: Some(attr.policy | reset),
        sched_prio: (attr.priority != 0).then_some(attr.priority),
        blk_sigset: (tid != task.pid).then_some(saved.mask),
        sas: Some(ThreadSasEntry { ss_sp: sas.0, ss_size: sas.1, ss_flags: sas.2 }),
        pdeath_sig: (inside.pdeath_sig != 0).then_some(inside.pdeath_sig),
        signals_p: Some(signals::queue(tid, status.sig_pnd, false)?),
        creds: Some(creds::entry(&status, &common.maps, inside.securebits, labels)),
        seccomp_mode: (status.seccomp != 0).then_some(status.seccomp as i32),
        seccomp_filter: match status.seccomp {
            MODE_FILTER => Some(common.filters.add(tid)?),
            _ => None,
        },
        comm: Some(status.comm()),
        rseq_entry: rseq::entry(saved),
        ..ThreadCoreEntry::default()
    };
    let entry = CoreEntry {
        mtype: March::X8664.into(),
        thread_info: Some(info),
        thread_core: Some(core),
        ..CoreEntry::default()
    };
    refuse_memory_modes(&status)?;
    let extras = thread_extras(thread, &attr, common)?;
    Ok((entry, AmberThreadEntry { restart_call, ..extras }))
}

/// Modes of the address space that would change what pointers mean.
fn refuse_memory_modes(status: &Status) -> Result<(), Error> {
    match status.untag_mask {
        None | Some(u64::MAX) => Ok(()),
        Some(mask) => Err(Error::Refused(format!(
            "tagged addresses are on (untag_mask {mask:#x}), which has no image"
        ))),
    }
}

/// `PR_SPEC_PRCTL` and `PR_SPEC_ENABLE`: may be changed, and nobody did.
const SPEC_DEFAULT: u32 = 3;
const DEFAULT_TIMERSLACK: u64 = 50_000;

fn thread_extras(
    thread: &Thread,
    attr: &kernel::SchedAttr,
    common: &Common,
) -> Result<AmberThreadEntry, Error> {
    let affinity = kernel::affinity(thread.tid)?;
    let ioprio = kernel::ioprio(thread.tid)? as u32;
    let slack = thread.inside.timerslack;
    // Only what was set by prctl is the task's own choice.
    let set = |s: u32| (s & 1 != 0 && s != SPEC_DEFAULT).then_some(s & !1);
    let [ssb, ibs, l1d] = thread.inside.speculation;
    // L1D flush is off unless asked for.
    let l1d = (l1d & 1 != 0 && l1d & 2 != 0).then_some(l1d & !1);
    Ok(AmberThreadEntry {
        tid: thread.vtid as u32,
        affinity: (affinity != common.all_cpus).then_some(affinity),
        ioprio: (ioprio >> 13 != 0).then_some(ioprio),
        timerslack: (slack != DEFAULT_TIMERSLACK && slack != 0).then_some(slack),
        spec_store_bypass: set(ssb),
        spec_indirect_branch: set(ibs),
        spec_l1d_flush: l1d,
        util_min: (attr.util_min != 0).then_some(attr.util_min),
        util_max: (attr.util_max != 0 && attr.util_max != 1024).then_some(attr.util_max),
        restart_call: None,
        mempolicy: (thread.inside.mempolicy.0 != 0).then_some(thread.inside.mempolicy.0),
        mempolicy_nodes: (thread.inside.mempolicy.0 != 0)
            .then(|| thread.inside.mempolicy.1.clone()),
        selinux: common.lsm.creates(thread.tid),
    })
}

const DEFAULT_COREDUMP_FILTER: u32 = 0x33;
const PR_TSC_ENABLE: u32 = 1;
const PR_MCE_KILL_DEFAULT: u32 = 2;

fn process_extras(task: &Task) -> Result<AmberTaskEntry, Error> {
    tell_autogroup(task);
    let inside = &task.inside;
    let hex = |name: &str| -> Result<Option<u32>, Error> {
        match proc::read(format!("/proc/{}/{name}", task.pid)) {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text);
                Ok(u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok())
            }
            Err(e) if e.is_gone() => Ok(None),
            Err(e) => Err(e.into()),
        }
    };
    Ok(AmberTaskEntry {
        coredump_filter: hex("coredump_filter")?.filter(|&f| f != DEFAULT_COREDUMP_FILTER),
        mdwe: (inside.mdwe != 0).then_some(inside.mdwe),
        memory_merge: inside.memory_merge.then_some(true),
        tsc: (inside.tsc > PR_TSC_ENABLE).then_some(inside.tsc),
        mce_kill: (inside.mce_kill != PR_MCE_KILL_DEFAULT).then_some(inside.mce_kill),
        io_flusher: inside.io_flusher.then_some(true),
        thp_disable: (inside.thp_disable > 1).then_some(inside.thp_disable),
        personality: hex("personality")?.filter(|&p| p != 0),
        lock_future: (inside.lock_future != 0).then_some(inside.lock_future),
        exit_signal: exit_signal(task),
        sem_undo: inside.sem_undo.clone(),
        ..AmberTaskEntry::default()
    })
}

/// The nice value of a session among others: `/autogroup-12 nice 7`.
fn tell_autogroup(task: &Task) {
    if task.sid != task.vpid {
        return;
    }
    let Ok(text) = proc::read(format!("/proc/{}/autogroup", task.pid)) else { return };
    let text = String::from_utf8_lossy(&text);
    let nice = text.trim().rsplit(' ').next().and_then(|n| n.parse::<i32>().ok());
    if let Some(nice) = nice.filter(|n| *n != 0) {
        log::warn!(
            "task {}: the nice value of its session's autogroup, {nice}, is not saved",
            task.pid
        );
    }
}

/// What its parent hears of its end; the root's parent is another after a restore.
fn exit_signal(task: &Task) -> Option<u32> {
    let signal = task.stat.exit_signal;
    (task.ppid != 0 && signal != libc::SIGCHLD).then_some(signal.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::call_of;

    #[test]
    fn the_code_tells_which_call_is_on_its_way_again() {
        let code = |bytes: [u8; 5]| {
            let [a, b, c, d, e] = bytes;
            [a, b, c, d, e, 0x0f, 0x05]
        };
        let stack = [1, 7, 0, 0x7fff_1234, 0x40_1000, 230, 35];
        assert_eq!(call_of(&code([0xb8, 0xe6, 0, 0, 0]), &[]), Some(230));
        assert_eq!(call_of(&code([0xb8, 1, 0, 0, 0]), &[]), None, "write(2) is not");
        assert_eq!(call_of(&code([0x48, 0x89, 0xd0, 0x90, 0x90]), &stack), None);
        assert_eq!(call_of(&code([0x48, 0x8b, 0x44, 0x24, 8]), &stack), Some(7));
        assert_eq!(call_of(&code([0x48, 0x8b, 0x44, 0x24, 0]), &stack), None);
        assert_eq!(call_of(&code([0x48, 0x8b, 0x44, 0x24, 0x80]), &stack), None);
        assert_eq!(call_of(&code([0x4c, 0x89, 0x5c, 0x24, 8]), &stack), Some(230));
        assert_eq!(call_of(&code([0x4c, 0x89, 0x5c, 0x24, 8]), &[]), None);
    }
}
