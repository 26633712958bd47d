// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Restores where the kernel lacks what they use elsewhere, or has another vdso; and what has no
//! fallback.
use crate::support::{Criu, LIMIT, Sandbox, dump, restore, tool, wait_for};
use images::Image;
use images::proto::AmberTaskEntry;
use std::fs;
use std::os::unix::fs::PermissionsExt;

const CLONE3: u32 = 435;

/// Without `clone3` numbers are chosen by `ns_last_pid`, those of processes and those of threads,
/// also while others take numbers all the time.
#[test]
fn numbers_are_chosen_without_clone3() {
    if Criu::ours_is_stock() {
        return crate::support::skip("fallbacks", "they are ours");
    }
    for name in ["tree", "threads", "zombies", "crowd"] {
        for flavour in ["", "pid,mnt,uts,ipc", "user,pid,mnt,uts,ipc"] {
            restored_without(name, flavour, CLONE3);
        }
    }
}

/// Without `bpf` the flags of VMAs are read from smaps, and the images are the same.
#[test]
fn flags_of_areas_are_the_same_without_bpf() {
    const BPF: u32 = 321;
    if Criu::ours_is_stock() {
        return crate::support::skip("fallbacks", "they are ours");
    }
    let sandbox = Sandbox::new("without-bpf");
    let pid = sandbox.start_subject("", "maps", &["big"]);
    let criu = without(&sandbox, BPF);
    let mut found = Vec::new();
    for (criu, name) in [(Criu::ours(), "images"), (criu, "others")] {
        let images = sandbox.path(name);
        fs::create_dir(&images).expect("images");
        dump(&sandbox, &criu, &pid, &images, &["-R", "--compress=none"]).expect("dump");
        let log = fs::read_to_string(images.join("dump.log")).expect("log");
        // Not the pagemap: khugepaged may be at work.
        let mm = fs::read(images.join(format!("mm-{pid}.img"))).expect("mm");
        // Nor what its threads do: it sleeps now and then.
        let number = pid.parse().expect("pid");
        let amber = images::Dir::open(&images).and_then(|dir| dir.read_opt(Image::Amber(number)));
        let amber: Option<AmberTaskEntry> = amber.expect("amber");
        let vmas = amber.unwrap_or_default().vmas;
        found.push((mm, vmas, log.contains("are read from smaps")));
    }
    let [(mm, vmas, by_smaps), (other_mm, other, others_by_smaps)] = &found[..] else { panic!() };
    assert!(mm == other_mm, "VMAs differ");
    assert_eq!(vmas, other, "what is kept apart of VMAs");
    assert!(others_by_smaps, "nothing else is left");
    if *by_smaps {
        crate::support::skip("flags of areas by bpf", "not on this kernel");
    }
    sandbox.finish();
}

