//! A golden checkpoint with some images replaced or damaged, planned as restore does it.
#![no_main]

use restorer::Request;

mod golden;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    golden::with_damaged(input, |dir| {
        let mut request = Request::new(dir.path());
        // So that the plan goes on.
        request.shell_job = true;
        request.tcp_established = true;
        _ = restorer::fuzz::plan(dir, &request);
    });
});
