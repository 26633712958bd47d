//! Registers of x86-64 threads as the images hold them.

use crate::Error;
use images::proto::{
    ThreadInfoX86, UserDescT, UserX86FpregsEntry, UserX86RegsEntry, UserX86RegsMode,
    UserX86XsaveEntry,
};
use parasite::{Restart, Saved};
use sys::cpuid::xsave_component;

/// Bits of xsave components: AMX and everything newer, for which the images have no place.
const KEPT: u64 = 0b10_1111_1111;
const SSE: u64 = 3;

/// Registers of a thread that goes on with them elsewhere: interrupted calls are rewound, and
/// a thread inside a restartable sequence is at its abort handler.
pub(crate) fn gpregs(saved: &Saved) -> UserX86RegsEntry {
    let r = Restart::rewind(&saved.regs);
    UserX86RegsEntry {
        r15: r.r15,
        r14: r.r14,
        r13: r.r13,
        r12: r.r12,
        bp: r.rbp,
        bx: r.rbx,
        r11: r.r11,
        r10: r.r10,
        r9: r.r9,
        r8: r.r8,
        ax: r.rax,
        cx: r.rcx,
        dx: r.rdx,
        si: r.rsi,
        di: r.rdi,
        orig_ax: r.orig_rax,
        ip: saved.home(r.rip),
        cs: r.cs,
        flags: r.eflags,
        sp: r.rsp,
        ss: r.ss,
        fs_base: r.fs_base,
        gs_base: r.gs_base,
        ds: r.ds,
        es: r.es,
        fs: r.fs,
        gs: r.gs,
        mode: Some(UserX86RegsMode::Native.into()),
    }
}

fn int<const N: usize>(area: &[u8], at: usize) -> u64 {
    let bytes = area.get(at..at + N).unwrap_or(&[]);
    bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))
}

fn words<const N: usize>(area: &[u8], at: usize, len: usize) -> impl Iterator<Item = u64> {
    (at..at + len).step_by(N).map(|at| int::<N>(area, at))
}

/// Place and length of component `index` in `area`, if the processor has it.
fn component(area: &[u8], index: u32) -> Option<(usize, usize)> {
    let (offset, len) = xsave_component(index)?;
    (len > 0 && offset + len <= area.len()).then_some((offset, len))
}

/// Floating point and vector registers.
pub(crate) fn fpregs(saved: &Saved) -> Result<UserX86FpregsEntry, Error> {
    let area = &saved.xsave;
    let bv = int::<8>(area, 512);
    if bv & !KEPT != 0 {
        return Err(Error::Refused(format!(
            "its vector state has components {:#x} (18: AMX tiles), which have no image",
            bv & !KEPT
        )));
    }
    // Parts in their initial state hold anything: readers load x87 and SSE in any case.
    let (x87, sse) = (bv & 1 != 0, bv & 2 != 0);
    let low = |at: usize, n: usize, init: u64| match (x87, n) {
        (false, _) => init,
        (true, 2) => int::<2>(area, at),
        (true, 4) => int::<4>(area, at),
        (true, _) => int::<8>(area, at),
    };
    // mxcsr counts as present with AVX too.
    let mxcsr = if bv & 6 != 0 { int::<4>(area, 24) } else { 0x1f80 };
    let space = |there: bool, at: usize, len: usize| -> Vec<u32> {
        words::<4>(area, at, len).map(|w| if there { w as u32 } else { 0 }).collect()
    };
    Ok(UserX86FpregsEntry {
        cwd: low(0, 2, 0x37f) as u32,
        swd: low(2, 2, 0) as u32,
        twd: low(4, 2, 0) as u32,
        fop: low(6, 2, 0) as u32,
        rip: low(8, 8, 0),
        rdp: low(16, 8, 0),
        mxcsr: mxcsr as u32,
        mxcsr_mask: int::<4>(area, 28) as u32,
        st_space: space(x87, 32, 128),
        xmm_space: space(sse, 160, 256),
        padding: vec![0; 24],
        xsave: Some(xsave(area, bv)),
    })
}

fn xsave(area: &[u8], bv: u64) -> UserX86XsaveEntry {
    let mut x = UserX86XsaveEntry { xstate_bv: bv | SSE, ..UserX86XsaveEntry::default() };
    for index in 2..=9 {
        let Some((at, len)) = component(area, index).filter(|_| bv >> index & 1 == 1) else {
            continue;
        };
        let longs = || words::<8>(area, at, len).collect::<Vec<u64>>();
        let ints = || words::<4>(area, at, len).map(|w| w as u32).collect::<Vec<u32>>();
        match index {
            2 => x.ymmh_space = ints(),
            3 => x.bndreg_state = longs(),
            4 => x.bndcsr_state = longs(),
            5 => x.opmask_reg = longs(),
            6 => x.zmm_upper = longs(),
            7 => x.hi16_zmm = longs(),
            9 => x.pkru = ints(),
            _ => {}
        }
    }
    x
}

/// GDT slots for thread-local storage of 32-bit programs: not present in 64-bit ones.
fn tls() -> Vec<UserDescT> {
    (12..=14)
        .map(|entry_number| UserDescT {
            entry_number,
            read_exec_only: true,
            seg_not_present: true,
            ..UserDescT::default()
        })
        .collect()
}

/// All registers of a thread.
pub(crate) fn thread_info(saved: &Saved, clear_tid_addr: u64) -> Result<ThreadInfoX86, Error> {
    Ok(ThreadInfoX86 { clear_tid_addr, gpregs: gpregs(saved), fpregs: fpregs(saved)?, tls: tls() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(bv: u64) -> Saved {
        let mut xsave = vec![0xaa; 2816];
        xsave[512..520].copy_from_slice(&bv.to_ne_bytes());
        Saved::with_xsave(xsave)
    }

    #[test]
    fn untouched_components_are_in_their_initial_state() {
        let f = fpregs(&saved(0)).unwrap();
        assert_eq!((f.cwd, f.mxcsr, f.twd), (0x37f, 0x1f80, 0));
        assert!(f.st_space.iter().chain(&f.xmm_space).all(|&w| w == 0));
        assert_eq!((f.st_space.len(), f.xmm_space.len()), (32, 64));
    }

    #[test]
    fn used_components_are_copied() {
        let f = fpregs(&saved(3)).unwrap();
        assert_eq!((f.cwd, f.mxcsr), (0xaaaa, 0xaaaa_aaaa));
        assert!(f.xmm_space.iter().all(|&w| w == 0xaaaa_aaaa));
        assert!(f.xsave.unwrap().ymmh_space.is_empty());
    }

    #[test]
    fn amx_tiles_are_refused() {
        assert!(fpregs(&saved(3 | 1 << 18)).is_err());
    }
}
