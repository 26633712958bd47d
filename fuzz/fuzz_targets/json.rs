//! Any text, as `crit encode` reads it.
#![no_main]

use images::crit;

libfuzzer_sys::fuzz_target!(|json: &str| {
    if let Ok(image) = crit::encode(json) {
        crit::decode(&image, true).expect("what is encoded can be decoded");
    }
});
