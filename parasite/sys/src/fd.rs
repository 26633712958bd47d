//! Descriptors: of other tasks (`pidfd`), comparing them, placing them.

use crate::error::check;
use crate::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

pub(crate) fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the callers pass a descriptor which the kernel has just made for us, so it is
    // open and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// Takes a descriptor that this process was started with, by the number it was told. Only once
/// for each number, and only for numbers that whoever started us gave for that purpose.
pub fn inherited(fd: RawFd) -> Result<OwnedFd> {
    if fd < 0 || !is_open(fd) {
        return Err(Error::new(format_args!("fcntl({fd}, F_GETFD)"), libc::EBADF));
    }
    // SAFETY: open, as asked above; by contract nothing else in this process owns the number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `pidfd_open(2)` (5.3). `flags`: 0, or `PIDFD_THREAD` (`O_EXCL`, 6.9) for a thread.
pub fn pidfd_open(pid: i32, flags: u32) -> Result<OwnedFd> {
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) };
    check(ret, || format!("pidfd_open({pid}, {flags:#x})")).map(owned)
}

/// `pidfd_getfd(2)` (5.6): copies a descriptor of another task into ours.
///
/// The copy shares the file description and is `O_CLOEXEC`. Needs the right to attach.
pub fn pidfd_getfd(pidfd: BorrowedFd<'_>, target: RawFd) -> Result<OwnedFd> {
    let raw = pidfd.as_raw_fd();
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_getfd, raw, target, 0) };
    check(ret, || format!("pidfd_getfd({raw}, {target}, 0)")).map(owned)
}

/// `pidfd_send_signal(2)` (5.1).
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signo: i32) -> Result<()> {
    let raw = pidfd.as_raw_fd();
    // SAFETY: a null siginfo pointer is allowed and means "as kill(2)".
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, raw, signo, 0usize, 0) };
    check(ret, || format!("pidfd_send_signal({raw}, {signo})")).map(|_| ())
}

/// `process_mrelease(2)` (5.15): frees memory of a process that SIGKILL was sent to, beside it and
/// in our time. Fails when it has no memory any more, or shares it with one that lives.
pub fn process_mrelease(pidfd: BorrowedFd<'_>) -> Result<()> {
    let raw = pidfd.as_raw_fd();
    // SAFETY: integers only. The kernel frees pages of dying processes alone.
    let ret = unsafe { libc::syscall(libc::SYS_process_mrelease, raw, 0) };
    check(ret, || format!("process_mrelease({raw}, 0)")).map(|_| ())
}

/// What `kcmp(2)` compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Kcmp {
    /// Two open file descriptions, by descriptor.
    File = 0,
    /// Address spaces.
    Vm = 1,
    /// Descriptor tables.
    Files = 2,
    /// cwd, root, umask.
    Fs = 3,
    /// Signal handlers.
    Sighand = 4,
    /// I/O contexts.
    Io = 5,
    /// System V semaphore undo lists.
    Sysvsem = 6,
}

/// `kcmp(2)`: an order (equal, less, greater) of two kernel objects; 3 (not ordered) is an error.
pub fn kcmp(a: i32, b: i32, what: Kcmp, ia: u64, ib: u64) -> Result<std::cmp::Ordering> {
    // SAFETY: integers in, integer out for these types.
    let ret = unsafe { libc::syscall(libc::SYS_kcmp, a, b, what as i32, ia, ib) };
    match check(ret, || format!("kcmp({a}, {b}, {what:?}, {ia}, {ib})"))? {
        0 => Ok(std::cmp::Ordering::Equal),
        1 => Ok(std::cmp::Ordering::Less),
        2 => Ok(std::cmp::Ordering::Greater),
        _ => Err(Error::new(format_args!("kcmp({a}, {b}, {what:?})"), libc::ERANGE)),
    }
}

/// `kcmp(KCMP_EPOLL_TFD)` (4.13): is descriptor `fd` of `pid` the `toff`-th target that was
/// added under number `tfd` to the epoll `efd` of `epoll_pid`?
pub fn kcmp_epoll_tfd(
    pid: i32,
    fd: u32,
    epoll_pid: i32,
    efd: u32,
    tfd: u32,
    toff: u32,
) -> Result<bool> {
    let slot = [efd, tfd, toff];
    // SAFETY: `slot` is a struct kcmp_epoll_slot (three u32) that outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_kcmp, pid, epoll_pid, 7, fd, slot.as_ptr()) };
    check(ret, || format!("kcmp({pid}, {epoll_pid}, EPOLL_TFD, {fd}, {slot:?})")).map(|r| r == 0)
}

