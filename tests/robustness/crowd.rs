// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The subject of these tests: busy processes with threads, watched from outside.

use crate::support::{LIMIT, Sandbox, subject, wait_for};
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// A running crowd in a sandbox of its own.
pub(crate) struct Crowd {
    pub(crate) sandbox: Sandbox,
    /// The root's pid, as seen inside.
    pub(crate) pid: String,
    maps: BTreeMap<u32, String>,
}

impl Crowd {
    pub(crate) fn start(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let dir = sandbox.dir().to_str().expect("utf-8").to_owned();
        sandbox.start(&subject("crowd"), &[&dir]);
        let heard = sandbox.hear(&["ready", "bad"], LIMIT).expect("crowd gets ready");
        let pid = heard.strip_prefix("ready ").expect("ready").to_owned();
        let maps = sandbox.pids().into_iter().map(|pid| (pid, maps(&sandbox, pid))).collect();
        Self { sandbox, pid, maps }
    }

    /// In namespaces of its own, where its numbers outside are others after each restore: its
    /// memory is not compared then.
    pub(crate) fn start_in(name: &str, kinds: &str) -> Self {
        let sandbox = Sandbox::new(name);
        let dir = sandbox.dir().to_str().expect("utf-8").to_owned();
        sandbox.start_in(kinds, &subject("crowd"), &[&dir]);
        let heard = sandbox.hear(&["ready", "bad"], LIMIT).expect("crowd gets ready");
        assert!(heard.starts_with("ready"), "{heard}");
        let pid = sandbox.root_pid().expect("root.pid");
        Self { sandbox, pid, maps: BTreeMap::new() }
    }

    /// What is mounted in the sandbox.
    pub(crate) fn mounts(&self) -> String {
        self.sandbox.shell("cut -d' ' -f3- /proc/self/mountinfo")
    }

    fn beats(&self) -> Vec<u64> {
        let bytes = fs::read(self.sandbox.path("beats")).expect("beats");
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        (0..3)
            .flat_map(|process| (0..4).map(move |thread| process * 4096 + thread * 8))
            .map(word)
            .collect()
    }

    /// Nothing tells that a dumper was ever there: all run, none traced or stopped, same memory.
    pub(crate) fn untouched(&self) -> Result<(), String> {
        let problem =
            || self.maps.iter().find_map(|(pid, before)| self.trace_of_dumper(*pid, before));
        // The kernel and the parasite's own way out need a moment.
        let clean = wait_for(Duration::from_secs(5), || problem().is_none().then_some(()));
        if clean.is_none() {
            return Err(problem().unwrap_or_default());
        }
        if self.sandbox.said().len() != 1 {
            return Err(format!("the crowd says {:?}", self.sandbox.said()));
        }
        let before = self.beats();
        let all_beat = || self.beats().iter().zip(&before).all(|(now, then)| now > then);
        let alive = wait_for(Duration::from_secs(10), || all_beat().then_some(()));
        alive.ok_or_else(|| format!("a thread stands still: {before:?} then {:?}", self.beats()))
    }

    fn trace_of_dumper(&self, pid: u32, maps_before: &str) -> Option<String> {
        let tasks = self.sandbox.inside(&format!("/proc/{pid}/task"));
        let Ok(tasks) = fs::read_dir(tasks) else { return Some(format!("{pid} is gone")) };
        for task in tasks.flatten() {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let line = |key: &str| {
                status.lines().find(|l| l.starts_with(key)).unwrap_or_default().to_owned()
            };
            if line("TracerPid:") != "TracerPid:\t0" {
                return Some(format!("{pid}: {:?}: {}", task.file_name(), line("TracerPid:")));
            }
            if line("State:").contains("(zombie)") {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                let code = stat.split_whitespace().last().unwrap_or_default();
                return Some(format!("{pid}: {:?} is dead, exit code {code}", task.file_name()));
            }
            if line("State:").contains("(stopped)") || line("State:").contains("(tracing stop)") {
                return Some(format!("{pid}: {:?}: {}", task.file_name(), line("State:")));
            }
        }
        let now = maps(&self.sandbox, pid);
        let foreign: Vec<&str> =
            now.lines().filter(|l| !maps_before.lines().any(|b| b == *l)).collect();
        (!foreign.is_empty()).then(|| format!("{pid}: foreign in maps: {}", foreign.join(" | ")))
    }

    /// Lets the crowd check itself and end.
    pub(crate) fn finish(self) {
        self.sandbox.go();
        let heard = self.sandbox.hear(&["ok", "bad"], LIMIT);
        assert_eq!(heard.as_deref(), Some("ok"), "{:?}", self.sandbox.said());
        self.sandbox.empty().expect("all ended");
    }
}

fn maps(sandbox: &Sandbox, pid: u32) -> String {
    fs::read_to_string(sandbox.inside(&format!("/proc/{pid}/maps"))).unwrap_or_default()
}

/// A small generator: tests repeat with the seed they print.
pub(crate) struct Random(u64);

impl Random {
    /// From `AMBER_SEED`, or the clock; prints what it took.
    pub(crate) fn new(what: &str) -> Self {
        let clock =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("clock");
        let seed = std::env::var("AMBER_SEED").ok().and_then(|s| s.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(clock.subsec_nanos()) | 1);
        println!("{what}: AMBER_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn within(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(limit.as_micros()).expect("short")))
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

/// A count given by an environment variable.
pub(crate) fn count(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// The process that nsenter started, seen from outside.
pub(crate) fn child_of(pid: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
