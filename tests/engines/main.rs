// SPDX-License-Identifier: Apache-2.0 OR MIT
//! podman, runc and crun with our `criu`: what their users do, in a room of its own each
//! (`scripts/podman-room`). `flows.sh` holds the flows.
//!
//! `CRIU_BIN` runs them with another `criu`, `AMBER_RUNTIME=crun` with another runtime.

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use support::{Criu, in_ci, skip};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn sh(script: &str, args: &[&Path]) {
    let done = Command::new("bash").args(["-euc", script, "bash"]).args(args).status();
    assert!(done.expect("bash").success(), "{script}");
}

/// The root file system of the containers: busybox and our server.
fn root_fs() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let make = || {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("engines");
        let source = Path::new(ROOT).join("tests/engines/counterd.c");
        let build = r#"
            rm -rf "$1/rootfs"; mkdir -p "$1"/rootfs/{bin,etc,proc,sys,dev,tmp,run,var}
            cc -O2 -Wall -static -o "$1/rootfs/bin/counterd" "$2"
            cp "$(command -v busybox)" "$1/rootfs/bin/busybox"
            for tool in sh cat ls rm sleep wc; do ln -s busybox "$1/rootfs/bin/$tool"; done
            echo root:x:0:0:root:/root:/bin/sh >"$1/rootfs/etc/passwd"
            echo root:x:0: >"$1/rootfs/etc/group"
            tar -C "$1/rootfs" -cf "$1/rootfs.tar" ."#;
        sh(build, &[&dir, &source]);
        dir.join("rootfs.tar")
    };
    MADE.get_or_init(make).clone()
}

fn flow(name: &str) {
    for tool in ["podman", "runc", "busybox", "curl"] {
        let there = Command::new("sh").args(["-c", &format!("command -v {tool}")]).output();
        if !there.expect("sh").status.success() {
            assert!(!in_ci(), "{tool} is not installed");
            return skip(name, &format!("{tool} is not installed"));
        }
    }
    let root_fs = root_fs();
    let room = tempfile::Builder::new().prefix("amber-room-").tempdir_in("/var/tmp").expect("room");
    let bin = room.path().join("bin");
    fs::create_dir(&bin).expect("bin");
    symlink(fs::canonicalize(Criu::ours().path).expect("criu"), bin.join("criu")).expect("link");
    let path = std::env::var("PATH").expect("PATH");
    let done = Command::new(Path::new(ROOT).join("scripts/podman-room"))
        .arg("bash")
        .arg(Path::new(ROOT).join("tests/engines/flows.sh"))
        .arg(&root_fs)
        .arg(name)
        .env("AMBER_ROOM", room.path())
        .env("PATH", format!("{}:{path}", bin.display()))
        .output()
        .expect("podman-room");
    let said =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{name}: {}\n{said}", done.status);
    if let Some(why) = said.lines().find_map(|l| l.strip_prefix("skip: ")) {
        skip(name, why);
    }
}

macro_rules! flows {
    ($($name:ident)*) => { $(#[test] fn $name() { flow(stringify!($name)); })* };
}

flows! {
    same_host just_closed replicas leave_running tcp_established tcp_close pre_checkpoint
    print_stats keep file_locks compress create_image root_fs_changes ignore_rootfs static_ip
    terminal several runc_alone crun_alone
}
