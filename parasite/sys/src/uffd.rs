//! `userfaultfd(2)`, as far as it tells which pages were written: write-protection that the
//! kernel resolves by itself (`UFFD_FEATURE_WP_ASYNC`, 6.7). Nobody waits for anybody: the
//! first write to a page takes its protection away, [`crate::pagemap::scan`] sees that and
//! puts it back.
//!
//! And as far as it makes pages of our own, many in one call and without waiting for the lock of
//! the file they are of: [`Filler`].

use crate::Result;
use crate::error::check;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

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
const UFFDIO_UNREGISTER: u64 = 0x8010_aa01;
const UFFDIO_ZEROPAGE: u64 = 0xc020_aa04;
const REGISTER_MODE_MISSING: u64 = 1;
const REGISTER_MODE_WP: u64 = 1 << 1;
const ZEROPAGE_MODE_DONTWAKE: u64 = 1;

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

/// Makes pages of zeroes where a mapping of ours has none (`UFFDIO_ZEROPAGE`, of files in memory
/// since 4.11): half as long as faults take, which is what `MADV_POPULATE_WRITE` is made of.
#[derive(Debug)]
pub struct Filler(OwnedFd);

impl Filler {
    /// Fails where the kernel does not have it or does not let us.
    pub fn new() -> Result<Self> {
        let fd = create(USER_MODE_ONLY)?;
        enable(fd.as_fd(), 0)?;
        Ok(Self(fd))
    }

    /// Fills a range of a mapping, without a page yet, of anonymous memory or of a file in memory.
    /// Fails also where a page is there already; some pages are made then.
    pub(crate) fn fill(&self, start: u64, len: u64) -> Result<()> {
        let raw = self.0.as_raw_fd();
        let failed = |call| move || format!("ioctl({raw}, {call}, {start:#x}, {len})");
        let mut register = [start, len, REGISTER_MODE_MISSING, 0];
        // SAFETY: UFFDIO_REGISTER reads and writes a struct uffdio_register (four u64). Whoever
        // touches a missing page of the range would wait: nobody else knows it, by contract.
        let ret =
            unsafe { libc::ioctl(raw, UFFDIO_REGISTER as libc::Ioctl, register.as_mut_ptr()) };
        check(ret.into(), failed("UFFDIO_REGISTER"))?;
        let mut zeropage = [start, len, ZEROPAGE_MODE_DONTWAKE, 0];
        // SAFETY: UFFDIO_ZEROPAGE reads and writes a struct uffdio_zeropage (four u64). It makes
        // pages where there are none, and changes none that is there.
        let ret =
            unsafe { libc::ioctl(raw, UFFDIO_ZEROPAGE as libc::Ioctl, zeropage.as_mut_ptr()) };
        let filled = check(ret.into(), failed("UFFDIO_ZEROPAGE"));
        let mut range = [start, len];
        // SAFETY: UFFDIO_UNREGISTER reads a struct uffdio_range (two u64).
        let ret = unsafe { libc::ioctl(raw, UFFDIO_UNREGISTER as libc::Ioctl, range.as_mut_ptr()) };
        check(ret.into(), failed("UFFDIO_UNREGISTER"))?;
        filled.map(|_| ())
    }
}
