//! `ptrace(2)`. All calls must come from the thread that seized the task.

use crate::error::check;
use crate::{Error, Result};

/// Options at seize time, as in `<linux/ptrace.h>`.
pub mod option {
    /// Syscall stops report `SIGTRAP | 0x80`.
    pub const TRACESYSGOOD: u64 = 1;
    /// Children by fork are traced and stopped from birth.
    pub const TRACEFORK: u64 = 1 << 1;
    /// Children by vfork likewise.
    pub const TRACEVFORK: u64 = 1 << 2;
    /// Threads and other clones likewise.
    pub const TRACECLONE: u64 = 1 << 3;
    /// The tracees die with the tracer.
    pub const EXITKILL: u64 = 1 << 20;
    /// Seccomp does not look at the tracee (4.3, needs CAP_SYS_ADMIN).
    pub const SUSPEND_SECCOMP: u64 = 1 << 21;
}

/// General registers of x86-64: `struct user_regs_struct`.
pub type Regs = libc::user_regs_struct;

/// How a tracee stopped or ended, from `wait4(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Stopped: the signal (with bit 0x80 for a syscall stop) and the ptrace event.
    Stopped {
        /// Signal number, `SIGTRAP | 0x80` for a syscall stop.
        signo: i32,
        /// `PTRACE_EVENT_*`, 128 for `PTRACE_EVENT_STOP`, 0 for none.
        event: i32,
    },
    /// Gone: the raw wait status.
    Gone(i32),
    /// Nothing to report (only with `WNOHANG`).
    Nothing,
}

/// rseq registration of a thread: `struct ptrace_rseq_configuration`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RseqConfiguration {
    /// Address of the `struct rseq`, 0 when not registered.
    pub rseq_abi_pointer: u64,
    /// Its registered size in bytes.
    pub rseq_abi_size: u32,
    /// Signature before abort handlers.
    pub signature: u32,
    /// Flags, 0.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
}

fn request(req: u32, name: &str, pid: i32, addr: u64, data: u64) -> Result<libc::c_long> {
    // SAFETY: private helper; each caller below passes pointers that fit its request.
    let ret = unsafe { libc::ptrace(req, pid, addr, data) };
    check(ret, || format!("ptrace({name}, {pid}, {addr:#x})"))
}

/// `PTRACE_SEIZE`: attaches without stopping. `EPERM`: no right, a zombie, or traced already.
pub fn seize(pid: i32, options: u64) -> Result<()> {
    request(libc::PTRACE_SEIZE, "SEIZE", pid, 0, options).map(|_| ())
}

/// `PTRACE_INTERRUPT`: asks for an event stop.
pub fn interrupt(pid: i32) -> Result<()> {
    request(libc::PTRACE_INTERRUPT, "INTERRUPT", pid, 0, 0).map(|_| ())
}

/// `PTRACE_DETACH`, passing on signal `signo` (0 for none).
pub fn detach(pid: i32, signo: i32) -> Result<()> {
    request(libc::PTRACE_DETACH, "DETACH", pid, 0, signo as u64).map(|_| ())
}

/// `PTRACE_CONT`, passing on signal `signo` (0 for none).
pub fn cont(pid: i32, signo: i32) -> Result<()> {
    request(libc::PTRACE_CONT, "CONT", pid, 0, signo as u64).map(|_| ())
}

/// `PTRACE_SYSCALL`: runs to the next entry into or exit from a system call.
pub fn syscall(pid: i32, signo: i32) -> Result<()> {
    request(libc::PTRACE_SYSCALL, "SYSCALL", pid, 0, signo as u64).map(|_| ())
}

/// `PTRACE_SETOPTIONS`.
pub fn set_options(pid: i32, options: u64) -> Result<()> {
    request(libc::PTRACE_SETOPTIONS, "SETOPTIONS", pid, 0, options).map(|_| ())
}

/// Registers that are all zero.
pub fn zero_regs() -> Regs {
    // SAFETY: all zero is a valid user_regs_struct (integers only).
    unsafe { std::mem::zeroed() }
}

/// `PTRACE_GETREGS` of a 64-bit tracer.
pub fn regs(pid: i32) -> Result<Regs> {
    let mut regs = zero_regs();
    request(libc::PTRACE_GETREGS, "GETREGS", pid, 0, &raw mut regs as u64)?;
    Ok(regs)
}

/// `PTRACE_SETREGS`.
pub fn set_regs(pid: i32, regs: &Regs) -> Result<()> {
    request(libc::PTRACE_SETREGS, "SETREGS", pid, 0, &raw const *regs as u64).map(|_| ())
}

/// `PTRACE_GETREGSET` into `buf`; returns the length the kernel filled.
///
/// A buffer that is too short is filled as far as it goes, without an error.
pub fn regset(pid: i32, note: u64, buf: &mut [u8]) -> Result<usize> {
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    request(libc::PTRACE_GETREGSET, "GETREGSET", pid, note, &raw mut iov as u64)?;
    Ok(iov.iov_len)
}

/// `PTRACE_SETREGSET`. `NT_X86_XSTATE` wants exactly the machine's full size.
pub fn set_regset(pid: i32, note: u64, buf: &[u8]) -> Result<()> {
    let iov = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
    request(libc::PTRACE_SETREGSET, "SETREGSET", pid, note, &raw const iov as u64).map(|_| ())
}

