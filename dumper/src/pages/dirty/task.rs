//! Tracking of one task.

use super::probe::{FEATURES, WP_MATCHING};
use crate::mm::kind::Content;
use crate::pages::Error;
use crate::pages::select::Area;
use images::pages::PAGE_SIZE;
use parasite::{Infected, Process, Script};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;
use sys::pagemap::{PageRegion, Query, category};
use sys::uffd;

/// How the changes of a task are tracked.
#[derive(Clone, Copy, Debug)]
pub enum Way<'a> {
    /// By soft-dirty bits.
    SoftDirty,
    /// By this userfaultfd.
    WriteProtect(BorrowedFd<'a>),
}

/// What is known of the changes of one task, and what becomes of it.
#[derive(Clone, Copy, Debug)]
pub struct Since<'a> {
    /// `None`: nothing is known.
    pub way: Option<Way<'a>>,
    /// What the parent images have.
    pub covered: &'a [(u64, u64)],
    /// Changes are tracked for the next dump.
    pub arm: bool,
    /// Only what is tracked is of use: other memory is saved by the last dump.
    pub only_tracked: bool,
}

impl Since<'static> {
    /// Nothing is known, and nothing is to be.
    pub const NOTHING: Self = Self { way: None, covered: &[], arm: false, only_tracked: false };
}

/// Neighbours among areas that `wanted` takes, as one range each.
fn groups(areas: &[Area], wanted: impl Fn(&Area) -> bool) -> Vec<(usize, usize)> {
    let mut groups: Vec<(usize, usize)> = Vec::new();
    for (i, _) in areas.iter().enumerate().filter(|(_, a)| wanted(a)) {
        match groups.last_mut() {
            Some(last) if last.1 == i => last.1 = i + 1,
            _ => groups.push((i, i + 1)),
        }
    }
    groups
}

impl Since<'_> {
    /// The parent images may be used.
    pub fn is_known(&self) -> bool {
        self.way.is_some() && !self.covered.is_empty()
    }

    /// Decides for each area whether its changes are known, and begins to track. On entry
    /// `trackable` tells what its kind allows, `tracked` that it is write-protected by somebody.
    pub fn enter(&self, areas: &mut [Area]) {
        match self.way {
            None => areas.iter_mut().for_each(|a| (a.trackable, a.tracked) = (false, false)),
            Some(Way::SoftDirty) => areas.iter_mut().for_each(|a| a.tracked = a.trackable),
            Some(Way::WriteProtect(fd)) => self.register(fd, areas),
        }
        if self.only_tracked {
            for area in areas.iter_mut().filter(|a| !a.trackable || !a.readable) {
                (area.trackable, area.tracked) = (false, false);
                area.content = Content::Nothing;
            }
        }
    }

    /// Registering what is registered already changes nothing, and tells that it is by us.
    fn register(&self, fd: BorrowedFd<'_>, areas: &mut [Area]) {
        areas.iter_mut().for_each(|a| a.tracked &= a.trackable);
        let arm = self.arm;
        let wanted = move |a: &Area| if arm { a.trackable } else { a.tracked };
        for (first, behind) in groups(areas, wanted) {
            let group = &mut areas[first..behind];
            let end = group.last().map_or(0, |a| a.end);
            if uffd::register(fd, group[0].start, end).is_ok() {
                continue;
            }
            for area in group {
                if let Err(e) = uffd::register(fd, area.start, area.end) {
                    log::debug!("not tracked: {e}");
                    (area.trackable, area.tracked) = (false, false);
                }
            }
        }
    }

    /// From now on every write is noticed.
    pub fn arm(&self, pid: i32, areas: &[Area]) -> Result<(), Error> {
        match self.way.filter(|_| self.arm) {
            None => Ok(()),
            Some(Way::SoftDirty) => std::fs::write(format!("/proc/{pid}/clear_refs"), "4")
                .map_err(|source| Error::Pagemap { pid, source }),
            Some(Way::WriteProtect(_)) => protect(pid, areas),
        }
    }
}

/// Write-protects the pages that are there. Others need it not: what appears is written.
fn protect(pid: i32, areas: &[Area]) -> Result<(), Error> {
    let open = |source| Error::Pagemap { pid, source };
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).map_err(open)?;
    let mut regions = vec![PageRegion::default(); 4096];
    // Guard pages have the swap bit and are not to be touched; old kernels have neither.
    let mut guard = category::GUARD;
    for (first, behind) in groups(areas, |a| a.trackable) {
        let (mut start, end) = (areas[first].start, areas[behind - 1].end);
        while start < end {
            let query = Query {
                start,
                end,
                flags: WP_MATCHING,
                inverted: category::PFNZERO | guard,
                mask: category::PFNZERO | guard | category::WRITTEN,
                anyof: category::PRESENT | category::SWAPPED,
                report: category::WRITTEN,
            };
            start = match sys::pagemap::scan(pagemap.as_fd(), &query, &mut regions) {
                Ok((_, walked)) if walked > start => walked,
                Ok(_) => {
                    let call = format_args!("ioctl(PAGEMAP_SCAN): stuck at {start:#x}");
                    return Err(sys::Error::new(call, libc::EIO).into());
                }
                Err(e) if e.errno() == libc::EINVAL && guard != 0 => {
                    guard = 0;
                    start
                }
                Err(e) => return Err(e.into()),
            };
        }
    }
    Ok(())
}

/// The task whose memory a userfaultfd is of still has that memory.
pub(super) fn is_alive(fd: &OwnedFd) -> bool {
    uffd::is_alive(fd.as_fd())
}

/// Makes pages count as written, as far as they are there and watched.
pub(super) fn unprotect(fd: &OwnedFd, start: u64, end: u64) {
    if uffd::unprotect(fd.as_fd(), start, end).is_err() {
        for page in (start..end).step_by(PAGE_SIZE as usize) {
            let _ = uffd::unprotect(fd.as_fd(), page, page + PAGE_SIZE);
        }
    }
}

/// Has `process` make a userfaultfd, takes it, and leaves none behind.
pub(super) fn make_uffd(
    process: &mut Process,
    deadline: Option<Instant>,
) -> Result<OwnedFd, crate::Error> {
    let mut user_mode = Script::default();
    let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
    let call = user_mode.call(libc::SYS_userfaultfd, &[(flags | uffd::USER_MODE_ONLY).into()]);
    let mut any_mode = Script::default();
    any_mode.call(libc::SYS_userfaultfd, &[flags.into()]);
    let pidfd = process.pidfd.try_clone().map_err(|e| sys::Error::io("dup", &e))?;
    let mut inside = Infected::new(process, &[&user_mode], deadline)?;
    let mut made = inside.run(&user_mode)?.result(call);
    if made == -i64::from(libc::EINVAL) {
        // Linux before 5.11 does not know the flag.
        made = inside.run(&any_mode)?.result(call);
    }
    if made < 0 {
        return Err(sys::Error::new("userfaultfd()", -made as i32).into());
    }
    let taken = sys::fd::pidfd_getfd(pidfd.as_fd(), made as i32);
    let mut close = Script::default();
    close.call(libc::SYS_close, &[(made as u64).into()]);
    inside.run(&close)?;
    inside.cure()?;
    let fd = taken?;
    uffd::enable(fd.as_fd(), FEATURES)?;
    Ok(fd)
}
