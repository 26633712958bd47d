//! `manifest.amber`: size and hashes of all files of a checkpoint, so that a torn or altered one
//! is recognised, and where. CRIU does not open it.
//!
//! The hash is XXH3 with 128 bits: against what disks, networks and people do by mistake. Who alters
//! images on purpose can alter the manifest, too.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use twox_hash::XxHash3_128;

use crate::pages::{Codec, Decoder, Frames};
use crate::proto::{AmberFileEntry, AmberStampEntry};
use crate::{Dir, Error, Image, Result};

/// Bytes that one hash is of.
pub const CHUNK: usize = 512 << 10;
/// From this size on a file is not read again where it must be what it was.
const LARGE: u64 = 16 << 20;

/// The hash of one chunk.
#[must_use]
pub fn hash(chunk: &[u8]) -> [u8; 16] {
    XxHash3_128::oneshot(chunk).to_be_bytes()
}

/// Writes the manifest of all images in `dir`; of the files that are `known`, it is known what they
/// are.
///
/// `boot`: what the kernel calls this start of the machine (`/proc/sys/kernel/random/boot_id`), so
/// that a restore before the next one need not read large files once more ([`check_images`]).
pub fn write(dir: &Dir, known: Vec<AmberFileEntry>, boot: Option<&str>) -> Result<()> {
    let mut all = known;
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut more = Vec::new();
    for name in dir.file_names()?.into_iter().filter(|name| is_image(name)) {
        if all.binary_search_by(|e| e.name.as_str().cmp(&name)).is_err() {
            more.extend(entry(dir, name)?);
        }
    }
    all.extend(more);
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for entry in all.iter_mut().filter(|e| e.chunk != 0 && e.size >= LARGE) {
        let Some(boot) = boot else { break };
        let file = dir.open_file(&entry.name)?;
        entry.stamp = file.and_then(|f| stamp(&f, boot));
    }
    let mut writer = dir.writer(Image::Manifest)?;
    for entry in &all {
        writer.write(entry)?;
    }
    writer.finish().map(drop)
}

/// `None`: the kernel does not tell.
fn stamp(file: &File, boot_id: &str) -> Option<AmberStampEntry> {
    let meta = file.metadata().ok()?;
    let ctime = meta.ctime().checked_mul(1_000_000_000)?.checked_add(meta.ctime_nsec())?;
    Some(AmberStampEntry { boot_id: boot_id.to_owned(), dev: meta.dev(), ino: meta.ino(), ctime })
}

/// Takes the manifest away: the images are not what they were any more.
pub fn remove(dir: &Dir) -> Result<()> {
    dir.remove_file(&Image::Manifest.file_name())
}

fn codec(name: &str) -> Option<Codec> {
    Codec::ALL.into_iter().find(|codec| name.ends_with(&format!(".img.{}", codec.suffix())))
}

fn is_image(name: &str) -> bool {
    (name.ends_with(".img") || name.ends_with(".amber") || codec(name).is_some())
        && name != Image::Manifest.file_name()
}

fn entry(dir: &Dir, name: String) -> Result<Option<AmberFileEntry>> {
    let Some(file) = dir.open_file(&name)? else { return Ok(None) };
    let meta = file.metadata().map_err(Error::io(&name, "stat"))?;
    if !meta.is_file() {
        return Ok(None);
    }
    let size = meta.len();
    if codec(&name).is_some() {
        return Ok(Some(AmberFileEntry { name, size, ..AmberFileEntry::default() }));
    }
    let mut hashes = Vec::new();
    let mut buf = Vec::new();
    for at in (0..size).step_by(CHUNK) {
        hashes.extend(hash_at(&file, &name, at, size, &mut buf)?);
    }
    Ok(Some(AmberFileEntry { name, size, chunk: CHUNK as u32, hashes, stamp: None }))
}

fn hash_at(file: &File, name: &str, at: u64, size: u64, buf: &mut Vec<u8>) -> Result<[u8; 16]> {
    buf.resize(usize::try_from(size - at).unwrap_or(CHUNK).min(CHUNK), 0);
    file.read_exact_at(buf, at).map_err(Error::io(name, "pread"))?;
    Ok(hash(buf))
}

/// A file that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// Its name.
    pub file: String,
    /// Bytes the first wrong one is among.
    pub bytes: Range<u64>,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Range { start, end } = self.bytes;
        write!(f, "{}: bytes {start} to {end}: {}", self.file, self.what)
    }
}

/// Compares all files with the manifest, by so many threads; the first bad place of each bad file.
pub fn verify(dir: &Dir, threads: usize) -> Result<(usize, Vec<Bad>)> {
    let image = Image::Manifest;
    if dir.len_bytes(image)?.is_none() {
        return Err(Error::Absent { file: image.file_name() });
    }
    let entries = entries(dir)?;
    let mut bad = Vec::new();
    for entry in &entries {
        bad.extend(check(dir, entry, threads.max(1))?);
    }
    Ok((entries.len(), bad))
}

