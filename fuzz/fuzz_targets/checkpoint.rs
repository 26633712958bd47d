//! A golden checkpoint with some images replaced or damaged, as restore loads it.
#![no_main]

use images::{Checkpoint, Options};

mod golden;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    golden::with_damaged(input, |dir| {
        _ = Checkpoint::load_with(dir, Options { deprecated: true });
    });
});
