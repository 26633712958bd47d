//! Gives back the room of pages that newer images have, too.
//!
//! Offsets in pages images never change: superseded pages become holes. The older images are good
//! for nothing but as parents afterwards.

use std::fs::File;

use nix::fcntl::{FallocateFlags, fallocate};

use crate::pages::source::{Origin, Segment};
use crate::pages::{Chain, PAGE_SIZE, PageSet};
use crate::{Error, Image, Result, manifest};

/// Punches holes into all parents of `chain` where a newer layer has the pages. Gives the number of
/// pages that were given back.
pub fn dedup(chain: &Chain) -> Result<u64> {
    let mut pages = 0;
    for image in chain.layers()[0].images()? {
        let set = match image {
            Image::Pagemap(pid) => match u32::try_from(pid) {
                Ok(pid) => PageSet::Task(pid),
                Err(_) => continue,
            },
            Image::PagemapShmem(id) => PageSet::Shmem(id),
            _ => continue,
        };
        pages += dedup_set(chain, set)?;
    }
    Ok(pages)
}

/// The same for one task or segment.
pub(crate) fn dedup_set(chain: &Chain, set: PageSet) -> Result<u64> {
    let mut pages = 0;
    // Ranges that newer layers have, sorted and apart from each other.
    let mut newer: Vec<(u64, u64)> = Vec::new();
    for depth in 0..chain.layers().len() {
        let Some(layer) = Layer::open(chain, set, depth)? else { break };
        for range in &newer {
            let first = layer.segments.partition_point(|s| s.end() <= range.0);
            for segment in &layer.segments[first..] {
                let Some(part) = segment.clip(&(range.0..range.1)) else { break };
                let given = layer.punch(part)?;
                if given > 0 && pages == 0 {
                    for dir in &chain.layers()[1..] {
                        manifest::remove(dir)?;
                    }
                }
                pages += given;
            }
        }
        let present = layer.segments.iter().filter(|s| matches!(s.origin, Origin::File { .. }));
        newer = merge(newer, present.map(|s| (s.vaddr, s.end())));
    }
    Ok(pages)
}

/// What one layer has of a set.
struct Layer {
    segments: Vec<Segment>,
    name: String,
    pages: Option<File>,
}

impl Layer {
    fn open(chain: &Chain, set: PageSet, depth: usize) -> Result<Option<Self>> {
        let Some((image, segments)) = chain.segments_of(set, depth)? else { return Ok(None) };
        let name = image.map(Image::file_name).unwrap_or_default();
        // Nothing supersedes the newest layer, and it is never written to.
        let pages = match image.filter(|_| depth > 0) {
            Some(_) => chain.layers()[depth].open_file_rw(&name)?,
            None => None,
        };
        Ok(Some(Self { segments, name, pages }))
    }

    fn punch(&self, segment: Segment) -> Result<u64> {
        let (Origin::File { offset, .. }, Some(pages)) = (segment.origin, &self.pages) else {
            return Ok(0);
        };
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let number = |n: u64| {
            let reason = "more pages than a file can have";
            i64::try_from(n).map_err(|_| Error::invalid(&*self.name, reason))
        };
        let (offset, len) = (number(offset)?, number(segment.pages * PAGE_SIZE)?);
        fallocate(pages, flags, offset, len).map_err(Error::io(&self.name, "fallocate"))?;
        Ok(segment.pages)
    }
}

/// Puts two sorted lists of ranges together; what touches becomes one.
fn merge(a: Vec<(u64, u64)>, b: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    let mut all = a;
    all.extend(b);
    all.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(all.len());
    for (start, end) in all {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}
