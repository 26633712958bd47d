//! Address spaces: the VMAs of an image as steps for the blob.
//!
//! Everything is mapped at its final address at once and filled there by few large `preadv`s from
//! the pages images: no copies, no moves. That works as the blob has unmapped all that was in the
//! way, and needs only its arena.

pub(crate) mod fill;

use crate::execute::arena;
use crate::facts::{Facts, Range, TASK_SIZE};
use crate::plan::cow::Premap;
use crate::plan::vdso::{self, Fit};
use crate::script::{Data, Full, Script};
use crate::task::amber;
use images::checkpoint::{Checkpoint, Live, VmaStatus};
use images::pages::{Origin, PageSource};
use images::proto::{AmberVmaEntry, MmEntry, VmaEntry};
use parasite_abi::restore::{Op, Stage, What};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;

/// Why an address space cannot be rebuilt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A kind of mapping that is not handled.
    #[error("vma {start:#x}-{end:#x}: {why}")]
    Vma {
        /// First address.
        start: u64,
        /// Address behind the last byte.
        end: u64,
        /// What is in the way.
        why: &'static str,
    },
    /// The saved vdso cannot be made to work here.
    #[error("vdso {start:#x}-{end:#x}: {why}")]
    Vdso {
        /// First address.
        start: u64,
        /// Address behind the last byte.
        end: u64,
        /// The reason.
        why: String,
    },
    /// Pages are to come from a page server.
    #[error("page {0:#x} is left to a page server (lazy dump): not supported yet")]
    Lazy(u64),
}

/// What of a VMA the restore acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Mapped, and filled where there are pages.
    Map,
    /// Mapped from a file by id.
    File,
    /// Mapped from an old-style shared segment.
    Segment,
    /// Moved there from where the kernel put it.
    Vdso,
    /// An AIO ring.
    Aio,
    /// Rings of a packet socket of the task's.
    Socket,
    /// A segment of System V, or a part of one.
    Sysv,
    /// Guard pages within others.
    Guard,
    /// Nothing to do.
    Skip,
}

/// How far below the arena the kernel's vdso goes when it cannot have the saved one's place.
const PROXY_DISTANCE: u64 = 16 << 20;
const MADV_GUARD_INSTALL: u64 = 102;
const MAP_DROPPABLE: u32 = 8;

/// Whether a child can have this memory from its parent.
pub(crate) fn can_be_shared(vma: &VmaEntry) -> bool {
    let special = libc::MAP_HUGETLB | libc::MAP_GROWSDOWN;
    matches!(kind(vma), Ok(Kind::Map | Kind::File))
        && vma.flags & 0xf == libc::MAP_PRIVATE as u32
        && vma.flags & special as u32 == 0
}

/// Sorts a VMA, or tells why it cannot be restored.
pub(crate) fn kind(vma: &VmaEntry) -> Result<Kind, Error> {
    let status = vma.kind();
    let refuse = |why| Err(Error::Vma { start: vma.start, end: vma.end, why });
    let has = |bit| status.contains(bit);
    if has(VmaStatus::VSYSCALL) {
        return Ok(Kind::Skip);
    }
    if has(VmaStatus::GUARD) {
        return Ok(Kind::Guard);
    }
    if has(VmaStatus::VDSO) || has(VmaStatus::VVAR) {
        return Ok(Kind::Vdso);
    }
    if has(VmaStatus::AIORING) {
        return Ok(Kind::Aio);
    }
    if has(VmaStatus::EXT_PLUGIN) {
        return refuse("not supported yet: mapping of a plugin");
    }
    if has(VmaStatus::SYSVIPC) {
        return Ok(Kind::Sysv);
    }
    if has(VmaStatus::SOCKET) {
        return Ok(Kind::Socket);
    }
    if has(VmaStatus::SHSTK) {
        return refuse("not supported yet: shadow stack");
    }
    if has(VmaStatus::FILE_PRIVATE) || has(VmaStatus::FILE_SHARED) {
        return Ok(Kind::File);
    }
    if has(VmaStatus::ANON_SHARED) {
        return Ok(Kind::Segment);
    }
    if has(VmaStatus::ANON_PRIVATE) || vma.flags & MAP_DROPPABLE != 0 {
        return Ok(Kind::Map);
    }
    refuse("status tells of no kind of mapping that is known")
}

