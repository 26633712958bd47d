//! Room for images, made before the tree is frozen.
//!
//! In a directory in memory (tmpfs) the pages of an image cost more to get than to write: they are
//! got while the tasks still run. How many it will take is a guess; what is too much is given back,
//! and what is missing is got as it is written.

use crate::stop::Stop;
use images::Dir;
use images::pages::PAGE_SIZE;
use nix::fcntl::{FallocateFlags, fallocate};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::sync::Mutex;

/// Tasks with less memory of their own are not worth it.
const WORTH: u64 = 16 << 20;
/// What is made at a time.
const PIECE: u64 = 64 << 20;
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
        let mut free = available() / SPARE;
        for (pid, len) in tree(root) {
            if len < WORTH || len > free || stop.requested() {
                continue;
            }
            free -= len;
            let Some(file) = dir.create_in_memory() else { break };
            if allocate(&file, len).is_some() {
                lock(&room.files).insert(pid, file);
            }
        }
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

/// Makes `len` bytes of pages, without contents: those come in the freeze. Writing zeroes now, or
/// faulting pages in, which does that, costs half as much again and wins nothing (measured).
fn allocate(file: &File, len: u64) -> Option<()> {
    for at in (0..len).step_by(PIECE as usize) {
        let piece = PIECE.min(len - at).cast_signed();
        fallocate(file, FallocateFlags::empty(), at.cast_signed(), piece).ok()?;
    }
    Some(())
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
