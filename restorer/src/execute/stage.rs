//! The page that the coordinator shares with all processes of a restore.

use parasite_abi::Step;
use parasite_abi::restore::{Fault, Stage, What, word};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use sys::shared::{SharedPage, futex_wait, futex_wake};

/// Length of the page(s) in bytes.
pub(crate) const LEN: usize = 8192;
/// Number for [`Board::count`]: pages compared with those of the parent.
pub(crate) const COMPARED: usize = 0;
/// Number for [`Board::count`]: pages found equal.
pub(crate) const KEPT: usize = 1;
/// First word of what tasks ask, behind the numbers for [`Board::count`]: see `ask.rs`.
pub(crate) const ASK: usize = word::HOST + 2;
/// First of the numbers for [`Board::tell`].
const TOLD: usize = ASK + 8;
/// Longest text of a failure, in bytes.
const TEXT_MAX: usize = (word::HOST - word::FAULT_DATA) * 4;

/// The shared page; the same object before and after fork.
#[derive(Debug)]
pub(crate) struct Board {
    page: SharedPage,
}

/// See [`alone`].
#[derive(Debug)]
pub(crate) struct Alone<'a>(&'a AtomicU32);

/// Alone among all processes of the restore in holding a word, until the value is dropped.
pub(crate) fn alone(word: &AtomicU32) -> Alone<'_> {
    while word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        futex_wait(word, 1, Some(Duration::from_millis(100)));
    }
    Alone(word)
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
        futex_wake(self.0);
    }
}

/// A failure that a process reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// In the host's code: its words.
    Text { tid: u32, text: String },
    /// In the blob: the step.
    Step { tid: u32, step: Step },
}

impl Board {
    pub(crate) fn new() -> sys::Result<Self> {
        Ok(Self { page: SharedPage::new(LEN)? })
    }

    /// For mapping it into arenas.
    pub(crate) fn page(&self) -> &SharedPage {
        &self.page
    }

    /// Coordinator: opens `stage`, which `count` reports will end.
    pub(crate) fn open(&self, stage: Stage, count: usize) {
        let words = self.page.words();
        words[word::LEFT].store(count as u32, Ordering::Release);
        words[word::STAGE].store(stage as u32, Ordering::Release);
        futex_wake(&words[word::STAGE]);
    }

    /// Coordinator: waits for the reports, at most `timeout`; true when all are there.
    pub(crate) fn wait_reports(&self, timeout: Duration) -> bool {
        let left = &self.page.words()[word::LEFT];
        let n = left.load(Ordering::Acquire);
        let failed = self.page.words()[word::FAULT].load(Ordering::Acquire) != 0;
        if n != 0 && !failed && !self.is_asked() {
            futex_wait(left, n, Some(timeout));
        }
        left.load(Ordering::Acquire) == 0
    }

    /// Task: has the coordinator look, if it waits for reports.
    pub(crate) fn wake(&self) {
        futex_wake(&self.page.words()[word::LEFT]);
    }

    /// Task: the present stage is done.
    pub(crate) fn report(&self) {
        let left = &self.page.words()[word::LEFT];
        if left.fetch_sub(1, Ordering::AcqRel) == 1 {
            futex_wake(left);
        }
    }

    /// Task: sleeps until `stage` is open.
    pub(crate) fn wait(&self, stage: Stage) {
        let now = &self.page.words()[word::STAGE];
        loop {
            let v = now.load(Ordering::Acquire);
            if v >= stage as u32 {
                return;
            }
            futex_wait(now, v, None);
        }
    }

    /// Task: adds to a number that all have in common.
    pub(crate) fn count(&self, what: usize, more: u32) {
        self.page.words()[word::HOST + what].fetch_add(more, Ordering::Relaxed);
    }

    /// Coordinator: such a number.
    pub(crate) fn counted(&self, what: usize) -> u64 {
        self.page.words()[word::HOST + what].load(Ordering::Relaxed).into()
    }

    /// Task: tells the coordinator a number, before it reports the present stage.
    pub(crate) fn tell(&self, which: usize, number: u32) -> bool {
        let word = self.page.words().get(TOLD + which);
        word.inspect(|w| w.store(number, Ordering::Relaxed)).is_some()
    }

    /// Coordinator: the number that was told.
    pub(crate) fn told(&self, which: usize) -> Option<u32> {
        self.page.words().get(TOLD + which).map(|w| w.load(Ordering::Relaxed))
    }

