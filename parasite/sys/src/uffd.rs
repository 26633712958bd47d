//! `userfaultfd(2)`, as far as it tells which pages were written: write-protection that the
//! kernel resolves by itself (`UFFD_FEATURE_WP_ASYNC`, 6.7). Nobody waits for anybody: the
//! first write to a page takes its protection away, [`crate::pagemap::scan`] sees that and
//! puts it back.

use crate::Result;
use crate::error::check;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// `UFFD_USER_MODE_ONLY` (5.11): needs no privilege. Writes made by the kernel are seen all the
/// same when write-protection is asynchronous.
pub const USER_MODE_ONLY: u64 = 1;
/// `UFFD_FEATURE_WP_UNPOPULATED` (6.4).
pub const WP_UNPOPULATED: u64 = 1 << 13;
/// `UFFD_FEATURE_WP_ASYNC` (6.7).
pub const WP_ASYNC: u64 = 1 << 15;

const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_WRITEPROTECT: u64 = 0xc018_aa06;
const UFFD_API: u64 = 0xaa;
const REGISTER_MODE_WP: u64 = 1 << 1;

/// `userfaultfd(2)` for our own address space; `O_CLOEXEC`, `O_NONBLOCK`.
pub fn create(flags: u64) -> Result<OwnedFd> {
    let flags = flags | (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
    // SAFETY: integer in, descriptor out.
    let ret = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    check(ret, || format!("userfaultfd({flags:#x})")).map(crate::fd::owned)
}

/// `UFFDIO_API`: turns the descriptor on, with these features. `EINVAL`: the kernel lacks one.
pub fn enable(fd: BorrowedFd<'_>, features: u64) -> Result<()> {
    let raw = fd.as_raw_fd();
    let mut api = [UFFD_API, features, 0];
    // SAFETY: UFFDIO_API reads and writes a struct uffdio_api (three u64).
    let ret = unsafe { libc::ioctl(raw, UFFDIO_API as libc::Ioctl, api.as_mut_ptr()) };
    check(ret.into(), || format!("ioctl({raw}, UFFDIO_API, {features:#x})")).map(|_| ())
}

/// `UFFDIO_REGISTER` for write-protection: all mappings that lie in the range, holes between
/// them allowed. The addresses are of the address space in which the descriptor was made.
///
/// `EBUSY`: a mapping belongs to another userfaultfd; `EINVAL`: it cannot be registered.
pub fn register(fd: BorrowedFd<'_>, start: u64, end: u64) -> Result<()> {
    let raw = fd.as_raw_fd();
    let mut arg = [start, end - start, REGISTER_MODE_WP, 0];
    // SAFETY: UFFDIO_REGISTER reads and writes a struct uffdio_register (four u64). With
    // asynchronous write-protection nothing ever waits for the descriptor, whoever's memory it is.
    let ret = unsafe { libc::ioctl(raw, UFFDIO_REGISTER as libc::Ioctl, arg.as_mut_ptr()) };
    check(ret.into(), || format!("ioctl({raw}, UFFDIO_REGISTER, {start:#x}-{end:#x})")).map(|_| ())
}

/// `UFFDIO_WRITEPROTECT` taken off: the pages count as written. `ENOENT`: a part of the range is
/// not registered; `ESRCH`: the address space is gone.
pub fn unprotect(fd: BorrowedFd<'_>, start: u64, end: u64) -> Result<()> {
    let raw = fd.as_raw_fd();
    let mut arg = [start, end - start, 0];
    // SAFETY: UFFDIO_WRITEPROTECT reads a struct uffdio_writeprotect (three u64).
    let ret = unsafe { libc::ioctl(raw, UFFDIO_WRITEPROTECT as libc::Ioctl, arg.as_mut_ptr()) };
    check(ret.into(), || format!("ioctl({raw}, UFFDIO_WRITEPROTECT, {start:#x}-{end:#x}, off)"))
        .map(|_| ())
}

/// Whether the address space in which the descriptor was made still exists.
pub fn is_alive(fd: BorrowedFd<'_>) -> bool {
    // The last page but one that a program can have: should it be watched, nothing is lost.
    let last = 0x7fff_ffff_d000;
    !matches!(unprotect(fd, last, last + 4096), Err(e) if e.errno() == libc::ESRCH)
}
