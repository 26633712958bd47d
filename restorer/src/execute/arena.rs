//! The one piece of a restored task's address space that is not from its image: code, steps,
//! data and stacks of the blob, in a hole that neither layout needs.

use crate::execute::stage;
use crate::facts::{Range, TASK_SIZE};
use crate::mm::{HELPER_STACK, Places};
use crate::script::Data;
use std::os::fd::BorrowedFd;
use sys::arena::Piece;

static BLOB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/restorer-blob.bin"));

/// Where things are within an arena. Only what is touched costs memory.
mod at {
    pub(super) const CODE: u64 = 0x1_0000;
    pub(super) const PARKING: u64 = 0x10_0000;
    pub(super) const HELPERS: u64 = 0x20_0000;
    pub(super) const LEADER: u64 = 0x40_0000;
    pub(super) const THREADS: u64 = 0x100_0000;
    pub(super) const DATA: u64 = 0x2000_0000;
    pub(super) const END: u64 = 0x6000_0000;
}

/// Most helper threads.
pub(crate) const MAX_HELPERS: u64 = 64;
const LEADER_STACK: u64 = 0x1_0000;
/// The blob's threads need a few hundred bytes, and no signal handler ever runs on them.
pub(crate) const THREAD_STACK: u64 = 2048;

/// Chooses a hole for an arena: the middle of the largest one, where no allocation of this
/// process will come near, with `len` more bytes from [`more`] on. `None` if no hole is large enough.
pub(crate) fn hole(occupied: impl Iterator<Item = Range>, len: u64) -> Option<Range> {
    const MARGIN: u64 = 64 << 20;
    const ALIGN: u64 = 2 << 20;
    // The vsyscall page lies in the kernel's half.
    let kernel = std::iter::once(TASK_SIZE..u64::MAX);
    let mut taken: Vec<Range> = occupied.chain(kernel).collect();
    taken.sort_by_key(|r| r.start);
    let mut best = 0..0;
    let mut free_from = 0x10_0000;
    for r in &taken {
        if r.start > free_from && r.start - free_from > best.end - best.start {
            best = free_from..r.start;
        }
        free_from = free_from.max(r.end);
    }
    let room = best.end - best.start;
    let len = at::END + len.next_multiple_of(4096);
    if room < len + 2 * MARGIN {
        return None;
    }
    let start = (best.start + (room - len) / 2) / ALIGN * ALIGN;
    Some(start..start + len)
}

/// Where the further room of an arena begins.
pub(crate) fn more(arena: &Range) -> u64 {
    arena.start + at::END
}

/// An arena whose blob can be started.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) entry: u64,
    pub(crate) stack_top: u64,
    pub(crate) header: u64,
}

/// An arena in the making.
#[derive(Debug)]
pub(crate) struct Arena {
    range: Range,
    data: Piece,
}

impl Arena {
    /// Maps everything; `threads` besides the leader.
    pub(crate) fn map(range: &Range, shared: BorrowedFd<'_>, threads: usize) -> sys::Result<Self> {
        let base = range.start;
        sys::arena::map_shared_at(base, stage::LEN, shared)?;
        let mut code = Piece::map(base + at::CODE, BLOB.len().next_multiple_of(4096))?;
        code.bytes()[..BLOB.len()].copy_from_slice(BLOB);
        code.seal_as_code()?;
        // Pieces stay mapped when they are dropped.
        Piece::map(base + at::LEADER, LEADER_STACK as usize)?;
        Piece::map(base + at::HELPERS, (MAX_HELPERS * HELPER_STACK) as usize)?;
        if threads > 0 {
            let len = (threads * THREAD_STACK as usize).next_multiple_of(4096);
            Piece::map(base + at::THREADS, len)?;
        }
        let data = Piece::map(base + at::DATA, (at::END - at::DATA) as usize)?;
        Ok(Self { range: range.clone(), data })
    }

    /// Address of the shared page.
    pub(crate) fn shared(&self) -> u64 {
        self.range.start
    }

    /// Lowest address of the stack of thread `index` (0: the first besides the leader).
    pub(crate) fn thread_stack(&self, index: usize) -> u64 {
        self.range.start + at::THREADS + index as u64 * THREAD_STACK
    }

    /// What memory steps have to know.
    pub(crate) fn places(&self, helpers: u64) -> Places {
        Places {
            arena: self.range.clone(),
            parking: self.range.start + at::PARKING,
            helper_stacks: self.range.start + at::HELPERS,
            helpers: helpers.min(MAX_HELPERS),
        }
    }

    /// Room for data.
    pub(crate) fn data(&mut self) -> Data<'_> {
        Data::new(self.data.addr(), self.data.bytes())
    }

    /// The blob can start, with a header that lies in the data.
    pub(crate) fn ready(self, header: u64) -> Ready {
        let base = self.range.start;
        Ready { entry: base + at::CODE, stack_top: base + at::LEADER + LEADER_STACK, header }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hole_lies_in_the_middle_of_the_largest_gap() {
        let taken = [0x40_0000..0x50_0000, 0x7f00_0000_0000..0x7f00_1000_0000];
        let hole = hole(taken.into_iter(), 0).expect("there is room");
        assert_eq!(hole.end - hole.start, at::END);
        let middle = (hole.start + hole.end) / 2;
        assert!((0x3f00_0000_0000..0x4000_0000_0000).contains(&middle), "{middle:#x}");
    }

    #[test]
    fn no_hole_in_a_full_address_space() {
        assert_eq!(hole(std::iter::once(0..TASK_SIZE), 0), None);
    }
}
