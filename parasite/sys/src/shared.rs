//! A page shared with forked children: words that are read, written and waited on.

use crate::error::check;
use crate::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Memory shared by this process and all it forks (a memfd mapped `MAP_SHARED`).
#[derive(Debug)]
pub struct SharedPage {
    fd: OwnedFd,
    ptr: *mut libc::c_void,
    len: usize,
}

impl SharedPage {
    /// `len` bytes, zeroed.
    pub fn new(len: usize) -> Result<Self> {
        let fd = crate::fd::memfd_create(b"criu-shared", libc::MFD_CLOEXEC)?;
        // SAFETY: a plain system call on a descriptor we own.
        let ret = unsafe { libc::ftruncate(fd.as_raw_fd(), len as libc::off_t) };
        check(ret.into(), || format!("ftruncate({}, {len})", fd.as_raw_fd()))?;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice.
        let ptr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if ptr == libc::MAP_FAILED {
            return Err(Error::last(format_args!("mmap({len}, MAP_SHARED)")));
        }
        Ok(Self { fd, ptr, len })
    }

    /// The memfd behind the mapping, for mapping it elsewhere.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Address of the mapping in this process.
    pub fn addr(&self) -> u64 {
        self.ptr as u64
    }

    /// All of it, as words.
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: the mapping is page-aligned, `len` bytes long, lives as long as `self`, and
        // is only ever accessed through atomics (here and in the forked children).
        unsafe { std::slice::from_raw_parts(self.ptr.cast::<AtomicU32>(), self.len / 4) }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, to which no reference outlives `self`.
        unsafe { libc::munmap(self.ptr, self.len) };
    }
}

/// `FUTEX_WAIT` (shared): sleeps while `*word == value`, at most `timeout`.
/// Returns on wake, on change, on a signal and on timeout alike: look at the word again.
pub fn futex_wait(word: &AtomicU32, value: u32, timeout: Option<Duration>) {
    let ts = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs() as libc::time_t,
        tv_nsec: t.subsec_nanos().into(),
    });
    let p = ts.as_ref().map_or(std::ptr::null(), |t| t as *const libc::timespec);
    // SAFETY: the word is alive for the call, and the timespec too (or null).
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, p) };
}

/// `FUTEX_WAKE` (shared) of everyone waiting on `word`.
pub fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word is alive for the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, i32::MAX) };
}
