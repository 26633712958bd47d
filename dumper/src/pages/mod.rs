//! Contents of memory: `pagemap-PID`, `pagemap-shmem-ID` and the `pages-N` they describe.
//!
//! First all pagemaps are laid out, then all contents are moved ([`copy`]).

#[doc(hidden)]
pub mod bench;
mod copy;
pub mod dirty;
mod room;
pub mod scan;
pub mod select;
pub mod server;
mod shmem;

pub use copy::{Control, Lost};
pub use room::Room;
pub use server::Server;
pub use shmem::Shmem;

use crate::Stats;
use crate::mm::Mm;
use crate::task::cgroup_memory::Watch;
use copy::{Origin, Source};
use images::Dir;
use images::pages::{FrameWriter, LocalSink, PAGE_SIZE, PageFlags, PageImages, PageSet};
use images::proto::AmberFileEntry;
use select::Run;
use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// Why contents could not be saved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The page tables of a task.
    #[error("/proc/{pid}/pagemap: {source}")]
    Pagemap {
        /// In our pid namespace.
        pid: i32,
        /// Why.
        source: std::io::Error,
    },
    /// A page that exists and that nobody can read.
    #[error(
        "pid {pid}: page at {addr:#x} cannot be read: {source} \
         (kernels can be told to forbid it: proc_mem.force_override)"
    )]
    Unreadable {
        /// In our pid namespace.
        pid: i32,
        /// Where.
        addr: u64,
        /// Why.
        source: std::io::Error,
    },
    /// A shared segment.
    #[error("{name}: {source}")]
    Shmem {
        /// Which.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// An image.
    #[error(transparent)]
    Image(#[from] images::Error),
    /// Images in memory.
    #[error(
        "{name}: {left} bytes of memory are left to the control group of criu, whose processes would be \
         killed for it: write images to a disk, --compress them, or allow it more"
    )]
    Memory {
        /// The image.
        name: String,
        /// What the group may yet have.
        left: u64,
    },
    /// A system call.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// The page server cannot be reached.
    #[error("page server {server}: {source}")]
    Server {
        /// Where it should be.
        server: String,
        /// Why.
        source: std::io::Error,
    },
    /// Whoever asked for the dump is gone.
    #[error("stopped by whoever asked for it")]
    Stopped,
}

impl Error {
    /// An image had no space left, or no memory.
    fn is_full(&self) -> bool {
        match self {
            Self::Memory { .. } => true,
            Self::Image(images::Error::Io { source, .. }) => {
                matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
            }
            _ => false,
        }
    }
}

