// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Restores that fail or are killed: no group is left that they made, and groups that were there
//! are as they were.

use crate::cgroup::Run;
use crate::support::{Criu, LIMIT, restore, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A tree that is dumped, with its groups still there.
fn dumped(subject: &[&str], mode: &str) -> Option<Run> {
    let run = Run::new(false, subject)?;
    run.dump(&Criu::ours(), &[mode]).expect("dump");
    run.sandbox.empty().expect("dumped");
    Some(run)
}

/// An action script; `$1` is the action.
fn script(run: &Run, text: &str) -> String {
    let path = run.sandbox.path("action.sh");
    fs::write(&path, format!("#!/bin/sh\nset -- \"$CRTOOLS_SCRIPT_ACTION\"\n{text}\n"))
        .expect("script");
    run.sandbox.shell("chmod +x action.sh");
    path.display().to_string()
}

fn failing_at(run: &Run, action: &str) -> String {
    script(run, &format!("[ $1 != {action} ]"))
}

/// Kills the process that restores: neither itself nor its front is asked.
fn killing_at(run: &Run, action: &str) -> String {
    script(run, &format!("[ $1 != {action} ] || kill -9 $PPID"))
}

fn nothing_left(run: &Run, when: &str) {
    run.sandbox.empty().unwrap_or_else(|left| panic!("{when}: {left}"));
    let left = run.before.all();
    assert!(left.is_empty(), "{when}: {left:?}");
}

fn is_pressure(file: &Path) -> bool {
    file.extension().is_some_and(|name| name == "pressure")
}

/// Owner, mode and content of the properties of a group and all below, and the groups themselves.
fn state(run: &Run) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut todo = run.before.all();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).expect("a group").flatten() {
            let (path, meta) = (entry.path(), entry.metadata().expect("metadata"));
            if meta.is_dir() {
                todo.push(path.clone());
            }
            let value = match fs::read_to_string(&path) {
                // What nobody can write is no property, and pressure changes by itself.
                Ok(text) if meta.mode() & 0o200 != 0 && !is_pressure(&path) => text,
                _ => String::new(),
            };
            let text = format!("{}:{} {:o} {value}", meta.uid(), meta.gid(), meta.mode());
            all.insert(path, text);
        }
    }
    all
}

#[test]
fn a_restore_that_fails_at_any_stage_removes_the_groups_it_made() {
    for mode in ["--manage-cgroups", "--manage-cgroups=full"] {
        let Some(run) = dumped(&["ns"], mode) else { return };
        run.before.remove();
        let core = run.images.join(format!("core-{}.img", run.pid));
        let away = run.images.join("away");
        fs::rename(&core, &away).expect("core");
        restore(&run.sandbox, &Criu::ours(), &run.images, &[mode]).expect_err("no core");
        nothing_left(&run, "wrong images");
        fs::rename(&away, &core).expect("core");
        for action in ["pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore"] {
            let options = [mode, "--action-script", &failing_at(&run, action)];
            restore(&run.sandbox, &Criu::ours(), &run.images, &options).expect_err(action);
            nothing_left(&run, action);
        }
        restore(&run.sandbox, &Criu::ours(), &run.images, &[mode]).expect("restore");
        run.finish();
    }
}

#[test]
fn a_restore_that_is_refused_half_way_through_the_groups_removes_them() {
    let Some(run) = dumped(&[], "--manage-cgroups") else { return };
    let (all, v2) = (run.before.all(), run.before.v2());
    run.before.remove();
    for top in &all {
        // What tasks were in, and above it.
        let there = if *top == v2 { top.join("a") } else { top.clone() };
        fs::create_dir_all(&there).expect("a group");
        let strict = ["--manage-cgroups=strict"];
        let error = restore(&run.sandbox, &Criu::ours(), &run.images, &strict).expect_err("strict");
        assert!(error.contains("it is there already"), "{error}");
        assert_eq!(&run.before.all(), std::slice::from_ref(top));
        let mut groups: Vec<_> = state(&run).into_keys().filter(|p| p.is_dir()).collect();
        groups.retain(|group| *group != there);
        assert!(groups.is_empty(), "{groups:?}");
        run.before.remove();
    }
}

