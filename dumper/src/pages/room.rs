//! Room for images, made before the tree is frozen.
//!
//! In a directory in memory (tmpfs) the pages of an image cost more to get than to write: they are
//! got while the tasks still run, by all processors. How many it will take is a guess; what is too
//! much is given back, and what is missing is got as it is written.
//!
//! A file has one lock for all who make pages in it by call, and none for those who touch a mapping of
//! it, which takes twice as long. So one thread makes its pages by call from the beginning,
//! and those with nothing else to do touch them from the end until they meet.

use super::copy;
use crate::stop::Stop;
use crate::task::cgroup_memory::headroom;
use images::Dir;
use images::pages::PAGE_SIZE;
use nix::fcntl::{FallocateFlags, fallocate};
use parasite::proc;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use sys::uffd::Filler;
use sys::window::{Pane, Window};

/// Tasks with less memory of their own are not worth it.
const WORTH: u64 = 16 << 20;
/// What is made at a time.
const PIECE: u64 = 8 << 20;
/// Pages of a piece that are looked at, and how many of them tell that it is cold: one may be
/// interrupted, and one be at hand where others are not.
const LOOKED_AT: u64 = 4;
const TELLING: usize = 2;
/// A page that takes longer to touch has to be fetched from somewhere: in a virtual machine from
/// the host, which had been given it back (measured: 2 us if not, 15 us if so, now and then more).
const COLD: Duration = Duration::from_micros(6);
/// Of the memory that is free, and of the directory, one part of so many is taken at most: the guess
/// may be far too high, and other images come before it is known.
const SPARE: u64 = 2;

/// Parts of an image that are mapped, by their offset: contents go there without a call.
pub type Panes = BTreeMap<u64, Mutex<Pane>>;

/// Files without a name that have room already, by pid.
#[derive(Debug, Default)]
pub struct Room {
    files: Mutex<BTreeMap<i32, File>>,
    panes: BTreeMap<i32, Panes>,
}

impl Room {
    /// For the tree of `root`, which runs. Makes nothing where it is of no use, and never fails. At
    /// most `budget` bytes of it stay mapped.
    pub fn make(root: i32, dir: &Dir, budget: u64, stop: Stop) -> Self {
        if dir.create_in_memory().is_none() {
            return Self::default();
        }
        let mut files = Vec::new();
        let free = available().min(headroom()).min(dir.free_bytes().unwrap_or(u64::MAX));
        let mut free = free / SPARE;
        let mut tree: Vec<_> = proc::family(root).map(|pid| (pid, own_memory(pid))).collect();
        tree.sort_by_key(|(_, len)| std::cmp::Reverse(*len));
        for (pid, len) in tree {
            if len < WORTH || len > free {
                continue;
            }
            free -= len;
            let Some(file) = dir.create_in_memory() else { break };
            files.push(Making::new(pid, len, file));
        }
        let begun = Instant::now();
        // What is left of a directory that is nearly full is for other images too.
        let Some(made) = make_all(&files, budget, stop) else { return Self::default() };
        let mib = |bytes: u64| bytes >> 20;
        log::debug!(
            "Room for {} MiB made in {} ms, {} MiB of it touched, {} MiB fetched",
            files.iter().map(|f| mib(f.len)).sum::<u64>(),
            begun.elapsed().as_millis(),
            mib(made.touched),
            mib(made.cold),
        );
        let mut room = Self::default();
        for making in files {
            let panes = making.panes.into_inner().unwrap_or_default();
            if !panes.is_empty() {
                room.panes.insert(making.pid, panes);
            }
            lock(&room.files).insert(making.pid, making.file);
        }
        room
    }

    /// The file for this task, if there is one.
    pub fn take(&self, pid: i32) -> Option<File> {
        lock(&self.files).remove(&pid)
    }

    /// Gives back what nobody has taken.
    pub fn give_back(&self) {
        for file in std::mem::take(&mut *lock(&self.files)).into_values() {
            // It may be mapped yet: that alone keeps nothing then.
            let _ = file.set_len(0);
        }
    }