/// What is decided of an address space beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// The hole for the arena.
    pub(crate) arena: Range,
    /// How the kernel's own pages go to their places: (from, to), in the order of addresses.
    /// Empty if the image has none: then they are unmapped.
    pub(crate) vdso: Vec<(Range, u64)>,
    /// The saved vdso stays as plain memory, and these instructions (address, bytes) lead from it
    /// to the kernel's, which is elsewhere.
    pub(crate) jumps: Option<Vec<(u64, Vec<u8>)>>,
    /// Memory that is filled in the arena before the forks, by final address.
    pub(crate) premaps: Vec<Premap>,
    /// Contents are compressed, here or in another task: the coordinator fills them in.
    pub(crate) from_outside: bool,
    /// Memory may consist of huge pages where they fit.
    pub(crate) huge: bool,
}

/// A hole for the arenas of all these tasks, with further `room`; `present` is what this process
/// has mapped.
pub(crate) fn common_hole<'a>(
    tasks: impl Iterator<Item = &'a Live>,
    present: &[Range],
    room: u64,
) -> Option<Range> {
    arena::hole(tasks.flat_map(|l| occupied(&l.mm)).chain(present.iter().cloned()), room)
}

/// Plans an address space with an arena, and checks everything that can be checked beforehand.
pub(crate) fn plan(live: &Live, facts: &Facts, arena: Range) -> Result<Space, crate::Error> {
    check(live)?;
    let mut space = Space {
        arena,
        vdso: Vec::new(),
        jumps: None,
        premaps: Vec::new(),
        from_outside: false,
        huge: facts.huge,
    };
    plan_vdso(live, facts, &mut space)?;
    Ok(space)
}

fn check(live: &Live) -> Result<(), Error> {
    for vma in &live.mm.vmas {
        kind(vma)?;
    }
    if let Some(s) = live.pages.segments().iter().find(|s| s.origin == Origin::Server) {
        return Err(Error::Lazy(s.vaddr));
    }
    Ok(())
}

/// Ranges that the task will have mapped.
fn occupied(mm: &MmEntry) -> impl Iterator<Item = Range> + '_ {
    mm.vmas.iter().map(|v| {
        // The kernel keeps a gap below what grows, and the stack may grow before we are gone.
        let gap = if v.flags & libc::MAP_GROWSDOWN as u32 != 0 { 16 << 20 } else { 0 };
        v.start.saturating_sub(gap)..v.end
    })
}

fn plan_vdso(live: &Live, facts: &Facts, space: &mut Space) -> Result<(), Error> {
    let find = |bit| live.mm.vmas.iter().find(|v| v.kind().contains(bit));
    let Some(code) = find(VmaStatus::VDSO) else { return Ok(()) };
    let (start, end) = (code.start, code.end);
    let fails = |why: String| Error::Vdso { start, end, why };
    let Some(host) = &facts.vdso.code else {
        return Err(fails("this kernel has no vdso".to_owned()));
    };
    let mut saved = vec![0; (end - start) as usize];
    live.pages.read_at(start, &mut saved).map_err(|e| fails(e.to_string()))?;
    let gap = |from: u64, vvar: Option<u64>| vvar.map_or(0, |v| from.wrapping_sub(v));
    let saved_gap = gap(start, find(VmaStatus::VVAR).map(|v| v.start));
    let host_gap = gap(host.start, facts.vdso.vvar.first().map(|r| r.start));
    let fit = vdso::fit((&saved, saved_gap), (&facts.vdso.bytes, host_gap));
    let base = match fit.map_err(|e| fails(e.to_string()))? {
        Fit::Move => start,
        Fit::Proxy(jumps) => {
            // The hole of the arena is the largest there is, so there is room beside it.
            let base = space.arena.start - PROXY_DISTANCE + host_gap;
            let code = jumps.iter().map(|j| (start + j.at, j.code(base).to_vec())).collect();
            space.jumps = Some(code);
            base
        }
    };
    let to = |r: &Range| base.wrapping_add(r.start.wrapping_sub(host.start));
    space.vdso = facts.vdso.ranges().iter().map(|r| (r.clone(), to(r))).collect();
    Ok(())
}

