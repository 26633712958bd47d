//! Probes of tasks and their memory.

use super::files::dev_null;
use super::{Answer, readable, why, yes};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use sys::probe;

/// Fork, remap, remove and unmap events of userfaultfd.
pub(super) const UFFD_NONCOOP: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6;

pub(super) const MADV_GUARD_INSTALL: i32 = 102;

pub(super) fn kcmp() -> Answer {
    let me = nix::unistd::getpid().as_raw();
    sys::fd::kcmp(me, me, sys::fd::Kcmp::Vm, 0, 0).map(drop).map_err(why)
}

pub(super) fn prctl_mm_map() -> Answer {
    // PR_SET_MM with PR_SET_MM_MAP_SIZE wants a pointer; a null one is complained of.
    let answer = probe::call(libc::SYS_prctl, [35, 15, 0, 0, 0, 0]);
    complains(answer, libc::EFAULT)
}

pub(super) fn proc_stat() -> Answer {
    let stat = fs::read_to_string("/proc/self/stat").map_err(why)?;
    let fields = stat.rsplit_once(')').map_or(0, |(_, rest)| rest.split_whitespace().count());
    yes(fields >= 50, "/proc/self/stat has no exit_code field")
}

pub(super) fn sigqueueinfo() -> Answer {
    // SIGURG is ignored by default, so nothing comes of it.
    yes(probe::queue_to_self(), "a kernel signal cannot be queued to oneself")
}

pub(super) fn peeksiginfo() -> Answer {
    probe::with_tracee(0, |pid| sys::ptrace::pending_signals(pid, true)).map(drop).map_err(why)
}

pub(super) fn seccomp_suspend() -> Answer {
    probe::with_tracee(sys::ptrace::option::SUSPEND_SECCOMP, |_| Ok(())).map_err(why)
}

pub(super) fn kcmp_epoll() -> Answer {
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
    let event = nix::sys::eventfd::EventFd::new().map_err(why)?;
    let epoll = Epoll::new(EpollCreateFlags::empty()).map_err(why)?;
    epoll.add(&event, EpollEvent::new(EpollFlags::EPOLLIN, 0)).map_err(why)?;
    let me = nix::unistd::getpid().as_raw();
    let (target, efd) = (event.as_fd().as_raw_fd() as u32, epoll.0.as_raw_fd() as u32);
    let same = sys::fd::kcmp_epoll_tfd(me, target, me, efd, target, 0).map_err(why)?;
    yes(same, "kcmp does not find the target of an epoll")
}

pub(super) fn pidfd_store() -> Answer {
    let me = sys::fd::pidfd_open(nix::unistd::getpid().as_raw(), 0).map_err(why)?;
    let null = dev_null()?;
    sys::fd::pidfd_getfd(me.as_fd(), null.as_raw_fd()).map(drop).map_err(why)
}

pub(super) fn get_rseq_conf() -> Answer {
    probe::with_tracee(0, sys::ptrace::rseq_configuration).map(drop).map_err(why)
}

pub(super) fn timer_cr_ids() -> Answer {
    // PR_TIMER_CREATE_RESTORE_IDS, GET.
    complains(probe::call(libc::SYS_prctl, [77, 2, 0, 0, 0, 0]), 0)
}

pub(super) fn scan_own_page(advice: Option<i32>) -> Answer {
    use sys::pagemap::{PageRegion, Query, category, scan};
    let pages = probe::Pages::new(1).map_err(why)?;
    if let Some(advice) = advice {
        pages.advise(advice).map_err(why)?;
    }
    let (start, end) = pages.range();
    let wanted = if advice.is_some() { category::GUARD } else { category::PRESENT };
    let query = Query { start, end, anyof: wanted, report: wanted, ..Query::default() };
    let pagemap = File::open("/proc/self/pagemap").map_err(why)?;
    let mut found = [PageRegion::default(); 1];
    let (count, _) = scan(pagemap.as_fd(), &query, &mut found).map_err(why)?;
    yes(count > 0 || advice.is_none(), "guard pages are not reported")
}

pub(super) fn map_files() -> Answer {
    let exe = fs::read_to_string("/proc/self/maps").map_err(why)?;
    let line = exe.lines().find(|l| l.contains('/')).ok_or("no file is mapped")?;
    let range = line.split(' ').next().unwrap_or_default();
    readable(&format!("/proc/self/map_files/{range}"))
}

pub(super) fn memfd_hugetlb() -> Answer {
    let flags = libc::MFD_HUGETLB | libc::MFD_CLOEXEC;
    sys::fd::memfd_create(b"criu-check", flags).map(drop).map_err(why)
}

pub(super) fn uffd(features: u64) -> Answer {
    let has = probe::uffd_features().map_err(why)?;
    yes(has & features == features, &format!("userfaultfd has features {has:#x} only"))
}

/// The call is there when it complains of `errno` rather than of not existing.
pub(super) fn complains(answer: sys::Result<i64>, errno: i32) -> Answer {
    match answer {
        Ok(_) => Ok(()),
        Err(e) if e.errno() == errno => Ok(()),
        Err(e) => Err(why(e)),
    }
}

pub(super) fn seccomp_filters() -> Answer {
    let filter = probe::with_filtered_tracee(|pid| sys::ptrace::seccomp_filter(pid, 0));
    yes(filter.map_err(why)?.is_some(), "no filter is shown")
}
