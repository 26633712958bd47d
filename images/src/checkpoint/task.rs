//! `pstree.img` and the images of each task.

use std::collections::HashMap;
use std::sync::Arc;

use crate::checkpoint::loader::{Loader, invalid};
use crate::checkpoint::{memory, range};
use crate::pages::PageSource;
use crate::proto::core_entry::March;
use crate::proto::{
    CoreEntry, CredsEntry, FdinfoEntry, FsEntry, ItimerEntry, MmEntry, PstreeEntry, RlimitEntry,
    SaEntry, SeccompMode, SiginfoEntry, SignalQueueEntry, TaskCoreEntry, TaskKobjIdsEntry,
    TaskRlimitsEntry, TaskTimersEntry, ThreadCoreEntry, ThreadInfoX86,
};
use crate::{Error, Image, Result};

/// Signals whose action is stored: all but SIGKILL and SIGSTOP.
const SIGACTIONS: usize = 62;
/// Size of the kernel's `siginfo_t`.
const SIGINFO_LEN: usize = 128;
/// Highest pid the kernel can be set to give.
const PID_MAX: u32 = 1 << 22;

/// What a task was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    /// Running or sleeping.
    Alive,
    /// A zombie: there is only [`Task::tc`]`.exit_code`.
    Dead,
    /// Stopped by a signal.
    Stopped,
}

/// A thread of a task.
#[derive(Debug)]
pub struct Thread {
    /// Virtual tid.
    pub tid: u32,
    /// `core-TID.img`. Of a live task it has `thread_core` with `creds`.
    pub core: CoreEntry,
}

impl Thread {
    /// State of the thread. Panics for the only thread of a zombie, which has none.
    #[must_use]
    pub fn thread_core(&self) -> &ThreadCoreEntry {
        self.core.thread_core.as_ref().expect("checked by load for threads of live tasks")
    }
}

/// What a task has as long as it is no zombie.
#[derive(Debug)]
pub struct Live {
    /// `mm-PID.img`, with the VMAs in it whatever the version.
    pub mm: MmEntry,
    /// `fs-PID.img`.
    pub fs: FsEntry,
    /// Descriptors, shared with the other tasks of the same `files_id`.
    pub fdinfo: Arc<Vec<FdinfoEntry>>,
    /// Contents of private memory.
    pub pages: PageSource,
}

/// A task of the tree.
#[derive(Debug)]
pub struct Task {
    /// Virtual pid.
    pub pid: u32,
    /// Virtual pid of the parent; 0 for the root.
    pub ppid: u32,
    /// Process group; 0 if the leader is outside of the pid namespace.
    pub pgid: u32,
    /// Session; 0 if the leader is outside of the pid namespace.
    pub sid: u32,
    /// What it was doing.
    pub state: TaskState,
    /// Its threads, the leader first.
    pub threads: Vec<Thread>,
    /// Kernel objects it may share with others. Always there for a live root.
    pub ids: Option<TaskKobjIdsEntry>,
    /// Index of the parent in [`Checkpoint::tasks`](super::Checkpoint::tasks).
    pub parent: Option<usize>,
    /// What only a live task has.
    pub live: Option<Live>,
}

impl Task {
    /// What concerns the task as a whole.
    #[must_use]
    pub fn tc(&self) -> &TaskCoreEntry {
        self.leader().core.tc.as_ref().expect("checked by load")
    }

    /// The thread whose tid is the pid.
    #[must_use]
    pub fn leader(&self) -> &Thread {
        &self.threads[0]
    }
}

/// The tasks and where they are.
#[derive(Debug)]
pub(super) struct Forest {
    pub(super) tasks: Vec<Task>,
    pub(super) by_pid: HashMap<u32, usize>,
}