    /// What of the file for this task is mapped.
    pub fn panes(&self, pid: i32) -> Option<&Panes> {
        self.panes.get(&pid)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A file whose room is being made.
struct Making {
    pid: i32,
    len: u64,
    file: File,
    /// What nobody has begun with.
    rest: Mutex<Range<u64>>,
    /// Somebody makes it from the beginning.
    begun: AtomicBool,
    panes: Mutex<Panes>,
}

impl Making {
    fn new(pid: i32, len: u64, file: File) -> Self {
        // Behind its end a file cannot be touched. (Where this fails it is no file in memory.)
        let _ = file.set_len(len);
        let (rest, panes) = (Mutex::new(0..len), Mutex::default());
        Self { pid, len, file, rest, begun: AtomicBool::new(false), panes }
    }

    /// The next piece from the beginning.
    fn first(&self) -> Option<Range<u64>> {
        let mut rest = lock(&self.rest);
        let piece = rest.start..rest.end.min(rest.start + PIECE);
        rest.start = piece.end;
        (!piece.is_empty()).then_some(piece)
    }

    /// The next piece from the end: all begin at a multiple of [`PIECE`].
    fn last(&self) -> Option<Range<u64>> {
        let mut rest = lock(&self.rest);
        let piece = rest.start.max(rest.end.saturating_sub(1) / PIECE * PIECE)..rest.end;
        rest.end = piece.start;
        (!piece.is_empty()).then_some(piece)
    }
}

/// What has been made, in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Made {
    /// By touching.
    touched: u64,
    /// Was not at hand.
    cold: u64,
}

/// What the threads that make room have in common.
struct Makers<'a> {
    files: &'a [Making],
    stop: Stop,
    full: AtomicBool,
    touched: AtomicU64,
    cold: AtomicU64,
    /// How much may yet stay mapped.
    budget: Mutex<u64>,
    /// Makes pages that are mapped, if it can be had.
    filler: Option<Filler>,
}

/// Makes room in all files, side by side. `None` if there is not so much room.
fn make_all(files: &[Making], budget: u64, stop: Stop) -> Option<Made> {
    let makers = Makers::new(files, budget, stop);
    let pieces: u64 = files.iter().map(|f| f.len.div_ceil(PIECE)).sum();
    std::thread::scope(|scope| {
        for _ in 1..(sys::worker::cpus() as u64).min(pieces) {
            // A thread that cannot be made is no reason to fail: this one does the work.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || makers.work());
        }
        makers.work();
    });
    let made = Made { touched: makers.touched.into_inner(), cold: makers.cold.into_inner() };
    (!makers.full.into_inner()).then_some(made)
}

impl<'a> Makers<'a> {
    fn new(files: &'a [Making], budget: u64, stop: Stop) -> Self {
        let (full, touched, cold) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let filler = Filler::new().ok();
        Self { files, stop, full, touched, cold, budget: Mutex::new(budget), filler }
    }

    fn work(&self) {
        for making in self.files.iter().filter(|m| !m.begun.swap(true, Ordering::Relaxed)) {
            while let Some(piece) = self.on().and_then(|()| making.first()) {
                self.by_call(making, piece);
            }
        }
        for making in self.files {
            while let Some(piece) = self.on().and_then(|()| making.last()) {
                self.by_touch(making, piece);
            }
        }
    }

    /// Whether there is a reason to go on.
    fn on(&self) -> Option<()> {
        (!self.stop.requested() && !self.full.load(Ordering::Relaxed)).then_some(())
    }

    fn by_call(&self, making: &Making, piece: Range<u64>) {
        let (at, len) = (piece.start, piece.end - piece.start);
        if reserve(&making.file, at, len).is_none() {
            self.full.store(true, Ordering::Relaxed);
        } else if warm(&making.file, at, len) {
            self.cold.fetch_add(len, Ordering::Relaxed);
        }
    }

    fn by_touch(&self, making: &Making, piece: Range<u64>) {
        let (at, len) = (piece.start, piece.end - piece.start);
        let window = Window::new(&making.file, at, len);
        let window = window.ok().filter(|w| w.fill(self.filler.as_ref()));
        let Some(window) = window else { return self.by_call(making, piece) };
        self.touched.fetch_add(len, Ordering::Relaxed);
        let mut budget = lock(&self.budget);
        if *budget >= len {
            *budget -= len;
            drop(budget);
            let offsets = (at..).step_by(copy::PIECE);
            let panes = window.cut(copy::PIECE as u64).into_iter().map(Mutex::new);
            lock(&making.panes).extend(offsets.zip(panes));
        }
    }
}

/// Makes pages without contents: those come in the freeze.
fn reserve(file: &File, at: u64, len: u64) -> Option<()> {
    fallocate(file, FallocateFlags::empty(), at.cast_signed(), len.cast_signed()).ok()
}

