//! Process tree → images.
//!
//! [`dump`] saves a running tree into a directory in CRIU's image format:
//!
//! ```no_run
//! let request = dumper::Request::new(1234, "/tmp/checkpoint");
//! dumper::dump(&request, &mut dumper::NoHooks)?;
//! # Ok::<(), dumper::Error>(())
//! ```
#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "modules are private: `pub` there means the whole crate")]

mod before;
pub mod cpuinfo;
mod dump;
mod files;
mod finish;
mod freezer;
mod guard;
mod hooks;
mod inventory;
mod mm;
mod network;
mod ns;
mod pages;
mod pre_dump;
mod request;
mod stop;
mod task;
mod tree;
mod xattr;

use parasite::proc;

pub use hooks::{Action, Hooks, NoHooks, Progress};
pub use ns::mnt::MountOptions;
pub use pages::dirty::{Tracking, tracking};
pub use request::{
    CgroupProps, FileValidation, Leave, NetworkLock, PageServer, PreDumpMode, Request, Storing,
};

/// For `cargo bench`.
#[doc(hidden)]
pub use pages::bench;

/// Parsers of what the kernel says, for fuzzing.
#[doc(hidden)]
pub mod parse {
    pub use crate::files::parse as files;
    pub use crate::mm::parse_auxv;
    pub use crate::mm::smaps::parse as smaps;
    pub use crate::ns::fuzz as ns;
    pub use crate::pages::scan::pagemap;

    /// BTF: where a member is, if it has that.
    pub fn btf(bytes: &[u8], structure: &str, member: &str) -> Option<i16> {
        use crate::mm::btf::{Btf, Kind};
        let btf = Btf::parse(bytes)?;
        let [id] = btf.find([(Kind::Struct, structure)]);
        btf.word(id, member)
    }

    /// `/proc/PID/timers`: whether it parses.
    pub fn timers(text: &str) -> bool {
        crate::task::timers::parse(text).is_some()
    }

    /// `/proc/PID/limits`: whether it parses.
    pub fn limits(text: &str) -> bool {
        crate::task::rlimits::parse(text).is_some()
    }

    /// The hierarchies that `/proc/self/mountinfo` shows: how many.
    pub fn hierarchies(text: &str) -> usize {
        crate::task::cgroup_dirs::mounts(text).len()
    }

    /// `/proc/net/igmp` and `/proc/net/igmp6`: how many memberships.
    pub fn memberships(text: &str) -> [usize; 2] {
        use crate::files::multicast::{igmp, igmp6};
        [igmp(text).len(), igmp6(text).len()]
    }

    /// `/proc/PID/cgroup`: how many groups.
    pub fn cgroup(text: &str) -> usize {
        crate::task::cgroup::members(text).len()
    }
}

/// Why a dump failed. The tree runs on as before.
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
    /// Whoever asked for the dump is gone.
    #[error("stopped by whoever asked for it")]
    Stopped,
    /// The tree could not be frozen, or calls could not be made in it.
    #[error(transparent)]
    Parasite(#[from] parasite::Error),
    /// A text of `/proc`.
    #[error(transparent)]
    Proc(#[from] proc::Error),
    /// An address space.
    #[error(transparent)]
    Mm(#[from] mm::Error),
    /// Contents of memory.
    #[error(transparent)]
    Pages(pages::Error),
    /// An open file.
    #[error(transparent)]
    Files(files::FilesError),
    /// A system call.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// An image could not be written.
    #[error(transparent)]
    Images(#[from] images::Error),
    /// An error in the work on one task.
    #[error("task {pid}: {source}")]
    Task {
        /// Its pid, in our namespace.
        pid: i32,
        /// What happened.
        source: Box<Error>,
    },
    /// The dump failed in its worker process, which says this.
    #[error("{text}")]
    Failed {
        /// Its words.
        text: String,
        /// [`Error::errno`] of what it was there.
        errno: i32,
    },
    /// The worker process ended without a result.
    #[error("the dumping process ended with wait status {status:#x}{}", why_it_died(*status))]
    WorkerDied {
        /// As `waitpid` tells.
        status: i32,
    },
    /// Something that the images cannot hold, or that the request forbids.
    #[error("{0}")]
    Refused(String),
    /// A part of the dump that has not been built.
    #[error("not supported yet: {0}")]
    NotYet(String),
}

impl Error {
    /// The nearest there is to an errno: what clients of the RPC are told as `cr_errno`.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Hook { .. } | Self::Stopped => libc::ECANCELED,
            Self::Parasite(e) => match e {
                parasite::Error::NoProcess { .. } | parasite::Error::Ended { .. } => libc::ESRCH,
                parasite::Error::Timeout { .. } => libc::ETIMEDOUT,
                parasite::Error::Sys(e) | parasite::Error::NoAccess { source: e, .. } => e.errno(),
                parasite::Error::Traced { .. } => libc::EBUSY,
                _ => libc::EOPNOTSUPP,
            },
            Self::Sys(e) => e.errno(),
            Self::Images(e) => e.errno(),
            Self::Task { source, .. } => source.errno(),
            Self::Failed { errno, .. } => *errno,
            Self::Refused(_) | Self::NotYet(_) | Self::Files(_) | Self::Mm(_) => libc::EOPNOTSUPP,
            Self::Pages(pages::Error::Server { source, .. }) => {
                source.raw_os_error().unwrap_or(libc::EHOSTUNREACH)
            }
            Self::Pages(pages::Error::Memory { .. }) => libc::ENOMEM,
            Self::Proc(_) | Self::Pages(_) | Self::WorkerDied { .. } => libc::EIO,
        }
    }

    /// Says on which task the work failed.
    pub(crate) fn on(pid: i32) -> impl FnOnce(Self) -> Self {
        move |source| Self::Task { pid, source: Box::new(source) }
    }
}

/// What a wait status tells of why the worker died, and what would help.
fn why_it_died(status: i32) -> &'static str {
    match libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)) {
        Some(libc::SIGKILL) => {
            ": killed, maybe as its control group has no memory left for images: see dmesg; write \
             them to a disk, or --compress them"
        }
        Some(libc::SIGXFSZ) => ": an image is larger than RLIMIT_FSIZE allows: raise it",
        Some(libc::SIGBUS) => ": the file system of the images had no space or no memory left",
        _ => "",
    }
}

/// What a dump measured: contents of `stats-dump`, which the caller writes.
pub type Stats = images::proto::DumpStatsEntry;

/// Saves the tree rooted at `request.pid` into `request.images_dir`.
///
/// The work is done by a forked process, so that the death of this one, at any moment, leaves
/// the tree unharmed. Call it from a thread that may fork (see [`sys::worker::fork`]).
pub fn dump(request: &Request, hooks: &mut dyn Hooks) -> Result<Stats, Error> {
    guard::run(request, hooks, dump::work)
}

/// Saves the memory of the tree rooted at `request.pid`, which runs on, and has the kernel watch
/// what is written from now on: images that can be the parent of a later dump.
pub fn pre_dump(request: &Request, hooks: &mut dyn Hooks) -> Result<Stats, Error> {
    guard::run(request, hooks, pre_dump::work)
}

impl From<pages::Error> for Error {
    fn from(e: pages::Error) -> Self {
        match e {
            pages::Error::Stopped => Self::Stopped,
            e => Self::Pages(e),
        }
    }
}
