//! Any image, as `crit decode` reads it; what it shows has to encode again.
#![no_main]

use images::crit;

libfuzzer_sys::fuzz_target!(|image: &[u8]| {
    for pretty in [false, true] {
        let Ok(json) = crit::decode(image, pretty) else { return };
        // Messages without required fields are shown, but not written.
        let Ok(encoded) = crit::encode(&json) else { continue };
        // What is encoded once is encoded alike ever after.
        let again = crit::encode(&crit::decode(&encoded, pretty).unwrap()).unwrap();
        assert_eq!(encoded, again);
    }
});
