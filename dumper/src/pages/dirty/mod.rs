//! Which pages changed since the parent images: what makes a dump incremental.
//!
//! ```text
//! pre-dump 1    tracks and protects, saves all      ── generation A ──┐
//!   (the tree runs; the holder keeps the userfaultfds)                │
//! pre-dump 2    parent is A: saves what was written ── generation B ──┤
//! dump          parent is B: saves what was written                   ┘
//! ```
//!
//! A page is left to the parent images only if all of this holds: the kernel was told to watch
//! its mapping when the parent images were made, and watches it still (a mapping that was moved,
//! made anew or inherited by fork is not); it was not written since; and the parent images have
//! it. Every other page that exists is saved. A page that does not exist has no entry, whatever
//! the parent has: so what was unmapped or dropped does not come back.
//!
//! Tracked is private anonymous memory. Shared memory changes by ways that the page tables of one
//! task do not tell (other tasks, `write(2)`), huge pages and private mappings of files are few:
//! they are saved whole. So are all pages of a task with AIO rings: requests that are under way
//! write to memory behind the page tables' back.

mod holder;
mod probe;
mod task;

pub use probe::tracking;
pub use task::{Since, Way};

use crate::pages::server::{self, Server};
use crate::tree::Tree;
use crate::{Error, Leave, Request};
use holder::{Holder, Id, Known};
use images::pages::{Chain, Origin, PageSet};
use images::proto::InventoryEntry;
use images::{Dir, Image};
use parasite::Frozen;
use parasite::proc::Stat;
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::time::Instant;

/// How the kernel tells which pages were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// A bit of each page that `/proc/PID/clear_refs` clears.
    SoftDirty,
    /// Asynchronous write-protection by userfaultfd.
    WriteProtect,
}

/// Ranges of memory, ascending, apart from each other.
pub type Ranges = Vec<(u64, u64)>;

/// What a dump knows of changes, and what it leaves for the next one.
#[derive(Debug, Default)]
pub struct Dirty {
    /// Changes are tracked for the next dump.
    way: Option<Tracking>,
    pre_dump: bool,
    holder: Option<Holder>,
    /// Tasks that the last dump left tracked.
    known: Known,
    /// What the parent images have of each task, by virtual pid. Empty if they are not what
    /// `known` is relative to.
    covered: HashMap<u32, Ranges>,
    /// Tasks that are tracked from now on.
    kept: HashSet<Id>,
}

impl Dirty {
    /// Links `dir` to its parent, and finds what is known of the tree. The tree runs.
    pub fn prepare(
        request: &Request,
        dir: &Dir,
        pre_dump: bool,
        to: Option<&Server>,
    ) -> Result<Self, Error> {
        link_parent(request, dir)?;
        let arm = pre_dump || (request.track_mem && request.leave != Leave::Dead);
        let way = if pre_dump || request.track_mem { Some(available()?) } else { None };
        let mut new = Self { way: way.filter(|_| arm), pre_dump, ..Self::default() };
        // A tree that is not there is told of by whoever freezes it.
        let Ok(stat) = Stat::read(request.pid) else { return Ok(new) };
        let root = (request.pid, stat.start_time);
        match new.look_back(root, dir, to) {
            Ok(()) => {}
            Err(e) => log::warn!("what changed since the parent images is not known: {e}"),
        }
        if arm && new.holder.is_none() {
            match Holder::start(root) {
                Ok(holder) => new.holder = Some(holder),
                Err(e) => {
                    log::warn!("changes of memory are not tracked: {e}");
                    new.way = None;
                }
            }
        }
        Ok(new)
    }

    /// Finds what the last dump of this tree left.
    fn look_back(&mut self, root: Id, dir: &Dir, to: Option<&Server>) -> std::io::Result<()> {
        self.holder = Holder::find(root)?;
        let mut generation = String::new();
        if let Some(holder) = &self.holder {
            match holder.ask() {
                Ok((g, known)) => (generation, self.known) = (g, known),
                Err(e) => {
                    self.holder = None;
                    return Err(e);
                }
            }
        }
        let other = std::io::Error::other::<images::Error>;
        let Some(parent) = dir.parent().map_err(other)? else { return Ok(()) };
        let entry: InventoryEntry =
            parent.reader(Image::Inventory).and_then(|mut r| r.read_one()).map_err(other)?;
        let parent_is = entry.dump_criu_run_id.unwrap_or_default();
        if generation.is_empty() {
            log::warn!("changes since {} were not tracked: all is saved", parent.path().display());
        } else if generation != parent_is {
            let path = parent.path().display();
            log::warn!("{path} is not the last dump of these tasks: all is saved");
        } else {
            self.covered = covered(dir, &parent, to).map_err(other)?;
        }
        Ok(())
    }

