//! Builds the dump blob (a program of its own, see `blob/`) and keeps its code as one flat
//! piece that `infect` copies into targets.
use goblin::elf::Elf;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    for dir in ["blob/src", "blob/Cargo.toml", "blob/blob.ld", "abi/src", "sys/src/raw.rs"] {
        println!("cargo::rerun-if-changed={dir}");
    }
    let status = Command::new(env::var_os("CARGO").expect("set by cargo"))
        .args(["build", "--release", "--manifest-path", "blob/Cargo.toml", "--target-dir"])
        .arg(out.join("blob"))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the parasite blob did not build");
    let file = fs::read(out.join("blob/release/parasite-blob")).expect("cargo wrote it");
    let elf = Elf::parse(&file).expect("the blob is ELF");
    // blob.ld puts all code and constants into .text at 0 and refuses everything else that
    // would need a loader: relocations, a GOT, writable data.
    let text = elf
        .section_headers
        .iter()
        .find(|s| elf.shdr_strtab.get_at(s.sh_name) == Some(".text"))
        .expect("the blob has code");
    assert_eq!((text.sh_addr, elf.entry), (0, 0), "the blob's entry is its first byte");
    let code = &file[text.file_range().expect("code is in the file")];
    assert!(code.len() < 64 << 10, "the parasite blob is larger than 64 KiB");
    fs::write(out.join("parasite-blob.bin"), code).expect("OUT_DIR is writable");
}
