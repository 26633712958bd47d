//! Paths below the root of the mount namespace.

use super::{Result, failed};
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Bits that `openat2` takes together with `O_PATH`.
const WITH_PATH: i32 = libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_PATH | libc::O_CLOEXEC;
/// Bits that only mean something while a file is created, or are set later.
const NOT_AT_OPEN: i32 =
    libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_ASYNC | libc::O_CLOEXEC;
/// What `O_TMPFILE` has besides `O_DIRECTORY`.
const TMPFILE: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;

/// Flags to open a file again which was open with `flags`.
pub(super) fn open_flags(flags: u32) -> i32 {
    let mut flags = flags as i32;
    if flags & TMPFILE != 0 {
        flags &= !libc::O_TMPFILE;
    }
    if flags & libc::O_PATH != 0 {
        return flags & WITH_PATH;
    }
    (flags & !NOT_AT_OPEN) | libc::O_NOCTTY
}

/// Splits a path into directory and last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A path for messages.
pub(super) fn show(path: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(path)
}

/// Bytes as a path for `nix`.
pub(super) fn os(path: &[u8]) -> &OsStr {
    OsStr::from_bytes(path)
}

/// Opens the directory at `path` only to name things in it.
pub(super) fn directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    Ok(sys::path::open_in_root(root, path, libc::O_PATH | libc::O_DIRECTORY)?)
}

/// `openat(2)` of one name in a directory.
pub(super) fn open_name(
    dir: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlag,
    mode: u32,
) -> Result<OwnedFd> {
    let mode = Mode::from_bits_truncate(mode);
    nix::fcntl::openat(dir, os(name), flags | OFlag::O_CLOEXEC, mode)
        .map_err(|e| failed(format_args!("openat({:?}, {flags:?})", show(name)), e))
}

/// `unlinkat(2)`; `dir` for a directory.
pub(super) fn unlink(at: BorrowedFd<'_>, name: &[u8], dir: bool) -> Result<(), nix::Error> {
    use nix::unistd::UnlinkatFlags::{NoRemoveDir, RemoveDir};
    nix::unistd::unlinkat(at, os(name), if dir { RemoveDir } else { NoRemoveDir })
}

/// Device and inode of what `name` in `dir` is, if there is something.
pub(super) fn lookup(dir: BorrowedFd<'_>, name: &[u8]) -> Option<libc::stat> {
    nix::sys::stat::fstatat(dir, os(name), AtFlags::AT_SYMLINK_NOFOLLOW).ok()
}
