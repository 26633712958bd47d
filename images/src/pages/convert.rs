//! Compresses the pages images of a checkpoint that is there, or decompresses them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::pages::frames::{
    COMPRESSED_VERSION, Codec, Compression, Decoder, Encoder, FRAME, Frames,
};
use crate::pages::source::find_frames;
use crate::pages::{FrameWriter, PageSet, PagemapReader};
use crate::proto::InventoryEntry;
use crate::{Dir, Error, Image, Result, manifest};

/// Compressed bytes that may wait for their turn.
const BUDGET: usize = 64 << 20;
/// Name of an image that is not whole yet.
const PART: &str = "pages.part";

/// Brings all pages images of `dir` into one form, with so many threads; gives how many changed. The
/// old ones go when all new ones are on disk and the inventory tells of them.
pub fn convert(dir: &Dir, to: Option<Compression>, threads: usize) -> Result<usize> {
    let mut old = Vec::new();
    for image in dir.images()? {
        let set = match image {
            Image::Pagemap(pid) => u32::try_from(pid).ok().map(PageSet::Task),
            Image::PagemapShmem(id) => Some(PageSet::Shmem(id)),
            _ => None,
        };
        let Some(set) = set else { continue };
        let Some(pagemap) = PagemapReader::open(dir, set)? else { continue };
        let image = Image::Pages(pagemap.pages_id());
        let Some(from) = From::open(dir, image)? else { continue };
        if from.codec() == to.map(|to| to.codec) {
            continue;
        }
        let done = one(dir, image, &from, to, threads.max(1));
        if done.is_err() {
            dir.remove_file(PART)?;
        }
        done?;
        old.push(from.name);
    }
    let had_manifest = dir.len_bytes(Image::Manifest)?.is_some();
    if !old.is_empty() {
        manifest::remove(dir)?;
    }
    let marked = mark(dir, to)?;
    for name in &old {
        dir.remove_file(name)?;
    }
    // Others may have decompressed: what the manifest is of is the whole.
    if had_manifest && (marked || !old.is_empty()) {
        manifest::write(dir, Vec::new(), None)?;
    }
    Ok(old.len())
}

/// The inventory tells CRIU whether it can read the pages. Gives whether it changed.
fn mark(dir: &Dir, to: Option<Compression>) -> Result<bool> {
    let Some(mut inventory) = dir.read_opt::<InventoryEntry>(Image::Inventory)? else {
        return Ok(false);
    };
    let version = match (inventory.img_version, to) {
        (2, Some(_)) => COMPRESSED_VERSION,
        (COMPRESSED_VERSION, None) => 2,
        // Parents, and images of a version without any mark.
        _ => return Ok(false),
    };
    inventory.img_version = version;
    dir.replace_one(Image::Inventory, &inventory).map(|()| true)
}

/// What is converted.
struct From {
    name: String,
    file: File,
    frames: Option<Frames>,
    len: u64,
}

impl From {
    fn open(dir: &Dir, image: Image) -> Result<Option<Self>> {
        let (name, frames) = match find_frames(dir, image)? {
            // The plain one is the one that counts.
            Some(frames) if dir.len_bytes(image)?.is_none() => {
                (frames.name().to_owned(), Some(frames))
            }
            _ => (image.file_name(), None),
        };
        let Some(file) = dir.open_file(&name)? else { return Ok(None) };
        let len = match &frames {
            Some(frames) => frames.len_bytes(),
            None => file.metadata().map_err(Error::io(&name, "stat"))?.len(),
        };
        Ok(Some(Self { name, file, frames, len }))
    }

    fn codec(&self) -> Option<Codec> {
        let frames = self.frames.as_ref()?;
        Codec::ALL.into_iter().find(|codec| frames.name().ends_with(codec.suffix()))
    }

    /// Pieces that are read by themselves.
    fn pieces(&self) -> usize {
        match &self.frames {
            Some(frames) => frames.frames().len(),
            None => usize::try_from(self.len.div_ceil(FRAME as u64)).unwrap_or(usize::MAX),
        }
    }

    fn read(&self, n: usize, decoder: &mut Decoder, buf: &mut Vec<u8>) -> Result<u64> {
        if let Some(frames) = &self.frames {
            let frame = frames.frames()[n];
            buf.resize(frame.size as usize, 0);
            frames.decode(&self.file, n, decoder, buf)?;
            return Ok(frame.start);
        }
        let at = n as u64 * FRAME as u64;
        buf.resize(usize::try_from(self.len - at).unwrap_or(FRAME).min(FRAME), 0);
        self.file.read_exact_at(buf, at).map_err(Error::io(&self.name, "pread"))?;
        Ok(at)
    }
}

fn one(
    dir: &Dir,
    image: Image,
    from: &From,
    to: Option<Compression>,
    threads: usize,
) -> Result<()> {
    let plain = image.file_name();
    let name = to.map_or_else(|| plain.clone(), |to| to.codec.file_name(&plain));
    let file = Arc::new(dir.create_file(PART)?);
    let writer = to.map(|to| FrameWriter::new(Arc::clone(&file), name.clone(), to.codec, BUDGET));
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let error = Mutex::new(None);
    let put = |at: u64, pages: &[u8], encoder: &mut Option<Encoder>, may_wait| -> Result<()> {
        let (Some(writer), Some(to)) = (&writer, to) else {
            return file.write_all_at(pages, at).map_err(Error::io(&name, "pwrite"));
        };
        let failed = |e| Error::Io { file: name.clone(), call: "compress", source: e };
        let encoder = match encoder {
            Some(encoder) => encoder,
            none => none.insert(Encoder::new(to).map_err(failed)?),
        };
        writer.put(
            at,
            pages.len() as u64,
            encoder.encode(pages, writer.spare()).map_err(failed)?,
            may_wait,
        )
    };
    let work = |may_wait| {
        let (mut decoder, mut buf, mut encoder) = (Decoder::default(), Vec::new(), None);
        while !failed.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= from.pieces() {
                return;
            }
            let done = from.read(n, &mut decoder, &mut buf);
            let done = done.and_then(|at| put(at, &buf, &mut encoder, may_wait));
            if let Err(e) = done {
                failed.store(true, Ordering::Relaxed);
                writer.iter().for_each(FrameWriter::fail);
                error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            let _ = std::thread::Builder::new().spawn_scoped(scope, || work(true));
        }
        work(false);
    });
    if let Some(e) = error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(e);
    }
    if let Some(writer) = writer {
        writer.finish()?;
    }
    file.sync_all().map_err(Error::io(&name, "fsync"))?;
    dir.rename(PART, &name)
}
