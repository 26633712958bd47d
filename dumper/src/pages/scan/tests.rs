use super::*;
use crate::pages::select::Run;

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
    let area = Area {
        start: 0x1000,
        end: 0x9000,
        content: Content::Private { lazy: false },
        readable: true,
        populated: true,
        trackable: true,
        tracked: true,
    };
    let areas = [area];
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
    let area = Area {
        start: 0x1000,
        end: 0x9000,
        content: Content::Private { lazy: false },
        readable: true,
        populated: true,
        trackable: true,
        tracked: true,
    };
    let areas = [area];
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
