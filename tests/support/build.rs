// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compiles the C programs of the tests, each once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The compiled `tests/subjects/NAME.c`.
pub fn subject(name: &str) -> PathBuf {
    compile(&format!("subjects/{name}.c"), &format!("subject-{name}"))
}

/// The compiled `tests/support/NAME.c`.
pub fn tool(name: &str) -> PathBuf {
    compile(&format!("support/{name}.c"), &format!("tool-{name}"))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|m| m.modified()).ok()
}

fn compile(source: &str, name: &str) -> PathBuf {
    let source = sources().join(source);
    let header = sources().join("subjects/subject.h");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // Tests run in parallel, as threads and as processes; a subject already running must keep
    // its file, so each is compiled once.
    let lock = fs::File::create(out.with_extension("lock")).expect("lock file");
    lock.lock().expect("lock");
    let newest = modified(&source).max(modified(&header));
    if modified(&out) >= newest {
        return out;
    }
    let part = out.with_extension("part");
    let done = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args([
            "-O1",
            "-g",
            "-std=gnu11",
            "-Wall",
            "-Wno-unused-result",
            "-Wno-misleading-indentation",
            "-Wno-format-truncation",
            "-pthread",
            "-o",
        ])
        .arg(&part)
        .arg(&source)
        .args(["-lrt", "-ldl"])
        .output()
        .expect("a C compiler");
    let messages = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {messages}", source.display());
    fs::rename(&part, &out).expect("compiled program");
    out
}
