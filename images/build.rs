//! Compiles `proto/*.proto` with protox (no protoc needed) into Rust types, and keeps the
//! descriptor set for the JSON view of `crit`.
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;
use std::{env, fs, path::PathBuf};

/// Fields that are `string` in CRIU's schema but hold bytes the kernel gave (paths, names):
/// they need not be UTF-8, so the Rust type is `Vec<u8>`. The wire format is the same.
const BYTES: &[(&str, &str)] = &[
    ("reg_file_entry", "name"),
    ("task_core_entry", "comm"),
    ("thread_core_entry", "comm"),
    ("memfd_inode_entry", "name"),
    ("ghost_file_entry", "symlnk_target"),
    ("mnt_entry", "root"),
    ("mnt_entry", "mountpoint"),
    ("mnt_entry", "source"),
    ("mnt_entry", "options"),
    ("unix_sk_entry", "name_dir"),
    ("fanotify_mount_mark_entry", "path"),
    ("irmap_cache_entry", "path"),
    ("fh_entry", "path"),
];

fn main() {
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));
    let mut protos: Vec<PathBuf> = fs::read_dir("proto")
        .expect("proto/ is there")
        .map(|e| e.expect("readable").path())
        .filter(|p| p.extension().is_some_and(|x| x == "proto"))
        .collect();
    protos.sort();
    let mut compiler = protox::Compiler::new(["proto"]).expect("proto/ is there");
    compiler.include_imports(true).open_files(&protos).expect("protos compile");
    // Encoded by the compiler: prost's descriptor types would drop CRIU's annotations.
    let encoded = compiler.encode_file_descriptor_set();
    fs::write(out.join("criu.desc"), encoded).expect("OUT_DIR is writable");
    let mut set: FileDescriptorSet = compiler.file_descriptor_set();
    // Only annotations for crit; its `CRIU_Opts` would clash with rpc's `criu_opts`.
    set.file.retain(|f| f.name() != "opts.proto");
    for file in &mut set.file {
        for message in &mut file.message_type {
            let name = message.name().to_owned();
            for field in &mut message.field {
                if BYTES.contains(&(name.as_str(), field.name())) {
                    field.set_type(Type::Bytes);
                }
            }
        }
    }
    let mut config = prost_build::Config::new();
    config.default_package_filename("criu");
    // The proto name of a message: checked against the image it is read from or written to.
    config.enable_type_names();
    config.compile_fds(set).expect("types generate");
}
