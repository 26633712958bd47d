// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compiles the C programs of the tests, each once.

use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
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

/// Where programs are that other users run, too: not below a directory like `/root`.
fn place() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let usual = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let open = |dir: &Path| fs::metadata(dir).is_ok_and(|m| m.mode() & 0o001 != 0);
        if usual.ancestors().all(open) {
            return usual.to_owned();
        }
        // One for each tree of sources.
        let mut hash = std::hash::DefaultHasher::new();
        usual.hash(&mut hash);
        let dir = Path::new(super::tmp()).join(format!("amber-programs-{:x}", hash.finish()));
        let made = fs::DirBuilder::new().mode(0o755).create(&dir);
        let mine = fs::symlink_metadata(&dir).is_ok_and(|m| {
            m.is_dir() && m.uid() == nix::unistd::geteuid().as_raw() && m.mode() & 0o022 == 0
        });
        assert!(mine, "{}: {made:?}", dir.display());
        dir
    })
}

fn compile(source: &str, name: &str) -> PathBuf {
    let source = sources().join(source);
    let header = sources().join("subjects/subject.h");
    let out = place().join(name);
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
