// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every kind of state, dumped and restored. One module per kind, one subject per test.

#[path = "../support/mod.rs"]
mod support;

use support::Subject;

mod again;
mod cgroup;
mod cgroup_failed;
mod eventfd;
mod eventpoll;
mod fallback;
mod fdinfo;
mod file_lock;
mod fsnotify;
mod incremental;
mod inet_sk;
mod kept;
mod lsm;
mod memfd;
mod memory;
mod mnt;
mod net;
mod ns;
mod ns_external;
mod ns_file;
mod packet_sock;
mod page_server;
mod pidfd;
mod pipe;
mod reg_file;
mod signalfd;
mod sk_opts;
mod task;
mod tcp_stream;
mod timerfd;
mod told;
mod tty;
mod tun;
mod unix_sk;
mod unprivileged;
mod verbs;

/// For `vm-tests`, whose guests have no compiler; and none is left that no test runs.
#[test]
fn every_subject_compiles() {
    for (folder, build) in [
        ("subjects", support::subject as fn(&str) -> std::path::PathBuf),
        ("support", support::tool),
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
        for entry in std::fs::read_dir(path).expect("sources") {
            let name = entry.expect("an entry").file_name().into_string().expect("utf-8");
            if let Some(name) = name.strip_suffix(".c") {
                build(name);
            }
        }
    }
}
