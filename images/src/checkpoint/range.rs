//! Numbers that no kernel tells, and that it would refuse, or take for something else, only when
//! half of the tree is made: ids of -1 are "as it is", advice 9 cuts holes into files.

use crate::checkpoint::VmaStatus;
use crate::pages::PAGE_SIZE;
use crate::proto::{
    CoreEntry, CredsEntry, FileEntry, FownEntry, MmEntry, SkOptsEntry, ThreadCoreEntry,
    ThreadInfoX86, VmaEntry,
};

/// Behind all addresses of programs, whatever the CPU.
const ADDRESSES: u64 = 1 << 56;
/// `O_*` that `F_GETFL` may tell, and the mark of fanotify's files.
const OPEN_FLAGS: u32 = 0x07ff_ffff;
/// `sizeof(struct robust_list_head)`.
const ROBUST_LIST: u32 = 24;
/// `SECBIT_*` up to those of 6.14.
const SECURE_BITS: u32 = 0xfff;
/// Bits of MXCSR, with AMD's of misaligned accesses; the others cannot be loaded.
const MXCSR: u32 = 0x2_ffff;
/// `SS_ONSTACK`, `SS_DISABLE` and `SS_AUTODISARM`.
const STACK_FLAGS: u32 = 0x8000_0003;
/// Microseconds of a timeout.
const SECOND: u64 = 1_000_000;
const HIGHEST_SIGNAL: u32 = 64;

/// Fails with the first field whose number is not good.
fn all(of: &str, fields: &[(&str, u64, bool)]) -> Result<(), String> {
    match fields.iter().find(|(_, _, good)| !good) {
        None => Ok(()),
        Some((field, value, _)) => Err(format!("{of}{field} is {value:#x}")),
    }
}

/// State of a thread.
pub(super) fn thread(core: &CoreEntry) -> Result<(), String> {
    if let Some(state) = &core.thread_core {
        thread_core(state)?;
        state.creds.as_ref().map_or(Ok(()), creds)?;
    }
    core.thread_info.as_ref().map_or(Ok(()), x86)
}

fn thread_core(state: &ThreadCoreEntry) -> Result<(), String> {
    let nice = state.sched_nice.unwrap_or(0);
    let len = state.futex_rla_len;
    let stack = state.sas.map_or(0, |s| s.ss_flags);
    let rseq = state.rseq_entry.map_or(0, |r| r.rseq_abi_pointer);
    all(
        "thread_core.",
        &[
            ("futex_rla_len", len.into(), [0, ROBUST_LIST].contains(&len)),
            ("sched_nice", u64::from(nice.cast_unsigned()), (-20..=19).contains(&nice)),
            ("sas.ss_flags", stack.into(), stack & !STACK_FLAGS == 0),
            ("rseq_entry.rseq_abi_pointer", rseq, rseq < ADDRESSES && rseq.is_multiple_of(4)),
        ],
    )
}

fn creds(c: &CredsEntry) -> Result<(), String> {
    let id = |name, id: u32| (name, u64::from(id), id != u32::MAX);
    let privs = c.no_new_privs.unwrap_or(0);
    all(
        "thread_core.creds.",
        &[
            id("uid", c.uid),
            id("gid", c.gid),
            id("euid", c.euid),
            id("egid", c.egid),
            id("suid", c.suid),
            id("sgid", c.sgid),
            id("fsuid", c.fsuid),
            id("fsgid", c.fsgid),
            id("groups", c.groups.iter().copied().max().unwrap_or(0)),
            ("secbits", c.secbits.into(), c.secbits & !SECURE_BITS == 0),
            ("no_new_privs", privs.into(), privs <= 1),
        ],
    )
}

fn x86(info: &ThreadInfoX86) -> Result<(), String> {
    let (gp, fp) = (&info.gpregs, &info.fpregs);
    let base = |name, base: u64| (name, base, base < ADDRESSES);
    // Of privilege 3, or none.
    let selector = |name, s: u64| (name, s, s == 0 || s <= 0xffff && s & 3 == 3);
    all(
        "thread_info.",
        &[
            base("gpregs.fs_base", gp.fs_base),
            base("gpregs.gs_base", gp.gs_base),
            selector("gpregs.ds", gp.ds),
            selector("gpregs.es", gp.es),
            selector("gpregs.fs", gp.fs),
            selector("gpregs.gs", gp.gs),
            ("fpregs.mxcsr", fp.mxcsr.into(), fp.mxcsr & !MXCSR == 0),
        ],
    )
}

