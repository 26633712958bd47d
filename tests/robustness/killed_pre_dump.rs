// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pre-dumps killed at any moment, and what keeps watch between them: what is restored in the end
//! is right all the same, whatever the images between were good for.

use crate::crowd::{Random, child_of, count};
use crate::support::{Criu, LIMIT, Sandbox, dump, restore, tail, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::Duration;

#[test]
fn killed_pre_dumps_and_watches_leave_no_wrong_page() {
    if Criu::ours_is_stock() {
        return crate::support::skip("killed pre-dump", "stock has no dirty tracking everywhere");
    }
    let mut random = Random::new("killed pre-dump");
    for _ in 0..count("AMBER_CHAINS", 2) {
        one_chain(&mut random);
    }
}

fn one_chain(random: &mut Random) {
    let sandbox = Sandbox::new("killed-pre-dump");
    let seed = random.within(Duration::from_secs(1000)).as_millis().to_string();
    let pid = sandbox.start_subject("", "mutate", &[&seed]);
    let mut parent: Option<String> = None;
    for turn in 0..8 {
        let name = format!("images{turn}");
        // Every third is left alone.
        let delay = (turn % 3 != 0).then(|| random.within(Duration::from_millis(150)));
        if pre_dump(&sandbox, &pid, &name, parent.as_deref(), delay) {
            parent = Some(format!("../{name}"));
        }
        quiet(&sandbox);
        if turn == 4 {
            sandbox.shell(
                "for p in /proc/[0-9]*; do grep -qs ^criu: $p/comm && kill -9 ${p#/proc/}; done; :",
            );
        }
        assert_eq!(sandbox.said().len(), 1, "{:?}", sandbox.said());
    }
    let images = sandbox.path("last");
    fs::create_dir(&images).expect("images");
    let mut args = vec!["--track-mem"];
    args.extend(parent.iter().flat_map(|p| ["--prev-images-dir", p]));
    dump(&sandbox, &Criu::ours(), &pid, &images, &args).expect("dump");
    sandbox.empty().expect("all is dumped, and nobody keeps watch");
    restore(&sandbox, &Criu::ours(), &images, &[]).expect("restore");
    sandbox.go();
    let heard = sandbox.hear(&["ok", "bad"], LIMIT);
    assert_eq!(heard.as_deref(), Some("ok"), "{}", tail(&images.join("dump.log"), 15));
}

/// True if it was not killed.
fn pre_dump(
    sandbox: &Sandbox,
    pid: &str,
    name: &str,
    parent: Option<&str>,
    kill_after: Option<Duration>,
) -> bool {
    let images = sandbox.path(name);
    fs::create_dir(&images).expect("images");
    let images = images.to_str().expect("utf-8");
    let mut command = sandbox.command(&Criu::ours().path, "pre-dump.out");
    command.args(["pre-dump", "-v4", "-o", "dump.log", "-D", images, "-t", pid]);
    if let Some(parent) = parent {
        command.args(["--prev-images-dir", parent]);
    }
    let child = command.spawn().expect("nsenter");
    if let Some(delay) = kill_after {
        std::thread::sleep(delay);
        if let Some(criu) = child_of(child.id()) {
            let _ = kill(Pid::from_raw(criu), Signal::SIGKILL);
        }
    }
    let ended = sandbox.wait(child, LIMIT);
    assert!(
        ended.success() || kill_after.is_some(),
        "{ended:?} {}",
        tail(&sandbox.path(name).join("dump.log"), 15)
    );
    ended.success()
}

/// No dump is under way any more.
fn quiet(sandbox: &Sandbox) {
    let comm = |pid: &u32| fs::read_to_string(sandbox.inside(&format!("/proc/{pid}/comm")));
    let none = || {
        let all = sandbox.pids();
        (!all.iter().any(|pid| comm(pid).is_ok_and(|c| c.trim() == "criu"))).then_some(())
    };
    wait_for(LIMIT, none).expect("a dump still works");
}
