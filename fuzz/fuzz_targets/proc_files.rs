//! Texts of `/proc/PID` about files: the first byte chooses the parser.
#![no_main]

use dumper::parse::files;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [which, text @ ..] = input else { return };
    match which % 7 {
        0 => drop(files::Fdinfo::parse(text)),
        1 => drop(files::epoll(text)),
        2 => drop(files::inotify(text)),
        3 => drop(files::timerfd(text)),
        4 => drop(files::mountinfo(text)),
        5 => drop(files::fanotify(text)),
        _ => assert!(files::unescape(text).len() <= text.len()),
    }
});
