//! Fills memory that children share; see [`crate::plan::cow`].

use crate::Error;
use crate::files::Files;
use crate::plan::cow::Premap;
use images::checkpoint::Live;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use sys::arena::Piece;

const PAGE: usize = 4096;
/// What is read at once.
const BATCH: usize = 1 << 20;

/// Memory filled by this process or inherited, by address.
pub(crate) type Pieces = BTreeMap<u64, Piece>;

/// Pages that were compared, and those of them that could be kept.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) compared: u32,
    pub(crate) kept: u32,
}

/// Brings all pieces of a task to its contents: fills new ones, corrects inherited ones;
/// counts pages in `filled`.
pub(crate) fn fill(
    premaps: &[Premap],
    live: &Live,
    files: &mut Files<'_>,
    pieces: &mut Pieces,
    filled: &AtomicU32,
) -> Result<Counts, Error> {
    let mut counts = Counts::default();
    let mut buf = vec![0; BATCH];
    for p in premaps {
        let inherited = pieces.contains_key(&p.at);
        if !inherited {
            let len = (p.end - p.start) as usize;
            let file = match p.file {
                Some((id, mode, offset)) => Some((files.open_mapped(id, mode)?, offset)),
                None => None,
            };
            let file = file.as_ref().map(|(fd, offset)| (fd.as_fd(), *offset));
            pieces.insert(p.at, Piece::map_like(p.at, len, p.noreserve, file)?);
        }
        let Some(piece) = pieces.get_mut(&p.at) else { continue };
        let mut done = p.start;
        for segment in live.pages.within(p.start..p.end) {
            if inherited && done < segment.vaddr {
                piece.drop_pages((done - p.start) as usize, (segment.vaddr - done) as usize)?;
            }
            done = segment.end();
            let at = (segment.vaddr - p.start) as usize;
            let len = (segment.end() - segment.vaddr) as usize;
            if inherited {
                correct(
                    live,
                    segment.vaddr,
                    &mut piece.bytes()[at..at + len],
                    &mut buf,
                    &mut counts,
                )?;
            } else {
                live.pages.read(segment, &mut piece.bytes()[at..at + len])?;
            }
            filled.fetch_add((len / PAGE) as u32, Ordering::Relaxed);
        }
        if inherited && done < p.end {
            piece.drop_pages((done - p.start) as usize, (p.end - done) as usize)?;
        }
    }
    Ok(counts)
}

/// Writes only the pages that differ, so that the others stay the parent's.
fn correct(
    live: &Live,
    vaddr: u64,
    memory: &mut [u8],
    buf: &mut [u8],
    counts: &mut Counts,
) -> Result<(), Error> {
    for (i, part) in memory.chunks_mut(BATCH).enumerate() {
        let want = &mut buf[..part.len()];
        live.pages.read_at(vaddr + (i * BATCH) as u64, want)?;
        for (have, want) in part.chunks_mut(PAGE).zip(want.chunks(PAGE)) {
            counts.compared += 1;
            if have == want {
                counts.kept += 1;
            } else {
                have.copy_from_slice(want);
            }
        }
    }
    Ok(())
}
