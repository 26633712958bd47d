use crate::proc;

/// Why a tree could not be held, or code could not be run in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// A text of `/proc`.
    #[error(transparent)]
    Proc(#[from] proc::Error),
    /// There is no such process.
    #[error("no process {pid}")]
    NoProcess {
        /// Its number.
        pid: i32,
    },
    /// The number is that of a thread.
    #[error("{pid} is a thread of process {tgid}: name the process")]
    IsThread {
        /// The number given.
        pid: i32,
        /// Its process.
        tgid: i32,
    },
    /// It has ended, and its parent has not been told yet.
    #[error("{pid} is a zombie: a process that has ended has nothing to save")]
    Zombie {
        /// Its number.
        pid: i32,
    },
    /// We are part of the tree.
    #[error("The criu itself is within dumped tree ({pid} is in the tree of {root})")]
    WithinTree {
        /// Ours.
        pid: i32,
        /// The tree's.
        root: i32,
    },
    /// Somebody else traces the task.
    #[error("task {tid} is traced by {tracer} (see TracerPid in /proc/{tid}/status): detach it")]
    Traced {
        /// The task.
        tid: i32,
        /// Who traces it.
        tracer: i32,
    },
    /// The kernel does not let us trace the task.
    #[error("task {tid}: {source} (ptrace access: run as root with CAP_SYS_PTRACE, see Yama)")]
    NoAccess {
        /// The task.
        tid: i32,
        /// What the kernel said.
        source: sys::Error,
    },
    /// The leader of a process is gone while other threads live.
    #[error("process {pid}: its leader thread has exited and other threads live on")]
    ZombieLeader {
        /// The process.
        pid: i32,
    },
    /// Threads of one process are stopped and running.
    #[error("process {pid}: only some of its threads are stopped")]
    HalfStopped {
        /// The process.
        pid: i32,
    },
    /// The time was over.
    #[error("timeout: task {tid} did not stop ({why})")]
    Timeout {
        /// The task.
        tid: i32,
        /// What it does instead.
        why: String,
    },
    /// Whoever asked for it is gone.
    #[error("stopped by whoever asked for it")]
    Stopped,
    /// The tree grows faster than it can be frozen.
    #[error("the tree did not become stable in {passes} passes")]
    Unstable {
        /// How often it was walked.
        passes: u32,
    },
    /// A task ended while it was worked on.
    #[error("task {tid} ended during the dump")]
    Ended {
        /// The task.
        tid: i32,
    },
    /// A task runs code for which there is no blob.
    #[error("not supported yet: task {tid}: {what}")]
    Mode {
        /// The task.
        tid: i32,
        /// What kind of code.
        what: &'static str,
    },
    /// The task has no `syscall` instruction.
    #[error("task {pid}: no `syscall` instruction in its executable mappings")]
    NoGadget {
        /// The process.
        pid: i32,
    },
    /// A call made in the task did not work.
    #[error("task {tid}: {what}: {source}")]
    Remote {
        /// The task.
        tid: i32,
        /// Which call.
        what: &'static str,
        /// Its errno.
        source: std::io::Error,
    },
    /// Something happened that the state machine does not know.
    #[error("task {tid}: unexpected stop by signal {signo}, event {event}, in {what}")]
    Unexpected {
        /// The task.
        tid: i32,
        /// Signal of the stop.
        signo: i32,
        /// `PTRACE_EVENT_*`.
        event: i32,
        /// What was going on.
        what: &'static str,
    },
}
