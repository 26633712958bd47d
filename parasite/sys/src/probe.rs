//! Questions to the kernel: is there such a call, such a flag, such an answer.
//!
//! Each does the real thing on something of our own: a mapping, a child.

use crate::error::check;
use crate::task::{Forked, fork_with};
use crate::{Error, Result, ptrace};
use std::os::fd::{AsRawFd, BorrowedFd};

/// A system call whose arguments are integers or bad pointers: to see which error it gives.
///
/// `args` never holds the address of memory of ours, so the kernel cannot change any.
pub fn call(nr: i64, args: [i64; 6]) -> Result<i64> {
    // SAFETY: by contract no argument is a valid address; calls that fork or exit are not asked.
    let ret = unsafe { libc::syscall(nr, args[0], args[1], args[2], args[3], args[4], args[5]) };
    check(ret, || format!("syscall {nr}"))
}

/// Runs `ask` on a child of ours that is held by ptrace with `options`, then ends the child.
pub fn with_tracee<T>(options: u64, ask: impl FnOnce(i32) -> Result<T>) -> Result<T> {
    // SAFETY: the child makes nothing but system calls before it dies.
    let pid = match unsafe { fork_with(0, &[], libc::SIGCHLD) }? {
        Forked::Parent(pid) => pid,
        Forked::Child => loop {
            // SAFETY: pause(2) has no arguments and touches no memory.
            unsafe { libc::pause() };
        },
    };
    let answer = ptrace::seize(pid, options)
        .and_then(|()| ptrace::interrupt(pid))
        .and_then(|()| ptrace::wait(pid, true))
        .and_then(|_| ask(pid));
    crate::task::kill(pid, libc::SIGKILL)?;
    while !matches!(ptrace::wait(pid, true)?.1, ptrace::Wait::Gone(_)) {}
    answer
}

/// As [`with_tracee`], on a child with a seccomp filter that allows everything.
pub fn with_filtered_tracee<T>(ask: impl FnOnce(i32) -> Result<T>) -> Result<T> {
    const RET_ALLOW: libc::sock_filter =
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    let mut program = [RET_ALLOW];
    let program = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    // SAFETY: the child makes nothing but system calls before it dies.
    let pid = match unsafe { fork_with(0, &[], libc::SIGCHLD) }? {
        Forked::Parent(pid) => pid,
        Forked::Child => {
            // SAFETY: integers in, integer out.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            // SAFETY: the kernel reads a sock_fprog and the one instruction it points to, both
            // on this stack.
            let ret = unsafe {
                libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
            };
            if ret == 0 {
                // SAFETY: stops this process until its parent kills it.
                unsafe { libc::raise(libc::SIGSTOP) };
            }
            // SAFETY: ends this process.
            unsafe { libc::_exit(0) }
        }
    };
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let ret = unsafe { libc::waitpid(pid, &mut status, libc::WUNTRACED) };
    check(ret.into(), || format!("waitpid({pid}, WUNTRACED)"))?;
    if !libc::WIFSTOPPED(status) {
        return Err(Error::new("prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER)", libc::EINVAL));
    }
    let answer = ptrace::seize(pid, 0)
        .and_then(|()| ptrace::interrupt(pid))
        .and_then(|()| ptrace::wait(pid, true))
        .and_then(|_| ask(pid));
    crate::task::kill(pid, libc::SIGKILL)?;
    while !matches!(ptrace::wait(pid, true)?.1, ptrace::Wait::Gone(_)) {}
    answer
}

/// Can the vDSO be moved by `mremap(2)`, keeping its name? Tried in a child.
pub fn vdso_moves() -> bool {
    let moved = || {
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let range = maps.lines().find(|l| l.ends_with("[vdso]"))?.split(' ').next()?;
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let len = usize::from_str_radix(end, 16).ok()? - start;
        let place = Pages::new(len / 4096).ok()?;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let from = start as *mut libc::c_void;
        // SAFETY: this process asks for no time any more, which is what the vDSO is for, and
        // `place` is its own.
        let to = unsafe { libc::mremap(from, len, len, flags, place.ptr) };
        let at = format!("{:x}-", place.range().0);
        std::mem::forget(place);
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let kept = maps.lines().any(|l| l.starts_with(&at) && l.ends_with("[vdso]"));
        (to != libc::MAP_FAILED && kept).then_some(())
    };
    let child = crate::worker::fork(|| i32::from(moved().is_none()));
    child.and_then(crate::worker::wait).is_ok_and(|status| status == 0)
}

/// Does `clone3(2)` know `set_tid` (5.5)? Asks for the impossible pid 0.
pub fn clone3_set_tid() -> bool {
    // SAFETY: pid 0 is never given, so no child is made.
    matches!(unsafe { fork_with(0, &[0], libc::SIGCHLD) }, Err(e) if e.errno() == libc::EINVAL)
}

/// Can a hardware breakpoint be set in a tracee?
pub fn breakpoints() -> bool {
    with_tracee(0, |pid| {
        let offset = std::mem::offset_of!(libc::user, u_debugreg);
        // SAFETY: PTRACE_POKEUSER takes an offset and a word; the tracee is our child.
        let ret = unsafe { libc::ptrace(libc::PTRACE_POKEUSER, pid, offset, 0x1000) };
        check(ret, || "ptrace(POKEUSER, u_debugreg)".into())
    })
    .is_ok()
}

