// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Namespaces that somebody else made, then as now: as container engines have them.

use crate::support::{Criu, LIMIT, Sandbox, directions, subject, tail, wait_for};
use std::path::Path;

/// A subject in a namespace that is bound to `/mnt/ns`, dumped as external, restored into another
/// one that is bound there meanwhile.
fn check(name: &'static str, make: &str, enter: &str, kind: &str) {
    let stock = Criu::stock();
    let mut failures = vec![];
    for (by, to) in directions(&Criu::ours(), stock.as_ref()) {
        if let Err(what) = one(name, (make, enter, kind), &by, &to) {
            failures.push(format!("=== {name} ({} -> {}): {what}", by.name, to.name));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn one(
    name: &'static str,
    (make, enter, kind): (&str, &str, &str),
    by: &Criu,
    to: &Criu,
) -> Result<(), String> {
    let sandbox = Sandbox::new(name);
    let dir = sandbox.dir().to_str().expect("utf-8");
    let bash = |script: &str, log: &str| sandbox.run(Path::new("/bin/bash"), &["-ec", script], log);
    sandbox.shell(&format!("mount -t tmpfs none /mnt; mkdir images; {make}"));
    let before = sandbox.pids();
    sandbox.start(
        Path::new("/bin/bash"),
        &["-c", &format!("exec {enter} {} {dir}", subject(name).display())],
    );
    let heard = sandbox.hear(&["ready", "bad"], LIMIT).ok_or("never got ready")?;
    if !heard.starts_with("ready") {
        return Err(heard);
    }
    // Its number outside: the newest.
    let pid = *sandbox.pids().last().expect("it runs");
    let criu = by.path.display();
    let ended = bash(
        &format!(
            "ino=$(stat -Lc %i /mnt/ns)
            {criu} dump -v4 -D images -o dump.log -t {pid} --external {kind}[$ino]:theKey"
        ),
        "dump.out",
    );
    let log = |name: &str| tail(&sandbox.path(&format!("images/{name}")), 20);
    if !ended.success() {
        return Err(format!("{ended:?} {}", log("dump.log")));
    }
    let gone = wait_for(LIMIT, || (sandbox.pids() == before).then_some(()));
    gone.ok_or("it is still there")?;
    if kind == "net" {
        sandbox.shell(&format!("umount /mnt/ns; {make}"));
    }
    let criu = to.path.display();
    let refused = bash(&format!("{criu} restore -v4 -D images -o refused.log -d"), "refused.out");
    if refused.success() {
        return Err("restored without the namespace".to_owned());
    }
    let ended = bash(
        &format!(
            "{criu} restore -v4 -D images -o restore.log -d --inherit-fd 'fd[9]:theKey' 9</mnt/ns"
        ),
        "restore.out",
    );
    if !ended.success() {
        return Err(format!("{ended:?} {}", log("restore.log")));
    }
    sandbox.go();
    match sandbox.hear(&["ok", "bad"], LIMIT) {
        Some(heard) if heard == "ok" => Ok(()),
        heard => Err(format!("{heard:?} {}", log("restore.log"))),
    }
}

#[test]
fn a_network_namespace_is_handed_over() {
    check(
        "inet",
        "touch /mnt/ns; unshare --net=/mnt/ns ip link set lo up",
        "nsenter --net=/mnt/ns",
        "net",
    );
}

#[test]
fn a_pid_namespace_is_handed_over() {
    check(
        "threads",
        "touch /mnt/ns; setsid unshare --pid=/mnt/ns --fork --mount-proc sleep 1000 \
            </dev/null >/dev/null 2>&1 & \
            until grep -q ' /mnt/ns ' /proc/self/mountinfo; do sleep 0.05; done",
        "nsenter --pid=/mnt/ns setsid",
        "pid",
    );
}
