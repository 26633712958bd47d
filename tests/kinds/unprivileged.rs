// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--unprivileged`: no root, CAP_CHECKPOINT_RESTORE is all that `criu` has.

use crate::support::{Criu, Ended, LIMIT, Sandbox, subject, tail};
use std::path::Path;

const USER: [&str; 5] = ["--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all", "--"];
const CRIU: [&str; 6] = [
    "--reuid=1000",
    "--regid=1000",
    "--clear-groups",
    "--inh-caps=-all,+checkpoint_restore",
    "--ambient-caps=-all,+checkpoint_restore",
    "--",
];

/// Runs `criu` as a user who owns nothing but the tree and the directory.
fn criu(sandbox: &Sandbox, by: &Criu, verb: &str, more: &[&str]) -> Ended {
    let images = sandbox.path("images");
    let (images, log) = (images.to_str().expect("utf-8"), format!("{verb}.log"));
    // Its own directory may be for root only.
    let bin = sandbox.path("criu");
    if by.name == "ours" && !bin.exists() {
        std::fs::copy(&by.path, &bin).expect("copy");
    }
    let bin = if by.name == "ours" { &*bin } else { &*by.path };
    let args = [verb, "--unprivileged", "--no-default-config", "-v4", "-o", &log, "-D", images];
    let all = [&CRIU[..], &[bin.to_str().expect("utf-8")], &args, more].concat();
    sandbox.run(Path::new("/usr/bin/setpriv"), &all, &format!("{verb}.out"))
}

fn logs(sandbox: &Sandbox, verb: &str) -> String {
    tail(&sandbox.path(&format!("images/{verb}.log")), 15)
        + &tail(&sandbox.path(&format!("{verb}.out")), 5)
}

fn start(sandbox: &Sandbox, name: &str) -> String {
    sandbox.shell("mkdir -m 777 images; for i in $(seq 50); do /bin/true; done");
    let program = subject(name);
    let dir = sandbox.dir().to_str().expect("utf-8");
    let args = [&USER[..], &[program.to_str().expect("utf-8"), dir]].concat();
    sandbox.start(Path::new("/usr/bin/setpriv"), &args);
    let heard = sandbox.hear(&["ready", "bad", "skip"], LIMIT).expect("ready");
    heard.strip_prefix("ready ").unwrap_or_else(|| panic!("{name}: {heard}")).to_owned()
}

fn comes_back(name: &str) {
    // Stock cannot restore here: it fails to drop a capability that nobody has.
    for by in [Some(Criu::ours()), Criu::stock()].into_iter().flatten() {
        let sandbox = Sandbox::new(name);
        let pid = start(&sandbox, name);
        let ended = criu(&sandbox, &by, "dump", &["-t", &pid]);
        if by.name == "stock" && !ended.success() {
            continue;
        }
        assert!(ended.success(), "{name} ({}): {ended:?} {}", by.name, logs(&sandbox, "dump"));
        sandbox.empty().expect("dumped");
        let ended = criu(&sandbox, &Criu::ours(), "restore", &["-d"]);
        assert!(ended.success(), "{name} ({}): {ended:?} {}", by.name, logs(&sandbox, "restore"));
        sandbox.go();
        let heard = sandbox.hear(&["ok", "bad"], LIMIT);
        assert_eq!(heard.as_deref(), Some("ok"), "{name}: {}", logs(&sandbox, "restore"));
        sandbox.empty().expect("ended");
    }
}

#[test]
fn trees_of_a_user_come_back() {
    let one = |name: &&&'static str| std::panic::catch_unwind(|| comes_back(name)).is_err();
    let failed: Vec<_> = SUBJECTS.iter().filter(one).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

const SUBJECTS: &[&str] = &[
    "bare",
    "pipe",
    "eventfd",
    "maps",
    "cow",
    "threads",
    "signals",
    "timers",
    "tree",
    "sessions",
    "unix_pair",
    "signalfd",
    "timerfd",
    "epoll",
    "reg_file",
    "fifo",
    "pty",
    "registers",
    "rseq",
    "stack",
    "guard",
    "stopped",
    "zombies",
    "shared_fds",
    "ghost",
    "inet",
    "env",
    "syscalls",
    "aio",
    "bulk",
];

/// Another user's tree is not for him.
#[test]
fn others_are_left_alone() {
    let sandbox = Sandbox::new("others");
    sandbox.shell("mkdir -m 777 images");
    let pid = sandbox.start_subject("", "pipe", &[]);
    let ended = criu(&sandbox, &Criu::ours(), "dump", &["-t", &pid]);
    assert!(ended.clean_failure(), "{ended:?}");
    sandbox.go();
    assert_eq!(sandbox.hear(&["ok", "bad"], LIMIT).as_deref(), Some("ok"));
}
