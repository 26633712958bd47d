//! Puts descriptors to their final numbers when any of them may be in the way of another.

use std::collections::HashMap;
use std::os::fd::RawFd;

/// One step of bringing descriptors into place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// `dup3(from, to)`; `from` equal to `to` means that it is there already.
    Dup { from: RawFd, to: RawFd, cloexec: bool },
    /// `from` is in the way: copy it out of the range of final numbers. Later moves name the
    /// copy by `-1 - n`, with n the count of `Save`s before it.
    Save { from: RawFd },
}

/// Orders the wanted copies (`to`, `from`, close-on-exec; each `to` once) so that nothing is
/// overwritten that is needed later. Linear in their number.
pub(super) fn moves(wanted: &[(RawFd, RawFd, bool)]) -> Vec<Move> {
    let mut uses: HashMap<RawFd, usize> = HashMap::new();
    for (to, from, _) in wanted {
        if to != from {
            *uses.entry(*from).or_default() += 1;
        }
    }
    let mut out = Vec::with_capacity(wanted.len());
    let mut blocked: HashMap<RawFd, (RawFd, bool)> = HashMap::new();
    let mut ready: Vec<(RawFd, RawFd, bool)> = Vec::new();
    for &(to, from, cloexec) in wanted {
        if to == from {
            out.push(Move::Dup { from, to, cloexec });
        } else if uses.contains_key(&to) {
            blocked.insert(to, (from, cloexec));
        } else {
            ready.push((to, from, cloexec));
        }
    }
    // Ascending, as they are opened: most of the time this is the order that frees numbers.
    ready.reverse();
    let mut saved: HashMap<RawFd, RawFd> = HashMap::new();
    let mut cycles: Vec<RawFd> = Vec::new();
    loop {
        while let Some((to, from, cloexec)) = ready.pop() {
            let source = saved.get(&from).copied().unwrap_or(from);
            out.push(Move::Dup { from: source, to, cloexec });
            let left = uses.get_mut(&from).map_or(0, |n| {
                *n -= 1;
                *n
            });
            if left == 0
                && let Some((next, cloexec)) = blocked.remove(&from)
            {
                ready.push((from, next, cloexec));
            }
        }
        // What is left waits in circles: one member of each has to step aside.
        if cycles.is_empty() {
            cycles = blocked.keys().copied().collect();
            cycles.sort_unstable();
        }
        let Some(to) = cycles.pop() else { return out };
        if let Some((from, cloexec)) = blocked.remove(&to) {
            out.push(Move::Save { from: to });
            saved.insert(to, -1 - saved.len() as RawFd);
            ready.push((to, from, cloexec));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the moves on a table of letters.
    fn check(wanted: &[(RawFd, RawFd)]) {
        let all: Vec<_> = wanted.iter().map(|(t, f)| (*t, *f, false)).collect();
        let mut table: HashMap<RawFd, RawFd> = wanted.iter().map(|(_, f)| (*f, *f)).collect();
        let mut copies = Vec::new();
        for step in moves(&all) {
            match step {
                Move::Save { from } => copies.push(table[&from]),
                Move::Dup { from, to, .. } => {
                    let what = if from < 0 { copies[(-1 - from) as usize] } else { table[&from] };
                    table.insert(to, what);
                }
            }
        }
        for (to, from) in wanted {
            assert_eq!(table[to], *from, "{wanted:?}");
        }
    }

    #[test]
    fn nothing_is_overwritten_that_is_still_needed() {
        check(&[]);
        check(&[(3, 3)]);
        check(&[(0, 3), (1, 4), (2, 5), (3, 6), (4, 7)]);
        check(&[(5, 3), (6, 4), (7, 5), (8, 6)]);
        check(&[(3, 4), (4, 3)]);
        check(&[(3, 4), (4, 5), (5, 3), (9, 3), (10, 4)]);
        check(&[(3, 4), (4, 3), (6, 7), (7, 6), (0, 3), (1, 7)]);
        check(&[(3, 5), (4, 5), (5, 3)]);
        check(&[(3, 3), (4, 3), (5, 4)]);
    }

    #[test]
    fn a_source_that_stays_is_copied_too() {
        check(&[(3, 3), (7, 3), (2, 3)]);
    }
}
