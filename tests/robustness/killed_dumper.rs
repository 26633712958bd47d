// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `criu dump` killed at any moment. `AMBER_KILLS=500` for many.

use crate::crowd::{Crowd, Random, child_of, count};
use crate::support::{Criu, LIMIT, tail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::{Duration, Instant};

#[test]
fn a_killed_dumper_leaves_its_target_as_it_was() {
    if Criu::ours_is_stock() {
        return crate::support::skip("killed dumper", "stock leaves its parasite behind");
    }
    let crowd = Crowd::start("killed-dumper");
    let mut random = Random::new("killed dumper");
    // Follows what dumps take on this machine now: one kill in ten or so comes too late, so that the
    // last moments of a dump are hit as well as the first.
    let mut limit = whole_dump(&crowd);
    let kills = count("AMBER_KILLS", 20);
    let (mut turn, mut hits) = (0, 0);
    while hits < kills {
        let delay = random.within(limit);
        let in_time = kill_one(&crowd, turn, delay);
        hits += u64::from(in_time);
        limit = limit.mul_f32(if in_time { 1.02 } else { 0.85 }).max(Duration::from_millis(2));
        if let Err(what) = crowd.untouched() {
            let log = tail(&crowd.sandbox.path(&format!("images{turn}")).join("dump.log"), 12);
            panic!("kill {turn} after {delay:?}: {what}\n{log}");
        }
        fs::remove_dir_all(crowd.sandbox.path(&format!("images{turn}"))).expect("images");
        turn += 1;
        assert!(turn < 3 * kills + 20, "most dumps end before they are killed: {hits} of {turn}");
    }
    println!("{hits} dumps killed before their end, {} had ended", turn - hits);
    whole_dump(&crowd); // it can still be dumped
    crowd.untouched().expect("after a whole dump");
    crowd.finish();
}

fn arguments<'a>(crowd: &'a Crowd, images: &'a str) -> Vec<&'a str> {
    vec!["dump", "-v4", "-o", "dump.log", "-D", images, "-t", &crowd.pid, "--leave-running"]
}

/// How long an undisturbed dump takes.
fn whole_dump(crowd: &Crowd) -> Duration {
    let images = crowd.sandbox.path("whole");
    fs::create_dir(&images).expect("images");
    let start = Instant::now();
    let images_name = images.to_str().expect("utf-8").to_owned();
    let ended = crowd.sandbox.run(&Criu::ours().path, &arguments(crowd, &images_name), "dump.out");
    let took = start.elapsed();
    assert!(ended.success(), "{ended:?} {}", tail(&images.join("dump.log"), 25));
    fs::remove_dir_all(&images).expect("images");
    took
}

/// True if it was killed while it still worked.
fn kill_one(crowd: &Crowd, turn: u64, delay: Duration) -> bool {
    let images = crowd.sandbox.path(&format!("images{turn}"));
    fs::create_dir(&images).expect("images");
    let images = images.to_str().expect("utf-8").to_owned();
    let mut command = crowd.sandbox.command(&Criu::ours().path, "dump.out");
    let child = command.args(arguments(crowd, &images)).spawn().expect("nsenter");
    std::thread::sleep(delay);
    let killed =
        child_of(child.id()).is_some_and(|criu| kill(Pid::from_raw(criu), Signal::SIGKILL).is_ok());
    let ended = crowd.sandbox.wait(child, LIMIT);
    killed && !ended.success()
}
