//! Room for images, made before the tree is frozen.
//!
//! In a directory in memory (tmpfs) the pages of an image cost more to get than to write: they are
//! got while the tasks still run, by all processors. How many it will take is a guess; what is too
//! much is given back, and what is missing is got as it is written.

use crate::stop::Stop;
use images::Dir;
use images::pages::PAGE_SIZE;
use nix::fcntl::{FallocateFlags, fallocate};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use sys::window::Window;

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
/// Of the memory that is free, so much is left alone.
const SPARE: u64 = 2;

/// Files without a name that have room already, by pid.
#[derive(Debug, Default)]
pub struct Room {
    files: Mutex<BTreeMap<i32, File>>,
}

impl Room {
    /// For the tree of `root`, which runs. Makes nothing where it is of no use, and never fails.
    pub fn make(root: i32, dir: &Dir, stop: Stop) -> Self {
        let room = Self::default();
        if dir.create_in_memory().is_none() {
            return room;
        }
        let mut files = Vec::new();
        let mut free = available() / SPARE;
        for (pid, len) in tree(root) {
            if len < WORTH || len > free {
                continue;
            }
            free -= len;
            let Some(file) = dir.create_in_memory() else { break };
            files.push((pid, len, file));
        }
        let begun = Instant::now();
        // What is left of a directory that is nearly full is for other images too.
        let Some(cold) = make_all(&files, stop) else { return room };
        let (took, all) =
            (begun.elapsed().as_millis(), files.iter().map(|f| f.1 >> 20).sum::<u64>());
        log::debug!("Room for {all} MiB made in {took} ms, {} MiB of it fetched", cold >> 20);
        lock(&room.files).extend(files.into_iter().map(|(pid, _, file)| (pid, file)));
        room
    }

    /// The file for this task, if there is one.
    pub fn take(&self, pid: i32) -> Option<File> {
        lock(&self.files).remove(&pid)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Makes room in all files, side by side: pid, bytes, file. Returns how many bytes were cold, `None`
/// if there is not so much room.
fn make_all(files: &[(i32, u64, File)], stop: Stop) -> Option<u64> {
    let cut = |len: u64| (0..len).step_by(PIECE as usize).map(move |at| (at, PIECE.min(len - at)));
    let pieces: Vec<_> =
        files.iter().flat_map(|(_, len, file)| cut(*len).map(move |piece| (file, piece))).collect();
    let (next, full, cold) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicUsize::new(0));
    let work = || {
        while !stop.requested() && !full.load(Ordering::Relaxed) {
            let piece = pieces.get(next.fetch_add(1, Ordering::Relaxed));
            let Some((file, (at, len))) = piece else { return };
            if reserve(file, *at, *len).is_none() {
                full.store(true, Ordering::Relaxed);
            } else if warm(file, *at, *len) {
                cold.fetch_add(*len as usize, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..sys::worker::cpus().min(pieces.len()) {
            // A thread that cannot be made is no reason to fail: this one does the work.
            let _ = std::thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    (!full.into_inner()).then(|| cold.into_inner() as u64)
}

/// Makes pages without contents: those come in the freeze. To fault all of them in, which fills
/// them with zeroes, costs half as much again and wins nothing (measured), but for [`warm`].
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

/// `root` and its descendants with the bytes of memory that each has of its own.
fn tree(root: i32) -> Vec<(i32, u64)> {
    let mut all = vec![(root, own_memory(root))];
    let mut at = 0;
    while at < all.len() {
        let pid = all[at].0;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_ascii_whitespace().filter_map(|c| c.parse().ok());
        all.extend(children.map(|c| (c, own_memory(c))));
        at += 1;
    }
    all
}

/// Resident pages that are not those of a file.
fn own_memory(pid: i32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let mut fields = statm.split_ascii_whitespace().skip(1).filter_map(|n| n.parse::<u64>().ok());
    let (resident, shared) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
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

    #[test]
    fn files_get_all_their_pages_and_no_more() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = Dir::open(dir.path()).unwrap();
        let lens = [2 * PIECE + 3 * PAGE_SIZE, PAGE_SIZE, PIECE];
        let files: Vec<_> =
            lens.iter().map(|len| (1, *len, dir.create_in_memory().unwrap())).collect();
        let cold = make_all(&files, Stop::watching_parent()).unwrap();
        assert!(cold <= lens.iter().sum());
        for (_, len, file) in &files {
            let meta = file.metadata().unwrap();
            assert_eq!((meta.len(), meta.blocks() * 512), (*len, *len));
            // Whatever was found: it stays as it was.
            warm(file, 0, *len);
            assert_eq!(file.metadata().unwrap().blocks() * 512, *len);
        }
    }

    #[test]
    fn what_has_no_room_is_told() {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let files = [(1, 3 * PIECE, full()), (2, PIECE, full())];
        assert_eq!(make_all(&files, Stop::watching_parent()), None);
    }

    #[test]
    fn a_task_has_room_once() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = Dir::open(dir.path()).unwrap();
        let memory = vec![1u8; 2 * WORTH as usize];
        let me = std::process::id() as i32;
        let room = Room::make(me, &dir, Stop::watching_parent());
        let file = room.take(me).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 >= memory.len() as u64);
        assert!(room.take(me).is_none());
    }
}
