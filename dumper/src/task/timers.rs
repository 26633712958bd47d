//! Interval timers and POSIX timers.

use crate::Error;
use crate::task::inside::asked;
use images::proto::{ItimerEntry, PosixTimerEntry, TaskTimersEntry};
use parasite::proc;
use parasite::{Answers, Arg, Call, Data, Script};

/// An interval timer: interval and time left, as seconds and microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItimerAnswers {
    /// `it_interval`.
    pub interval: (u64, u64),
    /// `it_value`.
    pub value: (u64, u64),
}

/// A POSIX timer as `/proc/PID/timers` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PosixTimer {
    /// The kernel's id.
    pub id: u32,
    /// Signal.
    pub signo: u32,
    /// `sival_ptr`.
    pub sival: u64,
    /// `SIGEV_*`.
    pub notify: u32,
    /// Thread that is notified, in the namespace of the reader of `/proc`.
    pub notify_tid: Option<i32>,
    /// Clock.
    pub clock: i32,
}

/// A POSIX timer and what is left of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PosixTimerAnswers {
    /// What it is.
    pub timer: PosixTimer,
    /// `it_interval`: seconds and nanoseconds.
    pub interval: (u64, u64),
    /// `it_value` likewise.
    pub value: (u64, u64),
    /// `timer_getoverrun`.
    pub overrun: u32,
}

const WHICH: [i32; 3] = [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF];

/// Asks for the three interval timers.
pub(crate) struct ItimerCalls([(Call, Data); 3]);

pub(crate) fn ask_itimers(s: &mut Script) -> ItimerCalls {
    ItimerCalls(WHICH.map(|which| {
        let out = s.room(32);
        (s.call(libc::SYS_getitimer, &[Arg::Value(which as u64), out.into()]), out)
    }))
}

impl ItimerCalls {
    pub(crate) fn read(&self, a: &Answers) -> Result<[ItimerAnswers; 3], Error> {
        for (call, _) in self.0 {
            if a.result(call) != 0 {
                return Err(asked("getitimer", a.result(call)));
            }
        }
        Ok(self.0.map(|(_, out)| ItimerAnswers {
            interval: (a.u64(out, 0), a.u64(out, 1)),
            value: (a.u64(out, 2), a.u64(out, 3)),
        }))
    }
}

/// Asks for what is left of POSIX timers.
pub(crate) struct PosixCalls(Vec<(Call, Call, Data)>);

pub(crate) fn ask_posix(s: &mut Script, timers: &[PosixTimer]) -> PosixCalls {
    PosixCalls(
        timers
            .iter()
            .map(|t| {
                let id = Arg::Value(u64::from(t.id));
                let out = s.room(32);
                let left = s.call(libc::SYS_timer_gettime, &[id, out.into()]);
                (left, s.call(libc::SYS_timer_getoverrun, &[id]), out)
            })
            .collect(),
    )
}

impl PosixCalls {
    pub(crate) fn read(
        &self,
        a: &Answers,
        timers: Vec<PosixTimer>,
    ) -> Result<Vec<PosixTimerAnswers>, Error> {
        timers
            .into_iter()
            .zip(&self.0)
            .map(|(timer, &(left, overrun, out))| {
                if a.result(left) != 0 {
                    return Err(asked(&format!("timer_gettime({})", timer.id), a.result(left)));
                }
                Ok(PosixTimerAnswers {
                    timer,
                    interval: (a.u64(out, 0), a.u64(out, 1)),
                    value: (a.u64(out, 2), a.u64(out, 3)),
                    overrun: u32::try_from(a.result(overrun)).unwrap_or(0),
                })
            })
            .collect()
    }
}

/// Reads `/proc/PID/timers`, sorted by id.
pub(crate) fn posix_timers(pid: i32) -> Result<Vec<PosixTimer>, Error> {
    let path = format!("/proc/{pid}/timers");
    let text = match proc::read(&path) {
        Ok(text) => text,
        // Kernels without CONFIG_CHECKPOINT_RESTORE or POSIX timers.
        Err(e) if e.is_gone() => {
            return Err(Error::Refused(format!(
                "{e}: this kernel does not list POSIX timers (CONFIG_CHECKPOINT_RESTORE)"
            )));
        }
        Err(e) => return Err(e.into()),
    };
    let field = proc::Error::Field { path: path.into(), field: "timer" };
    let mut timers = parse(std::str::from_utf8(&text).unwrap_or("?")).ok_or(Error::Proc(field))?;
    timers.sort_by_key(|t| t.id);
    Ok(timers)
}

