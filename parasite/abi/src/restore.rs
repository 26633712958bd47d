//! What the host and the restorer blob agree on: the last stage of a restore.
//!
//! A task that is to become a restored one builds an *arena* (one hole that is free in its
//! present and in its final layout), fills it with the blob's code, [`Step`]s and data, and
//! jumps to the code with the address of a [`Header`]. The blob interprets the steps and never
//! returns: each thread ends in [`Op::Park`], where the coordinator's ptrace takes over.

use crate::Step;
use core::mem::{align_of, offset_of, size_of};

/// What a [`Step`] of the restorer blob does. All but [`Op::Syscall`] use `args` as noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Op {
    /// The list ends: as [`Op::Park`] without reporting.
    End = 0,
    /// Make system call `nr` with `args`.
    Syscall = 1,
    /// Report that this thread is done with the current stage, then wait until
    /// [`word::STAGE`] is at least `args[0]`.
    Stage = 2,
    /// Report, then sleep for ever: registers come by ptrace.
    Park = 3,
    /// `preadv` from descriptor `args[0]` into `args[2]` iovecs at `args[1]`, from file offset
    /// `args[3]` on, until all are full.
    ReadPages = 4,
    /// Make `args[1]` threads as described by the array of [`Thread`] at `args[0]`.
    Threads = 5,
    /// Take all pending signals off both queues.
    DrainSignals = 6,
    /// Create POSIX timer with id `args[2]`: clock `args[0]`, sigevent at `args[1]`; by creating
    /// and deleting until the kernel's counter is there.
    TimerById = 7,
    /// Rebuild an AIO ring; `args` = final address, length, `nr_req` of io_setup, address of the
    /// saved ring bytes (a copy), descriptor of /dev/null, and scratch page.
    AioRing = 8,
    /// Copy `args[2]` bytes from `args[1]` to `args[0]`.
    Copy = 9,
    /// Fill pages by several threads of this process: `args[0]` = array of [`Fill`],
    /// `args[1]` = how many, `args[2]` = address of a u32 counter (zero), `args[3]` = array of
    /// [`Thread`] slots for helpers, `args[4]` = how many helpers.
    ParallelFill = 10,
    /// Open the file whose path (absolute, with a zero byte) is at `args[0]`, write the `args[2]`
    /// bytes at `args[1]` to it at once, and close it.
    WriteFile = 11,
}

impl Op {
    /// Decodes what stands in [`Step::op`].
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::End,
            1 => Self::Syscall,
            2 => Self::Stage,
            3 => Self::Park,
            4 => Self::ReadPages,
            5 => Self::Threads,
            6 => Self::DrainSignals,
            7 => Self::TimerById,
            8 => Self::AioRing,
            9 => Self::Copy,
            10 => Self::ParallelFill,
            11 => Self::WriteFile,
            _ => return None,
        })
    }
}

/// Bits of [`Step::flags`] besides those of [`crate::flag`].
pub mod flag {
    /// The errno in `expect` (positive) is as good as success.
    pub const OK_ERRNO: u32 = 4;
    /// Where in `flags` the [`super::What`] of the step stands.
    pub const WHAT_SHIFT: u32 = 16;
}

/// What a step is for: the host's words for an error report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names say it")]
pub enum What {
    Other = 0,
    Unmap = 1,
    Vdso = 2,
    Vma = 3,
    Pages = 4,
    Protect = 5,
    Advice = 6,
    Guard = 7,
    Aio = 8,
    MmMap = 9,
    Thread = 10,
    Comm = 11,
    Rseq = 12,
    Sched = 13,
    Sigaction = 14,
    SignalQueue = 15,
    Sigaltstack = 16,
    Timer = 17,
    Rlimit = 18,
    Creds = 19,
    Seccomp = 20,
    Prctl = 21,
    Child = 22,
    Files = 23,
    Thp = 24,
    Membarrier = 25,
    RobustList = 26,
    Lock = 27,
    FileLock = 28,
    Lsm = 29,
}

impl What {
    /// All of them, by number.
    pub const ALL: [Self; 30] = [
        Self::Other,
        Self::Unmap,
        Self::Vdso,
        Self::Vma,
        Self::Pages,
        Self::Protect,
        Self::Advice,
        Self::Guard,
        Self::Aio,
        Self::MmMap,
        Self::Thread,
        Self::Comm,
        Self::Rseq,
        Self::Sched,
        Self::Sigaction,
        Self::SignalQueue,
        Self::Sigaltstack,
        Self::Timer,
        Self::Rlimit,
        Self::Creds,
        Self::Seccomp,
        Self::Prctl,
        Self::Child,
        Self::Files,
        Self::Thp,
        Self::Membarrier,
        Self::RobustList,
        Self::Lock,
        Self::FileLock,
        Self::Lsm,
    ];