#[test]
fn a_failed_restore_puts_back_the_groups_that_were_there() {
    put_back(failing_at);
}

#[test]
fn what_a_killed_worker_did_to_groups_that_were_there_is_put_back() {
    put_back(killing_at);
}

fn put_back(how: fn(&Run, &str) -> String) {
    for mode in ["--manage-cgroups=full", "--manage-cgroups=props"] {
        let Some(run) = dumped(&[], mode) else { return };
        let shell = |line: &str| run.sandbox.shell(line);
        let change = |group: &Path| {
            let group = group.display();
            shell(&format!(
                "cd {group}; if [ -e pids.max ]; then echo 55 >pids.max; chmod 600 pids.max; fi;
                if [ -e cgroup.max.depth ]; then
                    echo 9 >b/cgroup.max.depth; chown 5:6 a/empty/cgroup.subtree_control; fi"
            ));
        };
        run.before.all().iter().for_each(|group| change(group));
        if mode.ends_with("full") {
            // One more that is to be made again.
            let v2 = run.before.v2();
            shell(&format!("rmdir {}/a/empty/too", v2.display()));
        }
        let before = state(&run);
        let options = [mode, "--action-script", &how(&run, "post-restore")];
        restore(&run.sandbox, &Criu::ours(), &run.images, &options).expect_err("refused");
        run.sandbox.empty().expect("nothing left");
        let after = state(&run);
        for (path, was) in &before {
            assert_eq!(after.get(path), Some(was), "{}", path.display());
        }
        assert_eq!(after.len(), before.len());
        restore(&run.sandbox, &Criu::ours(), &run.images, &[mode]).expect("restore");
        run.finish();
    }
}

#[test]
fn a_killed_restore_removes_the_groups_it_made() {
    for action in ["setup-namespaces", "post-setup-namespaces", "post-restore"] {
        let Some(run) = dumped(&["ns"], "--manage-cgroups") else { return };
        run.before.remove();
        let there = run.sandbox.path("there");
        let _ = fs::remove_file(&there);
        let text =
            format!("[ $1 != {action} ] || {{ touch {}; exec sleep 1000; }}", there.display());
        let mut command = run.sandbox.command(&Criu::ours().path, "restore.out");
        command.args(["restore", "-d", "-v4", "-o", "restore.log", "-D"]).arg(&run.images);
        let child =
            command.args(["--action-script", &script(&run, &text)]).spawn().expect("nsenter");
        wait_for(LIMIT, || there.exists().then_some(())).expect(action);
        assert!(!run.before.all().is_empty(), "{action}: groups are made");
        // nsenter's only child; others have its name, too.
        let id = child.id();
        let criu = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).expect("children");
        let criu = criu.trim().parse().expect("criu's pid");
        kill(Pid::from_raw(criu), Signal::SIGKILL).expect("kill");
        run.sandbox.wait(child, LIMIT);
        let gone = wait_for(LIMIT / 6, || run.before.all().is_empty().then_some(()));
        assert!(gone.is_some(), "{action}: {:?}", run.before.all());
        nothing_left(&run, action);
        restore(&run.sandbox, &Criu::ours(), &run.images, &[]).expect("restore");
        run.finish();
    }
}

#[test]
fn a_killed_worker_of_a_restore_leaves_no_groups() {
    for action in ["setup-namespaces", "post-setup-namespaces", "post-restore"] {
        let Some(run) = dumped(&["ns"], "--manage-cgroups") else { return };
        run.before.remove();
        let options = ["--action-script", &killing_at(&run, action)];
        restore(&run.sandbox, &Criu::ours(), &run.images, &options).expect_err(action);
        nothing_left(&run, action);
        restore(&run.sandbox, &Criu::ours(), &run.images, &[]).expect("restore");
        run.finish();
    }
}
