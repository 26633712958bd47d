// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Invariants of the source that no compiler checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the repository: what git knows, or would take.
fn files() -> Vec<PathBuf> {
    let out = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let names = String::from_utf8(out.stdout).expect("utf-8");
    names.lines().map(PathBuf::from).filter(|f| root().join(f).is_file()).collect()
}

fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_default()
}

/// A line without its comment and its strings, roughly.
fn code(line: &str) -> String {
    let line = line.split("//").next().unwrap_or_default();
    line.split('"').step_by(2).collect()
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word)
}

#[test]
fn unsafe_is_only_where_it_must_be() {
    let islands = [
        "parasite/sys/",
        "parasite/blob/",
        "parasite/restorer-blob/",
        "restorer/src/execute/fork.rs",
        "restorer/src/execute/enter_blob.rs",
    ];
    let mut found = vec![];
    for file in files().iter().filter(|f| f.extension().is_some_and(|e| e == "rs")) {
        if islands.iter().any(|island| file.starts_with(island)) {
            continue;
        }
        let text = read(file);
        let lines = text.lines().enumerate().filter(|(_, line)| has_word(&code(line), "unsafe"));
        found.extend(lines.map(|(n, _)| format!("{}:{}", file.display(), n + 1)));
    }
    assert!(found.is_empty(), "unsafe outside its islands: {found:?}");
}

#[test]
fn each_kind_of_file_has_both_halves_and_tests() {
    let kinds = [
        "eventfd",
        "eventpoll",
        "file_lock",
        "inet_sk",
        "fsnotify",
        "memfd",
        "pidfd",
        "pipe",
        "reg_file",
        "signalfd",
        "tcp_stream",
        "timerfd",
        "tty",
        "unix_sk",
    ];
    let mut missing = vec![];
    for kind in kinds {
        for dir in ["dumper/src/files", "restorer/src/files", "tests/kinds"] {
            let file = root().join(dir).join(format!("{kind}.rs"));
            let folder = root().join(dir).join(kind).join("mod.rs");
            if !file.exists() && !folder.exists() {
                missing.push(format!("{dir}/{kind}.rs"));
            }
        }
    }
    assert!(missing.is_empty(), "missing: {missing:?}");
}

#[test]
fn every_subject_is_tested() {
    let tests: String = files()
        .iter()
        .filter(|f| f.starts_with("tests") && f.extension().is_some_and(|e| e == "rs"))
        .map(|f| read(f))
        .collect();
    let unused: Vec<_> = files()
        .into_iter()
        .filter(|f| f.starts_with("tests/subjects") && f.extension().is_some_and(|e| e == "c"))
        .filter(|f| {
            !tests.contains(&format!("\"{}\"", f.file_stem().unwrap_or_default().display()))
        })
        .collect();
    assert!(unused.is_empty(), "subjects nobody runs: {unused:?}");
}

#[test]
fn nothing_is_left_for_later_in_code() {
    let mut found = vec![];
    for file in files().iter().filter(|f| f.extension().is_some_and(|e| e == "rs")) {
        if file.ends_with("tests/tidy.rs") {
            continue;
        }
        for (n, line) in read(file).lines().enumerate() {
            let marks = ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX", "TODO"];
            if marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{}:{}", file.display(), n + 1));
            }
        }
    }
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn licences_and_lock_file_are_there() {
    let all = files();
    for name in ["Cargo.lock", "LICENSE-APACHE", "LICENSE-MIT", "README.md", ".ci/run"] {
        assert!(all.iter().any(|f| f == Path::new(name)), "{name} is missing");
    }
    for manifest in all.iter().filter(|f| f.file_name().is_some_and(|n| n == "Cargo.toml")) {
        let text = read(manifest);
        let licensed = ["license.workspace = true", "license = \"Apache-2.0 OR MIT\""];
        assert!(licensed.iter().any(|l| text.contains(l)), "{}: no licence", manifest.display());
    }
    let with_header = |f: &Path| {
        f.starts_with("scripts")
            || f.starts_with("tests/subjects")
            || f.starts_with("tests/support")
    };
    for file in all.iter().filter(|f| with_header(f)) {
        let tagged = read(file).contains("SPDX-License-Identifier: Apache-2.0 OR MIT");
        assert!(tagged, "{}: no SPDX line", file.display());
    }
}

#[test]
fn top_level_holds_what_the_readme_maps() {
    let known: BTreeSet<&str> = [
        ".ci",
        ".gitignore",
        ".github",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "clippy.toml",
        "debian",
        "docs",
        "dumper",
        "fuzz",
        "images",
        "parasite",
        "restorer",
        "rustfmt.toml",
        "scripts",
        "src",
        "tests",
        "vm-tests",
    ]
    .into();
    for file in files() {
        let top =
            file.components().next().expect("name").as_os_str().to_string_lossy().into_owned();
        assert!(known.contains(top.as_str()), "{top}: not in the layout");
    }
}
