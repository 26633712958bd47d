// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Torn and damaged images: an error in words, no process, never a panic or a hang.

use crate::crowd::{Crowd, Random, count};
use crate::support::{Criu, Ended, tail};
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Checkpoint {
    pub(crate) crowd: Crowd,
    pub(crate) images: PathBuf,
    copy: PathBuf,
    pub(crate) names: Vec<String>,
}

impl Checkpoint {
    pub(crate) fn make(name: &str) -> Self {
        let crowd = Crowd::start(name);
        let images = crowd.sandbox.path("images");
        let copy = crowd.sandbox.path("copy");
        fs::create_dir(&images).expect("images");
        let dir = images.to_str().expect("utf-8");
        let args = ["dump", "-v4", "-o", "dump.log", "-D", dir, "-t", &crowd.pid];
        let ended = crowd.sandbox.run(&Criu::ours().path, &args, "dump.out");
        assert!(ended.success(), "{ended:?} {}", tail(&images.join("dump.log"), 25));
        crowd.sandbox.empty().expect("dumped");
        let entries = fs::read_dir(&images).expect("images").flatten();
        let mut names: Vec<_> =
            entries.map(|e| e.file_name().into_string().expect("utf-8")).collect();
        names.retain(|n| n.ends_with(".img") || n.ends_with(".amber"));
        names.sort();
        Self { crowd, images, copy, names }
    }

    /// Restores a copy in which `name` has this content (`None`: is missing). The manifest, which
    /// would give away any other change, is there only if it is the one.
    pub(crate) fn with(&self, name: &str, content: Option<&[u8]>) -> Ended {
        _ = fs::remove_dir_all(&self.copy);
        fs::create_dir(&self.copy).expect("copy");
        for other in self.names.iter().filter(|n| *n != name && *n != "manifest.amber") {
            fs::hard_link(self.images.join(other), self.copy.join(other)).expect("link");
        }
        if let Some(content) = content {
            fs::write(self.copy.join(name), content).expect("damaged image");
        }
        let dir = self.copy.to_str().expect("utf-8");
        let args = ["restore", "-v4", "-o", "restore.log", "-D", dir, "-d"];
        self.crowd.sandbox.run(&Criu::ours().path, &args, "restore.out")
    }

    pub(crate) fn log(&self) -> String {
        tail(&self.copy.join("restore.log"), 12) + &tail(&self.crowd.sandbox.path("restore.out"), 5)
    }

    pub(crate) fn original(&self, name: &str) -> Vec<u8> {
        fs::read(self.images.join(name)).expect("image")
    }

    /// After a failure: nothing lives.
    pub(crate) fn nothing_left(&self, what: &str) {
        let left = self.crowd.sandbox.empty();
        assert!(left.is_ok(), "{what}: {left:?}\n{}", self.log());
    }

    /// The images were found wrong by the plan: no process of the tree was ever forked.
    pub(crate) fn nothing_was_made(&self, what: &str) {
        let log = fs::read_to_string(self.copy.join("restore.log")).expect("log");
        assert!(!log.contains("stage "), "{what}: found too late\n{log}");
        let error = log.lines().find(|l| l.contains("Error (")).unwrap_or_default();
        println!("{what}: {error}");
        assert!(error.len() > 60, "{what}: says too little: {error}");
    }

    pub(crate) fn end_tree(&self) {
        let root = Path::new(&self.crowd.pid).display();
        self.crowd
            .sandbox
            .shell(&format!("kill -9 -- -{root} 2>/dev/null || kill -9 {root} || true"));
        self.crowd.sandbox.empty().expect("killed");
    }
}

/// Images that good checkpoints may lack: ours alone, or without an entry to hold. That there
/// was data in a pipe, or a descriptor in a table, is told by nothing else.
fn may_be_missing(name: &str) -> bool {
    let optional = ["task-", "manifest", "pipes-data", "fifo-data", "sk-queues", "fdinfo"];
    optional.iter().any(|prefix| name.starts_with(prefix))
}

/// Images whose end carries nothing a restore needs.
fn may_be_short(name: &str) -> bool {
    let short = ["stats", "timens", "cgroup", "seccomp", "ids-"];
    short.iter().any(|prefix| name.starts_with(prefix))
}

#[test]
fn torn_images_are_refused() {
    if Criu::ours_is_stock() {
        return crate::support::skip("torn images", "stock hangs on a torn pages image");
    }
    let checkpoint = Checkpoint::make("torn");
    for name in &checkpoint.names {
        let whole = checkpoint.original(name);
        let len = whole.len();
        let mut cuts = vec![Some(0), Some(3), Some(7), Some(len / 2), Some(len - len.min(1)), None];
        cuts.dedup();
        for cut in cuts {
            if cut == Some(len) {
                continue;
            }
            let what = format!("{name} of {len} bytes cut to {cut:?}");
            let ended = checkpoint.with(name, cut.map(|n| &whole[..n]));
            if ended.success() && (may_be_short(name) || cut.is_none() && may_be_missing(name)) {
                checkpoint.end_tree();
                continue;
            }
            assert!(ended.clean_failure(), "{what}: {ended:?}\n{}", checkpoint.log());
            checkpoint.nothing_left(&what);
        }
    }
}

#[test]
fn damaged_images_never_crash_a_restore() {
    if Criu::ours_is_stock() {
        return crate::support::skip("damaged images", "stock may crash");
    }
    let checkpoint = Checkpoint::make("damaged");
    let mut random = Random::new("damaged images");
    let (mut refused, mut accepted) = (0, 0);
    for turn in 0..count("AMBER_FLIPS", 60) {
        let images: Vec<_> = checkpoint.names.iter().filter(|n| !n.starts_with("pages-")).collect();
        let pick = usize::try_from(random.below(images.len() as u64)).expect("small");
        let name = images[pick];
        let mut bytes = checkpoint.original(name);
        for _ in 0..=random.below(3) {
            let at = usize::try_from(random.below(bytes.len() as u64)).expect("small");
            bytes[at] ^= 1 << random.below(8);
        }
        let what = format!("turn {turn}: bits flipped in {name}");
        let ended = checkpoint.with(name, Some(&bytes));
        if ended.success() {
            // A flipped bit of a counter is a valid image: it may run, wrongly or well.
            accepted += 1;
            checkpoint.end_tree();
            continue;
        }
        refused += 1;
        assert!(ended.clean_failure(), "{what}: {ended:?}\n{}", checkpoint.log());
        checkpoint.nothing_left(&what);
    }
    println!("{refused} refused, {accepted} restored");
}
