//! Paths below a directory that is held open.

use crate::error::check;
use crate::{Error, Result};
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// `openat2(2)` with `RESOLVE_IN_ROOT` (5.6): `root` is `/` for the path and all links in it.
/// Where the call is missing or forbidden: `openat(2)` of the same path without leading slashes.
/// `flags` must be ones that `openat2` knows; `O_CLOEXEC` is added.
pub fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: i32) -> Result<OwnedFd> {
    let raw = root.as_raw_fd();
    let trimmed = path.iter().position(|b| *b != b'/').map_or(&b"."[..], |n| &path[n..]);
    let c =
        CString::new(trimmed).map_err(|_| Error::new("openat2(path with NUL)", libc::EINVAL))?;
    let flags = flags | libc::O_CLOEXEC;
    let how = OpenHow { flags: flags as u32 as u64, mode: 0, resolve: 0x10 };
    let size = size_of::<OpenHow>();
    // SAFETY: the path is NUL-terminated, `how` is `size` bytes long; both outlive the call.
    let mut ret =
        unsafe { libc::syscall(libc::SYS_openat2, raw, c.as_ptr(), &raw const how, size) };
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    if ret == -1 && matches!(errno, libc::ENOSYS | libc::EPERM | libc::EAGAIN) {
        // SAFETY: the path is NUL-terminated and outlives the call.
        ret = unsafe { libc::openat(raw, c.as_ptr(), flags) }.into();
    }
    let fd = check(ret, || format!("open({:?}, {flags:#o})", String::from_utf8_lossy(path)))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `open(2)` of a path of our own; `O_CLOEXEC` is added.
pub fn open_at(path: &str, flags: i32) -> Result<OwnedFd> {
    let c = CString::new(path).map_err(|_| Error::new("open(path with NUL)", libc::EINVAL))?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    let fd = unsafe { libc::open(c.as_ptr(), flags | libc::O_CLOEXEC) };
    let fd = check(fd.into(), || format!("open({path:?}, {flags:#o})"))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// `setresuid(2)` of this thread alone, `-1` (as `u32::MAX`) for unchanged.
pub fn set_thread_uids(real: u32, effective: u32, saved: u32) -> Result<()> {
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::syscall(libc::SYS_setresuid, real, effective, saved) };
    check(ret, || format!("setresuid({real}, {effective}, {saved})")).map(|_| ())
}

/// `setresgid(2)` of this thread alone, `-1` (as `u32::MAX`) for unchanged.
pub fn set_thread_gids(real: u32, effective: u32, saved: u32) -> Result<()> {
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::syscall(libc::SYS_setresgid, real, effective, saved) };
    check(ret, || format!("setresgid({real}, {effective}, {saved})")).map(|_| ())
}

/// `setgroups(2)` of this thread alone, to none.
pub fn drop_thread_groups() -> Result<()> {
    // SAFETY: an empty list needs no memory.
    let ret = unsafe { libc::syscall(libc::SYS_setgroups, 0, 0usize) };
    check(ret, || "setgroups(0)".into()).map(|_| ())
}