    /// Alone among all processes of the restore in choosing a number, until the value is dropped.
    pub(crate) fn choose(&self) -> Alone<'_> {
        alone(&self.page.words()[word::CHOOSING])
    }

    /// Pages that the tasks have filled, of 4 KiB; wraps.
    pub(crate) fn filled(&self) -> &AtomicU32 {
        &self.page.words()[word::FILLED]
    }

    /// Task: sleeps until `stage` is open, or for `time`; true when it is open.
    pub(crate) fn wait_at_most(&self, stage: Stage, time: Duration) -> bool {
        let now = &self.page.words()[word::STAGE];
        let v = now.load(Ordering::Acquire);
        if v < stage as u32 {
            futex_wait(now, v, Some(time));
        }
        now.load(Ordering::Acquire) >= stage as u32
    }

    /// Task: reports a failure, if it is the first.
    pub(crate) fn fail(&self, tid: u32, text: &str) {
        let words = self.page.words();
        let first = words[word::FAULT].compare_exchange(
            0,
            Fault::Text as u32,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if first.is_err() {
            return;
        }
        let bytes = &text.as_bytes()[..text.len().min(TEXT_MAX)];
        words[word::FAULT_TID].store(tid, Ordering::Relaxed);
        words[word::FAULT_LEN].store(bytes.len() as u32, Ordering::Relaxed);
        for (i, chunk) in bytes.chunks(4).enumerate() {
            let mut four = [0; 4];
            four[..chunk.len()].copy_from_slice(chunk);
            words[word::FAULT_DATA + i].store(u32::from_le_bytes(four), Ordering::Relaxed);
        }
        words[word::FAULT_READY].store(1, Ordering::Release);
        futex_wake(&words[word::LEFT]);
    }

    /// Coordinator: what was reported, if anything.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let words = self.page.words();
        let get = |i: usize| words[i].load(Ordering::Acquire);
        let kind = get(word::FAULT);
        if kind == 0 {
            return None;
        }
        // Whoever set the first word writes the rest at once.
        for _ in 0..1000 {
            if get(word::FAULT_READY) != 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let tid = get(word::FAULT_TID);
        let long = |i: usize| {
            let at = word::FAULT_DATA + 2 * i;
            u64::from(get(at)) | u64::from(get(at + 1)) << 32
        };
        if kind == Fault::Step as u32 {
            let step = Step {
                op: get(word::FAULT_DATA),
                flags: get(word::FAULT_DATA + 1),
                nr: long(1),
                args: [2, 3, 4, 5, 6, 7].map(long),
                expect: long(8).cast_signed(),
                result: long(9).cast_signed(),
            };
            return Some(Failure::Step { tid, step });
        }
        let len = (get(word::FAULT_LEN) as usize).min(TEXT_MAX);
        let bytes: Vec<u8> = (0..len.div_ceil(4))
            .flat_map(|i| get(word::FAULT_DATA + i).to_le_bytes())
            .take(len)
            .collect();
        Some(Failure::Text { tid, text: String::from_utf8_lossy(&bytes).into_owned() })
    }
}

/// What a step was for, and the call as far as it is known.
pub(crate) fn describe(step: &Step) -> String {
    let what = match What::of(step.flags) {
        What::Other => "step",
        What::Unmap => "unmap the restorer",
        What::Vdso => "move the vdso",
        What::Vma => "map a vma",
        What::Pages => "read pages",
        What::Protect => "protect a vma",
        What::Advice => "advise on a vma",
        What::Guard => "guard pages",
        What::Aio => "rebuild an AIO ring",
        What::MmMap => "set the fields of the address space",
        What::Thread => "make threads",
        What::Comm => "set the name",
        What::Rseq => "register rseq",
        What::Sched => "set scheduling",
        What::Sigaction => "set a signal action",
        What::SignalQueue => "queue a pending signal",
        What::Sigaltstack => "set the alternate signal stack",
        What::Timer => "make a timer",
        What::Rlimit => "set a resource limit",
        What::Creds => "set credentials",
        What::Seccomp => "install a seccomp filter",
        What::Prctl => "prctl",
        What::Child => "wait for a child",
        What::Files => "finish files",
        What::Thp => "set THP",
        What::Membarrier => "register membarrier",
        What::RobustList => "set the robust list",
        What::Lock => "lock memory",
        What::FileLock => "take a file lock",
        What::Lsm => "take on the security profile",
    };
    let a = step.args;
    let args = a.map(|a| format!("{a:#x}")).join(", ");
    let result = match i32::try_from(-step.result) {
        Ok(errno @ 1..=4095) => std::io::Error::from_raw_os_error(errno).to_string(),
        _ => format!("answered {:#x}, not {:#x}", step.result, step.expect),
    };
    match step.op {
        1 => format!("{what}: {}({args}): {result}", name(step.nr)),
        op => format!("{what}: op {op}({args}): {result}"),
    }
}

fn name(nr: u64) -> String {
    let known = [
        (libc::SYS_mmap, "mmap"),
        (libc::SYS_munmap, "munmap"),
        (libc::SYS_mremap, "mremap"),
        (libc::SYS_mprotect, "mprotect"),
        (libc::SYS_madvise, "madvise"),
        (libc::SYS_mlock, "mlock"),
        (libc::SYS_prctl, "prctl"),
        (libc::SYS_rseq, "rseq"),
        (libc::SYS_rt_sigaction, "rt_sigaction"),
        (libc::SYS_rt_sigqueueinfo, "rt_sigqueueinfo"),
        (libc::SYS_rt_tgsigqueueinfo, "rt_tgsigqueueinfo"),
        (libc::SYS_sigaltstack, "sigaltstack"),
        (libc::SYS_timer_create, "timer_create"),
        (libc::SYS_timer_settime, "timer_settime"),
        (libc::SYS_timerfd_settime, "timerfd_settime"),
        (libc::SYS_setitimer, "setitimer"),
        (libc::SYS_prlimit64, "prlimit64"),
        (libc::SYS_setgroups, "setgroups"),
        (libc::SYS_setresuid, "setresuid"),
        (libc::SYS_setresgid, "setresgid"),
        (libc::SYS_setfsuid, "setfsuid"),
        (libc::SYS_setfsgid, "setfsgid"),
        (libc::SYS_capset, "capset"),
        (libc::SYS_seccomp, "seccomp"),
        (libc::SYS_setpriority, "setpriority"),
        (libc::SYS_sched_setscheduler, "sched_setscheduler"),
        (libc::SYS_membarrier, "membarrier"),
        (libc::SYS_waitid, "waitid"),
        (libc::SYS_wait4, "wait4"),
        (libc::SYS_close_range, "close_range"),
        (libc::SYS_fcntl, "fcntl"),
        (libc::SYS_flock, "flock"),
        (libc::SYS_open, "open"),
        (libc::SYS_set_robust_list, "set_robust_list"),
    ];
    known
        .iter()
        .find(|(n, _)| n.cast_unsigned() == nr)
        .map_or_else(|| format!("syscall_{nr}"), |(_, name)| (*name).to_owned())
}
