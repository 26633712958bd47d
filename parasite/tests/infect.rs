//! Freezing real processes and running calls in them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use parasite::{Arg, Infected, Limits, Script, freeze};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

struct Target(Child);

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A shell in a group of its own (SIGTSTP stops nobody in an orphaned one), at rest.
fn shell(script: &str) -> Target {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdout(Stdio::null()).process_group(0);
    let target = Target(command.spawn().unwrap());
    let pid = target.0.id() as i32;
    let work = || {
        (field(pid, "State:"), field(pid, "voluntary_ctxt_switches:"), field(pid, "nonvoluntary"))
    };
    let mut before = work();
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(200));
        let now = work();
        if now == before && now.0 == "S" {
            break;
        }
        before = now;
    }
    target
}

fn limits() -> Limits<'static> {
    let deadline = Some(Instant::now() + Duration::from_secs(10));
    Limits { deadline, stop: &|| false }
}

fn field(pid: i32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().to_owned()
}

fn settled(pid: i32, letter: &str) {
    for _ in 0..100 {
        if field(pid, "State:") == letter {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(field(pid, "State:"), letter);
}

/// Freezes, asks for the pid from inside, cures, lets go.
fn check_visit(pid: i32) {
    let maps = std::fs::read(format!("/proc/{pid}/maps")).unwrap();
    let mask = field(pid, "SigBlk:");
    let mut frozen = freeze(pid, &limits()).unwrap();
    for p in frozen.processes.iter_mut().filter(|p| !p.zombie) {
        let mut script = Script::default();
        let name = script.room(16);
        let getpid = script.call(libc::SYS_getpid, &[]);
        script.call(libc::SYS_prctl, &[Arg::Value(libc::PR_GET_NAME as u64), name.into()]);
        let bad = script.call(libc::SYS_close, &[Arg::Value(9999)]);
        let expected = i64::from(p.pid);
        let comm = p.status().comm();
        p.start_stack = parasite::proc::Stat::read(p.pid).unwrap().start_stack;
        let mut infected = Infected::new(p, &[&script], limits().deadline).unwrap();
        for _ in 0..3 {
            let answers = infected.run(&script).unwrap();
            assert_eq!(answers.result(getpid), expected);
            assert_eq!(answers.result(bad), -i64::from(libc::EBADF));
            assert!(answers.bytes(name).starts_with(&comm));
        }
        infected.run_others(&script).unwrap();
        infected.cure().unwrap();
    }
    drop(frozen);
    assert_eq!(field(pid, "TracerPid:"), "0");
    // One that was in sigsuspend(2) has its other mask again when it has made the call again.
    for _ in 0..200 {
        if field(pid, "SigBlk:") == mask {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(field(pid, "SigBlk:"), mask);
    assert_eq!(std::fs::read(format!("/proc/{pid}/maps")).unwrap(), maps);
}

#[test]
fn a_sleeping_process_tells_its_pid_and_sleeps_on() {
    let t = shell("exec sleep 100");
    let pid = t.0.id() as i32;
    check_visit(pid);
    settled(pid, "S");
    check_visit(pid);
    settled(pid, "S");
}

#[test]
fn a_tree_is_held_with_all_children() {
    let t = shell("sleep 100 & sleep 100 & (sleep 100; true) & wait");
    let pid = t.0.id() as i32;
    let frozen = freeze(pid, &limits()).unwrap();
    let pids: Vec<i32> = frozen.processes.iter().map(|p| p.pid).collect();
    drop(frozen);
    check_visit(pid);
    for pid in &pids[1..] {
        Command::new("kill").arg(pid.to_string()).stderr(Stdio::null()).status().unwrap();
    }
    assert_eq!(pids.len(), 5);
}

#[test]
fn a_stopped_process_is_stopped_afterwards() {
    for (signo, name) in [(libc::SIGSTOP, "STOP"), (libc::SIGTSTP, "TSTP")] {
        let t = shell("exec sleep 100");
        let pid = t.0.id() as i32;
        Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
        settled(pid, "T");
        let frozen = freeze(pid, &limits()).unwrap();
        assert_eq!(frozen.processes[0].stopped_by(), Some(signo));
        drop(frozen);
        settled(pid, "T");
        check_visit(pid);
        settled(pid, "T");
        let frozen = freeze(pid, &limits()).unwrap();
        assert_eq!(frozen.processes[0].stopped_by(), Some(signo));
        drop(frozen);
        Command::new("kill").args(["-CONT", &pid.to_string()]).status().unwrap();
        settled(pid, "S");
    }
}

#[test]
fn we_do_not_freeze_ourselves() {
    let e = freeze(std::process::id() as i32, &limits()).unwrap_err();
    assert!(e.to_string().contains("within dumped tree"), "{e}");
}
