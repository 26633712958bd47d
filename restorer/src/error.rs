use crate::script::Full;
use crate::{mm, plan, task};

/// Why a restore failed. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A hook asked to stop with this exit code.
    #[error("{action} hook failed with {code}")]
    Hook {
        /// Its name.
        action: &'static str,
        /// Exit code to end with.
        code: i32,
    },
    /// The images are wrong.
    #[error(transparent)]
    Images(#[from] images::Error),
    /// A system call of the coordinator.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// Files cannot be restored.
    #[error(transparent)]
    Files(#[from] crate::files::Error),
    /// The tree cannot be made.
    #[error(transparent)]
    Tree(#[from] plan::tree::Error),
    /// A number cannot be had.
    #[error(transparent)]
    Pid(#[from] plan::pids::Error),
    /// Memory cannot be rebuilt.
    #[error(transparent)]
    Memory(#[from] mm::Error),
    /// Registers cannot be set.
    #[error(transparent)]
    Registers(#[from] task::regs::Error),
    /// Something about one task.
    #[error("task {pid}: {source}")]
    Task {
        /// Its virtual pid.
        pid: u32,
        /// What.
        #[source]
        source: Box<Error>,
    },
    /// A task reported this while it was rebuilt.
    #[error("task {tid}: {text}")]
    Reported {
        /// Virtual tid.
        tid: u32,
        /// Its words.
        text: String,
    },
    /// A task ended while it was rebuilt.
    #[error("task {pid} ended while it was rebuilt: {how}")]
    Died {
        /// Its pid.
        pid: i32,
        /// Exit code or signal.
        how: String,
    },
    /// A task got a fatal signal while it was rebuilt.
    #[error("task {pid} got signal {signo} at {rip:#x} while it was rebuilt")]
    Crashed {
        /// Its pid.
        pid: i32,
        /// The signal.
        signo: i32,
        /// Where it was.
        rip: u64,
    },
    /// No place for the restorer.
    #[error("no hole in the address space is large enough for the restorer")]
    NoHole,
    /// The data of a task does not fit.
    #[error("the description of the task is larger than the restorer's room for it")]
    Full,
    /// Images of another architecture.
    #[error("the images are not of x86-64")]
    Architecture,
    /// A capability that this process lacks.
    #[error("thread {tid} had capability {cap}, which this process lacks and cannot give")]
    Capability {
        /// Virtual tid.
        tid: u32,
        /// The capability's number.
        cap: u32,
    },
    /// Security modules.
    #[error(
        "thread {tid} has the security profile {profile:?}: {why} (--lsm-profile names another)"
    )]
    Lsm {
        /// Virtual tid.
        tid: u32,
        /// The profile.
        profile: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A field that cannot be true.
    #[error("{what} is {value}")]
    Field {
        /// Its name.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// Too few descriptors.
    #[error("the restore needs descriptors up to {need}, and RLIMIT_NOFILE allows {hard}")]
    Nofile {
        /// How many.
        need: u64,
        /// The hard limit.
        hard: u64,
    },
    /// A control group.
    #[error("control group {path:?} of hierarchy {name:?}: {why}")]
    Cgroup {
        /// Controllers of the hierarchy.
        name: String,
        /// The group.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// An option the images ask for.
    #[error("the images were dumped with {0}: give it again")]
    Option(&'static str),
    /// Plugins.
    #[error("the images need plugin {0:?}: not supported yet")]
    Plugin(String),
    /// Namespaces.
    #[error("task {pid} has a {kind} namespace of its own: not supported yet")]
    Namespace {
        /// Virtual pid.
        pid: u32,
        /// Kind of namespace.
        kind: &'static str,
    },
    /// Namespaces that differ within the tree.
    #[error(
        "task {pid} is in another {kind} namespace than the root task: this cannot be restored"
    )]
    Nested {
        /// Virtual pid.
        pid: u32,
        /// Kind of namespace.
        kind: &'static str,
    },
    /// A network namespace that cannot be made as the images have it.
    #[error("network namespace: {0}")]
    NetNs(String),
    /// A namespace that somebody else has to bring.
    #[error("the {kind} namespace is external: needs --inherit-fd fd[N]:{key}")]
    External {
        /// Kind of namespace.
        kind: &'static str,
        /// Its key.
        key: String,
    },
    /// An id that the kernel does not give.
    #[error("{kind}: asked for {wanted}, got {got}: is ipcmni_extend set differently?")]
    IpcId {
        /// Sysctl that asks for it.
        kind: &'static str,
        /// The id in the images.
        wanted: u32,
        /// The kernel's.
        got: i32,
    },
    /// Part of a segment.
    #[error("task {pid}: System V segment at {at:#x} is not mapped whole: not supported yet")]
    Sysv {
        /// Virtual pid.
        pid: u32,
        /// Where.
        at: u64,
    },
    /// Numbers cannot be chosen.
    #[error(
        "a user namespace of the tree's own without a pid namespace of its own: pid {pid} cannot \
         be chosen from inside: not supported yet"
    )]
    UserWithoutPid {
        /// A virtual pid, or tid.
        pid: u32,
    },
    /// `--join-ns` that names nothing.
    #[error("--join-ns {text}: is not KIND:PID or KIND:FILE (user:PID,UID,GID)")]
    Join {
        /// As given.
        text: String,
    },
    /// A user namespace without root.
    #[error("user namespace: nobody is 0 in its {what}")]
    NoRoot {
        /// Which map.
        what: &'static str,
    },
    /// The mounts of the images cannot be made as they are.
    #[error("{0}")]
    MountPlan(String),
    /// A mount.
    #[error("mount {id} at {point}: {source}")]
    Mount {
        /// Its id in the images.
        id: u32,
        /// Where.
        point: String,
        /// What happened.
        source: Box<Error>,
    },
    /// No instruction to unmap the arena with.
    #[error("task {0} has no `syscall` instruction in its memory")]
    NoGadget(u32),
    /// The tree did not come to an end.
    #[error("a signal asked to stop")]
    Interrupted,
    /// The restore failed in its worker process, which says this.
    #[error("{text}")]
    Failed {
        /// What it says.
        text: String,
        /// Its errno.
        errno: i32,
    },
}

impl Error {
    /// The nearest there is to an errno: what clients of the RPC are told as `cr_errno`.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Hook { .. } | Self::Interrupted => libc::ECANCELED,
            Self::Failed { errno, .. } => *errno,
            Self::Images(e) => e.errno(),
            Self::Sys(e) => e.errno(),
            Self::Pid(plan::pids::Error::Taken { .. }) => libc::EEXIST,
            Self::Task { source, .. } => source.errno(),
            Self::Capability { .. } => libc::EPERM,
            Self::Reported { .. } | Self::Died { .. } | Self::Crashed { .. } => libc::EIO,
            Self::Cgroup { .. } => libc::ENOENT,
            Self::Lsm { .. } | Self::Plugin(_) | Self::Namespace { .. } => libc::EOPNOTSUPP,
            _ => libc::EINVAL,
        }
    }

    /// Says which task it is about.
    pub(crate) fn of_task(self, pid: u32) -> Self {
        match self {
            Self::Task { .. } => self,
            other => Self::Task { pid, source: Box::new(other) },
        }
    }
}

impl From<Full> for Error {
    fn from(_: Full) -> Self {
        Self::Full
    }
}