    /// Decodes the number in a step's flags.
    pub fn of(flags: u32) -> Self {
        Self::ALL.get((flags >> flag::WHAT_SHIFT) as usize).copied().unwrap_or(Self::Other)
    }
}

/// Words of the page that the coordinator shares with all tasks.
pub mod word {
    /// The stage that may be entered; tasks sleep on it. One of [`super::Stage`].
    pub const STAGE: usize = 0;
    /// How many have not reported in the current stage; the coordinator sleeps on it.
    pub const LEFT: usize = 1;
    /// 0, or 1 + [`super::Fault`] once somebody failed; set once.
    pub const FAULT: usize = 2;
    /// Nonzero when the fields of the failure are complete.
    pub const FAULT_READY: usize = 3;
    /// Who failed (virtual tid).
    pub const FAULT_TID: usize = 4;
    /// Length of the text, for [`super::Fault::Text`].
    pub const FAULT_LEN: usize = 5;
    /// Pages that were filled so far.
    pub const FILLED: usize = 6;
    /// 1 while somebody chooses a number by `ns_last_pid`.
    pub const CHOOSING: usize = 7;
    /// Where the failed [`crate::Step`] is copied to (20 words), or the text.
    pub const FAULT_DATA: usize = 16;
    /// First of the words which the host uses between its own processes.
    pub const HOST: usize = 1024;
}

/// How a failure is described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Fault {
    /// A text of the host's code.
    Text = 1,
    /// A step of the blob.
    Step = 2,
}

/// Stages of a restore, CRIU's names. A task waits for a stage before it does that stage's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Stage {
    /// The root task is made.
    RootTask = 1,
    /// Its namespaces are filled.
    PrepareNamespaces = 2,
    /// The tree is forked.
    Forking = 3,
    /// Files, memory, threads.
    Restore = 4,
    /// Memory is filled from outside. Not one of CRIU's; left out if there is nothing to fill.
    RestoreMemory = 5,
    /// Children that are to be dead are dead; SIGCHLD's action, pending signals.
    RestoreSigchld = 6,
    /// Seccomp, credentials.
    RestoreCreds = 7,
    /// The tree runs.
    Complete = 8,
}

/// What the blob finds at the address it is started with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// Address of the shared page.
    pub shared: u64,
    /// Address of the leader's steps.
    pub steps: u64,
    /// The leader's virtual tid.
    pub tid: u32,
    /// Padding.
    pub pad: u32,
    /// Descriptor of `ns_last_pid`, or -1 where `clone3` takes a tid.
    pub last_pid_fd: i64,
}

/// A thread to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Thread {
    /// Address of the shared page.
    pub shared: u64,
    /// Address of its steps (0 for a helper of [`Op::ParallelFill`]).
    pub steps: u64,
    /// Its virtual tid.
    pub tid: u32,
    /// Padding.
    pub pad: u32,
    /// Lowest address of its stack.
    pub stack: u64,
    /// Length of its stack in bytes.
    pub stack_len: u64,
    /// For helpers: address of the [`Step`] they take part in.
    pub job: u64,
    /// For helpers: cleared (and woken) by the kernel when the thread is gone.
    pub alive: u32,
    /// For helpers: 0, or the errno which they failed with.
    pub failed: u32,
}

/// A piece of page filling that one worker does at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Fill {
    /// Descriptor of the pages image.
    pub fd: u64,
    /// Address of the iovecs.
    pub iov: u64,
    /// How many.
    pub count: u64,
    /// Offset in the file.
    pub offset: u64,
    /// How the memory is made to exist: one of [`fresh`].
    pub fresh: u64,
}

/// How memory that is about to be filled comes into being.
pub mod fresh {
    /// By the faults of the read itself.
    pub const FAULT: u64 = 0;
    /// All of it by one call beforehand.
    pub const POPULATE: u64 = 1;
    /// As huge pages where whole ones fit, the rest by one call.
    pub const HUGE: u64 = 2;
}

const _: () = {
    assert!(size_of::<Header>() == 32);
    assert!(size_of::<Thread>() == 56);
    assert!(align_of::<Thread>() == 8);
    assert!(offset_of!(Thread, stack) == 24);
    assert!(offset_of!(Thread, alive) == 48);
    assert!(size_of::<Fill>() == 40);
    assert!(size_of::<Step>() == 80);
};
