// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Chains of images: pre-dumps, and dumps of what changed since.
use crate::Subject;
use crate::support::{Criu, LIMIT, Sandbox, dump, pre_dump, restore, wait_for};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// `AMBER_SEED=N` repeats a run, `AMBER_MUTATIONS=N` makes more of them.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn memory_that_changes_by_all_means_comes_back_through_a_chain_of_five() {
    let first = number("AMBER_SEED", u64::from(std::process::id()));
    for seed in first..first + number("AMBER_MUTATIONS", 4) {
        println!("AMBER_SEED={seed}");
        Subject::new("mutate")
            .args(&[Box::leak(seed.to_string().into_boxed_str())])
            .chain(5)
            .check();
    }
}

#[test]
fn kinds_of_memory_come_back_through_a_chain_of_three() {
    for name in ["maps", "cow", "guard", "hugetlb", "aio", "shm", "bulk", "stack", "threads"] {
        Subject::new(name).chain(3).check();
    }
}

#[test]
fn what_a_chain_restored_is_dumped_by_the_next() {
    Subject::new("bulk").chain(3).rounds(2).check();
}

/// A subject and its images: `0`, `1`, ….
struct Chain {
    sandbox: Sandbox,
    pid: String,
    made: usize,
}

impl Chain {
    fn of(name: &str, args: &[&str]) -> Self {
        let sandbox = Sandbox::new(name);
        let pid = sandbox.start_subject("", name, args);
        Self { sandbox, pid, made: 0 }
    }

    fn images(&self, n: usize) -> PathBuf {
        self.sandbox.path(&n.to_string())
    }

    /// A directory, and the options to make it the child of `parent`.
    fn next(&mut self, parent: Option<usize>) -> (PathBuf, Vec<String>) {
        let images = self.images(self.made);
        fs::create_dir(&images).expect("images directory");
        self.made += 1;
        let mut args = vec!["--track-mem".to_owned()];
        args.extend(
            parent.into_iter().flat_map(|p| ["--prev-images-dir".into(), format!("../{p}")]),
        );
        (images, args)
    }

    fn pre_dump(&mut self, parent: Option<usize>, more: &[&str]) {
        let (images, args) = self.next(parent);
        let args: Vec<_> = args.iter().map(|a| &**a).chain(more.iter().copied()).collect();
        pre_dump(&self.sandbox, &Criu::ours(), &self.pid, &images, &args).expect("pre-dump");
    }

    fn dump(&mut self, parent: Option<usize>, more: &[&str]) {
        let (images, args) = self.next(parent);
        let args: Vec<_> = args.iter().map(|a| &**a).chain(more.iter().copied()).collect();
        dump(&self.sandbox, &Criu::ours(), &self.pid, &images, &args).expect("dump");
    }

    fn restore_last(&self, by: &Criu, more: &[&str]) {
        restore(&self.sandbox, by, &self.images(self.made - 1), more).expect("restore");
        self.sandbox.finish();
    }

    fn log(&self, n: usize) -> String {
        fs::read_to_string(self.images(n).join("dump.log")).expect("log")
    }

    /// Bytes of contents in directory `n`: of compressed ones, as many as were saved.
    fn size(&self, n: usize) -> u64 {
        use images::pages::{Codec, Frames};
        let size = |entry: fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let codec = Codec::ALL.into_iter().find(|codec| name.ends_with(codec.suffix()));
            let Some(codec) = codec else { return blocks(&entry) };
            let file = fs::File::open(entry.path()).expect("pages");
            Frames::open(&file, &name, codec).expect("frames").len_bytes()
        };
        self.pages_images(n).map(size).sum()
    }

    /// Bytes that the contents in directory `n` take on disk.
    fn on_disk(&self, n: usize) -> u64 {
        self.pages_images(n).map(|entry| blocks(&entry)).sum()
    }

    fn pages_images(&self, n: usize) -> impl Iterator<Item = fs::DirEntry> {
        let entries = fs::read_dir(self.images(n)).expect("images").filter_map(Result::ok);
        entries.filter(|e| e.file_name().to_string_lossy().starts_with("pages-"))
    }

    /// Who keeps watch in the sandbox.
    fn holders(&self) -> Vec<u32> {
        let comm = |pid: &u32| {
            let path = self.sandbox.inside(&format!("/proc/{pid}/comm"));
            fs::read_to_string(path).unwrap_or_default().starts_with("criu:")
        };
        self.sandbox.pids().into_iter().filter(comm).collect()
    }
}

/// Stock CRIU, if there is one and it can read the pages.
fn either() -> Criu {
    let compressed = std::env::var("AMBER_COMPRESS").is_ok_and(|codec| codec != "none");
    Criu::stock().filter(|_| !compressed).unwrap_or_else(Criu::ours)
}

fn blocks(entry: &fs::DirEntry) -> u64 {
    use std::os::unix::fs::MetadataExt;
    entry.metadata().expect("pages").blocks() * 512
}

const MIB: u64 = 1 << 20;

#[test]
fn what_did_not_change_is_left_to_the_parent() {
    let mut chain = Chain::of("bulk", &[]);
    chain.pre_dump(None, &[]);
    chain.pre_dump(Some(0), &["--pre-dump-mode", "read"]);
    chain.dump(Some(1), &[]);
    let sizes = [chain.size(0), chain.size(1), chain.size(2)];
    assert!(sizes[0] > 50 * MIB && sizes[1] < MIB && sizes[2] < MIB, "{sizes:?}");
    let by = either();
    chain.restore_last(&by, &[]);
}

