//! A window on a part of a file in memory.

use crate::{Error, Result};
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Linux 5.14.
const MADV_POPULATE_WRITE: i32 = 23;

/// A part of a file, mapped. Nobody reads or writes through it: it is there to get pages.
#[derive(Debug)]
pub struct Window {
    base: *mut libc::c_void,
    len: u64,
}

impl Window {
    /// On `len` bytes from `offset` on, which is a multiple of the page size.
    pub fn new(file: &File, offset: u64, len: u64) -> Result<Self> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let (fd, null) = (file.as_raw_fd(), std::ptr::null_mut());
        let at = offset.cast_signed();
        // SAFETY: new memory where the kernel likes it; nothing refers to it but `Window`.
        let base = unsafe { libc::mmap(null, len as usize, prot, libc::MAP_SHARED, fd, at) };
        if base == libc::MAP_FAILED {
            return Err(Error::last(format_args!("mmap({len}, MAP_SHARED, {offset:#x})")));
        }
        Ok(Self { base, len })
    }

    /// Makes the pages of a part, offsets from the beginning of the window, present and filled:
    /// with zeroes if they had no contents. `false` if not all can be, be it that the kernel does
    /// not know how (before 5.14).
    pub fn populate(&self, part: Range<u64>) -> bool {
        if part.start > part.end || part.end > self.len {
            return false;
        }
        let at = self.base.wrapping_byte_add(part.start as usize);
        // SAFETY: within this window's mapping. Pages are made, and none that is there is changed;
        // what the file cannot give is an error, not a signal.
        unsafe { libc::madvise(at, (part.end - part.start) as usize, MADV_POPULATE_WRITE) == 0 }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, to which nothing else refers.
        unsafe { libc::munmap(self.base, self.len as usize) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn gets_pages_and_leaves_contents() {
        let path = format!("/dev/shm/amber-window-{}", std::process::id());
        let mut open = File::options();
        let file = open.read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(64 << 10).unwrap();
        file.write_all_at(b"first", 16 << 10).unwrap();
        let window = Window::new(&file, 16 << 10, 32 << 10).unwrap();
        assert!(window.populate(0..8 << 10));
        assert_eq!(file.metadata().unwrap().blocks() * 512, 8 << 10);
        let mut word = [0; 5];
        file.read_exact_at(&mut word, 16 << 10).unwrap();
        assert_eq!(&word, b"first");
        assert!(!window.populate(0..64 << 10), "more than the window");
        let beyond = Window::new(&file, 32 << 10, 64 << 10).unwrap();
        assert!(!beyond.populate(0..64 << 10), "more than the file");
    }
}
