//! Descriptors without a path: pipes, eventfd, epoll, signalfd, timerfd, inotify, anonymous
//! shared memory.

use crate::error::check;
use crate::{Error, Result};
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the callers pass a descriptor which the kernel has just made for us, so it is
    // open and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

fn c_string(bytes: &[u8], call: &str) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::new(format_args!("{call}(path with NUL)"), libc::EINVAL))
}

/// `pipe2(2)`: read end, write end. Both are `O_CLOEXEC`.
pub fn pipe(flags: i32) -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1i32; 2];
    // SAFETY: the kernel writes two ints.
    let ret = unsafe { libc::pipe2(ends.as_mut_ptr(), flags | libc::O_CLOEXEC) };
    check(ret.into(), || format!("pipe2({flags:#x})"))?;
    Ok((owned(ends[0].into()), owned(ends[1].into())))
}

/// `eventfd2(2)`, `O_CLOEXEC`.
pub fn eventfd(initial: u32, flags: i32) -> Result<OwnedFd> {
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::eventfd(initial, flags | libc::EFD_CLOEXEC) };
    check(ret.into(), || format!("eventfd2({initial}, {flags:#x})")).map(owned)
}

/// `epoll_create1(2)`, `O_CLOEXEC`.
pub fn epoll() -> Result<OwnedFd> {
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    check(ret.into(), || "epoll_create1(EPOLL_CLOEXEC)".to_owned()).map(owned)
}

/// `epoll_ctl(EPOLL_CTL_ADD)` of the descriptor with number `target`.
pub fn epoll_add(epoll: BorrowedFd<'_>, target: RawFd, events: u32, data: u64) -> Result<()> {
    let raw = epoll.as_raw_fd();
    let mut event = libc::epoll_event { events, u64: data };
    // SAFETY: `event` outlives the call, which only reads it.
    let ret = unsafe { libc::epoll_ctl(raw, libc::EPOLL_CTL_ADD, target, &raw mut event) };
    check(ret.into(), || format!("epoll_ctl({raw}, EPOLL_CTL_ADD, {target}, {events:#x})"))
        .map(|_| ())
}

/// `signalfd4(2)` for a new descriptor, `O_CLOEXEC`. Bit n-1 of `mask` is signal n.
pub fn signalfd(mask: u64, flags: i32) -> Result<OwnedFd> {
    let flags = flags | libc::SFD_CLOEXEC;
    // SAFETY: the kernel reads eight bytes of the mask.
    let ret = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const mask, 8usize, flags) };
    check(ret, || format!("signalfd4(-1, {mask:#x}, {flags:#x})")).map(owned)
}

/// `timerfd_create(2)`, `O_CLOEXEC`.
pub fn timerfd(clock: i32, flags: i32) -> Result<OwnedFd> {
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::timerfd_create(clock, flags | libc::TFD_CLOEXEC) };
    check(ret.into(), || format!("timerfd_create({clock}, {flags:#x})")).map(owned)
}

/// `timerfd_settime(2)`; both times as (seconds, nanoseconds).
pub fn timerfd_set(
    fd: BorrowedFd<'_>,
    flags: i32,
    interval: (i64, i64),
    value: (i64, i64),
) -> Result<()> {
    let raw = fd.as_raw_fd();
    let spec = libc::itimerspec {
        it_interval: libc::timespec { tv_sec: interval.0, tv_nsec: interval.1 },
        it_value: libc::timespec { tv_sec: value.0, tv_nsec: value.1 },
    };
    // SAFETY: `spec` is only read; the old value is not asked for.
    let ret = unsafe { libc::timerfd_settime(raw, flags, &raw const spec, std::ptr::null_mut()) };
    check(ret.into(), || format!("timerfd_settime({raw}, {flags:#x}, {interval:?}, {value:?})"))
        .map(|_| ())
}

/// `clock_gettime(2)`: (seconds, nanoseconds).
pub fn clock(id: i32) -> Result<(i64, i64)> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    let ret = unsafe { libc::clock_gettime(id, &raw mut now) };
    check(ret.into(), || format!("clock_gettime({id})")).map(|_| (now.tv_sec, now.tv_nsec))
}

/// `TFD_IOC_SET_TICKS` (3.17, CONFIG_CHECKPOINT_RESTORE): expirations not yet read. Not 0.
pub fn timerfd_set_ticks(fd: BorrowedFd<'_>, ticks: u64) -> Result<()> {
    crate::fd::ioctl_bytes(fd, 0x4008_5400, &mut ticks.to_ne_bytes()).map(|_| ())
}

/// `inotify_init1(2)`, `O_CLOEXEC`.
pub fn inotify(flags: i32) -> Result<OwnedFd> {
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::inotify_init1(flags | libc::IN_CLOEXEC) };
    check(ret.into(), || format!("inotify_init1({flags:#x})")).map(owned)
}

/// `inotify_add_watch(2)`: the watch descriptor.
pub fn inotify_add(fd: BorrowedFd<'_>, path: &[u8], mask: u32) -> Result<i32> {
    let raw = fd.as_raw_fd();
    let c = c_string(path, "inotify_add_watch")?;
    // SAFETY: `c` is NUL-terminated and outlives the call.
    let ret = unsafe { libc::inotify_add_watch(raw, c.as_ptr(), mask) };
    check(ret.into(), || format!("inotify_add_watch({raw}, {c:?}, {mask:#x})")).map(|wd| wd as i32)
}

