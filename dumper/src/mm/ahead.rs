//! The way around smaps, made ready while the tree runs.

use super::smaps::Vma;
use super::walker::{Unknown, Walker};
use images::pages::PAGE_SIZE;
use parasite::proc;
use std::thread::JoinHandle;
use std::time::Instant;

/// A tree with less memory than this is read by smaps sooner than the way around it is ready.
/// (Small tasks of a big one are read as soon by either.)
const TREE: u64 = 32 << 20;

/// Tells VMAs of the tasks of a big tree, if it can.
#[derive(Debug, Default)]
pub struct Ahead {
    thread: Option<JoinHandle<Result<Walker, Unknown>>>,
    walker: Option<Walker>,
}

impl Ahead {
    /// Begins to make it ready, beside what else is to be done, if the tree of `root` is worth it.
    pub fn start(root: i32) -> Self {
        if !is_worth(root) {
            return Self::default();
        }
        let make = || {
            let begun = Instant::now();
            let walker = Walker::prepare();
            log::debug!("Flags of VMAs were learned in {} us", begun.elapsed().as_micros());
            walker
        };
        // Without a thread there will be smaps.
        Self { thread: std::thread::Builder::new().spawn(make).ok(), walker: None }
    }

    /// Waits until it is ready: before the tree is held.
    pub fn join(&mut self) {
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Ok(walker))) => self.walker = Some(walker),
            Some(Ok(Err(e))) => log::debug!("VMAs are read from smaps: {e}"),
            Some(Err(_)) => log::debug!("VMAs are read from smaps"),
            None => {}
        }
    }

    /// VMAs of `pid` as smaps has them; `None` if smaps is to be read.
    pub fn vmas(&self, pid: i32) -> Option<Vec<Vma>> {
        match self.walker.as_ref()?.vmas(pid) {
            Ok(vmas) => Some(vmas),
            Err(e) => {
                log::debug!("pid {pid}: its VMAs are read from smaps: {e}");
                None
            }
        }
    }
}

/// `root` and its descendants have so much memory.
fn is_worth(root: i32) -> bool {
    let mut all = 0;
    proc::family(root).any(|pid| {
        all += proc::resident(pid).0 * PAGE_SIZE;
        all >= TREE
    })
}