    /// Makes ready to track: once all tasks hold still, before their memory is looked at.
    pub fn enter(&mut self, frozen: &mut Frozen, tree: &Tree, deadline: Option<Instant>) {
        let Some(way) = self.way else { return };
        // From here on protection changes: what the holder has is worth nothing.
        if let Some(Err(e)) = self.holder.as_ref().map(Holder::forget) {
            log::warn!("changes of memory are not tracked: {e}");
            self.way = None;
            return;
        }
        for (task, process) in tree.tasks.iter().zip(&mut frozen.processes) {
            if task.is_zombie() {
                continue;
            }
            let id = (task.pid, task.stat.start_time);
            if way == Tracking::SoftDirty {
                self.known.entry(id).or_insert(None);
                self.kept.insert(id);
                continue;
            }
            let alive = |fd: &Option<_>| fd.as_ref().is_some_and(task::is_alive);
            if !self.known.get(&id).is_some_and(alive) {
                process.start_stack = task.stat.start_stack;
                match task::make_uffd(process, deadline) {
                    Ok(fd) => drop(self.known.insert(id, Some(fd))),
                    Err(e) => {
                        log::warn!("task {}: its changes are not tracked: {e}", task.pid);
                        self.known.remove(&id);
                        continue;
                    }
                }
            }
            self.kept.insert(id);
        }
    }

    /// What is known of one task.
    pub fn since(&self, task: &crate::tree::Task) -> Since<'_> {
        const NONE: &Ranges = &Ranges::new();
        let id = (task.pid, task.stat.start_time);
        let way = self.known.get(&id).map(|fd| match fd {
            Some(fd) => Way::WriteProtect(fd.as_fd()),
            None => Way::SoftDirty,
        });
        Since {
            way,
            covered: self.covered.get(&(task.vpid as u32)).unwrap_or(NONE),
            arm: self.way.is_some() && self.kept.contains(&id),
            only_tracked: self.pre_dump,
        }
    }

    /// These pages (pid, first address, address behind) are not as the images have them: they
    /// count as written. Most are gone, and nobody will ask.
    pub fn written(&mut self, pages: &[(i32, u64, u64)]) {
        for (pid, start, end) in pages {
            let Some((&id, fd)) = self.known.iter().find(|(id, _)| id.0 == *pid) else { continue };
            match fd {
                Some(fd) => task::unprotect(fd, *start, *end),
                // There is no such bit for one page.
                None => drop(self.kept.remove(&id)),
            }
        }
    }

    /// The images of `generation` are complete: what is known is relative to them.
    pub fn keep(mut self, generation: &str) {
        let (Some(_), Some(holder)) = (self.way, &self.holder) else { return };
        let kept = std::mem::take(&mut self.kept);
        self.known.retain(|id, _| kept.contains(id));
        if let Err(e) = holder.keep(generation, &self.known) {
            log::warn!("changes of memory are not tracked: {e}");
        }
    }
}

/// Makes the link to the directory of the previous dump.
fn link_parent(request: &Request, dir: &Dir) -> Result<(), Error> {
    let Some(previous) = &request.prev_images_dir else { return Ok(()) };
    if previous.is_absolute() {
        log::warn!("--prev-images-dir {} is absolute: images may not be moved", previous.display());
    }
    dir.set_parent(previous)?;
    match dir.parent()? {
        None => Err(Error::Refused(format!(
            "--prev-images-dir {}: no such directory below {}",
            previous.display(),
            dir.path().display()
        ))),
        Some(parent) if parent.identity()? == dir.identity()? => {
            Err(Error::Refused("--prev-images-dir is the images directory itself".into()))
        }
        Some(_) => Ok(()),
    }
}

fn available() -> Result<Tracking, Error> {
    tracking().map_err(|why| {
        log::warn!("{why}");
        let text = "Tracking memory is not available. Consider omitting --track-mem option.";
        Error::Refused(text.into())
    })
}

/// What the images of `parent` have of each task, here or at the page server.
fn covered(dir: &Dir, parent: &Dir, to: Option<&Server>) -> images::Result<HashMap<u32, Ranges>> {
    let sent = server::recorded(parent)?;
    let Some(to) = to else {
        if sent.is_some() {
            log::warn!("{}: its pages are at a page server: all is saved", parent.path().display());
            return Ok(HashMap::new());
        }
        return covered_here(dir, parent);
    };
    let all = sent.map_or_else(|| covered_here(dir, parent), Ok)?;
    let mut covered = HashMap::new();
    for (vpid, ranges) in all {
        if to.has_parent(vpid)? {
            covered.insert(vpid, ranges);
        } else {
            log::warn!("task {vpid}: the page server has no parent images of it: all is saved");
        }
    }
    Ok(covered)
}

fn covered_here(dir: &Dir, parent: &Dir) -> images::Result<HashMap<u32, Ranges>> {
    let chain = Chain::open(parent)?;
    if Chain::open(dir)?.layers().len() != chain.layers().len() + 1 {
        return Ok(HashMap::new());
    }
    let mut covered = HashMap::new();
    for image in parent.images()? {
        let Image::Pagemap(vpid) = image else { continue };
        let Ok(vpid) = u32::try_from(vpid) else { continue };
        let Some(source) = chain.load(PageSet::Task(vpid))? else { continue };
        let mut ranges = Ranges::new();
        for s in source.segments().iter().filter(|s| matches!(s.origin, Origin::File { .. })) {
            match ranges.last_mut() {
                Some(last) if last.1 == s.vaddr => last.1 = s.end(),
                _ => ranges.push((s.vaddr, s.end())),
            }
        }
        covered.insert(vpid, ranges);
    }
    Ok(covered)
}
