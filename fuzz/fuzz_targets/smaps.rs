//! `/proc/PID/smaps`, and words of `/proc/PID/pagemap`.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    if let Ok(vmas) = dumper::parse::smaps(text) {
        assert!(vmas.iter().all(|vma| vma.start < vma.end));
        assert!(vmas.windows(2).all(|pair| pair[0].end <= pair[1].start));
    }
    for (start, end) in dumper::parse::pagemap(text, 0x7000_0000_0000) {
        assert!(start < end);
    }
});
