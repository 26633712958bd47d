//! What the kernel tells about namespaces, groups and mappings: the first byte chooses the parser.
#![no_main]

use std::cell::OnceCell;

use dumper::{Request, parse};

thread_local! {
    static REQUEST: OnceCell<Request> = const { OnceCell::new() };
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [which, bytes @ ..] = input else { return };
    let text = String::from_utf8_lossy(bytes);
    match which % 10 {
        0 => drop(parse::ns::mountinfo(bytes)),
        1 => drop(parse::ns::sysvipc(&text)),
        2 => drop(parse::ns::id_map(&text)),
        3 => drop(parse::ns::time_offsets(&text)),
        4 => drop(parse::hierarchies(&text)),
        5 => drop(parse::memberships(&text)),
        6 => drop(parse::files::file_locks(bytes)),
        7 => drop(restorer::fuzz::maps(&text)),
        8 => drop(restorer::fuzz::cgroups(&text)),
        _ => REQUEST.with(|request| {
            let request = request.get_or_init(|| Request::new(1, "/dev/shm"));
            parse::ns::rtnetlink(bytes, request);
        }),
    }
});