/// `fcntl(2)` with an integer argument.
pub fn fcntl(fd: BorrowedFd<'_>, cmd: i32, arg: u64) -> Result<i32> {
    let raw = fd.as_raw_fd();
    // SAFETY: callers use commands whose argument is an integer (documented contract of this
    // wrapper); the kernel does not dereference it.
    let ret = unsafe { libc::fcntl(raw, cmd, arg) };
    check(ret.into(), || format!("fcntl({raw}, {cmd}, {arg:#x})")).map(|r| r as i32)
}

/// `dup3(2)` onto a chosen number (or plain keep when the numbers are equal).
/// The number's former descriptor is closed silently, so the caller owns that number's fate.
pub fn dup3(fd: BorrowedFd<'_>, to: RawFd, cloexec: bool) -> Result<()> {
    let raw = fd.as_raw_fd();
    let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
    if raw == to {
        // SAFETY: F_SETFD takes an integer.
        let ret = unsafe { libc::fcntl(raw, libc::F_SETFD, if cloexec { 1 } else { 0 }) };
        return check(ret.into(), || format!("fcntl({raw}, F_SETFD)")).map(|_| ());
    }
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::dup3(raw, to, flags) };
    check(ret.into(), || format!("dup3({raw}, {to}, {flags:#x})")).map(|_| ())
}

/// `F_DUPFD_CLOEXEC`: a copy with the lowest free number that is at least `min`.
pub fn dup_above(fd: BorrowedFd<'_>, min: RawFd) -> Result<OwnedFd> {
    let raw = fd.as_raw_fd();
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, min) };
    check(ret.into(), || format!("fcntl({raw}, F_DUPFD_CLOEXEC, {min})")).map(owned)
}

/// `close_range(2)` (5.9), both ends inclusive.
pub fn close_range(first: u32, last: u32) -> Result<()> {
    // SAFETY: closing descriptors; callers own all numbers of the range by contract.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    check(ret, || format!("close_range({first}, {last}, 0)")).map(|_| ())
}

/// Tells the owner of a descriptor (`F_GETOWNER_UIDS`, 3.6, CONFIG_CHECKPOINT_RESTORE):
/// the uid and euid recorded with `F_SETOWN`.
pub fn owner_uids(fd: BorrowedFd<'_>) -> Result<[u32; 2]> {
    let raw = fd.as_raw_fd();
    let mut uids = [0u32; 2];
    // SAFETY: F_GETOWNER_UIDS (17) writes two uid_t to the pointer.
    let ret = unsafe { libc::fcntl(raw, 17, uids.as_mut_ptr()) };
    check(ret.into(), || format!("fcntl({raw}, F_GETOWNER_UIDS)")).map(|_| uids)
}

/// `F_GETOWN_EX`: type (`F_OWNER_TID` 0, `F_OWNER_PID` 1, `F_OWNER_PGRP` 2) and pid, in our
/// pid namespace.
pub fn owner(fd: BorrowedFd<'_>) -> Result<(i32, i32)> {
    let raw = fd.as_raw_fd();
    let mut ex = [0i32; 2];
    // SAFETY: F_GETOWN_EX (16) writes a struct f_owner_ex (two ints).
    let ret = unsafe { libc::fcntl(raw, 16, ex.as_mut_ptr()) };
    check(ret.into(), || format!("fcntl({raw}, F_GETOWN_EX)")).map(|_| (ex[0], ex[1]))
}

/// `F_SETOWN_EX`.
pub fn set_owner(fd: BorrowedFd<'_>, kind: i32, pid: i32) -> Result<()> {
    let raw = fd.as_raw_fd();
    let ex = [kind, pid];
    // SAFETY: F_SETOWN_EX (15) reads a struct f_owner_ex (two ints).
    let ret = unsafe { libc::fcntl(raw, 15, ex.as_ptr()) };
    check(ret.into(), || format!("fcntl({raw}, F_SETOWN_EX, {{{kind}, {pid}}})")).map(|_| ())
}

/// `memfd_create(2)`. `name` holds no NUL.
pub fn memfd_create(name: &[u8], flags: u32) -> Result<OwnedFd> {
    let c = std::ffi::CString::new(name)
        .map_err(|_| Error::new("memfd_create(name with NUL)", libc::EINVAL))?;
    // SAFETY: `c` is a NUL-terminated string that outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_memfd_create, c.as_ptr(), flags) };
    check(ret, || format!("memfd_create({c:?}, {flags:#x})")).map(owned)
}

