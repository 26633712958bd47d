//! Memory at chosen addresses, and what else a process does to itself before it becomes
//! another one.

use crate::error::check;
use crate::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Fresh private memory at a chosen address.
#[derive(Debug)]
pub struct Piece {
    ptr: *mut u8,
    len: usize,
}

impl Piece {
    /// Maps `len` bytes at `addr`, readable and writable, where nothing is mapped yet
    /// (`MAP_FIXED_NOREPLACE`). Memory is only used where it is written.
    pub fn map(addr: u64, len: usize) -> Result<Self> {
        let flags = libc::MAP_PRIVATE
            | libc::MAP_ANONYMOUS
            | libc::MAP_NORESERVE
            | libc::MAP_FIXED_NOREPLACE;
        let ptr = map(addr, len, libc::PROT_READ | libc::PROT_WRITE, flags, -1)?;
        Ok(Self { ptr: ptr.cast(), len })
    }

    /// As [`Piece::map`], accounted as ordinary memory unless `noreserve`: for memory that stays.
    /// With a file, a private mapping of it from an offset on.
    pub fn map_like(
        addr: u64,
        len: usize,
        noreserve: bool,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<Self> {
        let flags = libc::MAP_PRIVATE
            | libc::MAP_FIXED_NOREPLACE
            | if noreserve { libc::MAP_NORESERVE } else { 0 }
            | if file.is_some() { 0 } else { libc::MAP_ANONYMOUS };
        let (fd, offset) = file.map_or((-1, 0), |(fd, offset)| (fd.as_raw_fd(), offset));
        let ptr = map_from(addr, len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset)?;
        Ok(Self { ptr: ptr.cast(), len })
    }

    /// Makes pages zero again, or those of the file (`MADV_DONTNEED`); offset and length in whole pages.
    pub fn drop_pages(&mut self, offset: usize, len: usize) -> Result<()> {
        let part = &mut self.bytes()[offset..offset + len];
        // SAFETY: within our own private mapping, borrowed mutably: nobody else looks at these
        // bytes, which read as zero or as the file afterwards.
        let ret = unsafe { libc::madvise(part.as_mut_ptr().cast(), len, libc::MADV_DONTNEED) };
        check(ret.into(), || format!("madvise({offset:#x}, {len}, MADV_DONTNEED)")).map(|_| ())
    }

    /// Address of the first byte.
    pub fn addr(&self) -> u64 {
        self.ptr as u64
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping made in `map`, `len` bytes long, zeroed by the kernel, owned by
        // `self` and borrowed from it here.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }

    /// Makes it executable and read-only, for good.
    pub fn seal_as_code(self) -> Result<()> {
        let prot = libc::PROT_READ | libc::PROT_EXEC;
        // SAFETY: our own mapping, to which no reference exists (`self` is taken).
        let ret = unsafe { libc::mprotect(self.ptr.cast(), self.len, prot) };
        let call = || format!("mprotect({:#x}, {}, PROT_READ|PROT_EXEC)", self.addr(), self.len);
        check(ret.into(), call).map(|_| ())
    }
}

/// Maps `len` bytes of `fd` shared at `addr`, where nothing is mapped yet. For good: the mapping
/// is not handed out, and goes with the process.
pub fn map_shared_at(addr: u64, len: usize, fd: BorrowedFd<'_>) -> Result<()> {
    let flags = libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE;
    map(addr, len, libc::PROT_READ | libc::PROT_WRITE, flags, fd.as_raw_fd()).map(|_| ())
}

fn map(addr: u64, len: usize, prot: i32, flags: i32, fd: i32) -> Result<*mut libc::c_void> {
    map_from(addr, len, prot, flags, fd, 0)
}

fn map_from(
    addr: u64,
    len: usize,
    prot: i32,
    flags: i32,
    fd: i32,
    offset: u64,
) -> Result<*mut libc::c_void> {
    // SAFETY: MAP_FIXED_NOREPLACE (in `flags` of all callers) never takes the place of memory
    // that exists; kernels without it treat the address as a hint, which is looked at below.
    let ptr = unsafe { libc::mmap(addr as *mut libc::c_void, len, prot, flags, fd, offset as i64) };
    let call = || format!("mmap({addr:#x}, {len}, {prot}, {flags:#x}, {fd}, {offset:#x})");
    if ptr == libc::MAP_FAILED {
        return Err(Error::last(call()));
    }
    if ptr as u64 != addr {
        return Err(Error::new(call(), libc::EEXIST));
    }
    Ok(ptr)
}

/// Blocks all signals of the calling thread, those included that libc keeps for itself.
pub fn block_all_signals() -> Result<()> {
    let all = !0u64;
    // SAFETY: the kernel reads a signal set of eight bytes; the old one is not asked for.
    let ret = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, 0usize, 8usize)
    };
    check(ret, || "rt_sigprocmask(SIG_SETMASK, ~[])".into()).map(|_| ())
}

/// Sets the blocked signals of the calling thread and returns the former ones.
pub fn swap_signal_mask(mask: u64) -> Result<u64> {
    let mut old = 0u64;
    // SAFETY: the kernel reads and writes signal sets of eight bytes each.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            &raw mut old,
            8usize,
        )
    };
    check(ret, || format!("rt_sigprocmask(SIG_SETMASK, {mask:#x})")).map(|_| old)
}

