// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs subjects (small C programs that check themselves) through dump and restore.
//!
//! Each run lives in a sandbox: pid, mount, net and ipc namespaces of its own, entered by
//! the subject and by every `criu` call. Seen from `criu` all is in the host's flavour, the
//! pids a restore needs are free, and tests run in parallel without meeting each other.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(unused_imports, reason = "each test program uses its part")]
#![allow(unreachable_pub, reason = "shared by path, not a crate")]

mod binary;
mod build;
mod matrix;
mod sandbox;

pub use binary::Criu;
pub use build::{subject, tool};
pub use matrix::{Direction, Subject, directions, dump, has_capability, pre_dump, restore};
pub use sandbox::{Ended, Sandbox, tmp};

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// No single step of a test may last longer.
pub const LIMIT: Duration = Duration::from_secs(150);

/// Polls until `done` gives something, or the limit has passed.
pub fn wait_for<T>(limit: Duration, mut done: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = done() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// The last lines of a log, for a failure report.
pub fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    format!("--- {} (last {lines} lines)\n{}\n", path.display(), all[from..].join("\n"))
}

/// Says on the real standard error why something is not tested.
pub fn skip(what: &str, why: &str) {
    // Not by `eprintln!`, which the test runner keeps to itself.
    _ = writeln!(std::io::stderr(), "SKIPPED {what}: {}", why.trim());
}

/// Whether `test` runs in the project's CI, where nothing may be missing.
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some()
}
