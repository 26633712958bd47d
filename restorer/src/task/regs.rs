//! Registers (`thread_info`): general ones, and the extended state in the layout of this CPU.

use images::proto::{ThreadInfoX86, UserX86FpregsEntry, UserX86RegsMode};
use sys::arena::XsaveLayout;
use sys::ptrace::Regs;

/// Header of the xsave area: behind the 512 bytes of the legacy region.
const HEADER: usize = 512;
/// Init value of the x87 control word and of MXCSR.
const FCW: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;

/// Why registers cannot be set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// 32-bit tasks.
    #[error("not supported yet: 32-bit tasks")]
    Compat,
    /// Not the segment of 64-bit programs.
    #[error("gpregs.cs is {0:#x}, not that of a 64-bit program")]
    Segment(u64),
    /// An array that is too short.
    #[error("fpregs.{field} has {got} words, not {want}")]
    Short {
        /// Name of the field.
        field: &'static str,
        /// Words in the image.
        got: usize,
        /// Words that there have to be.
        want: usize,
    },
    /// Shadow stacks.
    #[error("not supported yet: shadow stacks (xsave.cet)")]
    ShadowStack,
    /// State of a component that this CPU or kernel does not have.
    #[error("extended state component {0} was in use, and this CPU does not have it")]
    Component(usize),
}

/// `struct user_regs_struct`, ready for `PTRACE_SETREGS`.
pub(crate) fn general(info: &ThreadInfoX86) -> Result<Regs, Error> {
    const USER_CS: u64 = 0x33;
    let r = &info.gpregs;
    if r.mode() == UserX86RegsMode::Compat {
        return Err(Error::Compat);
    }
    if r.cs != USER_CS {
        return Err(Error::Segment(r.cs));
    }
    Ok(Regs {
        r15: r.r15,
        r14: r.r14,
        r13: r.r13,
        r12: r.r12,
        rbp: r.bp,
        rbx: r.bx,
        r11: r.r11,
        r10: r.r10,
        r9: r.r9,
        r8: r.r8,
        rax: r.ax,
        rcx: r.cx,
        rdx: r.dx,
        rsi: r.si,
        rdi: r.di,
        // The image's system calls are rewound already; any other value could make the kernel
        // restart one that never was.
        orig_rax: u64::MAX,
        rip: r.ip,
        cs: r.cs,
        eflags: r.flags,
        rsp: r.sp,
        ss: 0x2b,
        fs_base: r.fs_base,
        gs_base: r.gs_base,
        ds: r.ds,
        es: r.es,
        fs: r.fs,
        gs: r.gs,
    })
}

/// Makes a thread repeat system call `nr`, which the core image says was interrupted (`EINTR`)
/// since only the dumped kernel knew how to continue it.
pub(crate) fn call_again(regs: &mut Regs, nr: u64) {
    const SYSCALL_LEN: u64 = 2;
    if regs.rax as i64 == -i64::from(libc::EINTR) {
        regs.rax = nr;
        regs.rip -= SYSCALL_LEN;
    }
}

/// Whether [`extended`] will succeed.
pub(crate) fn check(fp: &UserX86FpregsEntry, cpu: &XsaveLayout) -> Result<(), Error> {
    extended(fp, cpu).map(|_| ())
}

/// The whole xsave area for `PTRACE_SETREGSET`, which wants exactly the machine's size.
pub(crate) fn extended(fp: &UserX86FpregsEntry, cpu: &XsaveLayout) -> Result<Vec<u8>, Error> {
    let mut area = vec![0u8; cpu.len.max(HEADER)];
    legacy(fp, &mut area)?;
    if cpu.len <= HEADER {
        return Ok(area);
    }
    let mut present = 3u64;
    if let Some(x) = &fp.xsave {
        // All zero where the CPU has them and the task does not.
        if x.cet.as_ref().is_some_and(|c| (c.cet, c.ssp) != (0, 0)) {
            return Err(Error::ShadowStack);
        }
        const CET: u64 = 1 << 11;
        present = x.xstate_bv & !CET | 3;
        let words: [(usize, Vec<u8>); 7] = [
            (2, bytes_u32(&x.ymmh_space)),
            (3, bytes_u64(&x.bndreg_state)),
            (4, bytes_u64(&x.bndcsr_state)),
            (5, bytes_u64(&x.opmask_reg)),
            (6, bytes_u64(&x.zmm_upper)),
            (7, bytes_u64(&x.hi16_zmm)),
            (9, bytes_u32(&x.pkru)),
        ];
        for (component, bytes) in words {
            if present >> component & 1 == 0 {
                continue;
            }
            if bytes.is_empty() {
                present &= !(1 << component);
                continue;
            }
            let (offset, len) = cpu.component[component];
            if cpu.enabled >> component & 1 == 0 || len == 0 {
                return Err(Error::Component(component));
            }
            let n = len.min(bytes.len());
            area[offset..offset + n].copy_from_slice(&bytes[..n]);
        }
        // Components that have no place in the image (AMX, APX) were in their initial state, or
        // the dump was refused.
        present &= 0b10_1111_1111 & cpu.enabled | 3;
    }
    area[HEADER..HEADER + 8].copy_from_slice(&present.to_le_bytes());
    Ok(area)
}

fn legacy(fp: &UserX86FpregsEntry, area: &mut [u8]) -> Result<(), Error> {
    let short = |field, got, want| Err(Error::Short { field, got, want });
    if fp.st_space.len() < 32 {
        return short("st_space", fp.st_space.len(), 32);
    }
    if fp.xmm_space.len() < 64 {
        return short("xmm_space", fp.xmm_space.len(), 64);
    }
    let init = fp.xsave.as_ref().is_some_and(|x| x.xstate_bv & 1 == 0) && fp.cwd == 0;
    let cwd = if init { FCW } else { fp.cwd as u16 };
    let mxcsr = if fp.mxcsr == 0 && init { MXCSR } else { fp.mxcsr };
    area[0..2].copy_from_slice(&cwd.to_le_bytes());
    area[2..4].copy_from_slice(&(fp.swd as u16).to_le_bytes());
    area[4..6].copy_from_slice(&(fp.twd as u16).to_le_bytes());
    area[6..8].copy_from_slice(&(fp.fop as u16).to_le_bytes());
    area[8..16].copy_from_slice(&fp.rip.to_le_bytes());
    area[16..24].copy_from_slice(&fp.rdp.to_le_bytes());
    area[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    area[28..32].copy_from_slice(&fp.mxcsr_mask.to_le_bytes());
    area[32..160].copy_from_slice(&bytes_u32(&fp.st_space[..32]));
    area[160..416].copy_from_slice(&bytes_u32(&fp.xmm_space[..64]));
    Ok(())
}

fn bytes_u32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

fn bytes_u64(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}
