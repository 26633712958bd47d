//! Golden checkpoints, copied to where they may be damaged.
#![allow(dead_code, unreachable_pub, reason = "each test uses what it needs")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use images::pages::{PageFlags, PageSet, PagemapReader};
use images::{Dir, Image};
use prost::{Message, Name};

/// Directory of the golden checkpoints.
pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/images")
}

/// A copy of a golden checkpoint, removed when it is dropped.
#[derive(Debug)]
pub struct Copy {
    pub temp: tempfile::TempDir,
    pub dir: Dir,
}

/// Copies a golden checkpoint, and gives it pages images of zeroes where it has none.
pub fn copy(name: &str) -> Copy {
    let temp = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden().join(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), temp.path().join(entry.file_name())).unwrap();
    }
    let dir = Dir::open(temp.path()).unwrap();
    for image in dir.images().unwrap() {
        let set = match image {
            Image::Pagemap(pid) => PageSet::Task(pid as u32),
            Image::PagemapShmem(id) => PageSet::Shmem(id),
            _ => continue,
        };
        let mut pagemap = PagemapReader::open(&dir, set).unwrap().unwrap();
        let pages = Image::Pages(pagemap.pages_id());
        let mut len = 0;
        while let Some(range) = pagemap.read().unwrap() {
            len += if range.flags.contains(PageFlags::PRESENT) { range.len_bytes() } else { 0 };
        }
        if dir.open_raw(pages).unwrap().is_none() {
            dir.create_raw(pages).unwrap().set_len(len).unwrap();
        }
    }
    Copy { temp, dir }
}

impl Copy {
    /// Rewrites an image without payloads after changing its entries.
    pub fn change<M: Message + Name + Default>(&self, image: Image, f: impl FnOnce(&mut Vec<M>)) {
        let mut entries = self.dir.read_all(image).unwrap();
        f(&mut entries);
        let mut writer = self.dir.writer(image).unwrap();
        for entry in &entries {
            writer.write(entry).unwrap();
        }
        writer.finish().unwrap();
    }
}

/// Small deterministic generator (xorshift).
#[derive(Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n as u64) as usize
    }
}
