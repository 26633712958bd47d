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
    };
    let areas = [area];
    let mut selector = Selector::new(&areas);
    entries(&window, 0x1000, Some(77), &mut selector);
    let selection = selector.finish();
    let run = |start, pages| Run { start, pages, lazy: false, readable: true };
    assert_eq!(selection.runs, [run(0x1000, 2), run(0x8000, 1)]);
    assert_eq!(selection.guards, [(0x6000, 0x8000)]);
    let mut selector = Selector::new(&areas);
    entries(&window, 0x1000, None, &mut selector);
    assert_eq!(selector.finish().runs.len(), 3, "without frame numbers zero pages are saved");
}