/// Reads the process tree and the images of its tasks.
pub(super) fn tree(loader: &Loader, root_ids: &TaskKobjIdsEntry) -> Result<Forest> {
    let mut reader = loader.reader(Image::Pstree)?;
    if reader.is_absent() {
        return Err(Error::Absent { file: Image::Pstree.file_name() });
    }
    let mut tasks: Vec<Task> = Vec::new();
    let mut by_pid = HashMap::new();
    let mut tids = HashMap::new();
    while let Some(entry) = reader.read_opt::<PstreeEntry>()? {
        let PstreeEntry { pid, ppid, pgid, sid, ref threads } = entry;
        for (field, number) in [("pgid", pgid), ("sid", sid)] {
            if number > PID_MAX {
                return Err(reader.invalid(format_args!("pid {pid}: {field} {number} is no pid")));
            }
        }
        let parent = match (tasks.is_empty(), by_pid.get(&ppid)) {
            (true, _) if ppid == 0 => None,
            (true, _) => {
                return Err(reader.invalid(format_args!("ppid {ppid} of the root is not 0")));
            }
            (false, Some(parent)) => Some(*parent),
            (false, None) if ppid == 0 => {
                return Err(reader.invalid(format_args!("pid {pid} is a second root")));
            }
            (false, None) => {
                let reason = format_args!("pid {pid}: ppid {ppid} is no task before it");
                return Err(reader.invalid(reason));
            }
        };
        let (core, state) = leader(loader, pid)?;
        // criu 4.2 writes whatever was in memory as the only thread of a zombie.
        let threads = if state == TaskState::Dead { &[pid][..] } else { &threads[..] };
        if threads.first() != Some(&pid) {
            return Err(reader.invalid(format_args!("pid {pid} is not the first of its threads")));
        }
        for tid in threads {
            if !(1..=PID_MAX).contains(tid) {
                return Err(reader.invalid(format_args!("pid {pid}: tid {tid} is no pid")));
            }
            if let Some(other) = tids.insert(*tid, pid) {
                let reason = format_args!("pid {pid}: tid {tid} is one of pid {other} already");
                return Err(reader.invalid(reason));
            }
        }
        by_pid.insert(pid, tasks.len());
        let (threads, ids, live) = images_of(loader, core, state, threads)?;
        tasks.push(Task { pid, ppid, pgid, sid, state, threads, ids, parent, live });
    }
    let Some(root) = tasks.first() else {
        let (file, message) = (Image::Pstree.file_name(), "pstree_entry");
        return Err(Error::Empty { file, message });
    };
    check_root(root, root_ids)?;
    Ok(Forest { tasks, by_pid })
}

fn check_root(root: &Task, root_ids: &TaskKobjIdsEntry) -> Result<()> {
    if root.live.is_none() {
        return invalid(Image::Core(root.pid), "the root task is a zombie");
    }
    let image = Image::Ids(root.pid);
    let Some(ids) = &root.ids else { return Err(Error::Absent { file: image.file_name() }) };
    if ids.files_id == root_ids.files_id {
        let reason = format_args!("files_id {} is that of the dumper", ids.files_id);
        return invalid(image, reason);
    }
    Ok(())
}

/// The core of a leader and what it says of the task.
fn leader(loader: &Loader, pid: u32) -> Result<(CoreEntry, TaskState)> {
    let image = Image::Core(pid);
    let core: CoreEntry = loader.one(image)?;
    let state = match core.tc.as_ref().map(|tc| tc.task_state) {
        Some(1) => TaskState::Alive,
        Some(2) => TaskState::Dead,
        Some(3) => TaskState::Stopped,
        Some(n) => return invalid(image, format_args!("tc.task_state {n} is not known")),
        None => return invalid(image, "no `tc`"),
    };
    Ok((core, state))
}

/// Reads the other images of a task; the first of `tids` is the leader, whose core is read.
fn images_of(
    loader: &Loader,
    mut core: CoreEntry,
    state: TaskState,
    tids: &[u32],
) -> Result<(Vec<Thread>, Option<TaskKobjIdsEntry>, Option<Live>)> {
    let pid = tids[0];
    let core_ids = core.ids.take();
    if state == TaskState::Dead {
        return Ok((vec![Thread { tid: pid, core }], None, None));
    }
    let ids = match core_ids {
        Some(ids) => Some(ids),
        None => loader.opt(Image::Ids(pid))?,
    };
    modernise_task(loader, pid, &mut core)?;
    let mut threads = vec![Thread { tid: pid, core }];
    for &tid in &tids[1..] {
        threads.push(Thread { tid, core: thread(loader, tid)? });
    }
    for thread in &mut threads {
        modernise_thread(loader, pid, thread)?;
        check_thread(thread)?;
    }
    check_task(&threads[0])?;
    let mm = memory::mm(loader, pid)?;
    let pages = memory::pages(loader, pid)?;
    let live = Live { mm, fs: loader.one(Image::Fs(pid))?, fdinfo: Arc::default(), pages };
    Ok((threads, ids, Some(live)))
}

