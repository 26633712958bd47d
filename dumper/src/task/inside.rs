//! What only code inside a task can ask the kernel: the scripts, and what became of them.

use crate::Error;
use crate::task::timers::{self, ItimerAnswers, PosixTimer, PosixTimerAnswers};
use crate::task::{landlock, sem_undo};
use images::proto::{AmberSemUndoEntry, SaEntry};
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
    /// `mlockall`: `MCL_FUTURE`, with `MCL_ONFAULT`; 0: new mappings are not locked.
    pub lock_future: u32,
    /// What semaphores get back at its end.
    pub sem_undo: Vec<AmberSemUndoEntry>,
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
    /// `get_mempolicy`: mode and nodes.
    pub mempolicy: (u32, Vec<u8>),
}

const MCL_ONFAULT: c_int = 4;
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
/// Bytes for the numbers of NUMA nodes: as many as a kernel can be built for.
const NODES: usize = 128;
const KEYCTL_READ: u64 = 11;
/// `KEY_SPEC_THREAD_KEYRING`, `KEY_SPEC_PROCESS_KEYRING`.
const THREAD_KEYRING: i32 = -1;
const PROCESS_KEYRING: i32 = -2;

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
    locked: Call,
    keyring: Call,
    outsider: Option<Call>,
}

impl ProcessScript {
    fn new(posix: &[PosixTimer], outsider: Option<i32>) -> Self {
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
            // Fails on what is locked. Our mapping is new, so it is what new ones are.
            locked: s.call(
                libc::SYS_msync,
                &[Arg::Page(ldt), Arg::Value(4096), Arg::Value(libc::MS_INVALIDATE as u64)],
            ),
            keyring: keyring(&mut s, PROCESS_KEYRING),
            outsider: outsider.map(|pid| {
                let (nr, args) = landlock::look(pid);
                s.call(nr, &args.map(Arg::Value))
            }),
            script: s,
        }
    }

    fn read(&self, a: &Answers, posix: Vec<PosixTimer>) -> Result<Inside, Error> {
        if a.result(self.ldt) > 0 {
            return Err(Error::Refused(
                "it has LDT entries (modify_ldt), which have no image".into(),
            ));
        }
        if self.outsider.is_some_and(|call| landlock::is_restricted(a.result(call))) {
            return Err(Error::Refused(
                "it has restricted itself by Landlock (or another security module has), which \
                 nothing tells more about"
                    .into(),
            ));
        }
        keys("process", a.result(self.keyring))?;
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
            lock_future: 0,
            sem_undo: Vec::new(),
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
    mempolicy: (Call, Data, Data),
    keyring: Call,
}

impl ThreadCalls {
    fn add(s: &mut Script) -> Self {
        let address = s.room(8);
        let sas = s.room(24);
        let pdeath = s.room(4);
        let (mode, nodes) = (s.room(4), s.room(NODES));
        // One more than there are bits: the kernel counts so.
        let args = [mode.into(), nodes.into(), Arg::Value(NODES as u64 * 8 + 1)];
        let mempolicy = (s.call(libc::SYS_get_mempolicy, &args), mode, nodes);
        prctl(s, libc::PR_GET_PDEATHSIG, &[pdeath.into()]);
        Self {
            tid_address: (prctl(s, PR_GET_TID_ADDRESS, &[address.into()]), address),
            sas: (s.call(libc::SYS_sigaltstack, &[Arg::Value(0), sas.into()]), sas),
            pdeath,
            securebits: prctl(s, libc::PR_GET_SECUREBITS, &[]),
            timerslack: prctl(s, libc::PR_GET_TIMERSLACK, &[]),
            speculation: [0, 1, 2]
                .map(|what| prctl(s, PR_GET_SPECULATION_CTRL, &[Arg::Value(what)])),
            mempolicy,
            keyring: keyring(s, THREAD_KEYRING),
        }
    }

    fn read(&self, a: &Answers) -> Result<ThreadInside, Error> {
        if a.result(self.tid_address.0) != 0 {
            // Without CONFIG_CHECKPOINT_RESTORE.
            return Err(asked("prctl(PR_GET_TID_ADDRESS)", a.result(self.tid_address.0)));
        }
        keys("thread", a.result(self.keyring))?;
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
            mempolicy: self.mempolicy(a),
        })
    }
}

impl ThreadCalls {
    fn mempolicy(&self, a: &Answers) -> (u32, Vec<u8>) {
        let (call, mode, nodes) = self.mempolicy;
        // Not in this kernel.
        if a.result(call) != 0 {
            return (0, Vec::new());
        }
        let nodes = a.bytes(nodes);
        let len = nodes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
        (a.u32(mode, 0), nodes[..len].to_vec())
    }
}

/// Asks how much is in a keyring.
fn keyring(s: &mut Script, which: i32) -> Call {
    let which = Arg::Value(which as u64);
    s.call(libc::SYS_keyctl, &[Arg::Value(KEYCTL_READ), which, Arg::Value(0), Arg::Value(0)])
}

/// Keys that only this task can use, and that nobody can read all of. An error is: no keyring.
fn keys(whose: &str, bytes: i64) -> Result<(), Error> {
    if bytes <= 0 {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "it has {} keys in its {whose} keyring, which have no image",
        bytes / 4
    )))
}

/// A question that every kernel answers was not answered.
pub(crate) fn asked(call: &str, ret: i64) -> Error {
    Error::Sys(sys::Error::new(format_args!("{call}, in the task"), -ret as i32))
}

/// Asks `process` and all its threads.
pub(crate) fn ask(
    process: &mut Process,
    sets: &sem_undo::Sets,
    outsider: Option<i32>,
    deadline: Option<Instant>,
) -> Result<(Inside, Vec<ThreadInside>), Error> {
    let timers = timers::posix_timers(process.pid)?;
    let of_process = ProcessScript::new(&timers, outsider);
    let mut script = Script::default();
    let of_thread = ThreadCalls::add(&mut script);
    let pid = process.pid;
    let of_sets = sets.script();
    let scripts = [&of_process.script, &script, &of_sets];
    let mut infected = Infected::new(process, &scripts, deadline)?;
    let leader = infected.run(&of_process.script)?;
    let others = infected.run_others(&script)?;
    let sem_undo = sets.of(&mut infected, pid)?;
    let lock_future = match leader.result(of_process.locked) == -i64::from(libc::EBUSY) {
        true if infected.is_locked_on_fault()? => libc::MCL_FUTURE | MCL_ONFAULT,
        true => libc::MCL_FUTURE,
        false => 0,
    };
    infected.cure()?;
    let mut threads = vec![of_process.thread.read(&leader)?];
    for answers in &others {
        threads.push(of_thread.read(answers)?);
    }
    let inside = of_process.read(&leader, timers)?;
    Ok((Inside { lock_future: lock_future.cast_unsigned(), sem_undo, ..inside }, threads))
}
