//! Moves page contents into images: workers side by side, each with one buffer, whole pieces
//! per system call. (Readers that hand pieces to a writer would be slower, measured: the piece
//! leaves the cache of its processor.)
//!
//! Where each page goes is known before anything moves, so workers need no order among them.

use super::Error;
use super::room::{Panes, Room};
use super::select::Run;
use super::server::Server;
use crate::Storing;
use crate::hooks::Progress;
use crate::stop::Stop;
use images::manifest::{self, CHUNK};
use images::pages::{Encoder, FRAME, FrameWriter, PAGE_SIZE};
use images::proto::AmberFileEntry;
use nix::fcntl::{FallocateFlags, fallocate};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use sys::vm::{self, Span};

/// Bytes moved at a time, and what one hash is of: small enough to stay in the cache between reading and writing.
pub const PIECE: usize = CHUNK;
/// Spans that one `process_vm_readv` takes (`IOV_MAX`).
const MAX_SPANS: usize = 1024;
/// Zero pages side by side that are worth a hole in the image.
const MIN_HOLE: usize = 16;
/// Below this many bytes a second thread costs more than it brings.
const WORTH_A_THREAD: u64 = 8 << 20;

/// Where contents come from.
#[derive(Debug)]
pub enum Origin<'a> {
    /// Memory of a task.
    Task {
        /// In our pid namespace.
        pid: i32,
        /// `/proc/PID/mem`, opened when needed.
        mem: OnceLock<File>,
        /// It runs: pages that cannot be read, as they are gone meanwhile, are zeroes and go here.
        lost: Option<&'a Lost>,
    },
    /// A file: shared memory.
    File(&'a File),
}

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
    fn error(&self, call: &'static str, source: std::io::Error) -> Error {
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

/// Moves everything; the first error ends it. To be called by the tracer.
pub fn copy(sources: &[Source<'_>], control: Control<'_>) -> Result<(), Error> {
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
    let job = Job { sources, failed: AtomicBool::new(false), error: Mutex::new(None), control };
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

/// Reads the contents of a piece.
pub fn read(
    origin: &Origin<'_>,
    runs: &[Run],
    name: &str,
    p: &Piece,
    buf: &mut [u8],
    spans: &mut Vec<Span>,
) -> Result<(), Error> {
    let mut runs = runs[p.run..].iter().copied();
    let mut skip = p.skip;
    let mut rest = buf;
    while !rest.is_empty() {
        // Runs that are read by the same means go together.
        spans.clear();
        let (mut len, mut readable) = (0, true);
        for r in runs.clone() {
            if len == rest.len() || (len > 0 && r.readable != readable) {
                break;
            }
            readable = r.readable;
            let want = ((r.pages - skip) * PAGE_SIZE).min((rest.len() - len) as u64);
            spans.push(Span { addr: r.start + skip * PAGE_SIZE, len: want });
            len += want as usize;
            skip = 0;
        }
        let (now, later) = std::mem::take(&mut rest).split_at_mut(len);
        for _ in 0..spans.len() {
            runs.next();
        }
        match origin {
            Origin::Task { pid, mem, lost: Some(lost) } => {
                read_live(*pid, mem, spans, now, lost)?;
            }
            Origin::Task { pid, mem, .. } if readable => read_task(*pid, mem, spans, now)?,
            Origin::Task { pid, mem, .. } => {
                let mut now = now;
                for span in spans.iter() {
                    let (one, others) = std::mem::take(&mut now).split_at_mut(span.len as usize);
                    read_mem(*pid, mem, span.addr, one)?;
                    now = others;
                }
            }
            Origin::File(file) => read_file(file, name, spans, now)?,
        }
        rest = later;
    }
    Ok(())
}

/// `process_vm_readv`, and `/proc/PID/mem` for pages that it does not read.
fn read_task(
    pid: i32,
    mem: &OnceLock<File>,
    spans: &mut [Span],
    mut buf: &mut [u8],
) -> Result<(), Error> {
    let mut spans = spans;
    loop {
        let got = match vm::read_spans(pid, spans, buf) {
            Ok(n) if n == buf.len() => return Ok(()),
            Ok(n) => n,
            Err(e) if e.errno() == libc::EFAULT => 0,
            Err(e) => return Err(e.into()),
        };
        buf = &mut buf[got..];
        let mut done = got as u64;
        while done > 0 {
            let step = done.min(spans[0].len);
            advance(&mut spans, step);
            done -= step;
        }
        // One page by the other means, then on as before.
        let (page, others) = buf.split_at_mut(PAGE_SIZE as usize);
        read_mem(pid, mem, spans[0].addr, page)?;
        buf = others;
        advance(&mut spans, PAGE_SIZE);
        if buf.is_empty() {
            return Ok(());
        }
    }
}

/// Pages of running tasks that could not be read: pid, first address, address behind.
#[derive(Debug, Default)]
pub struct Lost(Mutex<Vec<(i32, u64, u64)>>);

impl Lost {
    fn add(&self, pid: i32, start: u64, end: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.last_mut() {
            Some(last) if (last.0, last.2) == (pid, start) => last.2 = end,
            _ => all.push((pid, start, end)),
        }
    }

    /// All of them.
    pub fn ranges(self) -> Vec<(i32, u64, u64)> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a running task has of it.
fn read_live(
    pid: i32,
    mem: &OnceLock<File>,
    spans: &mut [Span],
    mut buf: &mut [u8],
    lost: &Lost,
) -> Result<(), Error> {
    let mut spans = spans;
    while !buf.is_empty() {
        let mut got = match vm::read_spans(pid, spans, buf) {
            Ok(n) => n,
            Err(e) if matches!(e.errno(), libc::EFAULT | libc::ESRCH | libc::EPERM) => 0,
            Err(e) => return Err(e.into()),
        };
        if got == 0 {
            // It may just be protected from reading.
            let (one, _) = buf.split_at_mut(spans[0].len as usize);
            got = mem_file(pid, mem).and_then(|f| f.read_at(one, spans[0].addr)).unwrap_or(0);
            got -= got % PAGE_SIZE as usize;
        }
        if got == 0 {
            got = PAGE_SIZE as usize;
            buf[..got].fill(0);
            lost.add(pid, spans[0].addr, spans[0].addr + PAGE_SIZE);
        }
        buf = &mut buf[got..];
        let mut done = got as u64;
        while done > 0 {
            let step = done.min(spans[0].len);
            advance(&mut spans, step);
            done -= step;
        }
    }
    Ok(())
}

/// Takes `len` bytes from the first span, which is at least as long.
fn advance(spans: &mut &mut [Span], len: u64) {
    let first = &mut spans[0];
    first.addr += len;
    first.len -= len;
    if first.len == 0 {
        let all = std::mem::take(spans);
        *spans = &mut all[1..];
    }
}

fn read_mem(pid: i32, mem: &OnceLock<File>, addr: u64, buf: &mut [u8]) -> Result<(), Error> {
    let read = mem_file(pid, mem).and_then(|file| file.read_exact_at(buf, addr));
    read.map_err(|source| Error::Unreadable { pid, addr, source })
}

fn mem_file(pid: i32, mem: &OnceLock<File>) -> std::io::Result<&File> {
    if let Some(file) = mem.get() {
        return Ok(file);
    }
    let file = File::open(format!("/proc/{pid}/mem"))?;
    Ok(mem.get_or_init(|| file))
}

fn read_file(file: &File, name: &str, spans: &[Span], mut buf: &mut [u8]) -> Result<(), Error> {
    for span in spans {
        let (mut one, others) = buf.split_at_mut(span.len as usize);
        let mut at = span.addr;
        while !one.is_empty() {
            match file.read_at(one, at) {
                // The last page of a file whose size is not whole pages.
                Ok(0) => {
                    one.fill(0);
                    break;
                }
                Ok(n) => {
                    one = &mut one[n..];
                    at += n as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Shmem { name: name.to_owned(), source }),
            }
        }
        buf = others;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
