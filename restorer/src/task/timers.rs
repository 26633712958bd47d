//! Interval timers and POSIX timers (`tc.timers`). They are made early and armed last.

use crate::facts::Facts;
use crate::script::{Data, Full, Script};
use images::proto::{ItimerEntry, PosixTimerEntry, TaskTimersEntry};
use parasite_abi::restore::{Op, What};

/// `prctl(PR_TIMER_CREATE_RESTORE_IDS)` (6.16).
pub(crate) const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
/// Size of the kernel's `struct sigevent`.
const SIGEVENT_LEN: usize = 64;

/// Makes the POSIX timers with their ids. Threads which they signal have to exist.
pub(crate) fn create(
    pid: u32,
    timers: &[PosixTimerEntry],
    facts: &Facts,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    if timers.is_empty() {
        return Ok(());
    }
    let prctl = |on| [PR_TIMER_CREATE_RESTORE_IDS as u64, on, 0, 0, 0];
    if facts.timer_ids {
        script.call(What::Timer, libc::SYS_prctl, prctl(1));
    }
    for t in timers {
        let clock = i64::from(t.clock_id.cast_signed()).cast_unsigned();
        let event = sigevent(pid, t, data)?;
        if facts.timer_ids {
            data.align(8);
            let id = data.put_u32s(&[t.it_id, 0])?;
            script.call(What::Timer, libc::SYS_timer_create, [clock, event, id]);
        } else {
            script.op(What::Timer, Op::TimerById, [clock, event, t.it_id.into()]);
        }
    }
    if facts.timer_ids {
        script.call(What::Timer, libc::SYS_prctl, prctl(0));
    }
    Ok(())
}

fn sigevent(pid: u32, t: &PosixTimerEntry, data: &mut Data<'_>) -> Result<u64, Full> {
    let tid = t.notify_thread_id.map_or(pid, i32::cast_unsigned);
    let addr = data.room(SIGEVENT_LEN, 8)?;
    let bytes = data.at(addr, SIGEVENT_LEN);
    bytes[..8].copy_from_slice(&t.sival_ptr.to_le_bytes());
    bytes[8..12].copy_from_slice(&t.si_signo.to_le_bytes());
    bytes[12..16].copy_from_slice(&t.it_sigev_notify.to_le_bytes());
    bytes[16..20].copy_from_slice(&tid.to_le_bytes());
    Ok(addr)
}

/// Starts all timers that were running.
pub(crate) fn arm(
    timers: &TaskTimersEntry,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    for t in &timers.posix {
        if [t.isec, t.insec, t.vsec, t.vnsec] == [0; 4] {
            continue;
        }
        data.align(8);
        let spec = data.put_u64s(&[t.isec, t.insec, t.vsec, t.vnsec])?;
        script.call(What::Timer, libc::SYS_timer_settime, [t.it_id.into(), 0, spec, 0]);
    }
    for (which, t) in [&timers.real, &timers.virt, &timers.prof].into_iter().enumerate() {
        let Some(value) = itimer(t) else { continue };
        data.align(8);
        let value = data.put_u64s(&value)?;
        script.call(What::Timer, libc::SYS_setitimer, [which as u64, value, 0]);
    }
    Ok(())
}

/// `struct itimerval` of a timer that runs.
fn itimer(t: &ItimerEntry) -> Option<[u64; 4]> {
    match *t {
        ItimerEntry { isec: 0, iusec: 0, vsec: 0, vusec: 0 } => None,
        // It was about to expire.
        ItimerEntry { isec, iusec, vsec: 0, vusec: 0 } => Some([isec, iusec, isec, iusec]),
        ItimerEntry { isec, iusec, vsec, vusec } => Some([isec, iusec, vsec, vusec]),
    }
}
