//! What only code inside a task can ask the kernel: the scripts, and what became of them.

use crate::Error;
use crate::task::timers::{self, ItimerAnswers, PosixTimer, PosixTimerAnswers};
use images::proto::SaEntry;
use parasite::{Answers, Arg, Call, Data, Infected, Process, Script};
use std::os::raw::c_int;
use std::time::Instant;

/// State of a process that only code inside it can tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inside {
    /// `brk(0)`.
    pub brk: u64,
    /// `PR_GET_DUMPABLE`.
    pub dumpable: u32,
    /// `PR_GET_THP_DISABLE` is not 0.
    pub thp_disabled: bool,
    /// `PR_GET_THP_DISABLE`, with its flags (6.18).
    pub thp_disable: u32,
    /// `PR_GET_CHILD_SUBREAPER`.
    pub child_subreaper: bool,
    /// `MEMBARRIER_CMD_GET_REGISTRATIONS`.
    pub membarrier: u32,
    /// Signal actions, in the order of the images (no SIGKILL, no SIGSTOP).
    pub sigactions: Vec<SaEntry>,
    /// Interval timers: real, virtual, profiling.
    pub itimers: [ItimerAnswers; 3],
    /// POSIX timers with what is left of them.
    pub posix_timers: Vec<PosixTimerAnswers>,
    /// `PR_GET_MDWE`.
    pub mdwe: u32,
    /// `PR_GET_MEMORY_MERGE`.
    pub memory_merge: bool,
    /// `PR_GET_TSC`.
    pub tsc: u32,
    /// `PR_MCE_KILL_GET`.
    pub mce_kill: u32,
    /// `PR_GET_IO_FLUSHER`.
    pub io_flusher: bool,
}

/// State of a thread that only code inside it can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadInside {
    /// `PR_GET_TID_ADDRESS`.
    pub clear_tid_addr: u64,
    /// `sigaltstack`: address, size, flags.
    pub sas: (u64, u64, u32),
    /// `PR_GET_PDEATHSIG`.
    pub pdeath_sig: u32,
    /// `PR_GET_SECUREBITS`.
    pub securebits: u32,
    /// `PR_GET_TIMERSLACK`, ns.
    pub timerslack: u64,
    /// `PR_GET_SPECULATION_CTRL` of store bypass, indirect branch, L1D flush.
    pub speculation: [u32; 3],
}

const PR_GET_TSC: c_int = 25;
const PR_GET_MEMORY_MERGE: c_int = 68;
const PR_GET_MDWE: c_int = 66;
const PR_GET_IO_FLUSHER: c_int = 58;
const PR_MCE_KILL_GET: c_int = 34;
const PR_GET_SPECULATION_CTRL: c_int = 52;
const PR_GET_TID_ADDRESS: c_int = 40;
const MEMBARRIER_CMD_GET_REGISTRATIONS: u64 = 1 << 9;
/// `struct sigaction` of the kernel on x86-64: handler, flags, restorer, mask.
const SIGACTION: usize = 32;
const LDT: usize = 8;

fn prctl(script: &mut Script, option: c_int, args: &[Arg]) -> Call {
    let mut all = vec![Arg::Value(option as u64)];
    all.extend_from_slice(args);
    script.call(libc::SYS_prctl, &all)
}

/// Signals of [`Inside::sigactions`].
pub fn signals() -> impl Iterator<Item = c_int> {
    (1..=64).filter(|s| ![libc::SIGKILL, libc::SIGSTOP].contains(s))
}

/// What a process is asked, once: in the leader, together with what each thread is asked.
struct ProcessScript {
    script: Script,
    thread: ThreadCalls,
    sigactions: Vec<(Call, Data)>,
    itimers: timers::ItimerCalls,
    posix: timers::PosixCalls,
    brk: Call,
    dumpable: Call,
    thp: Call,
    subreaper: Data,
    membarrier: Call,
    mdwe: Call,
    merge: Call,
    tsc: Data,
    mce: Call,
    flusher: Call,
    ldt: Call,
}

impl ProcessScript {
    fn new(posix: &[PosixTimer]) -> Self {
        let mut s = Script::default();
        let thread = ThreadCalls::add(&mut s);
        let mut sigactions = Vec::with_capacity(62);
        for signo in signals() {
            let out = s.room(SIGACTION);
            let args = [Arg::Value(signo as u64), Arg::Value(0), out.into(), Arg::Value(8)];
            sigactions.push((s.call(libc::SYS_rt_sigaction, &args), out));
        }
        let itimers = timers::ask_itimers(&mut s);
        let posix = timers::ask_posix(&mut s, posix);
        let subreaper = s.room(4);
        prctl(&mut s, libc::PR_GET_CHILD_SUBREAPER, &[subreaper.into()]);
        let tsc = s.room(4);
        prctl(&mut s, PR_GET_TSC, &[tsc.into()]);
        let ldt = s.room(LDT);
        let args = [Arg::Value(0), ldt.into(), Arg::Value(LDT as u64)];
        Self {
            thread,
            sigactions,
            itimers,
            posix,
            brk: s.call(libc::SYS_brk, &[Arg::Value(0)]),
            dumpable: prctl(&mut s, libc::PR_GET_DUMPABLE, &[]),
            thp: prctl(&mut s, libc::PR_GET_THP_DISABLE, &[]),
            subreaper,
            membarrier: s.call(
                libc::SYS_membarrier,
                &[Arg::Value(MEMBARRIER_CMD_GET_REGISTRATIONS), Arg::Value(0)],
            ),
            mdwe: prctl(&mut s, PR_GET_MDWE, &[]),
            merge: prctl(&mut s, PR_GET_MEMORY_MERGE, &[]),
            tsc,
            mce: prctl(&mut s, PR_MCE_KILL_GET, &[]),
            flusher: prctl(&mut s, PR_GET_IO_FLUSHER, &[]),
            ldt: s.call(libc::SYS_modify_ldt, &args),
            script: s,
        }
    }

