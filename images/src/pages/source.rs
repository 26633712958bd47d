//! Where a restore finds memory contents, through all layers of an incremental chain.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};

use crate::pages::frames::{Codec, Frames};
use crate::pages::{PAGE_SIZE, PageFlags, PageRange, PageSet, PagemapReader};
use crate::{Dir, Error, Image, Result};

/// Longest chain of incremental images that is followed.
pub const MAX_LAYERS: usize = 1024;

/// The image directories of an incremental chain, the newest first.
#[derive(Debug, Clone)]
pub struct Chain {
    layers: Arc<[Dir]>,
}

impl Chain {
    /// Follows the `parent` links from `dir` on.
    pub fn open(dir: &Dir) -> Result<Self> {
        let mut layers = vec![dir.clone()];
        let mut known = vec![dir.identity()?];
        while let Some(parent) = layers[layers.len() - 1].parent()? {
            let here = layers[layers.len() - 1].path().display().to_string();
            let id = parent.identity()?;
            if known.contains(&id) {
                return Err(Error::invalid(here, "the chain of `parent` links is a circle"));
            }
            if layers.len() == MAX_LAYERS {
                let reason = format!("the chain of `parent` links is longer than {MAX_LAYERS}");
                return Err(Error::invalid(here, reason));
            }
            known.push(id);
            layers.push(parent);
        }
        Ok(Self { layers: layers.into() })
    }

    /// The directories, the newest first.
    #[must_use]
    pub fn layers(&self) -> &[Dir] {
        &self.layers
    }

    /// The same chain without its newest layer; `None` if that is all there is.
    #[must_use]
    pub fn parents(&self) -> Option<Self> {
        let parents = &self.layers[1..];
        (!parents.is_empty()).then(|| Self { layers: parents.into() })
    }

    /// Segments of one layer as they lie in its pagemap, and the pages image they are in.
    pub(super) fn segments_of(
        &self,
        set: PageSet,
        depth: usize,
    ) -> Result<Option<(Option<Image>, Vec<Segment>)>> {
        let mut source = PageSource { set, files: Vec::new(), segments: Vec::new() };
        let found = source.layer(&self.layers[depth], depth, self)?;
        Ok(found.map(|(_, segments)| (source.files.first().map(|f| f.image), segments)))
    }

    /// Loads the pagemaps of `set` from all layers it needs; `None` if the newest has none.
    pub fn load(&self, set: PageSet) -> Result<Option<PageSource>> {
        let mut source = PageSource { set, files: Vec::new(), segments: Vec::new() };
        let Some((name, ranges)) = source.layer(&self.layers[0], 0, self)? else {
            return Ok(None);
        };
        source.segments = ranges;
        // Each pass replaces the PARENT segments by what the next layer has for them.
        for depth in 1.. {
            if !source.segments.iter().any(|s| s.origin == Origin::Parent) {
                break;
            }
            let hole = |s: &Segment| {
                let reason = format!("page {:#x} is in no parent image", s.vaddr);
                Error::invalid(&*name, reason)
            };
            let first = source.segments.iter().find(|s| s.origin == Origin::Parent);
            let first = *first.expect("checked above");
            let Some(dir) = self.layers.get(depth) else { return Err(hole(&first)) };
            let Some((_, below)) = source.layer(dir, depth, self)? else {
                return Err(hole(&first));
            };
            source.segments = overlay(&source.segments, &below).map_err(|s| hole(&s))?;
        }
        Ok(Some(source))
    }
}

/// Where the contents of a segment are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// In [`PageSource::files`]`[file]`, from `offset` on.
    File {
        /// Index of the file.
        file: usize,
        /// First byte.
        offset: u64,
    },
    /// In a page server.
    Server,
    /// In an older layer. Only while loading.
    Parent,
}

/// Pages whose contents lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Address of the first page.
    pub vaddr: u64,
    /// Number of pages; not 0.
    pub pages: u64,
    /// Flags of the newest layer.
    pub flags: PageFlags,
    /// Where the contents are.
    pub origin: Origin,
}