/// `ioctl(2)` whose argument is an integer or ignored.
pub fn ioctl_int(fd: BorrowedFd<'_>, request: u64, arg: u64) -> Result<i32> {
    let raw = fd.as_raw_fd();
    // SAFETY: callers use requests that take an integer (contract of this wrapper).
    let ret = unsafe { libc::ioctl(raw, request as libc::Ioctl, arg) };
    check(ret.into(), || format!("ioctl({raw}, {request:#x}, {arg:#x})")).map(|r| r as i32)
}

/// `ioctl(2)` whose argument is a plain struct given as bytes: read, written or both.
/// `arg` must be as long as the request's struct.
pub fn ioctl_bytes(fd: BorrowedFd<'_>, request: u64, arg: &mut [u8]) -> Result<i32> {
    let raw = fd.as_raw_fd();
    // SAFETY: by contract `arg` covers the struct of `request`, which holds no pointers.
    let ret = unsafe { libc::ioctl(raw, request as libc::Ioctl, arg.as_mut_ptr()) };
    check(ret.into(), || format!("ioctl({raw}, {request:#x})")).map(|r| r as i32)
}

/// `getsockopt(2)` into a buffer; returns how many bytes the kernel filled.
pub fn getsockopt(fd: BorrowedFd<'_>, level: i32, name: i32, buf: &mut [u8]) -> Result<usize> {
    let raw = fd.as_raw_fd();
    let mut len = buf.len() as libc::socklen_t;
    // SAFETY: pointer and length are those of `buf`; the kernel writes at most `len` bytes.
    let ret = unsafe { libc::getsockopt(raw, level, name, buf.as_mut_ptr().cast(), &mut len) };
    check(ret.into(), || format!("getsockopt({raw}, {level}, {name})")).map(|_| len as usize)
}

/// `setsockopt(2)` from bytes.
pub fn setsockopt(fd: BorrowedFd<'_>, level: i32, name: i32, buf: &[u8]) -> Result<()> {
    let raw = fd.as_raw_fd();
    let len = buf.len() as libc::socklen_t;
    // SAFETY: pointer and length are those of `buf`, which the kernel only reads.
    let ret = unsafe { libc::setsockopt(raw, level, name, buf.as_ptr().cast(), len) };
    check(ret.into(), || format!("setsockopt({raw}, {level}, {name})")).map(|_| ())
}

/// `fcntl(F_DUPFD_CLOEXEC)` of a number: a copy at the first free number from `least` on.
pub fn dup_number_above(fd: RawFd, least: RawFd) -> Result<RawFd> {
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) };
    check(ret.into(), || format!("fcntl({fd}, F_DUPFD_CLOEXEC, {least})")).map(|n| n as RawFd)
}

/// [`dup_above`] of a number, where nobody owns the descriptor.
pub fn copy_above(fd: RawFd, least: RawFd) -> Result<OwnedFd> {
    if fd < 0 {
        return Err(Error::new(format_args!("fcntl({fd}, F_DUPFD_CLOEXEC, {least})"), libc::EBADF));
    }
    // SAFETY: not negative; borrowed for this call only, which tells when nothing is open there.
    dup_above(unsafe { BorrowedFd::borrow_raw(fd) }, least)
}

/// [`dup3`] from a number: for arranging a table when nobody owns descriptors any more.
pub fn dup_number(fd: RawFd, to: RawFd, cloexec: bool) -> Result<()> {
    if fd < 0 {
        return Err(Error::new(format_args!("dup3({fd}, {to})"), libc::EBADF));
    }
    // SAFETY: not negative; borrowed for this call only, which tells when nothing is open there.
    dup3(unsafe { BorrowedFd::borrow_raw(fd) }, to, cloexec)
}

/// Whether anything is open at a number.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: F_GETFD takes no argument.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

/// [`fcntl`] with an integer argument, by number: where the kernel remembers the number
/// (`F_SETFL` with `O_ASYNC`: the `si_fd` of signals).
pub fn fcntl_number(fd: RawFd, cmd: i32, arg: u64) -> Result<i32> {
    // SAFETY: as for `fcntl`.
    let ret = unsafe { libc::fcntl(fd, cmd, arg) };
    check(ret.into(), || format!("fcntl({fd}, {cmd}, {arg:#x})")).map(|r| r as i32)
}
