//! Which private memory children can have from their parents.
//!
//! Pages that parent and child have had in common since fork are one page in memory each. They
//! become so again when the parent fills its memory before it forks, and the child writes only
//! the pages that differ. Such memory is filled at a place within the arena, and moved to its
//! address in the blob.

use crate::mm;
use crate::plan::tree::{Role, Tree};
use images::checkpoint::{Checkpoint, Live};
use images::proto::VmaEntry;
use std::collections::{BTreeMap, BTreeSet};

/// Memory that is filled before the forks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Premap {
    /// Its final address.
    pub(crate) start: u64,
    /// Address behind its last byte.
    pub(crate) end: u64,
    /// Where it is filled; equal in parents and children.
    pub(crate) at: u64,
    /// `MAP_NORESERVE`.
    pub(crate) noreserve: bool,
    /// What is mapped, if it is a file: its id, the access mode, the offset.
    pub(crate) file: Option<(u32, u32, u64)>,
}

/// Start, end, flags and file of a VMA: memory of equal keys may be shared.
type Key = (u64, u64, u32, Option<(u32, u32, u64)>);

/// What each task fills early, by virtual pid; addresses relative to the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sharing {
    pub(crate) of: BTreeMap<u32, Vec<Premap>>,
    /// Room that all of them take.
    pub(crate) len: u64,
}

/// Bytes between two pieces, so that they never become one VMA.
const GAP: u64 = 4096;

fn key(vma: &VmaEntry) -> Key {
    let file = (vma.shmid as u32, mm::open_mode(vma), vma.pgoff);
    let is_file = mm::kind(vma) == Ok(mm::Kind::File);
    (vma.start, vma.end, vma.flags, is_file.then_some(file))
}

fn keys(live: &Live) -> BTreeSet<Key> {
    let filled = |v: &&VmaEntry| live.pages.within(v.start..v.end).next().is_some();
    live.mm.vmas.iter().filter(|v| mm::can_be_shared(v)).filter(filled).map(key).collect()
}

impl Sharing {
    /// Finds what can be shared between tasks and their children of the same program.
    pub(crate) fn new(cp: &Checkpoint, tree: &Tree) -> Self {
        let live = |i: usize| match tree.processes[i].role {
            Role::Live(t) => cp.tasks[t].live.as_ref(),
            _ => None,
        };
        let mut early: BTreeMap<u32, BTreeSet<Key>> = BTreeMap::new();
        let mut known: BTreeMap<usize, BTreeSet<Key>> = BTreeMap::new();
        for i in 0..tree.processes.len() {
            let (Some(child), Some(p)) = (live(i), forker(tree, i)) else { continue };
            let Some(parent) = live(p).filter(|p| p.mm.exe_file_id == child.mm.exe_file_id) else {
                continue;
            };
            let theirs = known.entry(p).or_insert_with(|| keys(parent)).clone();
            let mine = known.entry(i).or_insert_with(|| keys(child));
            let both: Vec<Key> = mine.intersection(&theirs).copied().collect();
            for index in [i, p] {
                early.entry(tree.processes[index].pid).or_default().extend(&both);
            }
        }
        Self::place(&early)
    }

    fn place(early: &BTreeMap<u32, BTreeSet<Key>>) -> Self {
        let mut places: BTreeMap<Key, u64> = BTreeMap::new();
        let mut len = 0;
        for key in early.values().flatten() {
            places.entry(*key).or_insert_with(|| {
                let at = len;
                len += key.1 - key.0 + GAP;
                at
            });
        }
        let premap = |k: &Key| Premap {
            start: k.0,
            end: k.1,
            at: places[k],
            noreserve: k.2 & libc::MAP_NORESERVE as u32 != 0,
            file: k.3,
        };
        let of = early.iter().map(|(pid, keys)| (*pid, keys.iter().map(premap).collect()));
        Self { of: of.collect(), len }
    }
}

/// The nearest process above that will run: memory comes from it, through helpers too.
fn forker(tree: &Tree, index: usize) -> Option<usize> {
    let mut at = tree.processes[index].parent?;
    while tree.processes[at].role == Role::Helper {
        at = tree.processes[at].parent?;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_of_all_tasks_have_one_place() {
        let one = (0x1000, 0x3000, 0x22, None);
        let two = (0x9000, 0xa000, 0x4022, Some((7, 0, 0)));
        let early = BTreeMap::from([(1, BTreeSet::from([one, two])), (2, BTreeSet::from([two]))]);
        let sharing = Sharing::place(&early);
        let parent = &sharing.of[&1];
        assert_eq!((parent[0].at, parent[1].at), (0, 0x3000));
        assert_eq!(sharing.of[&2], parent[1..]);
        assert!(parent[1].noreserve && !parent[0].noreserve);
        assert_eq!(sharing.len, 0x5000);
    }
}
