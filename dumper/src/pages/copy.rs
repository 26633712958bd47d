//! Moves page contents into images: workers side by side, each with one buffer, whole pieces
//! per system call. (Readers that hand pieces to a writer would be slower, measured: the piece
//! leaves the cache of its processor.)
//!
//! Where each page goes is known before anything moves, so workers need no order among them.

mod read;

pub use read::{Lost, Origin, read};

use super::Error;
use super::room::{Panes, Room};
use super::select::Run;
use super::server::Server;
use crate::Storing;
use crate::hooks::Progress;
use crate::stop::Stop;
use crate::task::cgroup_memory::Watch;
use images::manifest::{self, CHUNK};
use images::pages::{Encoder, FRAME, FrameWriter, PAGE_SIZE};
use images::proto::AmberFileEntry;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use sys::vm::Span;

/// Bytes moved at a time, and what one hash is of: small enough to stay in the cache between reading and writing.
pub const PIECE: usize = CHUNK;
/// Spans that one `process_vm_readv` takes (`IOV_MAX`).
const MAX_SPANS: usize = 1024;
/// Zero pages side by side that are worth a hole in the image.
const MIN_HOLE: usize = 16;
/// Below this many bytes a second thread costs more than it brings.
const WORTH_A_THREAD: u64 = 8 << 20;

/// Contents on their way from one origin into one pages image.
#[derive(Debug)]
pub struct Source<'a> {
    /// Where they come from.
    pub origin: Origin<'a>,
    /// Which, in the order in which they lie in the image; from its beginning.
    pub runs: &'a [Run],
    /// The image.
    pub image: Arc<File>,
    /// Its name, for messages.
    pub name: String,
    /// It has its pages already: zero ones are given back.
    pub has_room: bool,
    /// Parts of it that are mapped, and filled in place.
    pub panes: Option<&'a Panes>,
    /// Contents go there, compressed.
    pub frames: Option<FrameWriter>,
    /// Hashes of what is not compressed, piece by piece.
    pub hashes: Mutex<Vec<[u8; 16]>>,
}

impl Source<'_> {
    pub(super) fn error(&self, call: &'static str, source: std::io::Error) -> Error {
        Error::Image(images::Error::Io { file: self.name.clone(), call, source })
    }
}

/// A part of a source that one worker moves at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    source: usize,
    /// First run.
    pub run: usize,
    /// How many of its pages belong to pieces before.
    pub skip: u64,
    /// Offset in the image.
    offset: u64,
    /// Bytes.
    pub len: usize,
    /// The task itself may read all of it.
    readable: bool,
}

/// Cuts sources into pieces.
fn pieces(sources: &[Source<'_>], max: usize) -> Vec<Piece> {
    sources.iter().enumerate().flat_map(|(i, s)| cut(i, s.runs, max)).collect()
}

/// Cuts the runs of one source into pieces of `max` bytes.
pub fn cut(source: usize, runs: &[Run], max: usize) -> Vec<Piece> {
    let mut out = Vec::new();
    let first = Piece { source, run: 0, skip: 0, offset: 0, len: 0, readable: true };
    let mut piece = first;
    let mut spans = 0;
    for (run, r) in runs.iter().enumerate() {
        let mut taken = 0;
        while taken < r.pages {
            if piece.len == max || spans == MAX_SPANS {
                out.push(piece);
                let offset = piece.offset + piece.len as u64;
                piece = Piece { run, skip: taken, offset, ..first };
                spans = 0;
            }
            let room = (max - piece.len) as u64 / PAGE_SIZE;
            let pages = room.min(r.pages - taken);
            piece.readable &= r.readable;
            piece.len += (pages * PAGE_SIZE) as usize;
            taken += pages;
            spans += 1;
        }
    }
    if piece.len > 0 {
        out.push(piece);
    }
    out
}

/// What a [`copy`] reports to and obeys.
#[derive(Clone, Copy)]
pub struct Control<'a> {
    /// Says when to give up.
    pub stop: Stop,
    /// Is told how many bytes are to be written, and have been.
    pub progress: &'a dyn Progress,
    /// What has been made beforehand.
    pub room: Option<&'a Room>,
    /// How contents are stored.
    pub storing: Storing,
    /// Contents go there, not into images.
    pub server: Option<&'a Server>,
    /// Learns what pages images there are, for the manifest.
    pub files: Option<&'a Mutex<Vec<AmberFileEntry>>>,
}

