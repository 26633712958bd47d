//! The host side of infection: holding a process tree still, and running calls inside it.
//!
//! ```text
//! running --freeze--> Frozen (guard over the tree) --infect--> Infected (guard over one process)
//!                        |  drop: all run on                      |  drop: cured
//! ```
//!
//! Every way out, errors and panics included, ends with the tasks running on as if nobody had
//! been there. All calls must come from the thread that froze the tree (ptrace's rule).
#![forbid(unsafe_code)]

mod dying;
mod error;
mod freeze;
mod gadget;
mod infect;
pub mod proc;
mod remote;
mod script;
mod shelter;
mod sigframe;
mod tracee;

pub use dying::Dying;
pub use error::Error;
pub use freeze::{Frozen, Limits, Process, freeze, hold_frozen};
pub use infect::Infected;
pub use script::{Answers, Arg, Call, Data, Script};
pub use shelter::look_ahead;
pub use sigframe::{Restart, xstate_size};
pub use tracee::{RseqCs, Saved, Thread};

/// The code that is put into targets; its first byte is the entry.
pub(crate) static BLOB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/parasite-blob.bin"));

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;