/// `inotify_rm_watch(2)`.
pub fn inotify_rm(fd: BorrowedFd<'_>, wd: i32) -> Result<()> {
    let raw = fd.as_raw_fd();
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::inotify_rm_watch(raw, wd) };
    check(ret.into(), || format!("inotify_rm_watch({raw}, {wd})")).map(|_| ())
}

/// `INOTIFY_IOC_SETNEXTWD` (4.17, CONFIG_CHECKPOINT_RESTORE): the number of the next watch.
pub fn inotify_set_next(fd: BorrowedFd<'_>, wd: i32) -> Result<()> {
    crate::fd::ioctl_int(fd, 0x4004_4900, wd as u64).map(|_| ())
}

/// `fanotify_init(2)`. The kernel shows all flags, so none is added here (`FAN_CLOEXEC`).
pub fn fanotify(flags: u32, event_flags: u32) -> Result<OwnedFd> {
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::fanotify_init(flags, event_flags) };
    check(ret.into(), || format!("fanotify_init({flags:#x}, {event_flags:#x})")).map(owned)
}

/// Takes some events of a fanotify, at least one, and closes the descriptors that come with them.
pub fn fanotify_drop(fd: BorrowedFd<'_>) -> Result<()> {
    /// Length of an event, of its head, and where its descriptor is.
    const HEAD: usize = 24;
    const FD: usize = 16;
    let raw = fd.as_raw_fd();
    let mut buffer = [0u8; 8192];
    // SAFETY: the kernel writes at most as much as the buffer has.
    let ret = unsafe { libc::read(raw, buffer.as_mut_ptr().cast(), buffer.len()) };
    let len = check(ret as i64, || format!("read({raw})"))? as usize;
    let mut events = &buffer[..len];
    while let Some(head) = events.get(..HEAD) {
        let word =
            |at: usize| i32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if word(FD) >= 0 {
            drop(owned(word(FD).into()));
        }
        events = events.get((word(0) as usize).max(HEAD)..).unwrap_or_default();
    }
    Ok(())
}

/// `fanotify_mark(2)` of a path.
pub fn fanotify_mark(fd: BorrowedFd<'_>, flags: u32, mask: u64, path: &[u8]) -> Result<()> {
    let raw = fd.as_raw_fd();
    let c = c_string(path, "fanotify_mark")?;
    // SAFETY: `c` is NUL-terminated and outlives the call.
    let ret = unsafe { libc::fanotify_mark(raw, flags, mask, libc::AT_FDCWD, c.as_ptr()) };
    check(ret.into(), || format!("fanotify_mark({raw}, {flags:#x}, {mask:#x}, {c:?})")).map(|_| ())
}

/// Shared anonymous memory of `len` bytes as a descriptor: what `mmap(MAP_SHARED|MAP_ANONYMOUS)`
/// makes, and as which it shows in `/proc/PID/maps` when it is mapped by this descriptor.
/// Needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE (`EPERM`): use a memfd then.
/// `proc_self` is `/proc/self`, open.
/// `flags`: `MAP_HUGETLB` with its size, or 0.
pub fn shared_anonymous(len: usize, flags: i32, proc_self: BorrowedFd<'_>) -> Result<OwnedFd> {
    let len = len.max(1).next_multiple_of(4096);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = flags | libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let ptr = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
    if ptr == libc::MAP_FAILED {
        return Err(Error::last(format_args!("mmap({len}, MAP_SHARED|MAP_ANONYMOUS)")));
    }
    let start = ptr as usize;
    let path = format!("map_files/{start:x}-{:x}", start + len);
    let c = c_string(path.as_bytes(), "openat")?;
    let raw = proc_self.as_raw_fd();
    // SAFETY: `c` is NUL-terminated and outlives the call.
    let ret = unsafe { libc::openat(raw, c.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    let fd = check(ret.into(), || format!("openat({raw}, {path:?}, O_RDWR)")).map(owned);
    // SAFETY: the mapping made above, of which nobody has a reference.
    unsafe { libc::munmap(ptr, len) };
    fd
}

/// Maps `len` bytes of `fd` from `offset` on (`MAP_SHARED`), lets `fill` write to them, unmaps.
/// For files that cannot be written to otherwise (hugetlbfs).
pub fn with_mapped<T>(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: usize,
    fill: impl FnOnce(&mut [u8]) -> T,
) -> Result<T> {
    let raw = fd.as_raw_fd();
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let at = offset as libc::off_t;
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    let ptr = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, raw, at) };
    if ptr == libc::MAP_FAILED {
        return Err(Error::last(format_args!("mmap({len}, MAP_SHARED, {raw}, {offset:#x})")));
    }
    // SAFETY: the mapping made above, writable and `len` bytes long; nobody else in this process
    // has a reference to it. Callers pass files that only this restore knows.
    let bytes = unsafe { std::slice::from_raw_parts_mut(ptr.cast::<u8>(), len) };
    let result = fill(bytes);
    // SAFETY: the mapping made above; `fill` is over, and its reference with it.
    unsafe { libc::munmap(ptr, len) };
    Ok(result)
}
