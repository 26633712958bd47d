//! Which pages of an address space are saved. Pure.

use crate::mm::kind::Content;
use images::pages::PAGE_SIZE;

/// A VMA, as far as its pages are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First address.
    pub start: u64,
    /// Address behind the last byte.
    pub end: u64,
    /// Which of its pages are saved.
    pub content: Content,
    /// Pages there may be those of a file.
    pub file: bool,
    /// The task itself may read it.
    pub readable: bool,
    /// May have pages at all.
    pub populated: bool,
    /// Its changes can be tracked.
    pub trackable: bool,
    /// Its changes since the parent images are known.
    pub tracked: bool,
}

/// Pages side by side that are saved alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Address of the first page.
    pub start: u64,
    /// How many.
    pub pages: u64,
    /// They may be restored on demand.
    pub lazy: bool,
    /// The task itself may read them.
    pub readable: bool,
}

impl Run {
    /// Address behind the last page.
    pub fn end(self) -> u64 {
        self.start + self.pages * PAGE_SIZE
    }
}

/// What is saved of one address space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Pages, ascending.
    pub runs: Vec<Run>,
    /// Ranges of pages that are as the parent images have them, ascending.
    pub parent: Vec<(u64, u64)>,
    /// Ranges of guard pages, ascending.
    pub guards: Vec<(u64, u64)>,
}

/// Turns ranges of existing pages into a [`Selection`].
#[derive(Debug)]
pub struct Selector<'a> {
    areas: std::iter::Peekable<std::slice::Iter<'a, Area>>,
    /// What the parent images have; ranges behind the pages at hand.
    covered: &'a [(u64, u64)],
    out: Selection,
}

impl<'a> Selector<'a> {
    /// For an address space of these areas, ascending; `covered` is what the parent images have
    /// of it.
    pub fn new(areas: &'a [Area], covered: &'a [(u64, u64)]) -> Self {
        Self { areas: areas.iter().peekable(), covered, out: Selection::default() }
    }

    /// A range of guard pages; behind all ranges before.
    pub fn guard(&mut self, start: u64, end: u64) {
        match self.out.guards.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => self.out.guards.push((start, end)),
        }
    }

    /// A range of pages that exist and belong to the task; behind all ranges before. `clean`: they
    /// were not written since the kernel was told to watch them.
    pub fn pages(&mut self, start: u64, end: u64, clean: bool) {
        while let Some(&&area) = self.areas.peek() {
            if area.start >= end {
                return;
            }
            if let Content::Private { lazy } = area.content {
                let (from, to) = (start.max(area.start), end.min(area.end));
                if from < to && clean && area.tracked {
                    self.unchanged(from, to, lazy, area.readable);
                } else if from < to {
                    self.push(from, to, lazy, area.readable);
                }
            }
            if area.end > end {
                return;
            }
            self.leave(area);
        }
    }

    /// No page comes any more.
    pub fn finish(mut self) -> Selection {
        while let Some(&&area) = self.areas.peek() {
            self.leave(area);
        }
        self.out
    }

    fn leave(&mut self, area: Area) {
        if area.content == Content::All {
            self.push(area.start, area.end, false, area.readable);
        }
        self.areas.next();
    }

    /// Pages that were not written: the parent images have them, or they are saved.
    fn unchanged(&mut self, start: u64, end: u64, lazy: bool, readable: bool) {
        let mut at = start;
        while at < end {
            let behind = self.covered.iter().take_while(|c| c.1 <= at).count();
            self.covered = &self.covered[behind..];
            let (from, to) = self.covered.first().map_or((end, end), |c| (c.0, c.1));
            if from > at {
                let from = from.min(end);
                self.push(at, from, lazy, readable);
                at = from;
            } else {
                let to = to.min(end);
                match self.out.parent.last_mut() {
                    Some(last) if last.1 == at => last.1 = to,
                    _ => self.out.parent.push((at, to)),
                }
                at = to;
            }
        }
    }

    fn push(&mut self, start: u64, end: u64, lazy: bool, readable: bool) {
        let pages = (end - start) / PAGE_SIZE;
        match self.out.runs.last_mut() {
            Some(last) if last.end() == start && (last.lazy, last.readable) == (lazy, readable) => {
                last.pages += pages;
            }
            _ => self.out.runs.push(Run { start, pages, lazy, readable }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(start: u64, end: u64, content: Content) -> Area {
        Area {
            start: start * PAGE_SIZE,
            end: end * PAGE_SIZE,
            content,
            file: false,
            readable: true,
            populated: true,
            trackable: true,
            tracked: true,
        }
    }

    fn select(areas: &[Area], ranges: &[(u64, u64)]) -> Vec<(u64, u64, bool)> {
        let mut s = Selector::new(areas, &[]);
        for (start, end) in ranges {
            s.pages(start * PAGE_SIZE, end * PAGE_SIZE, true);
        }
        let runs = s.finish().runs;
        runs.iter().map(|r| (r.start / PAGE_SIZE, r.pages, r.lazy)).collect()
    }

    const LAZY: Content = Content::Private { lazy: true };
    const EAGER: Content = Content::Private { lazy: false };

    #[test]
    fn ranges_are_cut_where_areas_differ_and_joined_where_not() {
        let areas = [
            area(1, 4, LAZY),
            area(4, 6, LAZY),
            area(6, 8, EAGER),
            area(8, 9, Content::Nothing),
            area(9, 12, EAGER),
        ];
        let got = select(&areas, &[(2, 3), (3, 10), (11, 12)]);
        assert_eq!(got, [(2, 4, true), (6, 2, false), (9, 1, false), (11, 1, false)]);
    }

    #[test]
    fn areas_saved_whole_need_no_range() {
        let areas = [
            area(1, 3, Content::All),
            area(5, 7, Content::All),
            area(7, 9, LAZY),
            area(20, 22, Content::All),
        ];
        let got = select(&areas, &[(6, 8)]);
        assert_eq!(got, [(1, 2, false), (5, 2, false), (7, 1, true), (20, 2, false)]);
        assert_eq!(select(&areas, &[]).len(), 3);
    }

    #[test]
    fn many_ranges_in_one_area() {
        let areas = [area(0, 100, LAZY)];
        let got = select(&areas, &[(1, 2), (3, 4), (5, 6), (99, 100)]);
        assert_eq!(got, [(1, 1, true), (3, 1, true), (5, 1, true), (99, 1, true)]);
    }

    #[test]
    fn pages_that_are_as_before_and_in_the_parent_are_left_to_it() {
        let mut areas = [area(0, 20, LAZY), area(20, 30, LAZY)];
        areas[1].tracked = false;
        let pages = |n: u64| n * PAGE_SIZE;
        let covered = [(0, pages(3)), (pages(5), pages(6)), (pages(8), pages(25))];
        let mut s = Selector::new(&areas, &covered);
        s.pages(pages(1), pages(2), false);
        s.pages(pages(2), pages(10), true);
        s.pages(pages(12), pages(14), true);
        s.pages(pages(15), pages(22), true);
        let got = s.finish();
        let runs: Vec<_> = got.runs.iter().map(|r| (r.start / PAGE_SIZE, r.pages)).collect();
        let parent: Vec<_> =
            got.parent.iter().map(|r| (r.0 / PAGE_SIZE, r.1 / PAGE_SIZE)).collect();
        assert_eq!(parent, [(2, 3), (5, 6), (8, 10), (12, 14), (15, 20)]);
        assert_eq!(runs, [(1, 1), (3, 2), (6, 2), (20, 2)]);
    }
}
