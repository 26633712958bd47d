// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tests of kinds (`tests/kinds`, ours to ours) on other kernels than this machine's: the
//! fallbacks for calls that an older kernel has not, and what a newer one does differently.
//!
//! Without being asked only what differs most between kernels, as emulation is slow:
//!
//!     AMBER_VM_TESTS="epoll tcp_stream"   only these, as filters of libtest
//!     AMBER_VM_TESTS=""                   all

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use vm_tests::{Machine, assets};

/// A machine without KVM on a loaded host is slow.
const LIMIT: Duration = Duration::from_secs(1500);

/// What is run unasked.
const UNASKED: &str = "lsm:: ns:: ns_file:: net:: mnt::mounts tcp_stream:: sk_opts:: pidfd:: timerfd \
     hundred_megabytes flags_of_areas";

/// Long ones that say nothing about the kernel, what needs programs the guest has not, and a thread that
/// gets the processor only when nobody else wants it.
const LEFT_OUT: &[&str] = &["by_all_means", "any_thread_of_an_init_may_be_the_last_to_die"];

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// What `cargo test --test kinds` would run, and the `criu` beside it.
fn built() -> (PathBuf, PathBuf) {
    let out = Command::new(env!("CARGO"))
        .args(["test", "--locked", "--no-run", "--test", "kinds", "--message-format", "json"])
        .current_dir(top())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(out.status.success(), "the tests of kinds do not build");
    let text = String::from_utf8_lossy(&out.stdout);
    let mut made = text.lines().filter_map(|line| {
        let word: serde_json::Value = serde_json::from_str(line).ok()?;
        let name = word["target"]["name"].as_str()?.to_owned();
        Some((name, PathBuf::from(word["executable"].as_str()?)))
    });
    let (mut kinds, mut criu) = (None, None);
    for (name, path) in made.by_ref() {
        *if name == "kinds" { &mut kinds } else { &mut criu } = Some(path);
    }
    (kinds.unwrap(), criu.unwrap())
}

/// Names of all tests, and the subjects compiled: there is no compiler in the guest.
fn prepare(kinds: &Path) -> Vec<String> {
    let run = |args: &[&str]| Command::new(kinds).args(args).current_dir(top()).output().unwrap();
    let out = run(&["--exact", "every_subject_compiles"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
    let list = String::from_utf8(run(&["--list", "--format", "terse"]).stdout).unwrap();
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

fn kinds_on(kernel: &'static str, not_there: &[(&str, &str)]) {
    let asked = std::env::var("AMBER_VM_TESTS").unwrap_or_else(|_| UNASKED.into());
    run(kernel, "", &asked, not_there);
}

/// The tests of kinds whose names have a word of `asked` in them (all, if it has none), on a kernel
/// with `append` on its command line.
fn run(kernel: &'static str, append: &'static str, asked: &str, not_there: &[(&str, &str)]) {
    if let Err(why) = assets() {
        // Past the test's own capture: the summary of scripts/test shows it.
        _ = writeln!(std::io::stderr(), "SKIPPED kernel {kernel}: {}", why.replace('\n', " | "));
        return;
    }
    let (kinds, criu) = built();
    let all = prepare(&kinds);
    let filters: Vec<&str> = asked.split_whitespace().collect();
    let left_out = |name: &str| {
        name == "every_subject_compiles" || LEFT_OUT.iter().any(|part| name.contains(part))
    };
    let wanted = |name: &&String| filters.is_empty() || filters.iter().any(|f| name.contains(f));
    for (part, why) in not_there {
        assert!(all.iter().any(|name| name.contains(part)), "no test is named {part}");
        println!("{kernel}: {part}: {why}");
    }
    let chosen: Vec<&str> = all
        .iter()
        .filter(wanted)
        .map(String::as_str)
        .filter(|name| !left_out(name) && !not_there.iter().any(|(part, _)| name.contains(part)))
        .collect();
    assert!(!chosen.is_empty(), "no test of kinds is named like {asked:?}");
    let script = format!(
        "cd {}; export CRIU_BIN={} AMBER_DIRECTION='ours -> ours' STOCK_CRIU=/bin/false\n\
         exec {} --color never --test-threads 3 --exact {}\n",
        top().display(),
        criu.display(),
        kinds.display(),
        chosen.join(" ")
    );
    let tests = top().join("tests");
    let stock = top().join("scripts/stock-criu"); // it says that there is none
    let compiled = kinds.ancestors().nth(3).unwrap().join("tmp");
    let machine = Machine { kernel, processors: 2, memory: 4096, append };
    let files = [criu.as_path(), &kinds, &tests, &compiled, &stock];
    // Each has all processors to itself: limits of time within hold where two would be too slow.
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let out = machine.run(&script, &files, LIMIT).unwrap();
    drop(one);
    let ran =
        out.console.lines().filter(|line| line.starts_with("test ") && line.ends_with("... ok"));
    assert!(
        out.code == Some(0) && ran.count() == chosen.len(),
        "kernel {kernel}: exit {:?}\n{}",
        out.code,
        out.console
    );
}

/// Of a kernel without `PAGEMAP_SCAN` (6.7): its file has eight bytes for each page of terabytes.
const EMULATED: &str = "minutes of reading pagemap, emulated";

#[test]
fn of_debian_12() {
    let not_there = [
        ("eventfd_stays_a_semaphore", "not shown before 6.5"),
        ("memory_and_environment_three_times", EMULATED),
        ("private_areas_keep_content_protection_and_flags", EMULATED),
        ("kinds_of_memory_come_back_through_a_chain_of_three", EMULATED),
        ("flags_of_areas", EMULATED),
    ];
    kinds_on("6.1", &not_there);
}

#[test]
fn of_debian_13() {
    kinds_on("6.12", &[]);
}

#[test]
fn of_debian_13_with_selinux() {
    run("6.12", "security=selinux selinux=1", "lsm::contexts", &[]);
}

#[test]
fn the_newest_that_is_backported() {
    kinds_on("newest", &[]);
}