/// `NT_X86_XSTATE`: the xsave area in standard layout.
pub const NT_X86_XSTATE: u64 = 0x202;
/// `NT_PRSTATUS`: general registers; the length tells 64-bit (216) from 32-bit (68).
pub const NT_PRSTATUS: u64 = 1;

/// `PTRACE_GETSIGMASK` (3.11): blocked signals, bit n-1 for signal n.
pub fn sigmask(pid: i32) -> Result<u64> {
    let mut mask = 0u64;
    request(0x420a, "GETSIGMASK", pid, 8, &raw mut mask as u64)?;
    Ok(mask)
}

/// `PTRACE_SETSIGMASK` (3.11).
pub fn set_sigmask(pid: i32, mask: u64) -> Result<()> {
    request(0x420b, "SETSIGMASK", pid, 8, &raw const mask as u64).map(|_| ())
}

/// `PTRACE_GETSIGINFO`: the raw siginfo of the current stop.
pub fn siginfo(pid: i32) -> Result<[u8; 128]> {
    let mut info = [0u8; 128];
    request(libc::PTRACE_GETSIGINFO, "GETSIGINFO", pid, 0, info.as_mut_ptr() as u64)?;
    Ok(info)
}

/// `PTRACE_PEEKSIGINFO` (3.10): all pending signals, oldest first; `shared`: those of the
/// process, else those of the thread.
pub fn pending_signals(pid: i32, shared: bool) -> Result<Vec<[u8; 128]>> {
    #[repr(C)]
    struct Args {
        off: u64,
        flags: u32,
        nr: i32,
    }
    const BATCH: usize = 32;
    let mut out = Vec::new();
    loop {
        let mut buf = [[0u8; 128]; BATCH];
        let args = Args { off: out.len() as u64, flags: shared.into(), nr: BATCH as i32 };
        let n =
            request(0x4209, "PEEKSIGINFO", pid, &raw const args as u64, buf.as_mut_ptr() as u64)?
                as usize;
        out.extend_from_slice(&buf[..n]);
        if n < BATCH {
            return Ok(out);
        }
    }
}

/// `PTRACE_GET_RSEQ_CONFIGURATION` (5.13).
pub fn rseq_configuration(pid: i32) -> Result<RseqConfiguration> {
    let mut c = RseqConfiguration::default();
    request(0x420f, "GET_RSEQ_CONFIGURATION", pid, 24, &raw mut c as u64)?;
    Ok(c)
}

/// `PTRACE_SECCOMP_GET_FILTER` (4.4): filter `index` (0 is the oldest) as raw `sock_filter`s,
/// `None` past the end.
pub fn seccomp_filter(pid: i32, index: u64) -> Result<Option<Vec<u8>>> {
    let n = match request(0x420c, "SECCOMP_GET_FILTER", pid, index, 0) {
        Ok(n) => n as usize,
        Err(e) if e.errno() == libc::ENOENT => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut buf = vec![0u8; n * 8];
    request(0x420c, "SECCOMP_GET_FILTER", pid, index, buf.as_mut_ptr() as u64)?;
    Ok(Some(buf))
}

/// `PTRACE_SECCOMP_GET_METADATA` (4.16): flags of filter `index`.
pub fn seccomp_flags(pid: i32, index: u64) -> Result<u64> {
    let mut meta = [index, 0u64];
    request(0x420d, "SECCOMP_GET_METADATA", pid, 16, meta.as_mut_ptr() as u64)?;
    Ok(meta[1])
}

/// `PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG` (6.4): true when dispatch is on.
pub fn syscall_user_dispatch(pid: i32) -> Result<bool> {
    let mut config = [0u64; 4];
    request(0x4211, "GET_SYSCALL_USER_DISPATCH_CONFIG", pid, 32, config.as_mut_ptr() as u64)?;
    Ok(config[0] != 0)
}

/// `PTRACE_POKEDATA`: writes a word, also where the task itself may not write.
pub fn poke(pid: i32, addr: u64, word: u64) -> Result<()> {
    request(libc::PTRACE_POKEDATA, "POKEDATA", pid, addr, word).map(|_| ())
}

/// `wait4(2)` with `__WALL` for one tracee (or any, `pid` -1). Returns which one.
/// `block` false adds `WNOHANG`. Interrupted by a signal: `EINTR`.
pub fn wait(pid: i32, block: bool) -> Result<(i32, Wait)> {
    let mut status = 0i32;
    let options = libc::__WALL | if block { 0 } else { libc::WNOHANG };
    // SAFETY: `status` outlives the call; a null rusage is allowed.
    let ret = unsafe { libc::wait4(pid, &mut status, options, std::ptr::null_mut()) };
    if ret < 0 {
        return Err(Error::last(format_args!("wait4({pid})")));
    }
    if ret == 0 {
        return Ok((0, Wait::Nothing));
    }
    let what = if libc::WIFSTOPPED(status) {
        Wait::Stopped { signo: libc::WSTOPSIG(status), event: status >> 16 }
    } else {
        Wait::Gone(status)
    };
    Ok((ret, what))
}