fn thread(loader: &Loader, tid: u32) -> Result<CoreEntry> {
    let image = Image::Core(tid);
    let core: CoreEntry = loader.one(image)?;
    match (&core.tc, &core.ids) {
        (None, None) => Ok(core),
        (Some(_), _) => invalid(image, "`tc` in the core of a thread"),
        (_, Some(_)) => invalid(image, "`ids` in the core of a thread"),
    }
}

/// Fills in what old versions kept in images of their own.
fn modernise_task(loader: &Loader, pid: u32, core: &mut CoreEntry) -> Result<()> {
    let image = Image::Core(pid);
    let Some(tc) = &mut core.tc else { return Ok(()) };
    if tc.sigactions.is_empty() {
        tc.sigactions = loader.all::<SaEntry>(Image::Sigacts(pid))?;
    }
    if tc.signals_s.is_none() {
        tc.signals_s = Some(queue(loader, Image::SignalS(pid))?);
    }
    if tc.timers.is_none() {
        loader.deprecated(image, "`tc` without `timers`")?;
        let itimers = loader.all::<ItimerEntry>(Image::Itimers(pid))?;
        let [real, virt, prof] = itimers[..] else {
            return invalid(Image::Itimers(pid), "has to have three entries");
        };
        let posix = loader.all(Image::PosixTimers(pid))?;
        tc.timers = Some(TaskTimersEntry { real, virt, prof, posix });
    }
    if tc.rlimits.is_none() {
        loader.deprecated(image, "`tc` without `rlimits`")?;
        let rlimits = loader.all::<RlimitEntry>(Image::Rlimit(pid))?;
        tc.rlimits = Some(TaskRlimitsEntry { rlimits });
    }
    let (mode, filter, set) = (tc.old_seccomp_mode.take(), tc.old_seccomp_filter.take(), tc.cg_set);
    if let Some(thread) = &mut core.thread_core {
        if thread.seccomp_mode.is_none() && mode.is_some() {
            (thread.seccomp_mode, thread.seccomp_filter) = (mode, filter);
        }
        thread.cg_set = thread.cg_set.or(set);
    }
    Ok(())
}

fn modernise_thread(loader: &Loader, pid: u32, thread: &mut Thread) -> Result<()> {
    let Some(state) = &mut thread.core.thread_core else {
        return invalid(Image::Core(thread.tid), "no `thread_core`");
    };
    if state.creds.is_none() {
        // There was one for all threads.
        state.creds = Some(loader.one::<CredsEntry>(Image::Creds(pid))?);
    }
    if state.signals_p.is_none() {
        state.signals_p = Some(queue(loader, Image::SignalP(thread.tid))?);
    }
    Ok(())
}

fn queue(loader: &Loader, image: Image) -> Result<SignalQueueEntry> {
    Ok(SignalQueueEntry { signals: loader.all::<SiginfoEntry>(image)? })
}

fn check_task(leader: &Thread) -> Result<()> {
    let image = Image::Core(leader.tid);
    let Some(tc) = &leader.core.tc else { return invalid(image, "no `tc`") };
    if tc.sigactions.len() != SIGACTIONS {
        let n = tc.sigactions.len();
        return invalid(image, format_args!("tc.sigactions has {n} entries, not {SIGACTIONS}"));
    }
    check_queue(image, "tc.signals_s", tc.signals_s.as_ref())?;
    if let Some(rlimits) = tc.rlimits.as_ref().filter(|r| r.rlimits.len() > 16) {
        let n = rlimits.rlimits.len();
        return invalid(image, format_args!("tc.rlimits has {n} entries, there are 16 limits"));
    }
    match tc.stop_signo {
        Some(signo) if !(1..=64).contains(&signo) => {
            invalid(image, format_args!("tc.stop_signo {signo} is no signal"))
        }
        _ => Ok(()),
    }
}

fn check_queue(image: Image, field: &str, queue: Option<&SignalQueueEntry>) -> Result<()> {
    for (i, signal) in queue.iter().flat_map(|q| &q.signals).enumerate() {
        let len = signal.siginfo.len();
        if len != SIGINFO_LEN {
            let reason = format_args!("{field}[{i}] has {len} bytes, not {SIGINFO_LEN}");
            return invalid(image, reason);
        }
    }
    Ok(())
}

