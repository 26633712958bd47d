//! The contract between the host process and the code it injects.
//!
//! Read by programs built apart from each other: the host side (`parasite`, `restorer`) and
//! the two blobs. Both blobs are interpreters of [`Step`]s; what the steps do is decided on
//! the host. Types are `#[repr(C)]`, hold addresses as plain `u64`, and have their layout
//! pinned by `const` blocks, so a change of layout is a compile error and not a corrupted
//! target.
#![no_std]
#![forbid(unsafe_code)]

pub mod dump;
pub mod restore;

use core::mem::{align_of, offset_of, size_of};

/// What a [`Step`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Op {
    /// The list ends.
    End = 0,
    /// Make system call `nr` with `args`, keep the kernel's answer in `result`.
    Syscall = 1,
}

impl Op {
    /// Decodes what stands in [`Step::op`].
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(Self::End),
            1 => Some(Self::Syscall),
            _ => None,
        }
    }
}

/// What happens when a step's system call fails.
pub mod flag {
    /// Go on: the host looks at `result`.
    pub const MAY_FAIL: u32 = 1;
    /// `result` must equal `expect`, any other answer is a failure.
    pub const EXPECT: u32 = 2;
}

/// One instruction for a blob.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Step {
    /// An [`Op`].
    pub op: u32,
    /// Bits of [`flag`].
    pub flags: u32,
    /// System call number.
    pub nr: u64,
    /// Its arguments; addresses are those of the target.
    pub args: [u64; 6],
    /// With [`flag::EXPECT`]: the only good answer.
    pub expect: i64,
    /// Filled by the blob: the kernel's answer, `-errno` on failure.
    pub result: i64,
}

const _: () = {
    assert!(size_of::<Step>() == 80);
    assert!(align_of::<Step>() == 8);
    assert!(offset_of!(Step, args) == 16);
    assert!(offset_of!(Step, result) == 72);
};