pub(crate) fn parse(text: &str) -> Option<Vec<PosixTimer>> {
    let mut out: Vec<PosixTimer> = Vec::new();
    for line in text.lines() {
        let (key, value) = line.split_once(':')?;
        let value = value.trim();
        if key == "ID" {
            out.push(PosixTimer { id: value.parse().ok()?, ..PosixTimer::default() });
            continue;
        }
        let timer = out.last_mut()?;
        match key {
            "signal" => {
                let (signo, sival) = value.split_once('/')?;
                timer.signo = signo.parse().ok()?;
                timer.sival = u64::from_str_radix(sival.trim_start_matches("0x"), 16).ok()?;
            }
            "notify" => {
                let (how, who) = value.split_once('/')?;
                let (who, number) = who.split_once('.')?;
                let number = number.parse().ok()?;
                timer.notify = match how {
                    "signal" => 0,
                    "none" => 1,
                    "thread" => 2,
                    _ => return None,
                };
                if who == "tid" {
                    // SIGEV_THREAD_ID.
                    timer.notify |= 4;
                    timer.notify_tid = Some(number);
                }
            }
            "ClockID" => timer.clock = value.parse().ok()?,
            _ => {}
        }
    }
    Some(out)
}

/// `timers` of the core image. `vtid` translates the thread that a timer notifies.
pub(crate) fn entry(
    itimers: &[ItimerAnswers; 3],
    posix: &[PosixTimerAnswers],
    vtid: impl Fn(i32) -> Option<i32>,
) -> Result<TaskTimersEntry, Error> {
    let [real, virt, prof] = itimers.map(|t| ItimerEntry {
        isec: t.interval.0,
        iusec: t.interval.1,
        vsec: t.value.0,
        vusec: t.value.1,
    });
    let mut out = TaskTimersEntry { real, virt, prof, posix: Vec::new() };
    for t in posix {
        let mut notify = t.timer.notify;
        let notify_thread_id = t.timer.notify_tid.and_then(&vtid);
        if t.timer.notify_tid.is_some() && notify_thread_id.is_none() {
            // The thread that it notified has ended: it counts on, and nobody is told.
            notify = libc::SIGEV_NONE as u32;
        }
        // FD_TO_CLOCKID: a clock behind a descriptor has 3 in its lowest bits.
        if t.timer.clock < 0 && t.timer.clock & 7 == 3 {
            return Err(Error::Refused(format!(
                "POSIX timer {} uses a clock device (clock id {})",
                t.timer.id, t.timer.clock
            )));
        }
        out.posix.push(PosixTimerEntry {
            it_id: t.timer.id,
            clock_id: t.timer.clock as u32,
            si_signo: t.timer.signo,
            it_sigev_notify: notify,
            sival_ptr: t.timer.sival,
            overrun: t.overrun,
            isec: t.interval.0,
            insec: t.interval.1,
            vsec: t.value.0,
            vnsec: t.value.1,
            notify_thread_id,
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Linux 6.18.
    const TEXT: &str = "ID: 1\nsignal: 34/00007f2b5c0012a0\nnotify: signal/tid.4242\nClockID: 1\n\
        ID: 0\nsignal: 14/000000000000002a\nnotify: none/pid.4241\nClockID: -6\n";

    #[test]
    fn timers_are_read_with_clock_and_target() {
        let got = parse(TEXT).unwrap();
        assert_eq!(got[0].notify_tid, Some(4242));
        assert_eq!((got[0].id, got[0].signo, got[0].notify), (1, 34, 4));
        assert_eq!((got[1].sival, got[1].notify, got[1].clock), (42, 1, -6));
        assert_eq!(got[1].notify_tid, None);
    }

    #[test]
    fn no_timers_is_no_error() {
        assert_eq!(parse(""), Some(Vec::new()));
        assert_eq!(parse("signal: 1/2"), None);
    }
}
