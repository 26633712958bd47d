// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Images that cannot be written: the error names the file, the program runs on.

use crate::crowd::Crowd;
use crate::support::{Criu, LIMIT, Sandbox, dump, restore, subject, tail, wait_for};
use std::fs;

#[test]
fn a_dump_to_a_full_disk_names_the_image_and_lets_the_program_run() {
    let crowd = Crowd::start("full-disk");
    let mut failed = 0;
    for kilobytes in [4, 8, 16, 32, 64, 128, 256, 512, 1024] {
        failed += u32::from(dump_into(&crowd, &format!("size={kilobytes}k"), &[]).is_some());
    }
    assert!(failed >= 4, "only {failed} of the disks were too small");
    crowd.finish();
}

#[test]
fn a_disk_that_is_full_while_pages_are_compressed() {
    let crowd = Crowd::start("full-compressed");
    for codec in ["lz4", "zstd"] {
        let option = format!("--compress={codec}");
        let mut said = Vec::new();
        for kilobytes in (8..=128).step_by(8) {
            let size = format!("size={kilobytes}k");
            said.extend(dump_into(&crowd, &size, &[&option, "--compress-threads=2"]));
        }
        let pages = said.iter().any(|said| said.contains("pages-"));
        assert!(pages, "{codec}: no disk was full when pages came: {said:?}");
    }
    crowd.finish();
}

/// How much an image takes is a guess beforehand: a wrong one is no reason to fail.
#[test]
fn a_disk_with_room_for_what_is_written_is_enough() {
    let sandbox = Sandbox::new("guess");
    let pid = sandbox.start_subject("", "zeroed", &[]);
    let images = sandbox.make_images();
    // Whole pieces of room leave next to nothing.
    sandbox.shell("mount -t tmpfs -o size=16432k disk images");
    dump(&sandbox, &Criu::ours(), &pid, &images, &[]).expect("dump");
    restore(&sandbox, &Criu::ours(), &images, &[]).expect("restore");
    sandbox.finish();
}

/// Nor is room that was made for one image, and is not needed there, kept from another.
#[test]
fn room_that_is_not_needed_is_there_for_other_images() {
    let sandbox = Sandbox::new("other-images");
    let pid = sandbox.start_subject("", "zeroed", &["shared"]);
    let images = sandbox.make_images();
    for (mib, criu) in [(92, Criu::ours()), (100, Criu::ours())] {
        sandbox.shell(&format!("mount -t tmpfs -o size={mib}m disk images"));
        let more: &[&str] = if mib < 100 { &["-R"] } else { &[] };
        dump(&sandbox, &criu, &pid, &images, &[&["--compress=none"], more].concat()).expect("dump");
        if mib < 100 {
            sandbox.shell("umount images");
        }
    }
    restore(&sandbox, &Criu::ours(), &images, &[]).expect("restore");
    sandbox.finish();
}

/// Whoever started us may have been told to make no large files: a limit that we may raise is no
/// reason to fail, and of another it is said which it is.
#[test]
fn a_limit_of_the_size_of_files_is_raised_or_named() {
    if Criu::ours_is_stock() {
        return crate::support::skip("limits of files", "they are ours");
    }
    let sandbox = Sandbox::new("file-limit");
    let pid = sandbox.start_subject("", "zeroed", &["shared"]);
    let images = sandbox.make_images();
    let log = sandbox.path("images/dump.log");
    let (criu, images) = (Criu::ours().path, images.display());
    for (limit, raise) in [("ulimit -S -f 2000", true), ("ulimit -f 2000", false)] {
        let script = format!(
            "{limit}; exec {} dump -R -v4 -o dump.log -D {images} -t {pid} --compress=none",
            criu.display()
        );
        let ended = sandbox.run(std::path::Path::new("/bin/sh"), &["-c", &script], "dump.out");
        let said = tail(&log, 15);
        // With the capability the other one is raised too.
        let named = ended.clean_failure() && said.contains("RLIMIT_FSIZE");
        assert!(ended.success() || (!raise && named), "{limit}: {ended:?}\n{said}");
    }
    sandbox.finish();
}

/// A control group of memory, gone with the value (after the processes in it).
struct Group(String);

impl Group {
    /// With so much memory; `None`, and told, where none can be had.
    fn new(sandbox: &Sandbox, limit: &str) -> Option<Self> {
        let name = sandbox.dir().file_name().and_then(|n| n.to_str()).expect("utf-8");
        let make = format!(
            "g=/sys/fs/cgroup/memory; l=memory.limit_in_bytes
            p=$(sed -n 's/^[0-9]*:memory://p' /proc/self/cgroup)
            [ -e $g/memory.usage_in_bytes ] || {{ g=/sys/fs/cgroup; l=memory.max
                p=$(sed -n 's/^0:://p' /proc/self/cgroup); }}
            g=$g$p/{name}; mkdir $g && echo {limit} >$g/$l && echo $g"
        );
        let group = sandbox.shell(&format!("({make}) 2>/dev/null; true")).trim().to_owned();
        if group.is_empty() {
            crate::support::skip("memory of groups", "no group of our own can be had");
        }
        (!group.is_empty()).then_some(Self(group))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let gone = wait_for(LIMIT, || fs::remove_dir(&self.0).is_ok().then_some(()));
        assert!(gone.is_some() || std::thread::panicking(), "{} is left", self.0);
    }
}

