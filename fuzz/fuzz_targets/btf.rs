//! The kernel's description of its types.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for name in ["s", "vm_area_struct"] {
        if let Some(at) = dumper::parse::btf(bytes, name, "m") {
            assert!(at >= 0);
        }
    }
});
