//! Images → process tree.
//!
//! ```no_run
//! let request = restorer::Request::new("/tmp/checkpoint");
//! let tree = restorer::restore(&request, &mut restorer::NoHooks)?;
//! println!("root task is {}", tree.pid);
//! # Ok::<(), restorer::Error>(())
//! ```
//!
//! `plan` decides everything without making anything; `execute` makes it: the tree is forked,
//! each process turns itself into its task by help of the restorer blob, and all are let go
//! together.
#![deny(unsafe_code)]

mod error;
mod execute;
mod facts;
pub mod files;
#[doc(hidden)]
pub mod fuzz;
mod hooks;
mod mm;
mod ns;
mod plan;
mod request;
mod script;
mod task;

pub use error::Error;
pub use hooks::{Action, Hooks, NoHooks, Progress};
pub use ns::mnt::MountOptions;
pub use request::{CgroupMode, Request};

/// A tree that runs again.
#[derive(Debug)]
pub struct Restored {
    /// The root task's pid, in our pid namespace.
    pub pid: i32,
    /// What was measured; also written as `stats-restore`.
    pub stats: images::proto::RestoreStatsEntry,
}

/// Rebuilds the tree saved in `request.images_dir` and lets it run.
///
/// The root task is our child (our sibling with `request.sibling`): unless the request is
/// detached, the caller waits for it. The calling process must have one thread only, and no
/// children whose exit status somebody waits for.
pub fn restore(request: &Request, hooks: &mut dyn Hooks) -> Result<Restored, Error> {
    execute::run(request, hooks)
}
