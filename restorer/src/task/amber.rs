//! `task-PID.amber`: state that CRIU's images have no room for.
//!
//! Absent in images of CRIU; a task restores without it as CRIU would restore it.

use crate::facts::Facts;
use crate::script::{Data, Full, Script};
use images::proto::{AmberTaskEntry, AmberThreadEntry, AmberVmaEntry, VmaEntry};
use parasite_abi::restore::What;

const IOPRIO_WHO_PROCESS: u64 = 1;
const PR_SET_MDWE: u64 = 65;
const PR_SET_MEMORY_MERGE: u64 = 67;
const PR_SET_IO_FLUSHER: u64 = 57;
const PR_SET_VMA: u64 = 0x5356_4d41;
const PR_SET_SPECULATION_CTRL: u64 = 53;
const SYS_MSEAL: i64 = 462;
/// `SCHED_FLAG_KEEP_ALL`, `SCHED_FLAG_UTIL_CLAMP_MIN`, `SCHED_FLAG_UTIL_CLAMP_MAX`.
const KEEP_ALL: u64 = 0x18;
const CLAMP_MIN: u64 = 0x20;
const CLAMP_MAX: u64 = 0x40;

fn prctl(script: &mut Script, option: u64, a: u64, b: u64) {
    script.call(What::Prctl, libc::SYS_prctl, [option, a, b, 0, 0]);
}

/// What new threads inherit, so that it is set before there are any.
pub(crate) fn before_threads(task: &AmberTaskEntry, script: &mut Script) {
    if let Some(tsc) = task.tsc {
        prctl(script, libc::PR_SET_TSC as u64, tsc.into(), 0);
    }
    if let Some(policy) = task.mce_kill {
        prctl(script, libc::PR_MCE_KILL as u64, libc::PR_MCE_KILL_SET as u64, policy.into());
    }
    if task.io_flusher == Some(true) {
        prctl(script, PR_SET_IO_FLUSHER, 1, 0);
    }
    if task.memory_merge == Some(true) {
        prctl(script, PR_SET_MEMORY_MERGE, 1, 0);
    }
    if let Some(personality) = task.personality {
        script.call(What::Prctl, libc::SYS_personality, [personality.into()]);
    }
}

/// Tells of processors and nodes that threads are bound to and that are not here.
pub(crate) fn tell(task: u32, entry: &AmberTaskEntry, facts: &Facts) {
    let beyond = |wanted: &[u8], here: &[u8]| {
        let extra = |(at, w): (usize, &u8)| w & !here.get(at).copied().unwrap_or(0) != 0;
        !here.is_empty() && wanted.iter().enumerate().any(extra)
    };
    for thread in &entry.threads {
        for (what, wanted, here) in [
            ("processors (affinity)", thread.affinity(), &facts.cpus),
            ("NUMA nodes (memory policy)", thread.mempolicy_nodes(), &facts.nodes),
        ] {
            if beyond(wanted, here) {
                let tid = thread.tid;
                log::warn!("task {task}: thread {tid} is bound to {what} that are not all here");
            }
        }
    }
}

/// Where memory is taken from: before there is any, so that what is restored lies there too.
/// EINVAL: none of those nodes is here.
pub(crate) fn mempolicy(
    entry: &AmberThreadEntry,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    let Some(mode) = entry.mempolicy else { return Ok(()) };
    let mut nodes = entry.mempolicy_nodes().to_vec();
    nodes.resize(nodes.len().next_multiple_of(8), 0);
    // The kernel counts one bit less than it is told.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() as u64 * 8 + 1 };
    let nodes = if nodes.is_empty() { 0 } else { data.put(&nodes)? };
    let args = [mode.into(), nodes, bits];
    script.call_or(What::Sched, libc::SYS_set_mempolicy, args, libc::EINVAL);
    Ok(())
}

/// New threads have the leader's policy.
pub(crate) fn no_mempolicy(script: &mut Script) {
    script.call_may_fail(What::Sched, libc::SYS_set_mempolicy, [0, 0, 0]);
}

/// Locks what will be mapped from now on; while there is the right to.
pub(crate) fn lock_future(task: &AmberTaskEntry, script: &mut Script) {
    if let Some(flags) = task.lock_future {
        script.call(What::Lock, libc::SYS_mlockall, [flags.into()]);
    }
}

/// What semaphores get back when the task ends: operations that together change nothing, of which
/// one is to be undone.
pub(crate) fn sem_undo(
    task: &AmberTaskEntry,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    const MAX: i32 = 32767;
    for entry in &task.sem_undo {
        let operation = |by: i32, flags: i32| {
            let half = |v: i32| (v as i16).to_le_bytes();
            [half(entry.num as i32), half(by), half(flags | libc::IPC_NOWAIT)].concat()
        };
        let undone = operation(-entry.undo, libc::SEM_UNDO);
        let back = operation(entry.undo, 0);
        // The value stays within its range on the way.
        let up_first = entry.value as i32 + entry.undo.abs() <= MAX;
        let both = if (entry.undo > 0) == up_first { [back, undone] } else { [undone, back] };
        let both = data.put(&both.concat())?;
        script.call(What::Other, libc::SYS_semop, [entry.semid.into(), both, 2]);
    }
    Ok(())
}