/// Room is a guess: a control group with too little memory for it does not lose its processes by it.
#[test]
fn room_leaves_the_memory_of_a_group_to_its_processes() {
    let sandbox = Sandbox::new("group-memory");
    // 48 MiB of zeroes, and as much room, are more than this group may have.
    let Some(group) = Group::new(&sandbox, "90M") else { return };
    let pid = sandbox.start_subject("", "zeroed", &[]);
    let images = sandbox.make_images();
    sandbox.shell("mount -t tmpfs disk images");
    let (criu, images) = (Criu::ours().path, images.display());
    let script = format!(
        "echo $$ >{}/cgroup.procs; head -c 50M /dev/zero >images/full
         exec {} dump -R -v4 -o dump.log -D {images} -t {pid} --compress=none",
        group.0,
        criu.display()
    );
    let ended = sandbox.run(std::path::Path::new("/bin/sh"), &["-c", &script], "dump.out");
    let said = tail(&sandbox.path("images/dump.log"), 15);
    sandbox.shell("rm images/full");
    sandbox.finish();
    assert!(ended.success(), "{ended:?}\n{said}");
}

/// Where images in memory would have a group killed whose tree is to be saved, they are given up.
#[test]
fn a_group_without_memory_for_images_keeps_its_tree() {
    if Criu::ours_is_stock() {
        return crate::support::skip("memory of groups", "stock's dump has the tree killed");
    }
    let sandbox = Sandbox::new("group-full");
    // The tree has 138 MiB; 90 of them are to be written.
    let Some(group) = Group::new(&sandbox, "200M") else { return };
    let images = sandbox.make_images();
    sandbox.shell("mount -t tmpfs disk images");
    let enter = format!("echo $$ >{}/cgroup.procs; exec \"$@\"", group.0);
    let inside = ["-c", &enter, "sh"];
    let (subject, dir) = (subject("zeroed"), sandbox.dir().to_str().expect("utf-8"));
    let bash = std::path::Path::new("/bin/bash");
    let start = [subject.to_str().expect("utf-8"), dir, "shared"];
    sandbox.start(bash, &[inside, start].concat());
    let pid = sandbox.ready();
    let (criu, images) = (Criu::ours().path, images.display().to_string());
    let dump = [criu.to_str().expect("utf-8"), "dump", "-v4", "-o", "dump.log", "-D", &images];
    let what = ["-t", &pid, "--compress=none"];
    let ended = sandbox.run(bash, &[&inside, &dump[..], &what].concat(), "dump.out");
    let said = tail(&sandbox.inside(&format!("{images}/dump.log")), 15);
    assert!(ended.clean_failure() && said.contains("control group"), "{ended:?}\n{said}");
    sandbox.finish();
}

#[test]
fn a_dump_to_a_read_only_disk_names_the_image_and_lets_the_program_run() {
    let crowd = Crowd::start("read-only");
    assert!(dump_into(&crowd, "ro", &[]).is_some(), "a read-only directory was written to");
    crowd.finish();
}

#[test]
fn a_dump_to_no_directory_lets_the_program_run() {
    let crowd = Crowd::start("no-directory");
    let args = ["dump", "-v4", "-D", "/nowhere/at/all", "-t", &crowd.pid, "--leave-running"];
    let ended = crowd.sandbox.run(&Criu::ours().path, &args, "dump.out");
    assert!(ended.clean_failure(), "{ended:?}");
    let said = fs::read_to_string(crowd.sandbox.path("dump.out")).expect("output");
    assert!(said.contains("/nowhere/at/all"), "{said}");
    crowd.untouched().expect("not even touched");
    crowd.finish();
}

/// The errors, if the dump failed, as it should, in words.
fn dump_into(crowd: &Crowd, options: &str, more: &[&str]) -> Option<String> {
    let sandbox = &crowd.sandbox;
    let mount = format!("mkdir -p disk logs && mount -t tmpfs -o {options} disk disk");
    sandbox.shell(&mount);
    let disk = sandbox.path("disk");
    let disk = disk.to_str().expect("utf-8");
    let args = [
        "dump",
        "-v4",
        "-o",
        "dump.log",
        "-D",
        disk,
        "-W",
        "logs",
        "-t",
        &crowd.pid,
        "--leave-running",
    ];
    let args = [&args[..], more].concat();
    let ended = sandbox.run(&Criu::ours().path, &args, "dump.out");
    let log = sandbox.path("logs/dump.log");
    let context = || {
        format!("{options}: {ended:?}\n{}{}", tail(&log, 15), tail(&sandbox.path("dump.out"), 5))
    };
    crowd.untouched().unwrap_or_else(|what| panic!("{what}\n{}", context()));
    sandbox.shell("umount disk");
    if ended.success() {
        return None;
    }
    assert!(ended.clean_failure(), "{}", context());
    let mut said = fs::read_to_string(&log).unwrap_or_default();
    said += &fs::read_to_string(sandbox.path("dump.out")).unwrap_or_default();
    let errors: Vec<_> =
        said.lines().filter(|l| l.contains("Error") && l.contains(".img")).collect();
    let named = !errors.is_empty();
    assert!(named || Criu::ours_is_stock(), "no error names the image: {}", context());
    Some(errors.concat())
}