/// Descriptors that the steps use.
#[derive(Debug, Default)]
pub(crate) struct Fds {
    /// Of files mapped, by (file id, access mode).
    pub(crate) files: BTreeMap<(u32, u32), RawFd>,
    /// Of packet sockets, by file id.
    pub(crate) sockets: BTreeMap<u32, RawFd>,
    /// Of old-style shared segments, by shmid.
    pub(crate) segments: BTreeMap<u64, RawFd>,
    /// Of the pages images, in the order of [`PageSource::files`].
    pub(crate) pages: Vec<RawFd>,
    /// Of the program.
    pub(crate) exe: RawFd,
    /// Of /dev/null, for AIO rings.
    pub(crate) null: RawFd,
    /// Saved bytes of the AIO rings.
    pub(crate) rings: Vec<Vec<u8>>,
}

/// Access mode in which a mapped file has to be open.
pub(crate) fn open_mode(vma: &VmaEntry) -> u32 {
    let shared_writable =
        vma.flags & libc::MAP_SHARED as u32 != 0 && vma.prot & libc::PROT_WRITE as u32 != 0;
    vma.fdflags.unwrap_or(if shared_writable { libc::O_RDWR as u32 } else { 0 })
}

/// Files which the VMAs map: (file id, access mode).
pub(crate) fn mapped_files(mm: &MmEntry, space: &Space) -> Vec<(u32, u32)> {
    let file = |v: &&VmaEntry| kind(v) == Ok(Kind::File) && premapped(space, v).is_none();
    let mut all: Vec<_> =
        mm.vmas.iter().filter(file).map(|v| (v.shmid as u32, open_mode(v))).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Packet sockets whose rings the VMAs map: file ids.
pub(crate) fn mapped_sockets(mm: &MmEntry) -> BTreeSet<u32> {
    mm.vmas.iter().filter(|v| kind(v) == Ok(Kind::Socket)).map(|v| v.shmid as u32).collect()
}

/// Old-style shared segments which the VMAs map: shmid.
pub(crate) fn mapped_segments(mm: &MmEntry) -> BTreeSet<u64> {
    mm.vmas.iter().filter(|v| kind(v) == Ok(Kind::Segment)).map(|v| v.shmid).collect()
}

/// Where the arena keeps things meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The whole arena.
    pub(crate) arena: Range,
    /// Room for the vdso.
    pub(crate) parking: u64,
    /// Helper threads for filling: descriptors' stacks, and how many there may be.
    pub(crate) helper_stacks: u64,
    /// How many helpers.
    pub(crate) helpers: u64,
}

/// Stack of a helper.
pub(crate) const HELPER_STACK: u64 = 4096;

/// From the restorer's address space to that of the image.
pub(crate) fn steps(
    live: &Live,
    space: &Space,
    extra: &[AmberVmaEntry],
    fds: &Fds,
    places: &Places,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), crate::Error> {
    let moves = &space.vdso;
    let first = moves.first().map_or(0, |(from, _)| from.start);
    let parked = |from: &Range| places.parking + (from.start - first);
    for (from, _) in moves {
        remap(from, from.start, parked(from), What::Vdso, script);
    }
    let unmap = |script: &mut Script, r: Range| {
        script.call(What::Unmap, libc::SYS_munmap, [r.start, r.end - r.start]);
    };
    unmap(script, 0..places.arena.start);
    unmap(script, places.arena.end..TASK_SIZE);
    for (from, to) in moves {
        remap(from, parked(from), *to, What::Vdso, script);
    }
    let mut writable = Vec::new();
    let proxy = space.jumps.is_some();
    for vma in &live.mm.vmas {
        if proxy && vma.kind().contains(VmaStatus::VDSO) {
            map_old_vdso(vma, script, &mut writable);
        } else if let Some(at) = premapped(space, vma) {
            remap(&(vma.start..vma.end), at, vma.start, What::Vma, script);
            if vma.prot != (libc::PROT_READ | libc::PROT_WRITE) as u32 {
                writable.push(vma);
            }
        } else {
            map(vma, &live.mm.vmas, &live.pages, fds, script, &mut writable)?;
        }
    }
    fill::fill(live, space, fds, places, script, data)?;
    if space.from_outside {
        script.stage(Stage::RestoreMemory);
    }
    for (addr, code) in space.jumps.iter().flatten() {
        let from = data.put(code)?;
        script.op(What::Vdso, Op::Copy, [*addr, from, code.len() as u64]);
    }
    for vma in writable {
        let args = [vma.start, vma.end - vma.start, vma.prot.into()];
        script.call(What::Protect, libc::SYS_mprotect, args);
    }
    aio(&live.mm, fds, script, data)?;
    amber::vmas(extra, &live.mm.vmas, script, data)?;
    attributes(&live.mm, extra, script);
    mm_map(&live.mm, fds.exe, script, data)?;
    Ok(())
}

