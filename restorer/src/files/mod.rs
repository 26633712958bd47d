//! Descriptors, paths and what is behind them: planned once, opened by the tasks themselves.
//!
//! ```text
//! coordinator   FilesPlan::new      who uses what, who opens it, which numbers stay free
//!               Files::new          /proc, kept through all forks
//! root task     open_shared         ghosts, memfds, whatever more than one task uses
//!   fork …        inherited by everyone, at numbers above all of the images
//! each task     install             opens the rest, puts everything to its number
//!               open_mapped …       for mappings, exe, cwd
//! coordinator   late                timers, seals, queued inotify events: all tasks stand still
//!               cleanup             link-remap names
//! ```
//!
//! Files without a name are made under it, opened, and lose it again at once; whoever needs
//! such a file opens it through `/proc/self/fd`. So nothing is left when a restore dies.

pub(crate) mod build_id;
mod eventfd;
mod eventpoll;
mod external;
pub mod file_lock;
mod fown;
mod fs;
mod fsnotify;
mod ghost;
mod inet_sk;
mod late;
mod memfd;
mod multicast;
mod net;
pub mod net_lock;
mod netlink_sk;
mod ns_file;
mod open;
mod packet_sock;
mod path;
mod pidfd;
mod pipe;
mod place;
mod plan;
mod reg_file;
mod set;
mod signalfd;
mod sk_buf;
mod sk_opts;
pub mod tcp_stream;
#[cfg(test)]
mod tests;
mod timerfd;
pub mod tty;
pub(crate) mod tun;
mod unix_sk;

pub use late::late;
pub(crate) use late::{cleanup, links};
pub use open::Files;
pub use plan::FilesPlan;
pub use sk_buf::Outside;

/// Why files could not be restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call.
    #[error("{0}")]
    Sys(#[from] sys::Error),
    /// An image.
    #[error("{0}")]
    Image(#[from] images::Error),
    /// Where something else happened.
    #[error("{at}: {source}")]
    At {
        /// Which file, descriptor, path.
        at: String,
        /// What happened.
        source: Box<Error>,
    },
    /// A kind that cannot be restored so far.
    #[error("not supported yet: {0}")]
    NotYet(String),
    /// What the images say cannot be had here.
    #[error("{0}")]
    Refused(String),
}

/// Result of restoring files.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says where an error happened.
trait At<T> {
    /// Puts `at` in front of the error's text.
    fn at(self, at: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Error>> At<T> for Result<T, E> {
    fn at(self, at: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::At { at: at(), source: Box::new(e.into()) })
    }
}

/// A failed call of `nix` as an error of ours.
fn failed(call: impl std::fmt::Display, errno: nix::Error) -> Error {
    sys::Error::new(call, errno as i32).into()
}

/// A failed operation of `std` as an error of ours.
fn failed_io(call: impl std::fmt::Display, error: &std::io::Error) -> Error {
    sys::Error::io(call, error).into()
}