impl Segment {
    /// Address behind the last page.
    #[must_use]
    pub fn end(self) -> u64 {
        self.vaddr + self.pages * PAGE_SIZE
    }

    /// The part that lies in `range`, which is page aligned; `None` if there is none.
    #[must_use]
    pub fn clip(self, range: &Range<u64>) -> Option<Self> {
        let vaddr = self.vaddr.max(range.start);
        let end = self.end().min(range.end);
        if vaddr >= end {
            return None;
        }
        let origin = match self.origin {
            Origin::File { file, offset } => {
                Origin::File { file, offset: offset + (vaddr - self.vaddr) }
            }
            other => other,
        };
        Some(Self { vaddr, pages: (end - vaddr) / PAGE_SIZE, flags: self.flags, origin })
    }
}

/// A pages image. It is opened when it is first needed: a checkpoint of thousands of tasks has
/// more of them than a process may have descriptors.
#[derive(Debug)]
pub struct PagesFile {
    /// Layer it is in; 0 is the newest.
    pub layer: usize,
    /// Directory it is in.
    pub dir: Dir,
    /// Which one.
    pub image: Image,
    /// Its table, if it is compressed.
    pub frames: Option<Frames>,
    file: OnceLock<File>,
}

impl PagesFile {
    /// The file, open for reading.
    pub fn open(&self) -> Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let name = self.file_name();
        let file = self.dir.open_file(&name)?.ok_or(Error::Absent { file: name })?;
        Ok(self.file.get_or_init(|| file))
    }

    /// Name of the file.
    #[must_use]
    pub fn file_name(&self) -> String {
        let compressed = self.frames.as_ref().map(|frames| frames.name().to_owned());
        compressed.unwrap_or_else(|| self.image.file_name())
    }

    /// Reads pages, compressed or not, from `offset` on.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match &self.frames {
            Some(frames) => frames.read_at(self.open()?, offset, buf),
            None => {
                let read = self.open()?.read_exact_at(buf, offset);
                read.map_err(|e| Error::io(&self.image.file_name(), "pread")(e))
            }
        }
    }
}

/// The memory of one task or shared segment.
///
/// Segments are sorted and do not overlap. Pages in none of them were never touched.
#[derive(Debug)]
pub struct PageSource {
    set: PageSet,
    files: Vec<PagesFile>,
    segments: Vec<Segment>,
}

impl PageSource {
    /// Whose memory it is.
    #[must_use]
    pub fn set(&self) -> PageSet {
        self.set
    }

    /// The pages images that segments refer to.
    #[must_use]
    pub fn files(&self) -> &[PagesFile] {
        &self.files
    }

