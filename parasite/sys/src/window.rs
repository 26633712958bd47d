//! A window on a part of a file in memory.

use crate::uffd::Filler;
use crate::{Error, Result};
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Linux 5.14.
const MADV_POPULATE_WRITE: i32 = 23;

/// A part of a file, mapped: to get its pages, and to fill them in place.
#[derive(Debug)]
pub struct Window {
    base: *mut u8,
    len: u64,
}

// SAFETY: the mapping belongs to the process, not to a thread; through `&Window` nobody reads or
// writes it, and what the kernel does to its pages it does under its own locks.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

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
        Ok(Self { base: base.cast(), len })
    }

    /// Makes the pages of a part, offsets from the beginning of the window, present and filled:
    /// with zeroes if they had no contents. `false` if not all can be, be it that the kernel does
    /// not know how (before 5.14).
    pub fn populate(&self, part: Range<u64>) -> bool {
        if part.start > part.end || part.end > self.len {
            return false;
        }
        let at = self.base.wrapping_byte_add(part.start as usize).cast();
        // SAFETY: within this window's mapping. Pages are made, and none that is there is changed;
        // what the file cannot give is an error, not a signal.
        unsafe { libc::madvise(at, (part.end - part.start) as usize, MADV_POPULATE_WRITE) == 0 }
    }

    /// Makes all of it present, filled with zeroes, where the file has no page yet: by `filler`, or
    /// else as [`Window::populate`] does.
    pub fn fill(&self, filler: Option<&Filler>) -> bool {
        let filled = filler.is_some_and(|f| f.fill(self.base as u64, self.len).is_ok());
        filled || self.populate(0..self.len)
    }

    /// Cuts it into panes of `len` bytes, which can be filled side by side; the last may be shorter.
    /// The mapping goes with the last of them.
    pub fn cut(self, len: u64) -> Vec<Pane> {
        let window = Arc::new(self);
        let starts = (0..window.len).step_by(len.max(1) as usize);
        let pane = |start: u64| Pane {
            at: window.base.wrapping_byte_add(start as usize),
            len: len.min(window.len - start) as usize,
            _window: Arc::clone(&window),
        };
        starts.map(pane).collect()
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, to which nothing else refers.
        unsafe { libc::munmap(self.base.cast(), self.len as usize) };
    }
}

/// A part of a [`Window`], whose contents can be written.
#[derive(Debug)]
pub struct Pane {
    at: *mut u8,
    len: usize,
    _window: Arc<Window>,
}

// SAFETY: a pane owns its bytes of the mapping, which belongs to the process; no other pane has any
// of them.
unsafe impl Send for Pane {}

impl Pane {
    /// Its bytes. The file must belong to this process alone, and must not be made shorter while
    /// they are used: an access behind its end is a SIGBUS.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: within the mapping, which lives as long as `_window`; no other pane has these
        // bytes, and this one is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileExt, MetadataExt};

    fn file(len: u64) -> File {
        let path = format!("/dev/shm/amber-window-{}-{len}", std::process::id());
        let mut open = File::options();
        let file = open.read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(len).unwrap();
        file
    }

    #[test]
    fn gets_pages_and_leaves_contents() {
        let file = file(64 << 10);
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

    #[test]
    fn is_filled_where_there_is_nothing() {
        let file = file(96 << 10);
        let filler = Filler::new().ok();
        let blocks = || file.metadata().unwrap().blocks() * 512;
        let window = Window::new(&file, 0, 32 << 10).unwrap();
        assert!(window.fill(filler.as_ref()));
        assert_eq!(blocks(), 32 << 10);
        // Nobody waits for anybody, were a page missing again.
        punch(&file, 4096);
        assert_eq!(window.cut(32 << 10)[0].bytes(), &[0; 32 << 10]);
        // With a page there already, which stays.
        file.write_all_at(b"there", 40 << 10).unwrap();
        for filler in [filler.as_ref(), None] {
            let window = Window::new(&file, 32 << 10, 32 << 10).unwrap();
            assert!(window.fill(filler));
            assert_eq!(&window.cut(32 << 10)[0].bytes()[8 << 10..][..5], b"there");
        }
        assert_eq!(blocks(), 64 << 10);
        let beyond = Window::new(&file, 64 << 10, 64 << 10).unwrap();
        assert!(!beyond.fill(filler.as_ref()), "more than the file");
    }

    /// Takes the first page away.
    fn punch(file: &File, len: i64) {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, len) }, 0);
    }

    #[test]
    fn panes_are_filled_side_by_side() {
        let file = file(80 << 10);
        let mut panes = Window::new(&file, 8 << 10, 72 << 10).unwrap().cut(32 << 10);
        assert_eq!(
            panes.iter_mut().map(|p| p.bytes().len() >> 10).collect::<Vec<_>>(),
            [32, 32, 8]
        );
        std::thread::scope(|scope| {
            for (n, pane) in panes.iter_mut().enumerate() {
                scope.spawn(move || pane.bytes().fill(n as u8 + 1));
            }
        });
        // The mapping outlives all panes but one.
        let mut last = panes.pop().unwrap();
        drop(panes);
        last.bytes()[0] = 9;
        let mut byte = [0; 4];
        for (n, at) in [7, 8, 40, 72].into_iter().enumerate() {
            file.read_exact_at(&mut byte[n..=n], at << 10).unwrap();
        }
        assert_eq!(byte, [0, 1, 2, 9]);
    }
}
