//! Pending signals: `tc.signals_s` of the process, `thread_core.signals_p` of a thread.
//!
//! The kernel lets a thread queue any `si_code` only to itself, so each does it on its own; all
//! signals are blocked meanwhile.

use crate::script::{Data, Full, Script};
use images::proto::SignalQueueEntry;
use parasite_abi::restore::What;

fn signo(info: &[u8]) -> u64 {
    info.first_chunk::<4>().map_or(0, |b| u32::from_le_bytes(*b).into())
}

/// Queues the signals of the process; the leader's steps.
pub(crate) fn shared(
    pid: u32,
    queue: Option<&SignalQueueEntry>,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    for s in queue.iter().flat_map(|q| &q.signals) {
        let info = data.put(&s.siginfo)?;
        let args = [pid.into(), signo(&s.siginfo), info];
        script.call(What::SignalQueue, libc::SYS_rt_sigqueueinfo, args);
    }
    Ok(())
}

/// Queues the signals of one thread; its own steps.
pub(crate) fn private(
    pid: u32,
    tid: u32,
    queue: Option<&SignalQueueEntry>,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    for s in queue.iter().flat_map(|q| &q.signals) {
        let info = data.put(&s.siginfo)?;
        let args = [pid.into(), tid.into(), signo(&s.siginfo), info];
        script.call(What::SignalQueue, libc::SYS_rt_tgsigqueueinfo, args);
    }
    Ok(())
}
