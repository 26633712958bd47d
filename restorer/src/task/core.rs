//! What a thread or a process sets for itself by one system call each (`core.img`).

use crate::facts::Facts;
use crate::script::{Data, Full, Script};
use images::checkpoint::{Task, Thread};
use images::proto::ThreadCoreEntry;
use parasite_abi::restore::What;

const SS_ONSTACK: u32 = 1;
const PR_SET_THP_DISABLE: u64 = 41;

/// State of one thread that new ones do not inherit.
pub(crate) fn thread(
    thread: &Thread,
    comm: &[u8],
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    let core = thread.thread_core();
    if let Some(info) = &thread.core.thread_info {
        // Answers the tid; libc's join waits for this word to be cleared.
        script.call(What::Thread, libc::SYS_set_tid_address, [info.clear_tid_addr]);
    }
    if core.futex_rla_len != 0 {
        let args = [core.futex_rla, core.futex_rla_len.into()];
        script.call(What::RobustList, libc::SYS_set_robust_list, args);
    }
    if let Some(sas) = &core.sas {
        data.align(8);
        // The kernel works SS_ONSTACK out from the stack pointer.
        let flags = u64::from(sas.ss_flags & !SS_ONSTACK);
        if flags & libc::SS_DISABLE as u64 == 0 {
            let stack = data.put_u64s(&[sas.ss_sp, flags, sas.ss_size])?;
            script.call(What::Sigaltstack, libc::SYS_sigaltstack, [stack, 0]);
        }
    }
    let mut name = [0u8; 16];
    let len = comm.len().min(15);
    name[..len].copy_from_slice(&comm[..len]);
    let name = data.put(&name)?;
    script.call(What::Comm, libc::SYS_prctl, [libc::PR_SET_NAME as u64, name, 0, 0, 0]);
    if let Some(rseq) = core.rseq_entry.as_ref().filter(|r| r.rseq_abi_pointer != 0) {
        let args = [rseq.rseq_abi_pointer, rseq.rseq_abi_size.into(), 0, rseq.signature.into()];
        script.call(What::Rseq, libc::SYS_rseq, args);
    }
    Ok(())
}

/// Scheduling of one thread. New threads inherit it, so the leader does this after they exist.
pub(crate) fn sched(
    core: &ThreadCoreEntry,
    facts: &Facts,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    if let Some(nice) = core.sched_nice.filter(|n| *n != facts.nice) {
        let nice = i64::from(nice).cast_unsigned();
        script.call(What::Sched, libc::SYS_setpriority, [libc::PRIO_PROCESS as u64, 0, nice]);
    }
    if let Some(policy) = core.sched_policy.filter(|p| *p != facts.sched_policy) {
        let priority = data.put(&core.sched_prio.unwrap_or(0).to_le_bytes())?;
        // With SCHED_RESET_ON_FORK where it was.
        script.call(What::Sched, libc::SYS_sched_setscheduler, [0, policy.into(), priority]);
    }
    Ok(())
}

/// Registrations for membarrier(2), by the bits that the kernel reported.
pub(crate) fn membarrier(task: &Task, script: &mut Script) {
    let mask = task.tc().membarrier_registration_mask.unwrap_or(0);
    for bit in (0..32).filter(|b| mask >> b & 1 != 0) {
        script.call(What::Membarrier, libc::SYS_membarrier, [1 << bit, 0, 0]);
    }
}

/// Transparent huge pages off for the whole address space, with flags of Linux 6.18.
pub(crate) fn thp(disabled: bool, flags: u64, script: &mut Script) {
    if disabled || flags != 0 {
        script.call(What::Thp, libc::SYS_prctl, [PR_SET_THP_DISABLE, 1, flags, 0, 0]);
    }
}

/// What a change of credentials would reset, and thus comes after it; per thread.
pub(crate) fn after_creds(core: &ThreadCoreEntry, script: &mut Script) {
    let signo = core.pdeath_sig.unwrap_or(0).into();
    if signo != 0 {
        let args = [libc::PR_SET_PDEATHSIG as u64, signo, 0, 0, 0];
        script.call(What::Prctl, libc::SYS_prctl, args);
    }
}

/// Likewise, per process.
pub(crate) fn process_after_creds(task: &Task, dumpable: Option<i32>, script: &mut Script) {
    // 2 ("only root") cannot be set from inside; 0 is what comes nearest.
    let dumpable = u64::from(dumpable.unwrap_or(1) == 1);
    let args = [libc::PR_SET_DUMPABLE as u64, dumpable, 0, 0, 0];
    script.call(What::Prctl, libc::SYS_prctl, args);
    let subreaper = task.tc().child_subreaper.unwrap_or(false).into();
    let args = [libc::PR_SET_CHILD_SUBREAPER as u64, subreaper, 0, 0, 0];
    script.call(What::Prctl, libc::SYS_prctl, args);
}
