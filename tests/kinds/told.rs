// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a user is told meanwhile: the progress line, logs of single tasks.
use crate::support::{Criu, Sandbox, directions, dump, restore, tail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Long work draws a line on a terminal and takes it away again; the log stays free of it.
#[test]
fn long_work_shows_a_line_on_a_terminal() {
    let criu = Criu::ours();
    if Criu::ours_is_stock() {
        return crate::support::skip("progress line", "stock has none");
    }
    for more in ["", "--compress=lz4"] {
        let sandbox = Sandbox::new("bulk");
        let dir = sandbox.dir().display().to_string();
        let pid = sandbox.start_subject("", "bulk", &[]);
        // What begins late is long work already.
        let late = r#"case $CRTOOLS_SCRIPT_ACTION in pre-*) sleep 0.6;; esac"#;
        fs::write(sandbox.path("late.sh"), format!("#!/bin/sh\n{late}\n")).expect("script");
        sandbox.make_images();
        sandbox.shell("chmod +x late.sh");
        let on_terminal = |verb: &str, options: &str| {
            let line = format!(
                "TERM=xterm {} {verb} -v4 -o {verb}.log -D images --action-script {dir}/late.sh {options}",
                criu.path.display()
            );
            let typescript = format!("{verb}.typescript");
            let args = ["-qec", &line, &typescript];
            let ended = sandbox.run(Path::new("script"), &args, "script.out");
            let log = sandbox.path(&format!("images/{verb}.log"));
            assert!(ended.success(), "{verb} {ended:?} {}", tail(&log, 20));
            assert!(!fs::read_to_string(log).expect("log").contains(" left"), "{verb}");
            fs::read_to_string(sandbox.path(&typescript)).expect("typescript")
        };
        let dumped = on_terminal("dump", &format!("-t {pid} {more}"));
        sandbox.empty().expect("dumped");
        let restored = on_terminal("restore", "-d");
        for (verb, said) in [("dump", dumped), ("restore", restored)] {
            let line = said.rsplit(&format!("{verb} [")).next().expect("a part");
            assert!(line.len() < said.len(), "{verb}: no line in {said:?}");
            assert!(line.contains("MiB") && line.contains(" left"), "{said:?}");
            assert!(line.contains("\u{1b}[2K"), "{verb}: the line stays: {said:?}");
        }
        sandbox.finish();
    }
}

/// `--log-pid`: each task tells what it does in a file of its own, named after its number in the
/// images; the log itself goes on as before.
#[test]
fn every_task_has_a_log_of_its_own_if_asked() {
    let stock = Criu::stock();
    for flavour in ["", "pid,mnt,uts,ipc"] {
        for (_, to) in directions(&Criu::ours(), stock.as_ref()) {
            // It looks for the directory in the new root.
            if flavour.is_empty() || to.name == "ours" {
                logs_of_tasks(flavour, &to);
            }
        }
    }
}

fn logs_of_tasks(flavour: &str, criu: &Criu) {
    let sandbox = Sandbox::new("log-pid");
    let pid = sandbox.start_subject(flavour, "pipe", &[]);
    let images = sandbox.make_images();
    dump(&sandbox, &Criu::ours(), &pid, &images, &["--log-pid"]).expect("dump");
    let numbers = || -> Vec<String> {
        let names = fs::read_dir(&images).expect("images").flatten();
        let names = names.filter_map(|e| e.file_name().into_string().ok());
        let mut all: Vec<_> =
            names.filter_map(|n| Some(n.strip_prefix("restore.log.")?.to_owned())).collect();
        all.sort();
        all
    };
    assert_eq!(numbers(), [""; 0], "a dump has one log");
    // What was there is overwritten.
    let mut tasks: Vec<String> = fs::read_dir(&images)
        .expect("images")
        .flatten()
        .filter_map(|e| Some(e.file_name().to_str()?.strip_prefix("mm-")?.to_owned()))
        .filter_map(|n| Some(n.strip_suffix(".img")?.to_owned()))
        .collect();
    tasks.sort();
    assert!(tasks.len() >= 2, "{tasks:?}");
    let log_of = |task: &str| images.join(format!("restore.log.{task}"));
    fs::write(log_of(&tasks[1]), "what was there\n").expect("old log");
    let root = sandbox.path("root").display().to_string();
    let mut args = vec!["--log-pid"];
    if !flavour.is_empty() {
        args.extend(["--root", &root]);
    }
    restore(&sandbox, criu, &images, &args).expect("restore");
    assert_eq!(numbers(), tasks, "{}", criu.name);
    let whole = fs::read_to_string(images.join("restore.log")).expect("log");
    assert!(whole.contains("Restore finished successfully"), "{whole}");
    for task in &tasks {
        let mode = fs::metadata(log_of(task)).expect("log").permissions().mode();
        assert_eq!(mode & 0o777, if *task == tasks[1] { 0o644 } else { 0o600 });
        let log = fs::read_to_string(log_of(task)).expect("log");
        assert!(log.starts_with('(') && !log.contains("what was there"), "{log}");
        if criu.name == "ours" {
            let first = format!("Restoring task {task}");
            assert!(log.lines().next().expect("a line").ends_with(&first), "{log}");
            assert!(!whole.contains(&first), "{whole}");
            // Without the number that tells tasks apart in one log.
            assert!(log.lines().all(|l| l.as_bytes()[12] != b' '), "{log}");
        }
    }
    sandbox.finish();
}
