//! How much memory is filled, told while the stages go on in which tasks fill it.

use crate::Progress;
use crate::execute::stage::Board;
use crate::mm::fill::contents;
use crate::plan::Plan;
use images::checkpoint::Live;
use images::pages::{PAGE_SIZE, Segment};
use std::sync::atomic::Ordering;

/// Passes on what the tasks count on the board.
pub(super) struct Memory<'a> {
    board: &'a Board,
    progress: &'a dyn Progress,
    /// The board's count that was passed on last.
    seen: u32,
    /// Bytes that are not told yet.
    left: u64,
}

impl<'a> Memory<'a> {
    /// Nothing is filled yet.
    pub(super) fn new(plan: &Plan<'_>, board: &'a Board, progress: &'a dyn Progress) -> Self {
        let left = bytes(plan);
        progress.expect(left);
        Self { board, progress, seen: board.filled().load(Ordering::Relaxed), left }
    }

    /// Tells what is new.
    pub(super) fn look(&mut self) {
        let now = self.board.filled().load(Ordering::Relaxed);
        let pages = u64::from(now.wrapping_sub(self.seen));
        self.seen = now;
        self.tell(pages * PAGE_SIZE);
    }

    /// All is filled.
    pub(super) fn end(&mut self) {
        self.tell(self.left);
    }

    fn tell(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        if bytes > 0 {
            self.progress.done(bytes);
        }
    }
}

/// How much memory the tasks fill, or have filled from outside. A segment that is compared with a
/// parent's counts as if it were filled.
fn bytes(plan: &Plan<'_>) -> u64 {
    let len = |s: &Segment| s.end() - s.vaddr;
    let of_task = |live: &Live, pid: u32| -> u64 {
        let Some(space) = plan.spaces.get(&pid) else { return 0 };
        let own: u64 = contents(live, space).map(|(_, _, s, _)| len(&s)).sum();
        let early = space.premaps.iter().flat_map(|p| live.pages.within(p.start..p.end));
        own + early.map(|s| len(&s)).sum::<u64>()
    };
    let private: u64 = plan.live().map(|(_, task, live)| of_task(live, task.pid)).sum();
    let shared = plan.cp.shmem.values().flat_map(|s| s.pages.segments());
    private + shared.map(len).sum::<u64>()
}