/// Takes one pending signal of `set` (bit n-1 for signal n) off the queues; 0 if there is none.
/// They have to be blocked.
pub fn take_signal(set: u64) -> Result<i32> {
    let zero = [0u64; 2];
    // SAFETY: the kernel reads a signal set of eight bytes and a timespec; no siginfo is asked.
    let ret = unsafe {
        libc::syscall(libc::SYS_rt_sigtimedwait, &raw const set, 0usize, zero.as_ptr(), 8usize)
    };
    match check(ret, || format!("rt_sigtimedwait({set:#x})")) {
        Err(e) if e.errno() == libc::EAGAIN || e.errno() == libc::EINTR => Ok(0),
        other => other.map(|r| r as i32),
    }
}

/// Takes back the registration of restartable sequences that libc made for this thread, so that
/// the kernel writes to its memory no more (the memory may go away). Fine if there is none.
pub fn rseq_unregister() -> Result<()> {
    /// What glibc and the kernel agree on for x86-64.
    const SIGNATURE: u32 = 0x5305_3053;
    const UNREGISTER: i32 = 1;
    // SAFETY: looks a name up among the loaded objects.
    let offset = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
    if offset.is_null() {
        return Ok(());
    }
    // SAFETY: glibc's `const ptrdiff_t __rseq_offset`.
    let offset = unsafe { *offset.cast::<isize>() };
    let mut fs = 0u64;
    // SAFETY: ARCH_GET_FS (0x1003) writes the thread pointer to one word.
    let ret = unsafe { libc::syscall(libc::SYS_arch_prctl, 0x1003, &raw mut fs) };
    check(ret, || "arch_prctl(ARCH_GET_FS)".into())?;
    let area = fs.wrapping_add_signed(offset as i64);
    // SAFETY: reads a number the kernel gave this process at exec.
    let feature = unsafe { libc::getauxval(27) };
    let mut last = Error::new("rseq(unregister)", libc::EINVAL);
    // The length has to be the registered one: 32 in old versions, else what the kernel offers.
    for len in [32, feature, feature.next_multiple_of(32), 28, 24, 20, 48, 64] {
        // SAFETY: unregistering only ends the kernel's use of the area.
        let ret = unsafe { libc::syscall(libc::SYS_rseq, area, len as u32, UNREGISTER, SIGNATURE) };
        if ret == 0 {
            return Ok(());
        }
        last = Error::last(format_args!("rseq({area:#x}, {len}, UNREGISTER, {SIGNATURE:#x})"));
        // EINVAL also says that nothing is registered, e.g. by GLIBC_TUNABLES.
        if last.errno() == libc::ENOSYS {
            return Ok(());
        }
    }
    // SAFETY: glibc's area of this thread, at least two words long, aligned.
    let registered = unsafe { *(area as *const u32).wrapping_add(1) };
    // The second word is the CPU while registered, -1 or -2 while not.
    if registered >= u32::MAX - 1 { Ok(()) } else { Err(last) }
}

/// Where the components of the processor's extended state lie in the standard (not compacted)
/// xsave area, as `PTRACE_SETREGSET` wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XsaveLayout {
    /// Length of the whole area in bytes.
    pub len: usize,
    /// Components the kernel has enabled (XCR0); bit n for component n.
    pub enabled: u64,
    /// Offset and length of each component, zero where there is none.
    pub component: [(usize, usize); 20],
}

/// Asks the processor.
#[cfg(target_arch = "x86_64")]
pub fn xsave_layout() -> XsaveLayout {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    let mut layout = XsaveLayout { len: 512, enabled: 3, ..XsaveLayout::default() };
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return layout;
    }
    let area = __cpuid_count(0xd, 0);
    layout.len = area.ebx as usize;
    layout.enabled = u64::from(area.eax) | u64::from(area.edx) << 32;
    for (i, component) in layout.component.iter_mut().enumerate().skip(2) {
        if layout.enabled >> i & 1 != 0 {
            let c = __cpuid_count(0xd, i as u32);
            *component = (c.ebx as usize, c.eax as usize);
        }
    }
    layout
}

/// `setsid(2)`.
pub fn setsid() -> Result<i32> {
    // SAFETY: no arguments.
    let ret = unsafe { libc::setsid() };
    check(ret.into(), || "setsid()".into()).map(|r| r as i32)
}

/// `setpgid(2)`.
pub fn setpgid(pid: i32, pgid: i32) -> Result<()> {
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::setpgid(pid, pgid) };
    check(ret.into(), || format!("setpgid({pid}, {pgid})")).map(|_| ())
}

/// `getppid(2)`.
pub fn getppid() -> i32 {
    // SAFETY: no arguments, never fails.
    unsafe { libc::getppid() }
}

/// `_exit(2)`: ends the process without running what libc has registered.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// Sets the action of `signo` to the default one.
pub fn default_action(signo: i32) -> Result<()> {
    let action = [0u64; 4];
    // SAFETY: the kernel reads a struct sigaction (SIG_DFL, no flags, empty mask).
    let ret =
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signo, action.as_ptr(), 0usize, 8usize) };
    check(ret, || format!("rt_sigaction({signo}, SIG_DFL)")).map(|_| ())
}
