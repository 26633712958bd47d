//! The way of pages from a task into an image, for `cargo bench`.

use super::copy::{self, Control, Origin, Source};
use super::select::Run;
use crate::stop::Stop;
use crate::{NoHooks, Storing};
use images::pages::{FrameWriter, PAGE_SIZE};
use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock};

/// Moves `len` bytes at `addr` of task `pid` into `image`, which is empty.
pub fn move_pages(pid: i32, addr: u64, len: u64, image: File, storing: Storing) {
    let run = Run { start: addr, pages: len / PAGE_SIZE, lazy: true, readable: true };
    let image = Arc::new(image);
    let frames = storing.compression.map(|how| {
        FrameWriter::new(Arc::clone(&image), "image".into(), how.codec, storing.budget as usize)
    });
    let source = Source {
        origin: Origin::Task { pid, mem: OnceLock::new(), lost: None },
        runs: &[run],
        image,
        name: "image".into(),
        has_room: false,
        panes: None,
        frames,
        hashes: Mutex::default(),
    };
    let files = Mutex::default();
    let stop = Stop::watching_parent();
    let control = Control {
        stop,
        progress: &NoHooks,
        room: None,
        server: None,
        storing,
        files: Some(&files),
    };
    let mut sources = [source];
    let done = copy::copy(&sources, control, None);
    let [source] = &mut sources;
    let finished = source.frames.take().map_or(Ok(0), FrameWriter::finish);
    assert!(done.is_ok() && finished.is_ok(), "{done:?} {finished:?}");
}
