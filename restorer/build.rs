//! Builds the restorer blob (a program of its own, see `parasite/restorer-blob`) and keeps its
//! code as one flat piece that `execute::arena` copies into the tasks.
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    for dir in [
        "restorer-blob/src",
        "restorer-blob/Cargo.toml",
        "restorer-blob/blob.ld",
        "abi/src",
        "sys/src/raw.rs",
    ] {
        println!("cargo::rerun-if-changed=../parasite/{dir}");
    }
    let status = Command::new(env::var_os("CARGO").expect("set by cargo"))
        .args(["build", "--release", "--manifest-path", "../parasite/restorer-blob/Cargo.toml"])
        .arg("--target-dir")
        .arg(out.join("blob"))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the restorer blob did not build");
    let elf = fs::read(out.join("blob/release/restorer-blob")).expect("cargo wrote it");
    let text = text(&elf);
    assert!(text.len() < 64 << 10, "the restorer blob is larger than 64 KiB");
    fs::write(out.join("restorer-blob.bin"), text).expect("OUT_DIR is writable");
}

/// The section at address 0 that holds all code and constants (see `blob.ld`).
fn text(elf: &[u8]) -> &[u8] {
    let int = |at: usize, len: usize| {
        elf[at..at + len].iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b))
    };
    let (table, size, count) = (int(0x28, 8), int(0x3a, 2), int(0x3c, 2));
    let (progbits, alloc_exec) = (1, 6);
    for i in 0..count {
        let section = table + i * size;
        if int(section + 4, 4) == progbits && int(section + 8, 8) & 7 == alloc_exec {
            assert_eq!(int(section + 0x10, 8), 0, "the blob's code starts at 0");
            assert_eq!(int(0x18, 8), 0, "the blob's entry is its first byte");
            let (from, len) = (int(section + 0x18, 8), int(section + 0x20, 8));
            return &elf[from..from + len];
        }
    }
    panic!("the blob has no code");
}