fn check_thread(thread: &Thread) -> Result<()> {
    let image = Image::Core(thread.tid);
    let core = &thread.core;
    let Some(state) = &core.thread_core else { return invalid(image, "no `thread_core`") };
    check_queue(image, "thread_core.signals_p", state.signals_p.as_ref())?;
    if let Some(signo) = state.pdeath_sig.filter(|s| *s > 64) {
        return invalid(image, format_args!("thread_core.pdeath_sig {signo} is no signal"));
    }
    if let Some(mode) = state.seccomp_mode.filter(|m| SeccompMode::try_from(*m).is_err()) {
        return invalid(image, format_args!("thread_core.seccomp_mode {mode} is not known"));
    }
    if let Some(creds) = &state.creds {
        let caps = [
            ("cap_inh", &creds.cap_inh),
            ("cap_prm", &creds.cap_prm),
            ("cap_eff", &creds.cap_eff),
            ("cap_bnd", &creds.cap_bnd),
            ("cap_amb", &creds.cap_amb),
        ];
        if let Some((name, words)) = caps.iter().find(|(_, words)| ![0, 2].contains(&words.len())) {
            return invalid(image, format_args!("creds.{name} has {} words, not 2", words.len()));
        }
    }
    check_registers(image, core)?;
    range::thread(core).or_else(|reason| invalid(image, reason))
}

fn check_registers(image: Image, core: &CoreEntry) -> Result<()> {
    match March::try_from(core.mtype) {
        Ok(March::X8664) => match &core.thread_info {
            Some(info) => check_x86(image, info),
            None => invalid(image, "mtype is X86_64, and there is no `thread_info`"),
        },
        Ok(March::Aarch64) => match &core.ti_aarch64 {
            Some(info) => check_lengths(
                image,
                "ti_aarch64",
                &[
                    ("gpregs.regs", info.gpregs.regs.len(), 31..=31),
                    ("fpsimd.vregs", info.fpsimd.vregs.len(), 64..=64),
                ],
            ),
            None => invalid(image, "mtype is AARCH64, and there is no `ti_aarch64`"),
        },
        Ok(other) => {
            invalid(image, format_args!("not supported yet: mtype {}", other.as_str_name()))
        }
        Err(_) => invalid(image, format_args!("mtype {} is not known", core.mtype)),
    }
}

/// State components that the architecture names: x87 to APX.
const XFEATURES: u64 = (1 << 20) - 1;

fn check_x86(image: Image, info: &ThreadInfoX86) -> Result<()> {
    let fp = &info.fpregs;
    // Longer ones are cut to what the CPU knows; shorter ones lack registers.
    let any = usize::MAX;
    check_lengths(
        image,
        "thread_info.fpregs",
        &[("st_space", fp.st_space.len(), 32..=any), ("xmm_space", fp.xmm_space.len(), 64..=any)],
    )?;
    let Some(xsave) = &fp.xsave else { return Ok(()) };
    let unknown = xsave.xstate_bv & !XFEATURES;
    if unknown != 0 {
        let field = "thread_info.fpregs.xsave.xstate_bv";
        return invalid(image, format_args!("{field} has unknown bits {unknown:#x}"));
    }
    let parts = [
        ("ymmh_space", xsave.ymmh_space.len(), 64),
        ("bndreg_state", xsave.bndreg_state.len(), 8),
        ("bndcsr_state", xsave.bndcsr_state.len(), 8),
        ("opmask_reg", xsave.opmask_reg.len(), 8),
        ("zmm_upper", xsave.zmm_upper.len(), 64),
        ("hi16_zmm", xsave.hi16_zmm.len(), 128),
        ("pkru", xsave.pkru.len(), 2),
    ];
    // A component that is absent is left in its initial state.
    let present: Vec<_> = parts
        .into_iter()
        .filter(|(_, len, _)| *len > 0)
        .map(|(name, len, want)| (name, len, want..=any))
        .collect();
    check_lengths(image, "thread_info.fpregs.xsave", &present)
}

fn check_lengths(
    image: Image,
    of: &str,
    lengths: &[(&str, usize, std::ops::RangeInclusive<usize>)],
) -> Result<()> {
    match lengths.iter().find(|(_, len, want)| !want.contains(len)) {
        None => Ok(()),
        Some((name, len, want)) => {
            let want = want.start();
            invalid(image, format_args!("{of}.{name} has {len} words, not {want}"))
        }
    }
}
