// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The Debian package builds, and has in it what it has to.

use std::path::Path;
use std::process::Command;

fn output(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

#[test]
fn the_package_builds_and_holds_all_that_is_installed() {
    let dir = tempfile::tempdir().expect("directory");
    let place = dir.path().to_str().expect("utf-8");
    let built = output("scripts/deb", &["--binary", env!("CARGO_BIN_EXE_criu"), place]);
    let deb = built.trim();
    assert!(Path::new(deb).exists(), "{deb}");
    let list = output("dpkg-deb", &["-c", deb]);
    for file in [
        "-rwxr-xr-x root/root .* ./usr/sbin/criu",
        "lrwxrwxrwx root/root .* ./usr/bin/crit -> ../sbin/criu",
        "-rw-r--r-- root/root .* ./usr/share/man/man8/criu.8.gz",
        "-rw-r--r-- root/root .* ./usr/share/man/man1/crit.1.gz",
        "-rw-r--r-- root/root .* ./usr/share/bash-completion/completions/criu",
        "-rw-r--r-- root/root .* ./usr/share/zsh/vendor-completions/_criu",
        "-rw-r--r-- root/root .* ./usr/share/fish/vendor_completions.d/criu.fish",
        "-rw-r--r-- root/root .* ./usr/share/doc/amber-criu/copyright",
    ] {
        let (rights, name) = file.split_once(" .* ").expect("a pattern");
        let there = |line: &str| line.starts_with(rights) && line.ends_with(&format!(" {name}"));
        assert!(list.lines().any(there), "{file} in\n{list}");
    }
    for (field, words) in [
        ("Provides", "criu (= 4.2"),
        ("Conflicts", "criu"),
        ("Replaces", "criu"),
        ("Depends", "libc6 (>= 2."),
    ] {
        let value = output("dpkg-deb", &["-f", deb, field]);
        assert!(value.contains(words), "{field}: {value}");
    }
    // Installed, it runs, under both names.
    output("dpkg-deb", &["-x", deb, place]);
    let installed = |name: &str| dir.path().join(name).to_str().expect("utf-8").to_owned();
    assert!(output(&installed("usr/sbin/criu"), &["--version"]).starts_with("Version: 4.2"));
    assert!(output(&installed("usr/bin/crit"), &["--help"]).contains("crit"));
    let copyright = std::fs::read_to_string(installed("usr/share/doc/amber-criu/copyright"));
    let copyright = copyright.expect("copyright");
    assert!(copyright.contains(" nix v") && !copyright.contains('@'), "{copyright}");
}
