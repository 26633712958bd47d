//! Contents of private memory: what the blob reads, in pieces that several threads share.

use super::{Fds, HELPER_STACK, Kind, Places, Space, kind, premapped};
use crate::script::{Data, Full, Script};
use images::checkpoint::{Live, VmaStatus};
use images::pages::{Origin, Segment};
use images::proto::VmaEntry;
use parasite_abi::restore::{Op, What, fresh};

/// Above this many bytes filling pays for helper threads.
const PARALLEL_FROM: u64 = 16 << 20;
/// What one worker takes at a time, and where pieces are cut: whole huge pages.
const PIECE: u64 = 4 << 20;
const MADV_NOHUGEPAGE: u64 = 1 << libc::MADV_NOHUGEPAGE;

/// Segments of private memory that have to be filled, with file and offset there, and the areas
/// they are in.
pub(crate) fn contents<'a>(
    live: &'a Live,
    space: &'a Space,
) -> impl Iterator<Item = (usize, u64, Segment, &'a VmaEntry)> + 'a {
    live.mm
        .vmas
        .iter()
        .filter(move |v| {
            let vdso = space.jumps.is_some() && v.kind().contains(VmaStatus::VDSO);
            vdso || matches!(kind(v), Ok(Kind::Map | Kind::File))
        })
        .filter(|v| premapped(space, v).is_none())
        .filter(|v| v.flags & 0xf != libc::MAP_SHARED as u32)
        .flat_map(|v| live.pages.within(v.start..v.end).map(move |s| (s, v)))
        .filter_map(|(s, v)| match s.origin {
            Origin::File { file, offset } => Some((file, offset, s, v)),
            _ => None,
        })
}

/// Reads that can be made by one call each: contiguous in a pages file.
#[derive(Debug, Default)]
struct Batch {
    file: usize,
    offset: u64,
    len: u64,
    fresh: u64,
    iov: Vec<(u64, u64)>,
}

/// How the memory of an area comes into being. Huge pages cost nothing where all their pages have
/// contents; the area gets no flag for it, and where the machine or the task has turned them off
/// there are none.
fn fresh(vma: &VmaEntry, huge: bool) -> u64 {
    let other = libc::MAP_HUGETLB | libc::MAP_GROWSDOWN;
    let plain = vma.flags & other as u32 == 0 && kind(vma) == Ok(Kind::Map);
    if plain && huge && vma.madv.unwrap_or(0) & MADV_NOHUGEPAGE == 0 {
        fresh::HUGE
    } else {
        fresh::POPULATE
    }
}

fn batches(live: &Live, space: &Space) -> Vec<Batch> {
    let huge = space.huge && !live.mm.thp_disabled.unwrap_or(false);
    let mut all: Vec<Batch> = Vec::new();
    let plain = |file: usize| live.pages.files()[file].frames.is_none();
    for (file, offset, segment, vma) in contents(live, space).filter(|c| plain(c.0)) {
        let fresh = fresh(vma, huge);
        let mut at = segment.vaddr;
        let mut offset = offset;
        while at < segment.end() {
            let goes_on = |b: &Batch| {
                b.file == file
                    && b.offset + b.len == offset
                    && b.fresh == fresh
                    && b.len < PIECE
                    && !at.is_multiple_of(PIECE)
            };
            if !all.last().is_some_and(goes_on) {
                all.push(Batch { file, offset, fresh, ..Batch::default() });
            }
            let Some(batch) = all.last_mut() else { break };
            let len = (segment.end() - at).min(PIECE - batch.len).min(PIECE - at % PIECE);
            match batch.iov.last_mut() {
                Some((base, have)) if *base + *have == at => *have += len,
                _ => batch.iov.push((at, len)),
            }
            batch.len += len;
            at += len;
            offset += len;
        }
    }
    all
}

/// Steps that fill private memory.
pub(super) fn fill(
    live: &Live,
    space: &Space,
    fds: &Fds,
    places: &Places,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    let batches = batches(live, space);
    let total: u64 = batches.iter().map(|b| b.len).sum();
    let mut pieces = Vec::new();
    for b in &batches {
        data.align(8);
        let iov = data.next();
        for (base, len) in &b.iov {
            data.put_u64s(&[*base, *len])?;
        }
        let fd = fds.pages[b.file] as u64;
        pieces.push([fd, iov, b.iov.len() as u64, b.offset, b.fresh]);
    }
    if total < PARALLEL_FROM {
        for [fd, iov, count, offset, _] in pieces {
            script.op(What::Pages, Op::ReadPages, [fd, iov, count, offset]);
        }
        return Ok(());
    }
    data.align(8);
    let list = data.next();
    for p in &pieces {
        data.put_u64s(p)?;
    }
    let next = data.put(&[0; 8])?;
    data.align(8);
    let threads = data.next();
    for i in 0..places.helpers {
        // struct Thread: shared, steps, (tid, pad), stack, stack_len, job, (alive, failed)
        let stack = places.helper_stacks + i * HELPER_STACK;
        data.put_u64s(&[0, 0, 0, stack, HELPER_STACK, 0, 0])?;
    }
    let args = [list, pieces.len() as u64, next, threads, places.helpers];
    script.op(What::Pages, Op::ParallelFill, args);
    Ok(())
}
