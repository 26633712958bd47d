//! Seccomp (`seccomp.img`, `thread_core.seccomp_*`).
//!
//! The coordinator has suspended seccomp of the thread by ptrace when these steps run, so the
//! filters do not see what comes after them.

use crate::script::{Data, Full, Script};
use images::checkpoint::{Checkpoint, Task, Thread};
use images::proto::{SeccompMode, ThreadCoreEntry};
use parasite_abi::restore::What;

const SET_MODE_STRICT: u64 = 0;
const SET_MODE_FILTER: u64 = 1;

const FLAG_TSYNC: u64 = 1;

/// Whether all threads of a task had the same filters. They then have to be the same objects
/// again, else a later `SECCOMP_FILTER_FLAG_TSYNC` of the program fails: the leader installs them
/// for all.
pub(crate) fn common(cp: &Checkpoint, task: &Task) -> bool {
    let filter = |t: &&Thread| t.thread_core().seccomp_mode == Some(SeccompMode::Filter as i32);
    let chain = |t: &Thread| {
        cp.seccomp_chain(t.thread_core().seccomp_filter.unwrap_or(0))
            .map(|f| (&f.filter, f.flags))
            .collect::<Vec<_>>()
    };
    let first = chain(task.leader());
    task.threads.len() > 1 && task.threads.iter().all(|t| filter(&t) && chain(t) == first)
}

/// Whether the thread had any.
pub(crate) fn used(thread: &ThreadCoreEntry) -> bool {
    thread.seccomp_mode.is_some_and(|m| m != SeccompMode::Disabled as i32)
}

/// Installs the thread's filters, the oldest first.
pub(crate) fn steps(
    cp: &Checkpoint,
    thread: &ThreadCoreEntry,
    for_all: bool,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    match thread.seccomp_mode.map(SeccompMode::try_from) {
        Some(Ok(SeccompMode::Strict)) => {
            script.call(What::Seccomp, libc::SYS_seccomp, [SET_MODE_STRICT, 0, 0]);
        }
        Some(Ok(SeccompMode::Filter)) => {
            for filter in cp.seccomp_chain(thread.seccomp_filter.unwrap_or(0)) {
                let code = data.put(&filter.filter)?;
                data.align(8);
                // struct sock_fprog
                let program = data.put_u64s(&[filter.filter.len() as u64 / 8, code])?;
                let own = filter.flags.unwrap_or(0).into();
                let flags = if for_all { own | FLAG_TSYNC } else { own };
                let args = [SET_MODE_FILTER, flags, program];
                // With TSYNC a thread that could not follow is answered by its number.
                script.call_expecting(What::Seccomp, libc::SYS_seccomp, args, 0);
            }
        }
        _ => {}
    }
    Ok(())
}
