//! System calls.
//!
//! Two layers: [`raw`] is `no_std` and all that the injected blobs may use; everything else
//! needs the `std` feature and is what the host side calls: safe signatures, errors that
//! print the call as strace would. The only crate besides the blobs (and two named files of
//! the restorer) that contains `unsafe`.
#![cfg_attr(not(feature = "std"), no_std)]

pub mod raw;

#[cfg(feature = "std")]
pub mod bpf;
#[cfg(feature = "std")]
pub mod cpuid;
#[cfg(feature = "std")]
mod error;
#[cfg(feature = "std")]
pub mod events;
#[cfg(feature = "std")]
pub mod fd;
#[cfg(feature = "std")]
pub mod file;
#[cfg(feature = "std")]
pub mod ipc;
#[cfg(feature = "std")]
pub mod mount;
#[cfg(feature = "std")]
pub mod net;
#[cfg(feature = "std")]
pub mod net_lock;
#[cfg(feature = "std")]
pub mod netlink;
#[cfg(feature = "std")]
pub mod pagemap;
#[cfg(feature = "std")]
pub mod path;
#[cfg(feature = "std")]
pub mod probe;
#[cfg(feature = "std")]
pub mod ptrace;
#[cfg(feature = "std")]
pub mod samples;
#[cfg(feature = "std")]
pub mod shared;
#[cfg(feature = "std")]
pub mod socket;
#[cfg(feature = "std")]
pub mod task;
#[cfg(feature = "std")]
pub mod tcp;
#[cfg(feature = "std")]
pub mod tty;
#[cfg(feature = "std")]
pub mod uffd;
#[cfg(feature = "std")]
pub mod vm;
#[cfg(feature = "std")]
pub mod window;
#[cfg(feature = "std")]
pub mod worker;

#[cfg(feature = "std")]
pub use error::{Error, Result};

#[cfg(feature = "std")]
pub mod arena;