/// Writes the pages of all tasks and shared segments.
pub fn dump(
    mms: &[Mm],
    shmems: &[Shmem<'_>],
    dir: &Dir,
    control: Control<'_>,
    stats: &mut Stats,
) -> Result<(), Error> {
    let images = PageImages::new(dir.clone()).compressed(control.storing.compression);
    dump_to(&images, mms, shmems, control, stats)
}

/// Writes the pages of tasks that run on meanwhile; those that are gone are `lost`.
pub fn dump_live(
    mms: &[Mm],
    lost: &Lost,
    dir: &Dir,
    control: Control<'_>,
    stats: &mut Stats,
) -> Result<(), Error> {
    let images = PageImages::new(dir.clone()).compressed(control.storing.compression);
    let mut work = Work { images: &images, control, stats, sources: Vec::new() };
    mms.iter().try_for_each(|mm| work.add_task(mm, Some(lost)))?;
    work.finish()
}

/// As [`dump`], into `images`.
pub fn dump_to(
    images: &PageImages,
    mms: &[Mm],
    shmems: &[Shmem<'_>],
    control: Control<'_>,
    stats: &mut Stats,
) -> Result<(), Error> {
    let mut work = Work { images, control, stats, sources: Vec::new() };
    let segments = segments(shmems)?;
    for (shmem, (file, runs)) in shmems.iter().zip(&segments) {
        let pages = work.add(PageSet::Shmem(shmem.shmid), Origin::File(file), runs, &[])?;
        *work.stats.shpages_scanned.get_or_insert(0) += pages;
        *work.stats.shpages_written.get_or_insert(0) += pages;
    }
    mms.iter().try_for_each(|mm| work.add_task(mm, None))?;
    work.finish()
}

/// Images that are open at the same time.
const OPEN_IMAGES: usize = 256;

/// Contents whose way is planned and that have not been moved.
struct Work<'a> {
    images: &'a PageImages,
    control: Control<'a>,
    stats: &'a mut Stats,
    sources: Vec<Source<'a>>,
}

impl<'a> Work<'a> {
    fn add_task(&mut self, mm: &'a Mm, lost: Option<&'a Lost>) -> Result<(), Error> {
        let origin = Origin::Task { pid: mm.pid, mem: OnceLock::new(), lost };
        let set = PageSet::Task(mm.vpid as u32);
        let pages = self.add(set, origin, &mm.pages.runs, &mm.pages.parent)?;
        self.stats.pages_scanned += mm.mapped_pages();
        self.stats.pages_written += pages;
        let in_parent = mm.pages.parent.iter().map(|(start, end)| (end - start) / PAGE_SIZE);
        self.stats.pages_skipped_parent += in_parent.sum::<u64>();
        Ok(())
    }

    /// Writes the pagemap of `set` and plans the way of its contents; returns the number of
    /// pages. What is `in_parent` has no contents here.
    fn add(
        &mut self,
        set: PageSet,
        origin: Origin<'a>,
        runs: &'a [Run],
        in_parent: &[(u64, u64)],
    ) -> Result<u64, Error> {
        if let Some(server) = self.control.server {
            return self.send(server, set, (&origin, runs), in_parent);
        }
        let begin = Instant::now();
        let room = match origin {
            Origin::Task { pid, .. } => self.control.room.and_then(|room| room.take(pid)),
            Origin::File(_) => None,
        };
        let has_room = room.is_some();
        let panes = match origin {
            Origin::Task { pid, .. } if has_room => self.control.room.and_then(|r| r.panes(pid)),
            _ => None,
        };
        let mut sink: LocalSink = self.images.create_in(set, room)?;
        let mut pages = 0;
        let mut holes = in_parent.iter().peekable();
        let mut holes_before = |sink: &mut LocalSink, at| -> Result<(), Error> {
            while let Some((start, end)) = holes.next_if(|hole| hole.0 < at) {
                sink.push_hole(*start, (end - start) / PAGE_SIZE, PageFlags::PARENT)?;
            }
            Ok(())
        };
        for run in runs {
            holes_before(&mut sink, run.start)?;
            let flags = if run.lazy { PageFlags::LAZY } else { PageFlags::empty() };
            sink.reserve(run.start, run.pages, flags)?;
            pages += run.pages;
        }
        holes_before(&mut sink, u64::MAX)?;
        self.control.progress.expect(pages * PAGE_SIZE);
        let image = Arc::clone(sink.file());
        let name = sink.pages_name().to_owned();
        sink.close()?;
        let storing = self.control.storing;
        let frames = storing.compression.map(|c| {
            FrameWriter::new(Arc::clone(&image), name.clone(), c.codec, storing.budget as usize / 2)
        });
        self.sources.push(Source {
            origin,
            runs,
            image,
            name,
            has_room,
            panes,
            frames,
            hashes: Mutex::default(),
        });
        self.stats.memdump_time += micros(begin);
        if self.sources.len() >= OPEN_IMAGES {
            self.flush()?;
        }
        Ok(pages)
    }

    /// Hands a set to the page server.
    fn send(
        &mut self,
        server: &Server,
        set: PageSet,
        contents: (&Origin<'_>, &[Run]),
        in_parent: &[(u64, u64)],
    ) -> Result<u64, Error> {
        let begin = Instant::now();
        let pages: u64 = contents.1.iter().map(|run| run.pages).sum();
        self.control.progress.expect(pages * PAGE_SIZE);
        server.send(set, contents, in_parent, self.control)?;
        let mut ranges: Vec<_> = contents.1.iter().map(|run| (run.start, run.end())).collect();
        ranges.extend(in_parent);
        ranges.sort_unstable();
        server.record(self.images.dir(), set, &ranges)?;
        self.stats.memwrite_time += micros(begin);
        Ok(pages)
    }

    /// Everything is where it belongs then.
    fn finish(&mut self) -> Result<(), Error> {
        self.flush()?;
        Ok(self.control.server.map_or(Ok(()), Server::finish)?)
    }

    /// Gives back all room that was made before it was known what is needed, and what was written:
    /// `false` if there was no such room.
    fn give_room_back(&mut self) -> Result<bool, Error> {
        self.control.room.into_iter().for_each(Room::give_back);
        if !self.sources.iter().any(|s| s.has_room) {
            return Ok(false);
        }
        for source in &mut self.sources {
            (source.has_room, source.panes) = (false, None);
            source.image.set_len(0).map_err(|e| source.error("ftruncate", e))?;
            let pages: u64 = source.runs.iter().map(|r| r.pages).sum();
            self.control.progress.expect(pages * PAGE_SIZE);
        }
        Ok(true)
    }

    fn copy(&self) -> Result<(), Error> {
        copy::copy(&self.sources, self.control, Watch::over(self.images.dir()).as_ref())
    }

    fn flush(&mut self) -> Result<(), Error> {
        let begin = Instant::now();
        match self.copy() {
            Err(e) if e.is_full() && self.give_room_back()? => {
                log::debug!("{e}: once again, without room made before");
                self.copy()?;
            }
            copied => copied?,
        }
        for source in self.sources.drain(..) {
            let len: u64 = source.runs.iter().map(|r| r.pages * PAGE_SIZE).sum();
            let (size, chunk) = match source.frames {
                Some(frames) => (frames.finish()?, 0),
                None => (len, copy::PIECE as u32),
            };
            let hashes = source.hashes.into_inner().unwrap_or_default().concat();
            if let Some(files) = self.control.files {
                let entry = AmberFileEntry { name: source.name, size, chunk, hashes, stamp: None };
                files.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(entry);
            }
        }
        self.stats.memwrite_time += micros(begin);
        Ok(())
    }
}

fn micros(since: Instant) -> u32 {
    since.elapsed().as_micros().try_into().unwrap_or(u32::MAX)
}

fn segments(shmems: &[Shmem<'_>]) -> Result<Vec<(File, Vec<Run>)>, Error> {
    let one = |shmem: &Shmem<'_>| {
        let file = shmem.open()?;
        let runs = shmem.runs(&file)?;
        Ok((file, runs))
    };
    shmems.iter().map(one).collect()
}

#[cfg(test)]
mod tests;
