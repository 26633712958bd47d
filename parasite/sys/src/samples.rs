//! Mappings of our own, one of each kind, made to see how the kernel shows them.

use crate::error::check;
use crate::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

const PAGE: usize = 4096;

/// A range of addresses in which mappings are made, each of one page with a free one behind it.
/// Nobody reads or writes there. They go when it is dropped, but for a sealed one.
#[derive(Debug)]
pub struct Samples {
    base: *mut libc::c_void,
    len: usize,
    /// Bytes that are in use.
    used: usize,
    /// Bytes that can be given back.
    free: usize,
}

/// Address of a sample.
#[derive(Clone, Copy, Debug)]
pub struct Sample(usize);

impl Samples {
    /// Room for so many.
    pub fn new(count: usize) -> Result<Self> {
        let len = count * 2 * PAGE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(Error::last(format_args!("mmap({len}, PROT_NONE)")));
        }
        Ok(Self { base, len, used: 0, free: len })
    }

    /// First address, and the one behind the last.
    pub fn range(&self) -> (u64, u64) {
        (self.base as u64, self.base as u64 + self.len as u64)
    }

    /// A page, mapped with these `PROT_*` and `MAP_*`; anonymous without a file.
    pub fn map(&mut self, prot: i32, flags: i32, file: Option<BorrowedFd<'_>>) -> Result<Sample> {
        let offset = self.used;
        let flags = flags | libc::MAP_FIXED | if file.is_some() { 0 } else { libc::MAP_ANONYMOUS };
        if offset + 2 * PAGE > self.len {
            return Err(Error::new("mmap(one more sample)", libc::ENOSPC));
        }
        let at = self.base.wrapping_byte_add(offset);
        let fd = file.map_or(-1, |f| f.as_raw_fd());
        // SAFETY: within the range that `new` has mapped, at a page not handed out yet: nothing
        // refers to it.
        let ptr = unsafe { libc::mmap(at, PAGE, prot, flags, fd, 0) };
        if ptr == libc::MAP_FAILED {
            return Err(Error::last(format_args!("mmap({at:?}, {prot}, {flags:#x}, {fd})")));
        }
        self.used += 2 * PAGE;
        Ok(Sample(at as usize))
    }

    /// `madvise(2)`.
    pub fn advise(&self, sample: Sample, advice: i32) -> Result<()> {
        let at = sample.0;
        // SAFETY: a page of ours, to whose contents no reference exists.
        let ret = unsafe { libc::madvise(at as *mut libc::c_void, PAGE, advice) };
        check(ret.into(), || format!("madvise({at:#x}, {advice})")).map(|_| ())
    }

    /// `mlock2(2)`.
    pub fn lock(&self, sample: Sample, flags: u32) -> Result<()> {
        let at = sample.0;
        // SAFETY: a page of ours; being in memory changes nothing of it.
        let ret = unsafe { libc::syscall(libc::SYS_mlock2, at, PAGE, flags) };
        check(ret, || format!("mlock2({at:#x}, {flags})")).map(|_| ())
    }

    /// `mseal(2)` (6.10) of the sample that was made last, and will be the last: it stays as long
    /// as this process.
    pub fn seal(&mut self, sample: Sample) -> Result<()> {
        const SYS_MSEAL: i64 = 462;
        let at = sample.0;
        // SAFETY: a page of ours; `drop` does not touch it any more.
        let ret = unsafe { libc::syscall(SYS_MSEAL, at, PAGE, 0) };
        check(ret, || format!("mseal({at:#x})"))?;
        (self.free, self.used) = (at - self.base as usize, self.len);
        Ok(())
    }

    /// Address and end.
    pub fn range_of(sample: Sample) -> (u64, u64) {
        (sample.0 as u64, (sample.0 + PAGE) as u64)
    }
}

impl Drop for Samples {
    fn drop(&mut self) {
        // SAFETY: the mappings made by `new` and `map`; nothing refers to them.
        unsafe { libc::munmap(self.base, self.free) };
    }
}
