// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What only somebody outside of a user namespace may set, of sockets inside.
use crate::Subject;
use crate::support::{Criu, Ended, LIMIT, Sandbox, dump, subject, tool, wait_for};
use std::path::{Path, PathBuf};

/// Makes all buffers as large as nobody inside may.
fn force(sandbox: &Sandbox) {
    let root = sandbox.root_pid().expect("root");
    sandbox.shell(&format!("{} {root} {}", tool("sk_force").display(), 16 << 20));
}

#[test]
fn buffers_that_were_forced_from_outside_come_back_in_a_user_namespace() {
    let forced = || Subject::new("sk_force").flavour("uns").meanwhile(force).rounds(2);
    forced().check();
    forced().args(&["poll"]).lost_by_stock("no room in its images").check();
}

/// Restores without CAP_NET_ADMIN in the first user namespace, as in a container; the log.
fn restore_with_less(sandbox: &Sandbox, images: &Path, more: &[&str]) -> (Ended, String) {
    let (dir, root) = (images.display().to_string(), sandbox.path("root").display().to_string());
    let criu = Criu::ours().path.display().to_string();
    let mut args = vec!["--bounding-set", "-net_admin", "--inh-caps", "-net_admin", &criu];
    args.extend(["restore", "-v4", "-o", "restore.log", "-D", &dir, "-d", "--root", &root]);
    args.extend(more);
    let ended = sandbox.run("/usr/bin/setpriv".as_ref(), &args, "restore.out");
    let log = std::fs::read_to_string(images.join("restore.log")).unwrap_or_default();
    (ended, log)
}

/// Such a tree, dumped.
fn dumped(sandbox: &Sandbox, args: &[&str]) -> PathBuf {
    let dir = sandbox.dir().to_str().expect("utf-8");
    sandbox.start_in("uns", &subject("sk_force"), &[&[dir], args].concat());
    wait_for(LIMIT, || sandbox.path("made").exists().then_some(())).expect("sockets");
    force(sandbox);
    sandbox.shell("touch done");
    let pid = sandbox.ready();
    let images = sandbox.make_images();
    dump(sandbox, &Criu::ours(), &pid, &images, &[]).expect("dump");
    images
}

#[test]
fn buffers_that_cannot_be_had_are_told() {
    let sandbox = Sandbox::new("sk_force");
    let images = dumped(&sandbox, &["empty", "none"]);
    let (ended, log) = restore_with_less(&sandbox, &images, &[]);
    assert!(ended.success(), "{ended:?}\n{log}");
    for what in ["send buffer is ", "receive buffer is ", "option 69 "] {
        let told = log.lines().filter(|l| l.contains("Warn") && l.contains(what)).count();
        assert!(told >= 4, "{what}: {told}\n{log}");
    }
}

/// What is queued in connections finds room all the same, and the settings stay.
#[test]
fn full_connections_need_no_right_outside() {
    const TCP: &str = "--tcp-established";
    const SETTINGS: &str = "cat /proc/sys/net/ipv4/tcp_rmem /proc/sys/net/ipv4/tcp_wmem";
    for family in ["4", "6"] {
        let sandbox = Sandbox::new("tcp_full");
        let pid = sandbox.start_subject("uns", "tcp_full", &[family, "mss", "more"]);
        let images = sandbox.make_images();
        dump(&sandbox, &Criu::ours(), &pid, &images, &[TCP]).expect("dump");
        let pidfile = sandbox.path("pidfile").display().to_string();
        let (ended, log) = restore_with_less(&sandbox, &images, &[TCP, "--pidfile", &pidfile]);
        assert!(ended.success() && log.contains("send buffer is "), "{ended:?}\n{log}");
        let inside = format!("nsenter -t $(cat {pidfile}) -n {SETTINGS}");
        assert_eq!(sandbox.shell(&inside), sandbox.shell(SETTINGS));
        sandbox.finish();
    }
}

#[test]
fn a_queue_that_finds_no_room_is_refused_by_the_limit_s_name() {
    let sandbox = Sandbox::new("sk_force");
    let images = dumped(&sandbox, &[]);
    let (ended, log) = restore_with_less(&sandbox, &images, &[]);
    assert!(ended.clean_failure(), "{ended:?}");
    let told = log.lines().any(|l| l.contains("Error") && l.contains("net.core.wmem_max counts"));
    assert!(told, "{log}");
    sandbox.empty().expect("nothing is left");
}
