// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `criu restore` killed at any moment: all of the tree runs, or nothing is left of it.

use crate::crowd::{Crowd, Random, child_of, count};
use crate::support::{Criu, LIMIT, tail, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn a_killed_restore_leaves_nothing() {
    killed(|| Crowd::start("killed-restore"), &[]);
}

#[test]
fn a_killed_restore_leaves_no_namespace() {
    killed(|| Crowd::start_in("killed-ns-restore", "pid,mnt,uts,ipc,time"), &[]);
}

#[test]
fn a_killed_restore_of_a_sibling_leaves_nothing() {
    // As engines ask for it: the root is a child of the caller, who cannot watch over the rest.
    let start = || Crowd::start_in("killed-sibling", "pid,mnt,uts,ipc");
    killed(start, &["--restore-sibling"]);
}

#[test]
fn a_killed_restore_leaves_no_user_namespace() {
    killed(|| Crowd::start_in("killed-uns-restore", "user,pid,mnt,uts,ipc"), &[]);
}

fn killed(start: fn() -> Crowd, more: &[&str]) {
    if Criu::ours_is_stock() {
        return crate::support::skip("killed restore", "stock leaves tasks behind");
    }
    let crowd = start();
    let sandbox = &crowd.sandbox;
    let images = sandbox.path("images");
    fs::create_dir(&images).expect("images");
    let images = images.to_str().expect("utf-8").to_owned();
    let args = ["dump", "-v4", "-o", "dump.log", "-D", &images, "-t", &crowd.pid];
    let ended = sandbox.run(&Criu::ours().path, &args, "dump.out");
    assert!(ended.success(), "{ended:?} {}", tail(&Path::new(&images).join("dump.log"), 25));
    sandbox.empty().expect("dumped");
    fs::create_dir(sandbox.path("work")).expect("work");
    let files = all_files(sandbox.dir());

    let mounts = crowd.mounts();
    let root = sandbox.path("root");
    let mut restore =
        vec!["restore", "-v4", "-o", "restore.log", "-D", &images, "-W", "work", "-d"];
    restore.extend(more);
    if root.exists() {
        restore.extend(["--root", root.to_str().expect("utf-8")]);
    }
    let start = Instant::now();
    let ended = sandbox.run(&Criu::ours().path, &restore, "restore.out");
    let mut limit = start.elapsed();
    assert!(ended.success(), "{ended:?} {}", tail(&sandbox.path("work/restore.log"), 25));
    crowd.untouched().expect("restored");
    kill_tree(&crowd);

    let mut random = Random::new("killed restore");
    let (mut none, mut whole) = (0, 0);
    for turn in 0..count("AMBER_KILLS", 20) {
        let delay = random.within(limit);
        let mut command = sandbox.command(&Criu::ours().path, "restore.out");
        let child = command.args(&restore).spawn().expect("nsenter");
        std::thread::sleep(delay);
        if let Some(criu) = child_of(child.id()) {
            _ = kill(Pid::from_raw(criu), Signal::SIGKILL);
        }
        let ended = sandbox.wait(child, LIMIT);
        let log = || tail(&sandbox.path("work/restore.log"), 12);
        let Err(left) = nothing_left(&crowd) else {
            none += 1;
            limit = limit.mul_f32(1.1);
            let left: Vec<_> = all_files(sandbox.dir()).difference(&files).cloned().collect();
            let left: Vec<_> = left.iter().filter(|f| !f.contains("restore")).collect();
            assert!(left.is_empty(), "kill {turn} after {delay:?}: files left: {left:?}");
            assert_eq!(crowd.mounts(), mounts, "kill {turn} after {delay:?}");
            continue;
        };
        // The tree had started: then it must be whole.
        let whole_tree = crowd.untouched();
        assert!(
            whole_tree.is_ok(),
            "kill {turn} after {delay:?} ({ended:?}): {left} {whole_tree:?}\n{}",
            log()
        );
        whole += 1;
        limit = limit.min(delay).max(Duration::from_millis(2));
        kill_tree(&crowd);
    }
    println!("{none} times nothing was left, {whole} times the tree had started already");
    let ended = sandbox.run(&Criu::ours().path, &restore, "restore.out");
    assert!(ended.success(), "{ended:?}");
    crowd.finish();
}

/// Waits until no part of criu is left, neither its worker nor a task that is still to be restored.
/// An error tells what runs then.
fn nothing_left(crowd: &Crowd) -> Result<(), String> {
    let sandbox = &crowd.sandbox;
    let stats = || -> Vec<String> {
        let path = |pid| sandbox.inside(&format!("/proc/{pid}/stat"));
        let pids = sandbox.pids().into_iter();
        pids.filter_map(|pid| fs::read_to_string(path(pid)).ok()).collect()
    };
    let settled = wait_for(LIMIT, || {
        let stats = stats();
        (!stats.iter().any(|s| s.contains("(criu)") || s.contains(") Z "))).then_some(stats)
    });
    let left = settled.unwrap_or_else(stats);
    // What has its name and memory already may still die, and take its time where much runs.
    let dead = left.is_empty() || crowd.untouched().is_err() && sandbox.empty().is_ok();
    if dead { Ok(()) } else { Err(format!("processes left: {}", left.concat())) }
}

fn kill_tree(crowd: &Crowd) {
    let pids: Vec<String> = crowd.sandbox.pids().iter().map(u32::to_string).collect();
    // Some may have gone with others.
    crowd.sandbox.shell(&format!("kill -9 {} 2>/dev/null || true", pids.join(" ")));
    crowd.sandbox.empty().expect("killed");
}

/// Names of all files, but logs.
fn all_files(dir: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).expect("directory").flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                todo.push(entry.path());
            }
            names.insert(entry.path().display().to_string());
        }
    }
    names
}