/// Fails if an image is not what the manifest says, where there is one. Of compressed pages only the
/// size is looked at: each of their frames is checked when it is read. Likewise of large files that
/// nobody has written to since their hashes were taken, in the same start of the machine (`boot`, as
/// for [`write()`]): their status change time tells, which no program can set. Copies, moved checkpoints
/// and what a machine has after a crash are read and compared.
pub fn check_images(dir: &Dir, threads: usize, boot: Option<&str>) -> Result<()> {
    if dir.len_bytes(Image::Manifest)?.is_none() {
        return Ok(());
    }
    for entry in entries(dir)? {
        let bad = if entry.chunk == 0 || is_untouched(dir, &entry, boot)? {
            let size = dir.open_file(&entry.name)?.and_then(|f| f.metadata().ok()).map(|m| m.len());
            let what = || format!("the file has not its {} bytes", entry.size);
            let bad = || Bad { file: entry.name.clone(), bytes: 0..entry.size, what: what() };
            (size != Some(entry.size)).then(bad)
        } else {
            check(dir, &entry, threads)?
        };
        if let Some(Bad { file, bytes: Range { start, end }, what }) = bad {
            let manifest = Image::Manifest.file_name();
            let reason = format!(
                "bytes {start} to {end}: {what} (so says {manifest}: without that, nobody asks)"
            );
            return Err(Error::invalid(file, reason));
        }
    }
    Ok(())
}

fn is_untouched(dir: &Dir, entry: &AmberFileEntry, boot: Option<&str>) -> Result<bool> {
    let (Some(was), Some(boot)) = (&entry.stamp, boot) else { return Ok(false) };
    let now = dir.open_file(&entry.name)?.and_then(|file| stamp(&file, boot));
    Ok(now.as_ref() == Some(was))
}

/// What the manifest says, of files of this directory alone.
fn entries(dir: &Dir) -> Result<Vec<AmberFileEntry>> {
    let entries: Vec<AmberFileEntry> = dir.read_all(Image::Manifest)?;
    match entries.iter().find(|e| e.name.contains('/') || !is_image(&e.name)) {
        None => Ok(entries),
        Some(AmberFileEntry { name, .. }) => {
            let reason = format!("name {name:?} is that of no image");
            Err(Error::invalid(Image::Manifest.file_name(), reason))
        }
    }
}

fn check(dir: &Dir, entry: &AmberFileEntry, threads: usize) -> Result<Option<Bad>> {
    let name = &entry.name;
    let found = |bytes: Range<u64>, what: String| Ok(Some(Bad { file: name.clone(), bytes, what }));
    let Some(file) = dir.open_file(name)? else {
        return found(0..entry.size, "the file is gone".into());
    };
    let size = file.metadata().map_err(Error::io(name, "stat"))?.len();
    let both = size.min(entry.size);
    let first = if entry.chunk == 0 {
        first_bad_frame(&file, name, threads)
    } else {
        first_bad_chunk(&file, entry, both, threads)?
    };
    match first {
        Some((bytes, what)) => found(bytes, what),
        None if size != entry.size => {
            let what = format!("the file has {size} bytes, and had {}", entry.size);
            found(both..size.max(entry.size), what)
        }
        None => Ok(None),
    }
}

/// Runs `bad` for numbers below `count` side by side; the lowest that is.
fn lowest(count: usize, threads: usize, bad: impl Fn(usize) -> bool + Sync) -> Option<usize> {
    let (next, first) = (AtomicUsize::new(0), AtomicUsize::new(usize::MAX));
    let work = || loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= count || n > first.load(Ordering::Relaxed) {
            return;
        }
        if bad(n) {
            first.fetch_min(n, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads.min(count) {
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    Some(first.into_inner()).filter(|n| *n < count)
}

fn first_bad_chunk(
    file: &File,
    entry: &AmberFileEntry,
    size: u64,
    threads: usize,
) -> Result<Option<(Range<u64>, String)>> {
    let chunk = u64::from(entry.chunk);
    let (hashes, _) = entry.hashes.as_chunks::<16>();
    if hashes.len() as u64 != entry.size.div_ceil(chunk) || entry.chunk as usize > CHUNK {
        let reason = format!("{}: {} hashes are not right", entry.name, hashes.len());
        return Err(Error::invalid(Image::Manifest.file_name(), reason));
    }
    let range = |n: usize| {
        let at = n as u64 * chunk;
        at..(at + chunk).min(entry.size)
    };
    let count = usize::try_from(size.div_ceil(chunk)).unwrap_or(usize::MAX);
    let spare = Mutex::new(Vec::new());
    let take = || spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let bad = lowest(count, threads, |n| {
        let Range { start, end } = range(n);
        let mut buf: Vec<u8> = take().unwrap_or_default();
        buf.resize(usize::try_from(end - start).unwrap_or(CHUNK), 0);
        // What is cut off is told by the size, if nothing before is wrong.
        let bad = end <= size
            && (file.read_exact_at(&mut buf, start).is_err() || hash(&buf) != hashes[n]);
        spare.lock().unwrap_or_else(PoisonError::into_inner).push(buf);
        bad
    });
    Ok(bad.map(|n| (range(n), "not what was written".into())))
}

fn first_bad_frame(file: &File, name: &str, threads: usize) -> Option<(Range<u64>, String)> {
    let whole = file.metadata().map_or(0, |m| m.len());
    let frames = codec(name).map(|codec| Frames::open(file, name, codec));
    let frames = match frames? {
        Ok(frames) => frames,
        Err(e) => return Some((0..whole, e.to_string())),
    };
    let spare = Mutex::new(Vec::new());
    let take = || spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let bad = lowest(frames.frames().len(), threads, |n| {
        let (mut decoder, mut buf) = take().unwrap_or_else(|| (Decoder::default(), Vec::new()));
        buf.resize(frames.frames()[n].size as usize, 0);
        let bad = frames.decode(file, n, &mut decoder, &mut buf).is_err();
        spare.lock().unwrap_or_else(PoisonError::into_inner).push((decoder, buf));
        bad
    })?;
    let frame = frames.frames()[bad];
    Some((frame.at..frame.at + u64::from(frame.len), "a damaged frame".into()))
}
