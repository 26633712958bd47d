//! `PAGEMAP_SCAN` (6.7): which pages of an address space exist, in one call.

use crate::Result;
use crate::error::check;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Page categories, as in `<linux/fs.h>`.
pub mod category {
    /// Registered for asynchronous write-protection.
    pub const WPALLOWED: u64 = 1;
    /// Written since it was last write-protected.
    pub const WRITTEN: u64 = 2;
    /// Page cache or shared memory.
    pub const FILE: u64 = 4;
    /// In memory.
    pub const PRESENT: u64 = 8;
    /// In swap (guard pages show this too).
    pub const SWAPPED: u64 = 16;
    /// The kernel's zero page.
    pub const PFNZERO: u64 = 32;
    /// Part of a huge page.
    pub const HUGE: u64 = 64;
    /// Soft-dirty.
    pub const SOFT_DIRTY: u64 = 128;
    /// A guard page (`MADV_GUARD_INSTALL`).
    pub const GUARD: u64 = 256;
}

/// A range of pages with equal categories: `struct page_region`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PageRegion {
    /// First address.
    pub start: u64,
    /// Address behind the last page.
    pub end: u64,
    /// Bits of [`category`].
    pub categories: u64,
}

/// What to look for: `struct pm_scan_arg` without the output vector.
#[derive(Clone, Copy, Debug, Default)]
pub struct Query {
    /// First address.
    pub start: u64,
    /// Address behind the last page.
    pub end: u64,
    /// `PM_SCAN_WP_MATCHING` 1, `PM_SCAN_CHECK_WPASYNC` 2.
    pub flags: u64,
    /// Categories to invert before matching.
    pub inverted: u64,
    /// All of these must be set.
    pub mask: u64,
    /// At least one of these must be set.
    pub anyof: u64,
    /// Categories to report.
    pub report: u64,
}

#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: u64 = 0xc060_6610;

/// Scans the address space behind `pagemap` (an open `/proc/PID/pagemap`).
///
/// Fills `out` from its start and returns the number of regions and the address where the walk
/// ended: behind `query.end` when all was seen, else continue there.
/// `ENOTTY` before Linux 6.7.
pub fn scan(
    pagemap: BorrowedFd<'_>,
    query: &Query,
    out: &mut [PageRegion],
) -> Result<(usize, u64)> {
    let raw = pagemap.as_raw_fd();
    let mut arg = ScanArg {
        size: size_of::<ScanArg>() as u64,
        flags: query.flags,
        start: query.start,
        end: query.end,
        walk_end: 0,
        vec: out.as_mut_ptr() as u64,
        vec_len: out.len() as u64,
        max_pages: 0,
        category_inverted: query.inverted,
        category_mask: query.mask,
        category_anyof_mask: query.anyof,
        return_mask: query.report,
    };
    // SAFETY: `arg` is a struct pm_scan_arg whose vector points to `out`, with its length.
    let ret = unsafe { libc::ioctl(raw, PAGEMAP_SCAN as libc::Ioctl, &mut arg) };
    let n = check(ret.into(), || {
        format!("ioctl({raw}, PAGEMAP_SCAN, {:#x}-{:#x})", query.start, query.end)
    })?;
    Ok((n as usize, arg.walk_end))
}