/// Ours, on a kernel without this call.
fn without(sandbox: &Sandbox, nr: u32) -> Criu {
    let path = sandbox.path("criu");
    let (refuse, ours) = (tool("refuse"), Criu::ours().path);
    let script = format!("#!/bin/sh\nexec {} {nr} {} \"$@\"\n", refuse.display(), ours.display());
    fs::write(&path, script).expect("script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    Criu { name: "ours", path }
}

fn restored_without(name: &str, flavour: &str, nr: u32) {
    let sandbox = Sandbox::new(&format!("without-{nr}-{name}"));
    let pid = sandbox.start_subject(flavour, name, &[]);
    let images = sandbox.make_images();
    let root = sandbox.path("root").display().to_string();
    dump(&sandbox, &Criu::ours(), &pid, &images, &[]).expect("dump");
    sandbox.empty().expect("dumped");

    let criu = without(&sandbox, nr);
    let args: &[&str] = if flavour.is_empty() { &[] } else { &["--root", &root] };
    // Takes numbers, in the tree's namespace when that is ours.
    sandbox.shell("(while [ ! -e go ]; do /bin/true; done) >/dev/null 2>&1 & echo $! >busy");
    let restored = restore(&sandbox, &criu, &images, args);
    sandbox.shell("kill $(cat busy)");
    restored.unwrap_or_else(|e| panic!("{name} in {flavour:?}: {e}"));
    let log = fs::read_to_string(images.join("restore.log")).expect("log");
    assert!(log.contains("ns_last_pid"), "{log}");
    sandbox.finish();
}

/// A kernel whose vdso has its functions elsewhere: the saved one calls it. Such a vdso is made of
/// the saved one, by moving `getcpu` in its symbol table.
#[test]
fn an_old_vdso_leads_to_the_one_of_this_kernel() {
    if Criu::ours_is_stock() {
        return crate::support::skip("vdso proxy", "of ours");
    }
    let sandbox = Sandbox::new("vdso-proxy");
    let pid = sandbox.start_subject("", "vdso", &["quiet"]);
    let images = sandbox.make_images();
    // Its pages are to be changed.
    dump(&sandbox, &Criu::ours(), &pid, &images, &["--compress=none"]).expect("dump");
    let pages = images.join("pages-1.img");
    let mut bytes = fs::read(&pages).expect("pages");
    move_getcpu(&mut bytes);
    fs::write(&pages, bytes).expect("pages");
    // It knows the pages as they were.
    fs::remove_file(images.join("manifest.amber")).expect("manifest");
    restore(&sandbox, &Criu::ours(), &images, &[]).expect("restore");
    let maps = fs::read_to_string(sandbox.inside(&format!("/proc/{pid}/maps"))).expect("maps");
    let here = maps.lines().filter(|l| l.ends_with("[vdso]")).count();
    assert_eq!(here, 1, "this kernel's, beside the old one: {maps}");
    let saved = fs::read_to_string(images.join("restore.log")).expect("log");
    assert!(!saved.contains("Error"), "{saved}");
    sandbox.finish();
}

/// In the vdso's image among these pages.
fn move_getcpu(pages: &mut [u8]) {
    let find = |from: &[u8], what: &[u8]| from.windows(what.len()).position(|w| w == what);
    let word = |at: &[u8], len: usize| -> usize {
        at[..len].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))
    };
    let start = pages
        .chunks(4096)
        .position(|page| page.starts_with(b"\x7fELF") && find(page, b"__vdso_getcpu\0").is_some());
    let vdso = &mut pages[start.expect("a vdso") * 4096..];
    // Section headers are behind the code; the dynamic symbols are found by their own look: name,
    // info of a function (global or weak), section, value, size.
    let names = find(vdso, b"\0__vdso_").expect("names");
    let strings = vdso[..names].iter().rposition(|b| *b != 0).map_or(names, |_| names);
    let name = |n: usize| &vdso[strings + n..];
    let mut moved = Vec::new();
    for at in (0..strings).step_by(8) {
        let symbol = &vdso[at..at + 24];
        let is_function = matches!(symbol[4], 0x12 | 0x22) && symbol[5] == 0;
        let (n, size) = (word(symbol, 4), word(&symbol[16..], 8));
        let getcpu = [b"__vdso_getcpu\0".as_slice(), b"getcpu\0"];
        if is_function && n > 0 && n < 512 && getcpu.iter().any(|g| name(n).starts_with(g)) {
            assert!(size > 28, "room for it");
            moved.push((at, word(&symbol[8..], 8) + 16));
        }
    }
    assert!(!moved.is_empty(), "getcpu is a symbol");
    for (at, value) in moved {
        vdso[at + 8..at + 16].copy_from_slice(&(value as u64).to_le_bytes());
    }
}

/// A tree with a 32-bit program is refused by its number, and runs on.
#[test]
fn tasks_of_32_bits_are_refused() {
    let sandbox = Sandbox::new("compat");
    let source = ".globl _start\n_start: mov $29, %eax\nint $0x80\njmp _start\n";
    fs::write(sandbox.path("pause.S"), source).expect("source");
    let build = "cd $DIR; cc -m32 -nostdlib -static -o pause pause.S 2>&1 || true
        ./pause & p=$!; sleep 0.2; kill $p 2>/dev/null && echo can; true"
        .replace("$DIR", &sandbox.dir().display().to_string());
    if !sandbox.shell(&build).contains("can") {
        return crate::support::skip("32-bit tasks", "no compiler, or no kernel, for them");
    }
    let dir = sandbox.dir().display();
    let script = format!("cd {dir}; ./pause & echo $! >{dir}/pid; wait");
    sandbox.start(std::path::Path::new("/bin/bash"), &["-c", &script]);
    wait_for(LIMIT, || (!sandbox.called("pause").is_empty()).then_some(())).expect("a 32-bit task");
    let pids = sandbox.pids();
    assert_eq!(pids.len(), 2, "bash and its child");
    let child = wait_for(LIMIT, || {
        fs::read_to_string(sandbox.path("pid")).ok().filter(|p| p.ends_with('\n'))
    });
    let child = child.expect("pid").trim().to_owned();
    let images = sandbox.path("images");
    fs::create_dir(&images).expect("images");
    let root = pids.iter().map(u32::to_string).find(|pid| *pid != child).expect("bash");
    let said = dump(&sandbox, &Criu::ours(), &root, &images, &[]).expect_err("32-bit code");
    if !Criu::ours_is_stock() {
        assert!(said.contains("32-bit code") && said.contains(&child), "{said}");
        let args = ["check", "--feature", "compat_cr"];
        assert!(!sandbox.run(&Criu::ours().path, &args, "check.out").success());
    }
    for pid in pids {
        let status = sandbox.inside(&format!("/proc/{pid}/status"));
        let status = fs::read_to_string(status).expect("it lives");
        assert!(status.contains("State:\tS") && status.contains("TracerPid:\t0"), "{status}");
    }
}