/// Some pages of our own, unmapped when dropped.
#[derive(Debug)]
pub struct Pages {
    ptr: *mut libc::c_void,
    len: usize,
    writable: bool,
}

impl Pages {
    /// Fresh private anonymous pages.
    pub fn new(count: usize) -> Result<Self> {
        let len = count * 4096;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let ptr = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        if ptr == libc::MAP_FAILED {
            return Err(Error::last(format_args!("mmap({len})")));
        }
        Ok(Self { ptr, len, writable: true })
    }

    /// The first pages of a file, to be read.
    pub fn of_file(file: impl std::os::fd::AsFd, count: usize) -> Result<Self> {
        let (raw, len) = (file.as_fd().as_raw_fd(), count * 4096);
        let (prot, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let ptr = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, raw, 0) };
        if ptr == libc::MAP_FAILED {
            return Err(Error::last(format_args!("mmap({len}, fd {raw})")));
        }
        Ok(Self { ptr, len, writable: false })
    }

    /// Writes a byte of each page, if they are to be written.
    pub fn write(&self) {
        let len = if self.writable { self.len } else { 0 };
        for at in (0..len).step_by(4096) {
            let byte = self.ptr.cast::<u8>().wrapping_add(at);
            // SAFETY: inside of our own pages, which were mapped to be written.
            unsafe { byte.write_volatile(1) };
        }
    }

    /// Address and end.
    pub fn range(&self) -> (u64, u64) {
        (self.ptr as u64, self.ptr as u64 + self.len as u64)
    }

    /// `madvise(2)` on all of it.
    pub fn advise(&self, advice: i32) -> Result<()> {
        // SAFETY: our own pages, to whose contents no reference exists.
        let ret = unsafe { libc::madvise(self.ptr, self.len, advice) };
        check(ret.into(), || format!("madvise({}, {advice})", self.len)).map(|_| ())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.ptr, self.len) };
    }
}

/// Does the context of an AIO ring move along with its mapping (3.?; `mremap` hook)?
pub fn aio_ring_moves() -> bool {
    let mut context = 0u64;
    // SAFETY: the kernel writes one word.
    if unsafe { libc::syscall(libc::SYS_io_setup, 1, &raw mut context) } < 0 {
        return false;
    }
    let Ok(place) = Pages::new(1) else { return false };
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let at = context as *mut libc::c_void;
    // SAFETY: the ring of one event is a page; `place` is ours and is replaced by it.
    let to = unsafe { libc::mremap(at, 4096, 4096, flags, place.ptr) };
    let moved = to != libc::MAP_FAILED;
    let context = if moved { to as u64 } else { context };
    // SAFETY: destroys the context, which unmaps its ring; `place` is unmapped there already.
    let gone = unsafe { libc::syscall(libc::SYS_io_destroy, context) } == 0;
    moved && gone
}

/// Can one map a vDSO by `arch_prctl(ARCH_MAP_VDSO_64)` (4.9)? `EEXIST` as there is one.
pub fn can_map_vdso() -> bool {
    const ARCH_MAP_VDSO_64: i64 = 0x2003;
    let answer = call(libc::SYS_arch_prctl, [ARCH_MAP_VDSO_64, 0, 0, 0, 0, 0]);
    matches!(answer, Err(e) if e.errno() == libc::EEXIST)
}

/// Features of `userfaultfd(2)`, as `UFFDIO_API` reports them.
pub fn uffd_features() -> Result<u64> {
    // SAFETY: integers in, descriptor out.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    let fd = crate::fd::owned(check(fd, || "userfaultfd()".into())?);
    let mut api = [0xaau64, 0, 0];
    // SAFETY: UFFDIO_API reads and writes a struct uffdio_api (three u64).
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), 0xc018_aa3f as libc::Ioctl, api.as_mut_ptr()) };
    check(ret.into(), || "ioctl(UFFDIO_API)".into()).map(|_| api[1])
}

/// Queues a signal of kernel origin to ourselves and takes it off again.
pub fn queue_to_self() -> bool {
    let mut info = [0u32; 32];
    info[0] = libc::SIGURG as u32;
    info[2] = 0x1000_0000;
    let pid = std::process::id();
    // SAFETY: the siginfo is 128 bytes, which the kernel reads.
    unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, pid, libc::SIGURG, info.as_ptr()) == 0 }
}

/// `vmsplice(2)` of bytes that do not begin at a page boundary, into the pipe `to`.
pub fn vmsplice_unaligned(to: BorrowedFd<'_>) -> bool {
    let bytes = [0u8; 32];
    let iov = libc::iovec { iov_base: bytes[1..].as_ptr().cast_mut().cast(), iov_len: 31 };
    // SAFETY: the pages are read by the pipe's reader before `bytes` goes out of scope: nobody
    // reads it at all, the caller drops the pipe.
    unsafe { libc::vmsplice(to.as_raw_fd(), &raw const iov, 1, libc::SPLICE_F_NONBLOCK) == 31 }
}

/// Whether tasks can restrict themselves by Landlock: its version can be asked for.
pub fn has_landlock() -> bool {
    const SYS_LANDLOCK_CREATE_RULESET: i64 = 444;
    const VERSION: u32 = 1;
    // SAFETY: with this flag no ruleset is read, and no descriptor made.
    unsafe { libc::syscall(SYS_LANDLOCK_CREATE_RULESET, 0usize, 0usize, VERSION) > 0 }
}