/// Fetches pages that are there by name only. Whoever writes to the file is alone, as it has one
/// lock, and waits for each page in turn; here all processors wait at once, before the freeze.
/// Returns whether it was needed.
fn warm(file: &File, at: u64, len: u64) -> bool {
    let Ok(window) = Window::new(file, at, len) else { return false };
    let touch = |at: u64| {
        let begun = Instant::now();
        window.populate(at..at + PAGE_SIZE);
        begun.elapsed()
    };
    // This one also gets the page tables.
    touch(0);
    let others = (0..LOOKED_AT).map(|n| (len / PAGE_SIZE * n / LOOKED_AT + 1) * PAGE_SIZE);
    let cold = others.map(touch).filter(|took| *took > COLD).count();
    cold >= TELLING && window.populate(0..len)
}

/// Bytes of resident pages that are not those of a file.
fn own_memory(pid: i32) -> u64 {
    let (resident, shared) = proc::resident(pid);
    resident.saturating_sub(shared) * PAGE_SIZE
}

fn available() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const BUDGET: u64 = 3 * PIECE;

    fn dir() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        (temp, dir)
    }

    #[test]
    fn files_get_all_their_pages_and_no_more() {
        let (_temp, dir) = dir();
        let lens = [2 * PIECE + 3 * PAGE_SIZE, PAGE_SIZE, PIECE];
        let files: Vec<_> =
            lens.map(|len| Making::new(1, len, dir.create_in_memory().unwrap())).into();
        let made = make_all(&files, BUDGET, Stop::watching_parent()).unwrap();
        assert!(made.cold + made.touched <= lens.iter().sum());
        for making in &files {
            let meta = making.file.metadata().unwrap();
            assert_eq!((meta.len(), meta.blocks() * 512), (making.len, making.len));
            // Whatever was found: it stays as it was.
            warm(&making.file, 0, making.len);
            assert_eq!(making.file.metadata().unwrap().blocks() * 512, making.len);
        }
    }

    #[test]
    fn both_ways_of_making_room_meet() {
        let (_temp, dir) = dir();
        let len = 5 * PIECE + 3 * PAGE_SIZE;
        let files = [Making::new(1, len, dir.create_in_memory().unwrap())];
        let makers = Makers::new(&files, PIECE + 4 * PAGE_SIZE, Stop::watching_parent());
        let making = &files[0];
        for _ in 0..3 {
            makers.by_touch(making, making.last().unwrap());
        }
        makers.work();
        assert_eq!((making.first(), making.last()), (None, None));
        let meta = making.file.metadata().unwrap();
        assert_eq!((meta.len(), meta.blocks() * 512), (len, len));
        assert_eq!(makers.touched.into_inner(), 2 * PIECE + 3 * PAGE_SIZE);
        // The last part and the one before are within the budget.
        let mut panes = std::mem::take(&mut *lock(&making.panes));
        let mib = 1 << 20;
        let offsets: Vec<u64> = panes.keys().map(|at| at / mib).collect();
        let first = 4 * PIECE / mib;
        assert_eq!(offsets.first(), Some(&first));
        assert_eq!(offsets.last(), Some(&(5 * PIECE / mib)));
        assert_eq!(offsets.len(), 17);
        for (at, pane) in &mut panes {
            let bytes = pane.get_mut().unwrap().bytes();
            assert_eq!(bytes.len() as u64, (len - at).min(copy::PIECE as u64));
            bytes[..8].copy_from_slice(&at.to_ne_bytes());
        }
        let mut word = [0; 8];
        for at in panes.keys() {
            std::os::unix::fs::FileExt::read_exact_at(&making.file, &mut word, *at).unwrap();
            assert_eq!(u64::from_ne_bytes(word), *at);
        }
    }

    #[test]
    fn what_has_no_room_is_told() {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let files = [Making::new(1, 3 * PIECE, full()), Making::new(2, PIECE, full())];
        assert_eq!(make_all(&files, BUDGET, Stop::watching_parent()), None);
    }

    #[test]
    fn a_task_has_room_once() {
        let (_temp, dir) = dir();
        let memory = vec![1u8; 2 * WORTH as usize];
        let me = std::process::id() as i32;
        let room = Room::make(me, &dir, BUDGET, Stop::watching_parent());
        let file = room.take(me).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 >= memory.len() as u64);
        assert!(room.take(me).is_none());
        let room = Room::make(me, &dir, BUDGET, Stop::watching_parent());
        let file = lock(&room.files)[&me].try_clone().unwrap();
        room.give_back();
        assert!(room.take(me).is_none());
        assert_eq!(file.metadata().unwrap().blocks(), 0);
    }
}