    /// All segments.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The parts of segments that lie in `range`.
    pub fn within(&self, range: Range<u64>) -> impl Iterator<Item = Segment> + '_ {
        let first = self.segments.partition_point(|s| s.end() <= range.start);
        self.segments[first..]
            .iter()
            .take_while({
                let end = range.end;
                move |s| s.vaddr < end
            })
            .filter_map(move |s| s.clip(&range))
    }

    /// Reads the contents of a segment, or of its beginning if `buf` is shorter.
    pub fn read(&self, segment: Segment, buf: &mut [u8]) -> Result<()> {
        let name = self.set.image().file_name();
        let Origin::File { file, offset } = segment.origin else {
            let reason = format!("page {:#x} is not in the images", segment.vaddr);
            return Err(Error::invalid(name, reason));
        };
        self.files[file].read_at(offset, buf)
    }

    /// Reads memory at `vaddr`; pages that were never touched read as zeroes.
    pub fn read_at(&self, vaddr: u64, buf: &mut [u8]) -> Result<()> {
        buf.fill(0);
        let end = vaddr.saturating_add(buf.len() as u64);
        let behind = end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
        let pages = vaddr / PAGE_SIZE * PAGE_SIZE..behind;
        for segment in self.within(pages) {
            let from = segment.vaddr.max(vaddr);
            let to = segment.end().min(end);
            let part = &mut buf[index(from - vaddr)..index(to - vaddr)];
            let origin = match segment.origin {
                Origin::File { file, offset } => {
                    Origin::File { file, offset: offset + (from - segment.vaddr) }
                }
                other => other,
            };
            self.read(Segment { origin, ..segment }, part)?;
        }
        Ok(())
    }

    /// Reads the pagemap of one layer and finds its pages image.
    fn layer(
        &mut self,
        dir: &Dir,
        layer: usize,
        chain: &Chain,
    ) -> Result<Option<(String, Vec<Segment>)>> {
        let Some(mut pagemap) = PagemapReader::open(dir, self.set)? else { return Ok(None) };
        let file = self.files.len();
        let mut offset = 0u64;
        let mut segments = Vec::new();
        while let Some(range) = pagemap.read()? {
            let origin = if range.flags.contains(PageFlags::PRESENT) {
                let at = offset;
                let next = offset.checked_add(range.len_bytes());
                offset = next.ok_or_else(|| pagemap.invalid("more pages than a file can have"))?;
                Origin::File { file, offset: at }
            } else if range.flags.contains(PageFlags::PARENT) {
                if layer + 1 >= chain.layers.len() {
                    return Err(pagemap.invalid("is in the parent, and there is no `parent`"));
                }
                Origin::Parent
            } else if range.flags.contains(PageFlags::LAZY) {
                Origin::Server
            } else {
                return Err(pagemap.invalid("flags tell of no contents"));
            };
            let PageRange { vaddr, pages, flags } = range;
            segments.push(Segment { vaddr, pages, flags, origin });
        }
        if offset > 0 {
            let image = Image::Pages(pagemap.pages_id());
            self.files.push(find_pages(dir, layer, image, offset)?);
        }
        Ok(Some((pagemap.file_name().to_owned(), segments)))
    }
}

/// Finds a pages image, which has to have `want` bytes.
fn find_pages(dir: &Dir, layer: usize, image: Image, want: u64) -> Result<PagesFile> {
    let (frames, got) = match dir.len_bytes(image)? {
        Some(got) => (None, got),
        None => {
            let frames = find_frames(dir, image)?;
            let frames = frames.ok_or_else(|| Error::Absent { file: image.file_name() })?;
            let got = frames.len_bytes();
            (Some(frames), got)
        }
    };
    let pages = PagesFile { layer, dir: dir.clone(), image, frames, file: OnceLock::new() };
    if got < want {
        let what = "contents from page";
        return Err(Error::Truncated { file: pages.file_name(), what, index: 0, got, want });
    }
    Ok(pages)
}

/// The table of a pages image that is compressed.
pub(super) fn find_frames(dir: &Dir, image: Image) -> Result<Option<Frames>> {
    for codec in Codec::ALL {
        let name = codec.file_name(&image.file_name());
        if let Some(file) = dir.open_file(&name)? {
            return Frames::open(&file, &name, codec).map(Some);
        }
    }
    Ok(None)
}

/// Replaces the PARENT segments of `top` by what `below` has for them; fails with the first part
/// for which there is nothing.
fn overlay(top: &[Segment], below: &[Segment]) -> Result<Vec<Segment>, Segment> {
    let mut out = Vec::with_capacity(top.len());
    let mut lower = 0;
    for segment in top {
        if segment.origin != Origin::Parent {
            out.push(*segment);
            continue;
        }
        let mut rest = *segment;
        loop {
            // Both lists are sorted, so what ends before `rest` is of no use to later ones either.
            while below.get(lower).is_some_and(|b| b.end() <= rest.vaddr) {
                lower += 1;
            }
            let range = rest.vaddr..rest.end();
            let part =
                below.get(lower).and_then(|b| b.clip(&range)).filter(|p| p.vaddr == rest.vaddr);
            let Some(part) = part else { return Err(rest) };
            out.push(Segment { flags: segment.flags, ..part });
            match rest.clip(&(part.end()..range.end)) {
                Some(left) => rest = left,
                None => break,
            }
        }
    }
    Ok(out)
}

#[expect(clippy::cast_possible_truncation, reason = "at most the length of a slice")]
fn index(n: u64) -> usize {
    n as usize
}
