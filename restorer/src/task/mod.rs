//! What is restored of a task besides memory and files: each kind as steps for the blob.

pub(crate) mod amber;
pub(crate) mod core;
pub(crate) mod creds;
pub(crate) mod lsm;
pub(crate) mod regs;
pub(crate) mod rlimits;
pub(crate) mod seccomp;
pub(crate) mod sigacts;
pub(crate) mod signals;
pub(crate) mod timers;
