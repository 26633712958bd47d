//! Images → process tree.
//!
//! ```no_run
//! let request = restorer::Request::new("/tmp/checkpoint");
//! let tree = restorer::restore(&request, &mut restorer::NoHooks)?;
//! println!("root task is {}", tree.pid);
//! # Ok::<(), restorer::Error>(())
//! ```
#![deny(unsafe_code)]

pub mod files;
mod hooks;
mod request;

pub use hooks::{Action, Hooks, NoHooks, Progress};
pub use request::Request;

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
}

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
/// detached, the caller waits for it.
pub fn restore(_request: &Request, _hooks: &mut dyn Hooks) -> Result<Restored, Error> {
    unimplemented!("lands in the next commits")
}
