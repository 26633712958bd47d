// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Restores where the kernel lacks what they use elsewhere.
use crate::support::{Criu, LIMIT, Sandbox, dump, restore, subject, tool};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const CLONE3: u32 = 435;

/// Without `clone3` numbers are chosen by `ns_last_pid`, those of processes and those of threads,
/// also while others take numbers all the time.
#[test]
fn numbers_are_chosen_without_clone3() {
    if Criu::ours_is_stock() {
        return crate::support::skip("fallbacks", "they are ours");
    }
    for name in ["tree", "threads", "zombies", "crowd"] {
        for flavour in ["", "pid,mnt,uts,ipc", "user,pid,mnt,uts,ipc"] {
            restored_without(name, flavour, CLONE3);
        }
    }
}

fn restored_without(name: &str, flavour: &str, nr: u32) {
    let sandbox = Sandbox::new(&format!("without-{nr}-{name}"));
    let dir = sandbox.dir().display().to_string();
    if flavour.is_empty() {
        sandbox.start(&subject(name), &[&dir]);
    } else {
        sandbox.start_in(flavour, &subject(name), &[&dir]);
    }
    let heard = sandbox.hear(&["ready", "bad"], LIMIT).expect("ready");
    let said = heard.strip_prefix("ready ").expect("ready").to_owned();
    let pid = if flavour.is_empty() { said } else { sandbox.root_pid().expect("root.pid") };
    let images = sandbox.path("images");
    fs::create_dir(&images).expect("images");
    let root = sandbox.path("root").display().to_string();
    dump(&sandbox, &Criu::ours(), &pid, &images, &[]).expect("dump");
    sandbox.empty().expect("dumped");

    let path = sandbox.path("criu");
    let (refuse, ours) = (tool("refuse"), Criu::ours().path);
    let script = format!("#!/bin/sh\nexec {} {nr} {} \"$@\"\n", refuse.display(), ours.display());
    fs::write(&path, script).expect("script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    let criu = Criu { name: "ours", path };
    let args: &[&str] = if flavour.is_empty() { &[] } else { &["--root", &root] };
    // Takes numbers, in the tree's namespace when that is ours.
    sandbox.shell("(while [ ! -e go ]; do /bin/true; done) >/dev/null 2>&1 & echo $! >busy");
    let restored = restore(&sandbox, &criu, &images, args);
    sandbox.shell("kill $(cat busy)");
    restored.unwrap_or_else(|e| panic!("{name} in {flavour:?}: {e}"));
    let log = fs::read_to_string(images.join("restore.log")).expect("log");
    assert!(log.contains("ns_last_pid"), "{log}");
    sandbox.finish();
}
