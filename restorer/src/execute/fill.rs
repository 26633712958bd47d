//! Memory from compressed images, filled in from outside while the tasks wait in the blob: all
//! frames of all tasks, by several threads, each decompressing into the cache of its processor.

use crate::Error;
use crate::execute::progress::Memory;
use crate::mm::fill::contents;
use crate::ns::pid::Pids;
use crate::plan::Plan;
use images::pages::{Decoder, Frames, PAGE_SIZE, PagesFile};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Parts that go into one call.
const MAX_PARTS: usize = 1024;

/// A frame and where its pages go.
struct Job<'a> {
    vpid: u32,
    pid: i32,
    file: &'a PagesFile,
    frames: &'a Frames,
    frame: usize,
    parts: Vec<Part>,
}

/// Address, first byte in the frame, length.
type Part = (u64, usize, usize);

/// Fills the memory of all tasks, and tells how far it is.
pub(super) fn fill(
    plan: &Plan<'_>,
    pids: &Pids,
    filled: &AtomicU32,
    memory: &mut Memory<'_>,
) -> Result<(), Error> {
    let jobs = jobs(plan, pids)?;
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let error = Mutex::new(None);
    let work = |look: &mut dyn FnMut()| {
        let (mut decoder, mut buf) = (Decoder::default(), Vec::new());
        while !failed.load(Ordering::Relaxed) {
            let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(e) = job.run(&mut decoder, &mut buf) {
                failed.store(true, Ordering::Relaxed);
                let mut slot = error.lock().unwrap_or_else(PoisonError::into_inner);
                slot.get_or_insert(e.of_task(job.vpid));
            }
            let bytes: u64 = job.parts.iter().map(|(_, _, len)| *len as u64).sum();
            filled.fetch_add((bytes / PAGE_SIZE) as u32, Ordering::Relaxed);
            look();
        }
    };
    // Everything is forked: there may be threads, as long as none is left.
    std::thread::scope(|scope| {
        for _ in 0..plan.helpers.min(jobs.len() as u64) {
            let _ = std::thread::Builder::new().spawn_scoped(scope, || work(&mut || ()));
        }
        work(&mut || memory.look());
    });
    error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn jobs<'a>(plan: &'a Plan<'_>, pids: &Pids) -> Result<Vec<Job<'a>>, Error> {
    let mut jobs = Vec::new();
    for (_, task, live) in plan.live() {
        let Some(space) = plan.spaces.get(&task.pid) else { continue };
        let pid = pids.real(task.pid)?;
        let mut of_task: BTreeMap<(usize, usize), Vec<Part>> = BTreeMap::new();
        for (file, offset, segment, _) in contents(live, space) {
            let Some(frames) = &live.pages.files()[file].frames else { continue };
            let (mut offset, mut at) = (offset, segment.vaddr);
            let mut n = frames.find(offset);
            while at < segment.end() {
                let Some(frame) = frames.frames().get(n) else { break };
                let from = offset - frame.start;
                let len = (u64::from(frame.size) - from).min(segment.end() - at);
                let part: Part = (at, from as usize, len as usize);
                of_task.entry((file, n)).or_default().push(part);
                (at, offset, n) = (at + len, offset + len, n + 1);
            }
        }
        for ((file, frame), parts) in of_task {
            let file = &live.pages.files()[file];
            let Some(frames) = &file.frames else { continue };
            jobs.push(Job { vpid: task.pid, pid, file, frames, frame, parts });
        }
    }
    Ok(jobs)
}

impl Job<'_> {
    fn run(&self, decoder: &mut Decoder, buf: &mut Vec<u8>) -> Result<(), Error> {
        buf.resize(self.frames.frames()[self.frame].size as usize, 0);
        self.frames.decode(self.file.open()?, self.frame, decoder, buf)?;
        for parts in self.parts.chunks(MAX_PARTS) {
            let bytes = |(at, from, len): &Part| (&buf[*from..from + len], *at);
            let parts: Vec<(&[u8], u64)> = parts.iter().map(bytes).collect();
            sys::vm::write_spans(self.pid, &parts)?;
        }
        Ok(())
    }
}
