//! Seccomp (`seccomp.img`, `thread_core.seccomp_*`).
//!
//! The coordinator has suspended seccomp of the thread by ptrace when these steps run, so the
//! filters do not see what comes after them.

use crate::script::{Data, Full, Script};
use images::Checkpoint;
use images::proto::{SeccompMode, ThreadCoreEntry};
use parasite_abi::restore::What;

const SET_MODE_STRICT: u64 = 0;
const SET_MODE_FILTER: u64 = 1;

/// Whether the thread had any.
pub(crate) fn used(thread: &ThreadCoreEntry) -> bool {
    thread.seccomp_mode.is_some_and(|m| m != SeccompMode::Disabled as i32)
}

/// Installs the thread's filters, the oldest first.
pub(crate) fn steps(
    cp: &Checkpoint,
    thread: &ThreadCoreEntry,
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
                let flags = filter.flags.unwrap_or(0).into();
                let args = [SET_MODE_FILTER, flags, program];
                script.call(What::Seccomp, libc::SYS_seccomp, args);
            }
        }
        _ => {}
    }
    Ok(())
}