impl std::fmt::Debug for Control<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("stop", &self.stop).finish_non_exhaustive()
    }
}

/// Moves everything; the first error ends it. To be called by the tracer. `memory`: looked at, where
/// images are in memory.
pub fn copy(
    sources: &[Source<'_>],
    control: Control<'_>,
    memory: Option<&Watch>,
) -> Result<(), Error> {
    // What is compressed has to stay in the cache together with what becomes of it.
    let size = if control.storing.compression.is_some() { FRAME } else { PIECE };
    let pieces = pieces(sources, size);
    let total: u64 = pieces.iter().map(|p| p.len as u64).sum();
    let cpus = sys::worker::cpus();
    let most = match control.storing {
        Storing { threads, .. } if threads > 0 => threads,
        _ => cpus,
    };
    let threads = most.min((total / WORTH_A_THREAD) as usize + 1);
    // proc_mem.force_override=ptrace: only the thread that traces a task reads what the task
    // itself may not.
    let (own, pieces) = pieces.into_iter().partition(|p| !p.readable);
    let placed = |p: &Piece| sources[p.source].panes.is_some_and(|all| all.contains_key(&p.offset));
    let (own, shared) = (Queue::new(own), Queue::new(spread(pieces, placed)));
    let (failed, error) = (AtomicBool::new(false), Mutex::new(None));
    let job = Job { sources, failed, error, control, memory, total };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // A thread that cannot be made is no reason to fail: this one does the work.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || job.work(&shared, true));
        }
        job.work(&own, false);
        job.work(&shared, false);
    });
    let error = job.error.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = error {
        return Err(error);
    }
    // An image may end in a hole.
    for source in sources.iter().filter(|s| s.frames.is_none()) {
        let len = source.runs.iter().map(|r| r.pages * PAGE_SIZE).sum();
        source.image.set_len(len).map_err(|e| source.error("ftruncate", e))?;
    }
    Ok(())
}

/// Spreads pieces that are filled in place evenly among the others: an image has one lock for those
/// who write to it, and none for those who fill it in place.
fn spread(pieces: Vec<Piece>, placed: impl Fn(&Piece) -> bool) -> Vec<Piece> {
    let all = pieces.len();
    let (few, many): (Vec<_>, Vec<_>) = pieces.into_iter().partition(placed);
    let share = few.len();
    let (mut few, mut many) = (few.into_iter(), many.into_iter());
    let next = |n: usize| {
        let due = (n + 1) * share / all > n * share / all;
        if due { few.next().or_else(|| many.next()) } else { many.next().or_else(|| few.next()) }
    };
    (0..all).filter_map(next).collect()
}

/// Pieces that workers take one after the other.
struct Queue {
    pieces: Vec<Piece>,
    next: AtomicUsize,
}

impl Queue {
    fn new(pieces: Vec<Piece>) -> Self {
        Self { pieces, next: AtomicUsize::new(0) }
    }

    fn take(&self) -> Option<&Piece> {
        self.pieces.get(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

struct Job<'a> {
    sources: &'a [Source<'a>],
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
    control: Control<'a>,
    memory: Option<&'a Watch>,
    /// Bytes to be moved.
    total: u64,
}

/// What each worker has for itself.
#[derive(Default)]
struct Own {
    may_wait: bool,
    spans: Vec<Span>,
    encoder: Option<Encoder>,
}

impl Job<'_> {
    /// Does what it can get; a thread that `may_wait` does for others to keep up.
    fn work(&self, queue: &Queue, may_wait: bool) {
        let mut own = Own { may_wait, ..Own::default() };
        let mut buf = Vec::new();
        while !self.failed.load(Ordering::Relaxed) {
            let Some(piece) = queue.take() else { return };
            if let Err(e) = self.piece(piece, &mut buf, &mut own) {
                self.failed.store(true, Ordering::Relaxed);
                self.sources.iter().filter_map(|s| s.frames.as_ref()).for_each(FrameWriter::fail);
                let slot = self.error.lock();
                slot.unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                return;
            }
        }
    }

