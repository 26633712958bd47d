use super::*;
use crate::pages::select::Run;

const AREA: Area = Area {
    start: 0x1000,
    end: 0x9000,
    content: Content::Private { lazy: false },
    file: false,
    readable: true,
    populated: true,
    trackable: true,
    tracked: true,
};

fn bytes(entries: &[u64]) -> Vec<u8> {
    entries.iter().flat_map(|e| e.to_ne_bytes()).collect()
}

#[test]
fn entries_of_the_pagemap_file() {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const FILE: u64 = 1 << 61;
    // As read on 6.18.
    const GUARD: u64 = 0x4400_0000_0000_009f;
    let window = bytes(&[
        PRESENT | 1,
        SWAPPED | 2,
        0,
        PRESENT | 77,
        PRESENT | FILE | 5,
        GUARD,
        GUARD,
        PRESENT | 6,
    ]);
    let areas = [AREA];
    let mut selector = Selector::new(&areas, &[]);
    entries(&window, 0x1000, Judge::new(Some(77), &Since::NOTHING), &mut selector);
    let selection = selector.finish();
    let run = |start, pages| Run { start, pages, lazy: false, readable: true };
    assert_eq!(selection.runs, [run(0x1000, 2), run(0x8000, 1)]);
    assert_eq!(selection.guards, [(0x6000, 0x8000)]);
    let mut selector = Selector::new(&areas, &[]);
    entries(&window, 0x1000, Judge::new(None, &Since::NOTHING), &mut selector);
    assert_eq!(selector.finish().runs.len(), 3, "without frame numbers zero pages are saved");
}

#[test]
fn bits_of_the_pagemap_file_tell_what_was_not_written() {
    const PRESENT: u64 = 1 << 63;
    const SOFT_DIRTY: u64 = 1 << 55;
    const UFFD_WP: u64 = 1 << 57;
    let areas = [AREA];
    let covered = [(0x2000, 0x8000)];
    let null = File::open("/dev/null").unwrap();
    let parent = |way, window: &[u8]| {
        let since = Since { way: Some(way), covered: &covered, ..Since::NOTHING };
        let mut selector = Selector::new(&areas, &covered);
        entries(window, 0x1000, Judge::new(None, &since), &mut selector);
        let found = selector.finish();
        let saved: u64 = found.runs.iter().map(|r| r.pages).sum();
        (found.parent, saved)
    };
    let soft = bytes(&[PRESENT, PRESENT, PRESENT | SOFT_DIRTY, PRESENT, 0]);
    let want = (vec![(0x2000, 0x3000), (0x4000, 0x5000)], 2);
    assert_eq!(parent(Way::SoftDirty, &soft), want);
    let wp = bytes(&[PRESENT | UFFD_WP, PRESENT | UFFD_WP, PRESENT, PRESENT | UFFD_WP, 0]);
    assert_eq!(parent(Way::WriteProtect(null.as_fd()), &wp), want);
}

#[test]
fn areas_are_walked_together_where_that_costs_little() {
    const MIB: u64 = 1 << 20;
    let own = Content::Private { lazy: false };
    let area = |start: u64, end: u64, content, file| Area {
        start: start * MIB / 4,
        end: end * MIB / 4,
        content,
        file,
        readable: true,
        populated: true,
        trackable: false,
        tracked: false,
    };
    let found = |areas: &[Area]| {
        let all = stretches(areas);
        all.iter().map(|s| (s.start * 4 / MIB, s.end * 4 / MIB, s.look)).collect::<Vec<_>>()
    };
    // A small program.
    let mut areas = vec![
        area(0, 1, own, true),
        area(1, 2, own, false),
        area(4, 5, Content::Nothing, true),
        area(6, 7, Content::All, false),
    ];
    assert_eq!(found(&areas), [(0, 7, Look::Own)]);
    // Stacks of threads, with an area that cannot be touched below each.
    areas.extend([
        area(10, 50, own, false),
        area(50, 51, own, false),
        area(51, 91, own, false),
        area(91, 92, Content::Nothing, true),
        area(92, 110, own, false),
        area(110, 111, own, true),
        area(111, 112, own, false),
    ]);
    let known = [(0, 7, Look::Own), (10, 110, Look::All), (110, 112, Look::Own)];
    assert_eq!(found(&areas), known);
    // Much memory of files.
    areas.extend([
        area(120, 160, Content::Nothing, true),
        area(160, 161, own, false),
        area(170, 200, own, true),
        area(200, 240, Content::All, false),
    ]);
    let more = [(120, 160, Look::Guards), (160, 200, Look::Own), (200, 240, Look::Guards)];
    assert_eq!(found(&areas), [&known[..], &more].concat());
    assert_eq!(found(&[]), []);
}
