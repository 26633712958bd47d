//! The way home: a complete `rt_sigframe`, made before foreign code runs.
//!
//! While our code runs in a thread, this frame lies ready on our stack there. If the tracer
//! dies, the code ends with `rt_sigreturn` into it and the thread goes on with its own work.

use crate::tracee::Saved;
use sys::cpuid::xsave_component;
use sys::ptrace::Regs;

/// `-ERESTARTSYS`, `-ERESTARTNOINTR`, `-ERESTARTNOHAND`: the call is made again.
const AGAIN: [i64; 3] = [-512, -513, -514];
/// `-ERESTART_RESTARTBLOCK`: goes on by `restart_syscall`.
const RESTART_BLOCK: i64 = -516;

/// Registers of a thread that never comes back into its interrupted system call.
#[derive(Clone, Copy, Debug)]
pub struct Restart;

impl Restart {
    /// The registers with which the thread can go on *elsewhere* (an image, a signal frame):
    /// an interrupted call is set up to be made again, or to return `EINTR` where only the
    /// kernel's restart block knew how to go on.
    pub fn rewind(regs: &Regs) -> Regs {
        let mut r = *regs;
        if (r.orig_rax as i64) < 0 {
            return r;
        }
        let answer = r.rax as i64;
        if AGAIN.contains(&answer) {
            r.rax = r.orig_rax;
            // `syscall`, `sysenter` and `int 0x80` are all two bytes long.
            r.rip -= 2;
        } else if answer == RESTART_BLOCK {
            r.rax = i64::from(-libc::EINTR) as u64;
        }
        r
    }

    /// The interrupted call that only the kernel's restart block could have continued.
    pub fn lost_call(regs: &Regs) -> Option<u64> {
        let inside = (regs.orig_rax as i64) >= 0 && regs.rax as i64 == RESTART_BLOCK;
        inside.then_some(regs.orig_rax)
    }
}

const XFEATURES: usize = 464;
const XSTATE_BV: usize = 512;
const TILE_DATA: u64 = 1 << 18;
const MAGIC1: u32 = 0x4650_5853;
const MAGIC2: u32 = 0x4650_5845;
const MIN_XSTATE: usize = 512 + 64;

fn word(area: &[u8], at: usize) -> u64 {
    area.get(at..at + 8).map_or(0, |b| u64::from_ne_bytes(b.try_into().unwrap_or([0; 8])))
}

/// Size of the xsave area in a signal frame: without AMX tile data unless the thread has some.
/// A larger one is not refused by the kernel: it then drops everything but x87 and SSE.
pub fn xstate_size(area: &[u8]) -> usize {
    let mut features = word(area, XFEATURES);
    if word(area, XSTATE_BV) & TILE_DATA == 0 {
        features &= !TILE_DATA;
    }
    let used = (2..63).filter(|i| features >> i & 1 == 1);
    let ends = used.filter_map(xsave_component).map(|(offset, len)| offset + len);
    ends.max().unwrap_or(0).max(MIN_XSTATE)
}

/// Offset of the xsave area in the frame; the frame starts at a multiple of 64.
const FPSTATE: usize = 448;
const MCONTEXT: usize = 48;

/// Length of the frame for a thread with this xsave area.
pub(crate) fn size(saved: &Saved) -> usize {
    FPSTATE + saved.xsave.len() + 4
}

/// The frame, to be put at `addr` (a multiple of 64). `rt_sigreturn` wants the stack pointer
/// 8 above `addr`.
pub(crate) fn build(saved: &Saved, addr: u64) -> Vec<u8> {
    let r = Restart::rewind(&saved.regs);
    let mut f = vec![0u8; size(saved)];
    let mut put = |at: usize, v: u64| f[at..at + 8].copy_from_slice(&v.to_ne_bytes());
    // UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS
    put(8, 7);
    // An alternate stack that the kernel refuses (bad flags), so that it keeps the present one.
    put(32, 0x10);
    let general = [
        r.r8,
        r.r9,
        r.r10,
        r.r11,
        r.r12,
        r.r13,
        r.r14,
        r.r15,
        r.rdi,
        r.rsi,
        r.rbp,
        r.rbx,
        r.rdx,
        r.rax,
        r.rcx,
        r.rsp,
        saved.home(r.rip),
        r.eflags,
    ];
    for (i, v) in general.into_iter().enumerate() {
        put(MCONTEXT + i * 8, v);
    }
    put(MCONTEXT + 144, r.cs & 0xffff | (r.ss & 0xffff) << 48);
    put(MCONTEXT + 184, addr + FPSTATE as u64);
    put(304, saved.mask);
    let xsave = &mut f[FPSTATE..];
    let len = saved.xsave.len();
    xsave[..len].copy_from_slice(&saved.xsave);
    let features = word(&saved.xsave, XFEATURES);
    let features = if word(&saved.xsave, XSTATE_BV) & TILE_DATA == 0 {
        features & !TILE_DATA
    } else {
        features
    };
    // struct _fpx_sw_bytes
    xsave[464..468].copy_from_slice(&MAGIC1.to_ne_bytes());
    xsave[468..472].copy_from_slice(&(len as u32 + 4).to_ne_bytes());
    xsave[472..480].copy_from_slice(&features.to_ne_bytes());
    xsave[480..484].copy_from_slice(&(len as u32).to_ne_bytes());
    xsave[len..len + 4].copy_from_slice(&MAGIC2.to_ne_bytes());
    f
}
