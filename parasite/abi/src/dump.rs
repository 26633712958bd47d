//! The dump blob's head: where its steps and its way home are.

use core::mem::{offset_of, size_of};

/// What the dump blob is pointed at when it starts: one for each run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Run {
    /// Address of the first [`Step`](crate::Step).
    pub steps: u64,
    /// How many there are.
    pub count: u64,
    /// Process that runs this, for the knock.
    pub pid: u32,
    /// Thread that runs this.
    pub tid: u32,
    /// Signal that tells the tracer "all steps are done"; one that is ignored when nobody
    /// traces. 0: the tracer watches the system calls instead.
    pub knock: u32,
    /// Padding.
    pub pad: u32,
    /// Address of the complete `rt_sigframe` that takes the thread back to its own work,
    /// as the stack pointer has to be for `rt_sigreturn`.
    pub frame: u64,
}

const _: () = {
    assert!(size_of::<Run>() == 40);
    assert!(offset_of!(Run, knock) == 24);
    assert!(offset_of!(Run, frame) == 32);
};