    fn read(&self, a: &Answers, posix: Vec<PosixTimer>) -> Result<Inside, Error> {
        if a.result(self.ldt) > 0 {
            return Err(Error::Refused(
                "it has LDT entries (modify_ldt), which have no image".into(),
            ));
        }
        let sigactions = signals().zip(&self.sigactions).map(|(signo, (call, out))| {
            if a.result(*call) != 0 {
                return Err(asked(&format!("rt_sigaction({signo})"), a.result(*call)));
            }
            Ok(SaEntry {
                sigaction: a.u64(*out, 0),
                flags: a.u64(*out, 1),
                restorer: a.u64(*out, 2),
                mask: a.u64(*out, 3),
                ..SaEntry::default()
            })
        });
        // Kernels that do not know a question: the answer is that of a task that never set it.
        let number = |call: Call| u32::try_from(a.result(call)).unwrap_or(0);
        let thp = number(self.thp);
        Ok(Inside {
            brk: a.result(self.brk) as u64,
            dumpable: number(self.dumpable),
            thp_disabled: thp != 0,
            thp_disable: thp,
            child_subreaper: a.u32(self.subreaper, 0) != 0,
            membarrier: number(self.membarrier),
            sigactions: sigactions.collect::<Result<_, _>>()?,
            itimers: self.itimers.read(a)?,
            posix_timers: self.posix.read(a, posix)?,
            mdwe: number(self.mdwe),
            memory_merge: number(self.merge) != 0,
            tsc: a.u32(self.tsc, 0),
            mce_kill: number(self.mce),
            io_flusher: number(self.flusher) != 0,
        })
    }
}

/// What each thread is asked.
struct ThreadCalls {
    tid_address: (Call, Data),
    sas: (Call, Data),
    pdeath: Data,
    securebits: Call,
    timerslack: Call,
    speculation: [Call; 3],
}

impl ThreadCalls {
    fn add(s: &mut Script) -> Self {
        let address = s.room(8);
        let sas = s.room(24);
        let pdeath = s.room(4);
        prctl(s, libc::PR_GET_PDEATHSIG, &[pdeath.into()]);
        Self {
            tid_address: (prctl(s, PR_GET_TID_ADDRESS, &[address.into()]), address),
            sas: (s.call(libc::SYS_sigaltstack, &[Arg::Value(0), sas.into()]), sas),
            pdeath,
            securebits: prctl(s, libc::PR_GET_SECUREBITS, &[]),
            timerslack: prctl(s, libc::PR_GET_TIMERSLACK, &[]),
            speculation: [0, 1, 2]
                .map(|what| prctl(s, PR_GET_SPECULATION_CTRL, &[Arg::Value(what)])),
        }
    }

    fn read(&self, a: &Answers) -> Result<ThreadInside, Error> {
        if a.result(self.tid_address.0) != 0 {
            // Without CONFIG_CHECKPOINT_RESTORE.
            return Err(asked("prctl(PR_GET_TID_ADDRESS)", a.result(self.tid_address.0)));
        }
        if a.result(self.sas.0) != 0 {
            return Err(asked("sigaltstack", a.result(self.sas.0)));
        }
        Ok(ThreadInside {
            clear_tid_addr: a.u64(self.tid_address.1, 0),
            sas: (a.u64(self.sas.1, 0), a.u64(self.sas.1, 2), a.u32(self.sas.1, 2)),
            pdeath_sig: a.u32(self.pdeath, 0),
            securebits: u32::try_from(a.result(self.securebits)).unwrap_or(0),
            timerslack: a.result(self.timerslack) as u64,
            speculation: self.speculation.map(|c| u32::try_from(a.result(c)).unwrap_or(0)),
        })
    }
}

/// A question that every kernel answers was not answered.
pub(crate) fn asked(call: &str, ret: i64) -> Error {
    Error::Sys(sys::Error::new(format_args!("{call}, in the task"), -ret as i32))
}

/// Asks `process` and all its threads.
pub(crate) fn ask(
    process: &mut Process,
    deadline: Option<Instant>,
) -> Result<(Inside, Vec<ThreadInside>), Error> {
    let timers = timers::posix_timers(process.pid)?;
    let of_process = ProcessScript::new(&timers);
    let mut script = Script::default();
    let of_thread = ThreadCalls::add(&mut script);
    let mut infected = Infected::new(process, &[&of_process.script, &script], deadline)?;
    let leader = infected.run(&of_process.script)?;
    let others = infected.run_others(&script)?;
    infected.cure()?;
    let mut threads = vec![of_process.thread.read(&leader)?];
    for answers in &others {
        threads.push(of_thread.read(answers)?);
    }
    Ok((of_process.read(&leader, timers)?, threads))
}
