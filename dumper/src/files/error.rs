//! Why the files of a tree could not be collected.

use nix::errno::Errno;

/// Why the files of a tree could not be collected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A descriptor.
    #[error("task {pid}: fd {fd} ({link}): {why}")]
    Fd {
        /// Its task.
        pid: i32,
        /// Its number.
        fd: i32,
        /// What `/proc/PID/fd/FD` links to.
        link: String,
        /// Why it cannot be saved.
        why: Why,
    },
    /// cwd, root, executable or a mapped file.
    #[error("task {pid}: {what} ({path}): {why}")]
    Path {
        /// Its task.
        pid: i32,
        /// Which one.
        what: &'static str,
        /// Its path.
        path: String,
        /// Why it cannot be saved.
        why: Why,
    },
    /// Something that concerns a task as a whole.
    #[error("task {pid}: {why}")]
    Task {
        /// Which one.
        pid: i32,
        /// Why.
        why: Why,
    },
    /// Something that concerns the whole tree.
    #[error("{0}")]
    Tree(Why),
    /// An image could not be written.
    #[error(transparent)]
    Images(#[from] images::Error),
}

/// Why one file cannot be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// A system call.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// An image could not be written.
    #[error(transparent)]
    Images(#[from] images::Error),
    /// `/proc` does not tell what it should.
    #[error("{0}")]
    Text(String),
    /// What has not been built.
    #[error("not supported yet: {0}")]
    NotYet(String),
    /// What cannot be saved, and what would help.
    #[error("{0}")]
    Refused(String),
    /// A deleted file is too large to be copied.
    #[error(
        "Can't dump ghost file {path} of {size} bytes, increase limit (--ghost-limit, now {limit})"
    )]
    GhostTooBig {
        /// Its former path.
        path: String,
        /// Allocated bytes.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A file that lost its name but has others.
    #[error("Can't create link remap for {0}. Use --link-remap")]
    NeedsLinkRemap(String),
    /// Something is mounted over the mount of the file.
    #[error("Open files on overmounted mounts are not supported yet (mount {0})")]
    Overmounted(i32),
    /// Another file has taken the name.
    #[error(
        "{0} is another file now: it was replaced or mounted over after it had been opened, or it \
         was opened on a mount that has no place (open_tree, umount -l)"
    )]
    NameReused(String),
}

impl Why {
    pub(crate) fn yet(what: impl Into<String>) -> Self {
        Self::NotYet(what.into())
    }

    pub(crate) fn refused(what: impl Into<String>) -> Self {
        Self::Refused(what.into())
    }

    pub(crate) fn field(name: &str) -> Self {
        Self::Text(format!("fdinfo has no valid `{name}`"))
    }
}

/// Names the call whose nix wrapper failed.
pub(crate) fn call<T>(name: impl FnOnce() -> String, result: nix::Result<T>) -> Result<T, Why> {
    result.map_err(|errno: Errno| Why::Sys(sys::Error::new(name(), errno as i32)))
}

/// Bytes the kernel gave, for messages.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