    /// Makes a hole where there is nothing but zeroes.
    fn zeroes(&self, source: &Source<'_>, at: u64, part: Range<usize>) -> Result<(), Error> {
        if !source.has_room || part.is_empty() {
            return Ok(());
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let offset = at.cast_signed() + part.start as i64;
        fallocate(&*source.image, flags, offset, part.len() as i64)
            .map_err(|e| source.error("fallocate", e.into()))
    }

    /// Compresses and writes pages.
    fn compress(
        &self,
        source: &Source<'_>,
        frames: &FrameWriter,
        (offset, pages): (u64, &[u8]),
        own: &mut Own,
    ) -> Result<(), Error> {
        let failed = |e| source.error("compress", e);
        let encoder = match (&mut own.encoder, self.control.storing.compression) {
            (Some(encoder), _) => encoder,
            (none, Some(how)) => none.insert(Encoder::new(how).map_err(failed)?),
            (None, None) => return Ok(()),
        };
        let compressed = encoder.encode(pages, frames.spare()).map_err(failed)?;
        Ok(frames.put(offset, pages.len() as u64, compressed, own.may_wait)?)
    }

    fn piece(&self, p: &Piece, buf: &mut Vec<u8>, own: &mut Own) -> Result<(), Error> {
        if self.control.stop.requested() {
            return Err(Error::Stopped);
        }
        let source = &self.sources[p.source];
        if let Some(memory) = self.memory {
            memory
                .let_in(p.len as u64, self.total)
                .map_err(|left| Error::Memory { name: source.name.clone(), left })?;
        }
        if let Some(pane) = source.panes.and_then(|panes| panes.get(&p.offset)) {
            // Nobody waits: a piece is in one pane, and in one hand.
            let mut pane = pane.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(place) = pane.bytes().get_mut(..p.len) {
                return self.plain(source, p, place, (own, true));
            }
        }
        if buf.len() < p.len {
            buf.resize(p.len, 0);
        }
        let buf = &mut buf[..p.len];
        let Some(frames) = &source.frames else { return self.plain(source, p, buf, (own, false)) };
        read(&source.origin, source.runs, &source.name, p, buf, &mut own.spans)?;
        self.compress(source, frames, (p.offset, buf), own)?;
        self.control.progress.done(p.len as u64);
        Ok(())
    }

    /// Moves a piece as it is, by way of `buf`, or to its place if it is that.
    fn plain(
        &self,
        source: &Source<'_>,
        p: &Piece,
        buf: &mut [u8],
        (own, in_place): (&mut Own, bool),
    ) -> Result<(), Error> {
        read(&source.origin, source.runs, &source.name, p, buf, &mut own.spans)?;
        if self.control.files.is_some() {
            let (hash, index) = (manifest::hash(buf), (p.offset / PIECE as u64) as usize);
            let mut hashes = source.hashes.lock().unwrap_or_else(PoisonError::into_inner);
            let len = hashes.len().max(index + 1);
            hashes.resize(len, [0; 16]);
            hashes[index] = hash;
        }
        let mut written = 0;
        for (at, data) in data(buf) {
            self.zeroes(source, p.offset, written..at)?;
            if !in_place {
                let done = source.image.write_all_at(data, p.offset + at as u64);
                done.map_err(|e| source.error("pwrite", e))?;
            }
            written = at + data.len();
        }
        self.zeroes(source, p.offset, written..buf.len())?;
        self.control.progress.done(p.len as u64);
        Ok(())
    }
}

/// What has to be written of `buf`: all but longer stretches of zero pages, which an image
/// holds as well without blocks. Offsets and contents.
fn data(buf: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let page = PAGE_SIZE as usize;
    let zero = move |at: usize| {
        let (words, _) = buf[at..at + page].as_chunks::<8>();
        words.iter().all(|w| u64::from_ne_bytes(*w) == 0)
    };
    let mut at = 0;
    std::iter::from_fn(move || {
        let (start, mut zeros) = (at, 0);
        while at < buf.len() {
            zeros = if zero(at) { zeros + 1 } else { 0 };
            at += page;
            if zeros == MIN_HOLE {
                let end = at - zeros * page;
                while at < buf.len() && zero(at) {
                    at += page;
                }
                if end > start {
                    return Some((start, &buf[start..end]));
                }
                return Some((start, &buf[..0]));
            }
        }
        (start < buf.len()).then(|| (start, &buf[start..]))
    })
}

#[cfg(test)]
mod tests;
