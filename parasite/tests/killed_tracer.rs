//! A tracer that is killed while its code runs in a target: the target goes on with its own
//! work.

use parasite::{Infected, Limits, Script, freeze, proc};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Not a test: the process that is killed. Visits `TARGET` over and over.
#[test]
#[ignore = "run by the test below"]
fn tracer() {
    let target = std::env::var("TARGET").expect("set by the test").parse().expect("a pid");
    sys::worker::block_sigchld();
    loop {
        let deadline = Some(Instant::now() + Duration::from_secs(20));
        let mut frozen = freeze(target, &Limits { deadline, stop: &|| false }).expect("freezes");
        let p = &mut frozen.processes[0];
        p.start_stack = proc::Stat::read(target).expect("stat").start_stack;
        let mut script = Script::default();
        for _ in 0..20 {
            script.call(libc::SYS_getpid, &[]);
        }
        let mut infected = Infected::new(p, &[&script], deadline).expect("infects");
        infected.run(&script).expect("runs");
        infected.cure().expect("cures");
    }
}

struct Target(Child);

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// State letter, tracer, blocked signals.
fn state(pid: i32) -> (u8, i32, u64) {
    let s = proc::Status::read(pid, pid).expect("the target lives");
    (s.state, s.tracer, s.sig_blk)
}

#[test]
fn a_killed_tracer_does_no_harm() {
    let child = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().expect("sleep");
    let target = Target(child);
    let pid = target.0.id() as i32;
    std::thread::sleep(Duration::from_millis(100));
    for round in 0..40u64 {
        let mut tracer = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "tracer", "--ignored"])
            .env("TARGET", pid.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("spawns");
        // Well spread over its start and its visits.
        std::thread::sleep(Duration::from_micros(15_000 + round * 7919 % 20_000));
        tracer.kill().expect("it runs for ever");
        tracer.wait().expect("ends");
        let end = Instant::now() + Duration::from_secs(10);
        while state(pid) != (b'S', 0, 0) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(state(pid), (b'S', 0, 0), "round {round}");
    }
}