/// State of one thread, set by itself.
pub(crate) fn thread(
    entry: &AmberThreadEntry,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    if let Some(mask) = &entry.affinity {
        let len = mask.len() as u64;
        let mask = data.put(mask)?;
        // EINVAL: none of those CPUs is here.
        let args = [0, len, mask];
        script.call_or(What::Sched, libc::SYS_sched_setaffinity, args, libc::EINVAL);
    }
    if let Some(priority) = entry.ioprio {
        let args = [IOPRIO_WHO_PROCESS, 0, priority.into()];
        script.call(What::Sched, libc::SYS_ioprio_set, args);
    }
    if let Some(slack) = entry.timerslack {
        prctl(script, libc::PR_SET_TIMERSLACK as u64, slack, 0);
    }
    let controls = [entry.spec_store_bypass, entry.spec_indirect_branch, entry.spec_l1d_flush];
    for (which, control) in controls.iter().enumerate() {
        if let Some(control) = control {
            // Another CPU may not need or not have it.
            let args = [PR_SET_SPECULATION_CTRL, which as u64, (*control).into(), 0, 0];
            script.call_may_fail(What::Prctl, libc::SYS_prctl, args);
        }
    }
    if entry.util_min.is_some() || entry.util_max.is_some() {
        let flags = KEEP_ALL
            | if entry.util_min.is_some() { CLAMP_MIN } else { 0 }
            | if entry.util_max.is_some() { CLAMP_MAX } else { 0 };
        let clamps =
            u64::from(entry.util_min.unwrap_or(0)) | u64::from(entry.util_max.unwrap_or(0)) << 32;
        data.align(8);
        // struct sched_attr: size and policy, flags, nice and priority, deadline times, clamps.
        let attr = data.put_u64s(&[56, flags, 0, 0, 0, 0, clamps])?;
        script.call(What::Sched, libc::SYS_sched_setattr, [0, attr, 0]);
    }
    Ok(())
}

/// What is special about VMAs, but for seals; after contents and protection.
pub(crate) fn vmas(
    entries: &[AmberVmaEntry],
    all: &[VmaEntry],
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    let keys: Vec<u32> = entries.iter().filter_map(|v| v.pkey).filter(|k| *k != 0).collect();
    let top = keys.iter().max().copied().unwrap_or(0);
    for key in 1..=top {
        // A new address space gives them out in order.
        let key = u64::from(key);
        script.call_expecting(What::Protect, libc::SYS_pkey_alloc, [0, 0], key);
    }
    for unused in (1..top).filter(|k| !keys.contains(k)) {
        script.call(What::Protect, libc::SYS_pkey_free, [unused.into()]);
    }
    for v in entries {
        let len = v.end - v.start;
        if let Some(key) = v.pkey.filter(|k| *k != 0) {
            let within = all.iter().filter(|a| a.start < v.end && v.start < a.end);
            for a in within {
                let (from, to) = (a.start.max(v.start), a.end.min(v.end));
                let args = [from, to - from, a.prot.into(), key.into()];
                script.call(What::Protect, libc::SYS_pkey_mprotect, args);
            }
        }
        if let Some(name) = &v.anon_name {
            let mut text = name.clone();
            text.push(0);
            let text = data.put(&text)?;
            let args = [PR_SET_VMA, 0, v.start, len, text];
            script.call_or(What::Vma, libc::SYS_prctl, args, libc::EINVAL);
        }
    }
    Ok(())
}

/// Whether a VMA is locked page by page as pages come.
pub(crate) fn locked_on_fault(entries: &[AmberVmaEntry], vma: &VmaEntry) -> bool {
    let covers = |v: &&AmberVmaEntry| v.start <= vma.start && vma.end <= v.end;
    entries.iter().filter(covers).any(|v| v.lock_on_fault == Some(true))
}

/// What forbids changes of memory: when there are none to come.
pub(crate) fn seals(task: &AmberTaskEntry, script: &mut Script) {
    for v in task.vmas.iter().filter(|v| v.sealed == Some(true)) {
        script.call(What::Protect, SYS_MSEAL, [v.start, v.end - v.start, 0]);
    }
    if let Some(mdwe) = task.mdwe {
        prctl(script, PR_SET_MDWE, mdwe.into(), 0);
    }
}

/// The flags besides on and off of `PR_SET_THP_DISABLE`.
pub(crate) fn thp_flags(task: Option<&AmberTaskEntry>) -> u64 {
    task.and_then(|t| t.thp_disable).map_or(0, |value| u64::from(value & !1))
}

/// The personality in an image of CRIU: a decimal parser went over the hexadecimal text of
/// `/proc/PID/personality`, so its digits are those of the hexadecimal number, up to the first
/// letter. What then is no known flag was cut by one.
pub(crate) fn personality_of_criu(field: u32) -> Option<u32> {
    /// UNAME26 ... ADDR_LIMIT_3GB of `<linux/personality.h>`.
    const KNOWN: u32 = 0x0ffe_0000;
    let value = u32::from_str_radix(&field.to_string(), 16).ok()?;
    (value != 0 && value & !KNOWN == 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_of_a_personality_are_hexadecimal() {
        assert_eq!(personality_of_criu(0), None);
        assert_eq!(personality_of_criu(40000), Some(0x4_0000));
        assert_eq!(personality_of_criu(1_040_000), Some(0x104_0000));
    }

    #[test]
    fn a_personality_that_was_cut_is_not_taken() {
        assert_eq!(personality_of_criu(10000), None);
        assert_eq!(personality_of_criu(4), None);
    }
}
