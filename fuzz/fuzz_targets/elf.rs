//! ELF files of other people: build-ids and vDSOs.
#![no_main]

use std::io::Write;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drop(dumper::parse::files::build_id(bytes));
    let mut file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.write_all(bytes).unwrap();
    drop(restorer::fuzz::build_id(&file));
    let (half, _) = bytes.split_at(bytes.len() / 2);
    restorer::fuzz::vdso((bytes, 0x4000), (bytes, 0x6000));
    restorer::fuzz::vdso((half, 0x4000), (bytes, 0x4000));
});
