//! Texts of `/proc/PID` about a task: the first byte chooses the parser.
#![no_main]

use parasite::proc::{Stat, Status};

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [which, text @ ..] = input else { return };
    let words = String::from_utf8_lossy(text);
    match which % 6 {
        0 => drop(Stat::parse(text)),
        1 => {
            let status = Status::parse(text);
            assert!(status.comm().len() <= text.len());
        }
        2 => drop(dumper::parse::timers(&words)),
        3 => drop(dumper::parse::limits(&words)),
        4 => drop(dumper::parse::parse_auxv(text)),
        _ => drop(dumper::parse::cgroup(&words)),
    }
});
