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
    /// The task itself may read it.
    pub readable: bool,
    /// May have pages at all.
    pub populated: bool,
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
    /// Ranges of guard pages, ascending.
    pub guards: Vec<(u64, u64)>,
}

/// Turns ranges of existing pages into a [`Selection`].
#[derive(Debug)]
pub struct Selector<'a> {
    areas: std::iter::Peekable<std::slice::Iter<'a, Area>>,
    out: Selection,
}

impl<'a> Selector<'a> {
    /// For an address space of these areas, ascending.
    pub fn new(areas: &'a [Area]) -> Self {
        Self { areas: areas.iter().peekable(), out: Selection::default() }
    }

    /// A range of guard pages; behind all ranges before.
    pub fn guard(&mut self, start: u64, end: u64) {
        match self.out.guards.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => self.out.guards.push((start, end)),
        }
    }

    /// A range of pages that exist and belong to the task; behind all ranges before.
    pub fn pages(&mut self, start: u64, end: u64) {
        while let Some(&&area) = self.areas.peek() {
            if area.start >= end {
                return;
            }
            if let Content::Private { lazy } = area.content {
                let (from, to) = (start.max(area.start), end.min(area.end));
                if from < to {
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
            readable: true,
            populated: true,
        }
    }

    fn select(areas: &[Area], ranges: &[(u64, u64)]) -> Vec<(u64, u64, bool)> {
        let mut s = Selector::new(areas);
        for (start, end) in ranges {
            s.pages(start * PAGE_SIZE, end * PAGE_SIZE);
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
}