/// The fields of an address space, and of its mappings.
pub(super) fn mm(mm: &MmEntry) -> Result<(), String> {
    let order = |name, from: u64, to: u64| (name, to, from <= to && to < ADDRESSES);
    let dumpable = mm.dumpable.unwrap_or(0);
    all(
        "",
        &[
            order("mm_end_code", mm.mm_start_code, mm.mm_end_code),
            order("mm_end_data", mm.mm_start_data, mm.mm_end_data),
            order("mm_brk", mm.mm_start_brk, mm.mm_brk),
            order("mm_arg_end", mm.mm_arg_start, mm.mm_arg_end),
            order("mm_env_end", mm.mm_env_start, mm.mm_env_end),
            order("mm_start_stack", 0, mm.mm_start_stack),
            ("dumpable", u64::from(dumpable.cast_unsigned()), (0..=2).contains(&dumpable)),
        ],
    )?;
    mm.vmas.iter().enumerate().try_for_each(|(i, v)| vma(v).map_err(|e| format!("vmas[{i}].{e}")))
}

fn vma(vma: &VmaEntry) -> Result<(), String> {
    /// `PROT_READ`, `PROT_WRITE`, `PROT_EXEC`.
    const PROT: u32 = 7;
    /// Bits of `MAP_*` that none has.
    const NO_FLAGS: u32 = 0x03e0_0000;
    /// `MADV_*` that is only advice, and lasts: NORMAL, RANDOM, SEQUENTIAL, DONTFORK, DOFORK,
    /// MERGEABLE, UNMERGEABLE, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP, WIPEONFORK. None that frees
    /// memory or cuts holes into files.
    const ADVICE: [u8; 12] = [0, 1, 2, 10, 11, 12, 13, 14, 15, 16, 17, 18];
    let advice = vma.madv.unwrap_or(0);
    let known: u64 = ADVICE.iter().map(|a| 1 << a).sum();
    let fdflags = vma.fdflags.unwrap_or(0);
    let of_file = vma.kind().intersects(VmaStatus::FILE_PRIVATE | VmaStatus::FILE_SHARED);
    let offset = !of_file || vma.pgoff.is_multiple_of(PAGE_SIZE) && vma.pgoff.cast_signed() >= 0;
    all(
        "",
        &[
            ("pgoff", vma.pgoff, offset),
            ("prot", vma.prot.into(), vma.prot & !PROT == 0),
            ("flags", vma.flags.into(), vma.flags & NO_FLAGS == 0),
            ("madv", advice, advice & !known == 0),
            ("fdflags", fdflags.into(), fdflags & !OPEN_FLAGS == 0),
        ],
    )
}

/// Flags, owner and options of an open file.
pub(super) fn file(file: &FileEntry) -> Result<(), String> {
    macro_rules! each {
        ($field:ident of $($part:ident)*) => {
            [$(file.$part.as_ref().map(|f| (stringify!($part), &f.$field)),)*].into_iter().flatten()
        };
    }
    let with_flags =
        each!(flags of reg isk nsf psk nlsk efd epfd sgfd tfd ify ffy usk pipe tty memfd bpf pidfd);
    for (part, flags) in with_flags {
        all(part, &[(".flags", u64::from(*flags), flags & !OPEN_FLAGS == 0)])?;
    }
    let with_owner =
        each!(fown of reg isk psk nlsk efd epfd sgfd tfd ify ffy ext usk pipe tty memfd bpf pidfd);
    for (part, fown) in with_owner {
        owner(fown).map_err(|e| format!("{part}.{e}"))?;
    }
    for (part, opts) in each!(opts of isk psk nlsk usk) {
        options(opts).map_err(|e| format!("{part}.{e}"))?;
    }
    match file.usk.as_ref().map(|s| s.state) {
        // TCP_ESTABLISHED, TCP_CLOSE, TCP_LISTEN.
        None | Some(1 | 7 | 10) => Ok(()),
        Some(state) => Err(format!("usk.state {state} is not known")),
    }
}

fn owner(o: &FownEntry) -> Result<(), String> {
    let id = |name, id: u32| (name, u64::from(id), o.pid == 0 || id != u32::MAX);
    all(
        "fown.",
        &[
            ("signum", o.signum.into(), o.signum <= HIGHEST_SIGNAL),
            ("pid_type", o.pid_type.into(), o.pid == 0 || o.pid_type <= 2),
            id("uid", o.uid),
            id("euid", o.euid),
        ],
    )
}

fn options(o: &SkOptsEntry) -> Result<(), String> {
    let locks = o.so_buf_lock.unwrap_or(0);
    all(
        "opts.",
        &[
            ("so_snd_tmo_usec", o.so_snd_tmo_usec, o.so_snd_tmo_usec < SECOND),
            ("so_rcv_tmo_usec", o.so_rcv_tmo_usec, o.so_rcv_tmo_usec < SECOND),
            ("so_buf_lock", locks.into(), locks <= 3),
        ],
    )
}
