//! State of tasks and threads other than memory and files.

pub(crate) mod cgroup;
pub(crate) mod cgroup_dirs;
pub(crate) mod cgroup_memory;
mod cgroup_props;
pub(crate) mod core;
pub(crate) mod creds;
pub(crate) mod ids;
pub mod inside;
pub(crate) mod landlock;
pub(crate) mod lsm;
pub(crate) mod rlimits;
pub(crate) mod rseq;
pub(crate) mod seccomp;
pub(crate) mod sem_undo;
pub(crate) mod signals;
pub(crate) mod timers;
pub(crate) mod x86;