/// Where a VMA has been filled already.
fn premapped(space: &Space, vma: &VmaEntry) -> Option<u64> {
    let found = space.premaps.binary_search_by_key(&vma.start, |p| p.start).ok()?;
    can_be_shared(vma).then_some(space.premaps[found].at)
}

fn remap(range: &Range, from: u64, to: u64, what: What, script: &mut Script) {
    let len = range.end - range.start;
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    script.call_expecting(what, libc::SYS_mremap, [from, len, len, flags, to], to);
}

/// Attaches a segment of System V with its first part; the parts get their protection later.
fn attach<'a>(
    vma: &'a VmaEntry,
    all: &[VmaEntry],
    script: &mut Script,
    writable: &mut Vec<&'a VmaEntry>,
) {
    let base = |v: &VmaEntry| v.start.wrapping_sub(v.pgoff);
    let same = |v: &&VmaEntry| {
        v.kind().contains(VmaStatus::SYSVIPC) && v.shmid == vma.shmid && base(v) == base(vma)
    };
    let prot = all.iter().filter(same).fold(0, |prot, v| prot | v.prot);
    let has = |bit: i32| prot & bit as u32 != 0;
    if vma.pgoff == 0 {
        let read_only = if has(libc::PROT_WRITE) { 0 } else { libc::SHM_RDONLY };
        let exec = if has(libc::PROT_EXEC) { libc::SHM_EXEC } else { 0 };
        let args = [vma.shmid, vma.start, (read_only | exec) as u64];
        script.call_expecting(What::Vma, libc::SYS_shmat, args, vma.start);
    }
    if vma.prot != prot | libc::PROT_READ as u32 {
        writable.push(vma);
    }
}

fn map<'a>(
    vma: &'a VmaEntry,
    all: &[VmaEntry],
    pages: &PageSource,
    fds: &Fds,
    script: &mut Script,
    writable: &mut Vec<&'a VmaEntry>,
) -> Result<(), Error> {
    const FIXED: u32 = (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) as u32;
    let kind = kind(vma)?;
    let fd = match kind {
        Kind::Map => -1,
        Kind::File => fds.files[&(vma.shmid as u32, open_mode(vma))],
        Kind::Segment => fds.segments[&vma.shmid],
        Kind::Socket => fds.sockets[&(vma.shmid as u32)],
        Kind::Sysv => {
            attach(vma, all, script, writable);
            return Ok(());
        }
        Kind::Vdso | Kind::Aio | Kind::Guard | Kind::Skip => return Ok(()),
    };
    // Locking comes after filling: it would bring in every page.
    let mut flags = vma.flags & !(libc::MAP_LOCKED as u32) | FIXED;
    flags = match kind {
        Kind::Map => flags | libc::MAP_ANONYMOUS as u32,
        _ => flags & !(libc::MAP_ANONYMOUS as u32),
    };
    let mut prot = vma.prot;
    let shared = vma.flags & 0xf == libc::MAP_SHARED as u32;
    let filled = !shared && pages.within(vma.start..vma.end).next().is_some();
    if filled && prot & libc::PROT_WRITE as u32 == 0 {
        prot |= libc::PROT_WRITE as u32;
        writable.push(vma);
    }
    let offset = if kind == Kind::Map { 0 } else { vma.pgoff };
    let fd = i64::from(fd).cast_unsigned();
    let args = [vma.start, vma.end - vma.start, prot.into(), flags.into(), fd, offset];
    script.call_expecting(What::Vma, libc::SYS_mmap, args, vma.start);
    Ok(())
}

