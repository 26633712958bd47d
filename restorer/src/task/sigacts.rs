//! Signal dispositions (`tc.sigactions`).

use crate::script::{Data, Full, Script};
use images::proto::SaEntry;
use parasite_abi::restore::What;

/// The signals whose actions are in the image, in its order.
fn signals() -> impl Iterator<Item = u64> {
    (1..=64).filter(|s| *s != libc::SIGKILL as u64 && *s != libc::SIGSTOP as u64)
}

/// Puts the kernel's `struct sigaction` and the call that installs it.
fn install(signo: u64, sa: &SaEntry, script: &mut Script, data: &mut Data<'_>) -> Result<(), Full> {
    data.align(8);
    // The kernel's order is not libc's.
    let addr = data.put_u64s(&[sa.sigaction, sa.flags, sa.restorer, sa.mask])?;
    script.call(What::Sigaction, libc::SYS_rt_sigaction, [signo, addr, 0, 8]);
    Ok(())
}

/// Installs all but SIGCHLD's, as children of the restore still have to die.
pub(crate) fn steps(
    actions: &[SaEntry],
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    for (signo, sa) in signals().zip(actions).filter(|(s, _)| *s != libc::SIGCHLD as u64) {
        install(signo, sa, script, data)?;
    }
    Ok(())
}

/// Installs SIGCHLD's.
pub(crate) fn sigchld(
    actions: &[SaEntry],
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    match signals().zip(actions).find(|(s, _)| *s == libc::SIGCHLD as u64) {
        Some((signo, sa)) => install(signo, sa, script, data),
        None => Ok(()),
    }
}
