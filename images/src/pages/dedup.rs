//! Gives back the room of pages that newer images have, too.
//!
//! Offsets in pages images never change: superseded pages become holes. The older images are good
//! for nothing but as parents afterwards. Of a compressed image, frames go that are superseded as a
//! whole; its table stays.

use std::fs::File;

use nix::fcntl::{FallocateFlags, fallocate};

use crate::pages::source::{Origin, Segment, find_frames};
use crate::pages::{Chain, Frames, PAGE_SIZE, PageSet};
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
        let mut parts = Vec::new();
        for range in &newer {
            let first = layer.segments.partition_point(|s| s.end() <= range.0);
            for segment in &layer.segments[first..] {
                let Some(part) = segment.clip(&(range.0..range.1)) else { break };
                if let Origin::File { offset, .. } = part.origin {
                    parts.push((offset, offset + part.pages * PAGE_SIZE));
                }
            }
        }
        let given = layer.give(merge(Vec::new(), parts.into_iter()), || {
            chain.layers()[1..].iter().try_for_each(manifest::remove)
        })?;
        pages += given;
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
    /// Its table, if it is compressed.
    frames: Option<Frames>,
}

impl Layer {
    fn open(chain: &Chain, set: PageSet, depth: usize) -> Result<Option<Self>> {
        let Some((image, segments)) = chain.segments_of(set, depth)? else { return Ok(None) };
        let dir = &chain.layers()[depth];
        let mut layer = Self { segments, name: String::new(), pages: None, frames: None };
        // Nothing supersedes the newest layer, and it is never written to.
        if let Some(image) = image.filter(|_| depth > 0) {
            layer.name = image.file_name();
            if dir.len_bytes(image)?.is_none()
                && let Some(frames) = find_frames(dir, image)?
            {
                frames.name().clone_into(&mut layer.name);
                layer.frames = Some(frames);
            }
            layer.pages = dir.open_file_rw(&layer.name)?;
        }
        Ok(Some(layer))
    }

    /// Gives back ranges of its pages, sorted and apart from each other; says so before the first.
    /// Of a compressed image, frames that are in them as a whole. Gives the number of pages.
    fn give(&self, ranges: Vec<(u64, u64)>, first: impl FnOnce() -> Result<()>) -> Result<u64> {
        let Some(pages) = &self.pages else { return Ok(0) };
        let mut holes = Vec::new();
        match &self.frames {
            None => holes.extend(ranges.into_iter().map(|(from, to)| (from, to - from, to - from))),
            Some(frames) => {
                for frame in frames.frames() {
                    let end = frame.start + u64::from(frame.size);
                    let at = ranges.partition_point(|r| r.1 < end);
                    if ranges.get(at).is_some_and(|r| r.0 <= frame.start) {
                        holes.push((frame.at, u64::from(frame.len), u64::from(frame.size)));
                    }
                }
            }
        }
        if holes.is_empty() {
            return Ok(0);
        }
        first()?;
        for (offset, len, _) in &holes {
            self.punch(pages, *offset, *len)?;
        }
        Ok(holes.iter().map(|(_, _, bytes)| bytes / PAGE_SIZE).sum())
    }

    fn punch(&self, pages: &File, offset: u64, len: u64) -> Result<()> {
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let number = |n: u64| {
            let reason = "more pages than a file can have";
            i64::try_from(n).map_err(|_| Error::invalid(&*self.name, reason))
        };
        let (offset, len) = (number(offset)?, number(len)?);
        fallocate(pages, flags, offset, len).map_err(Error::io(&self.name, "fallocate"))
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