#[test]
fn a_tree_left_running_is_watched_on() {
    let mut chain = Chain::of("bulk", &[]);
    chain.dump(None, &["--leave-running"]);
    chain.dump(Some(0), &["--leave-running"]);
    chain.dump(Some(1), &[]);
    assert!(chain.size(0) > 50 * MIB && chain.size(1) < 4 * MIB && chain.size(2) < 4 * MIB);
    chain.restore_last(&Criu::ours(), &[]);
}

#[test]
fn nothing_of_the_watch_is_seen_by_the_tree_and_it_ends_with_it() {
    let mut chain = Chain::of("bulk", &[]);
    let fds = || {
        fs::read_dir(chain.sandbox.inside(&format!("/proc/{}/fd", chain.pid))).expect("fds").count()
    };
    // It closes what it has said it is ready in.
    wait_for(LIMIT, || (fds() == 3).then_some(())).expect("only standard descriptors");
    let status = |chain: &Chain| {
        let path = chain.sandbox.inside(&format!("/proc/{}/status", chain.pid));
        fs::read_to_string(path).expect("status")
    };
    assert!(chain.holders().is_empty());
    let (images, _) = chain.next(None);
    pre_dump(&chain.sandbox, &Criu::ours(), &chain.pid, &images, &[]).expect("pre-dump");
    assert!(status(&chain).contains("TracerPid:\t0"));
    let fds = fs::read_dir(chain.sandbox.inside(&format!("/proc/{}/fd", chain.pid)));
    assert_eq!(fds.expect("fds").count(), 3);
    assert_eq!(chain.holders().len(), 1);
    // `finish` waits until the sandbox is empty.
    chain.sandbox.finish();
}

#[test]
fn a_dump_after_a_pre_dump_needs_not_be_told_of_it() {
    let mut chain = Chain::of("bulk", &[]);
    chain.pre_dump(None, &[]);
    chain.dump(None, &[]);
    assert!(chain.size(1) > 50 * MIB);
    let by = either();
    chain.restore_last(&by, &[]);
}

#[test]
fn when_the_watch_was_killed_all_is_saved() {
    let mut chain = Chain::of("bulk", &[]);
    chain.pre_dump(None, &[]);
    let holders = chain.holders();
    assert_eq!(holders.len(), 1);
    chain.sandbox.shell(&format!("kill -9 {}", holders[0]));
    wait_for(LIMIT, || chain.holders().is_empty().then_some(())).expect("killed");
    chain.pre_dump(Some(0), &[]);
    assert!(chain.size(1) > 50 * MIB, "{}", chain.log(1));
    // And it is watched again.
    chain.dump(Some(1), &[]);
    assert!(chain.size(2) < MIB, "{}", chain.log(2));
    chain.restore_last(&Criu::ours(), &[]);
}

#[test]
fn with_the_wrong_parent_all_is_saved() {
    let mut chain = Chain::of("bulk", &[]);
    chain.pre_dump(None, &[]);
    chain.pre_dump(Some(0), &[]);
    chain.dump(Some(0), &[]);
    assert!(chain.size(2) > 50 * MIB, "{}", chain.log(2));
    assert!(chain.log(2).contains("is not the last dump of these tasks"));
    chain.restore_last(&Criu::ours(), &[]);
}

#[test]
fn a_parent_that_is_not_there_is_refused_before_anything_is_touched() {
    let mut chain = Chain::of("bare", &[]);
    let (images, _) = chain.next(None);
    let args = ["--prev-images-dir", "../nowhere"];
    let said = dump(&chain.sandbox, &Criu::ours(), &chain.pid, &images, &args);
    assert!(said.expect_err("no parent").contains("../nowhere"));
    chain.sandbox.finish();
}

#[test]
fn a_refused_dump_does_not_spoil_the_watch() {
    let mut chain = Chain::of("bulk", &[]);
    chain.pre_dump(None, &[]);
    let (images, _) = chain.next(Some(0));
    let args = ["--prev-images-dir", "../0", "--action-script", "/bin/false"];
    dump(&chain.sandbox, &Criu::ours(), &chain.pid, &images, &args).expect_err("script");
    chain.dump(Some(0), &[]);
    assert!(chain.size(2) < MIB, "{}", chain.log(2));
    chain.restore_last(&Criu::ours(), &[]);
}

#[test]
fn a_pre_dump_is_no_dump() {
    let mut chain = Chain::of("bare", &[]);
    chain.pre_dump(None, &[]);
    let said = restore(&chain.sandbox, &Criu::ours(), &chain.images(0), &[]);
    assert!(said.expect_err("a pre-dump").contains("pre-dump cannot be restored"));
    chain.sandbox.finish();
}

#[test]
fn dedup_gives_back_what_newer_images_have() {
    let seed = number("AMBER_SEED", 7).to_string();
    for automatic in [false, true] {
        let more: &[&str] = if automatic { &["--auto-dedup"] } else { &[] };
        let mut chain = Chain::of("mutate", &[&seed]);
        chain.pre_dump(None, more);
        for parent in 0..3 {
            std::thread::sleep(Duration::from_millis(50));
            chain.pre_dump(Some(parent), more);
        }
        let before = chain.on_disk(0);
        // Frames go as a whole, and what a program changes here and there supersedes none.
        let plain = chain.size(0) == before;
        chain.dump(Some(3), more);
        if !automatic {
            let images = chain.images(4);
            let images = images.to_str().expect("utf-8");
            let args = ["dedup", "-v4", "-o", "dedup.log", "-D", images];
            assert!(chain.sandbox.run(&Criu::ours().path, &args, "dedup.out").success());
            assert!(chain.on_disk(0) < before || !plain, "{before}");
        }
        chain.restore_last(&Criu::ours(), more);
        if automatic && plain {
            assert_eq!(chain.on_disk(4), 0, "all was used up");
        }
    }
}