/// The saved vdso as plain memory, in which functions will be replaced by jumps.
fn map_old_vdso<'a>(vma: &'a VmaEntry, script: &mut Script, writable: &mut Vec<&'a VmaEntry>) {
    let prot = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let args = [vma.start, vma.end - vma.start, prot, flags as u64, u64::MAX, 0];
    script.call_expecting(What::Vdso, libc::SYS_mmap, args, vma.start);
    writable.push(vma);
}

fn aio(mm: &MmEntry, fds: &Fds, script: &mut Script, data: &mut Data<'_>) -> Result<(), Full> {
    for (ring, bytes) in mm.aios.iter().zip(&fds.rings) {
        let len = ring.ring_len as usize;
        let saved = data.put(bytes)?;
        let scratch = data.room(4096, 4096)?;
        let null = fds.null as u64;
        let args = [ring.id, len as u64, ring.nr_req.into(), saved, null, scratch];
        script.op(What::Aio, Op::AioRing, args);
    }
    Ok(())
}

/// Advice, locks, guard pages: after the contents.
fn attributes(mm: &MmEntry, extra: &[AmberVmaEntry], script: &mut Script) {
    for vma in &mm.vmas {
        let len = vma.end - vma.start;
        match kind(vma) {
            Ok(Kind::Map | Kind::File | Kind::Segment) => {}
            Ok(Kind::Guard) => {
                let args = [vma.start, len, MADV_GUARD_INSTALL];
                script.call(What::Guard, libc::SYS_madvise, args);
                continue;
            }
            _ => continue,
        }
        let advice = vma.madv.unwrap_or(0);
        for bit in (0..64).filter(|b| advice >> b & 1 != 0) {
            // KSM and huge pages may be left out of a kernel: only a loss of speed.
            let optional = [libc::MADV_MERGEABLE, libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE];
            let args = [vma.start, len, bit as u64];
            if optional.contains(&bit) {
                script.call_or(What::Advice, libc::SYS_madvise, args, libc::EINVAL);
            } else {
                script.call(What::Advice, libc::SYS_madvise, args);
            }
        }
        if vma.flags & libc::MAP_LOCKED as u32 != 0 {
            // ENOMEM: locked, but pages that cannot be read cannot be brought in either.
            let on_fault = amber::locked_on_fault(extra, vma).into();
            let args = [vma.start, len, on_fault];
            script.call_or(What::Lock, libc::SYS_mlock2, args, libc::ENOMEM);
        }
    }
}

/// The fields of the address space itself, all by one call.
fn mm_map(mm: &MmEntry, exe: RawFd, script: &mut Script, data: &mut Data<'_>) -> Result<(), Full> {
    const PR_SET_MM: u64 = 35;
    const PR_SET_MM_MAP: u64 = 14;
    const LEN: u64 = 104;
    data.align(8);
    let auxv = data.put_u64s(&mm.mm_saved_auxv)?;
    let auxv = if mm.mm_saved_auxv.is_empty() { 0 } else { auxv };
    let map = data.put_u64s(&[
        mm.mm_start_code,
        mm.mm_end_code,
        mm.mm_start_data,
        mm.mm_end_data,
        mm.mm_start_brk,
        mm.mm_brk,
        mm.mm_start_stack,
        mm.mm_arg_start,
        mm.mm_arg_end,
        mm.mm_env_start,
        mm.mm_env_end,
        auxv,
        (mm.mm_saved_auxv.len() as u64 * 8) | (u64::from(exe.cast_unsigned()) << 32),
    ])?;
    script.call(What::MmMap, libc::SYS_prctl, [PR_SET_MM, PR_SET_MM_MAP, map, LEN, 0]);
    Ok(())
}

/// Sizes of old-style shared segments (`ANON_SHARED`) that tasks map, by shmid.
pub(crate) fn segments(cp: &Checkpoint) -> BTreeMap<u64, u64> {
    let mut sizes = BTreeMap::new();
    for live in cp.tasks.iter().filter_map(|t| t.live.as_ref()) {
        for v in live.mm.vmas.iter().filter(|v| kind(v) == Ok(Kind::Segment)) {
            let size = sizes.entry(v.shmid).or_insert(0);
            *size = (*size).max(v.pgoff + (v.end - v.start));
        }
    }
    sizes
}
