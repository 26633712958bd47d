// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Control groups. Below groups of the test's own, which are removed between dump and restore:
//! only the images know them then.

use crate::support::{Criu, LIMIT, Sandbox, directions, dump, restore, subject, tail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Groups named for this run, gone with the value.
pub(crate) struct Groups {
    name: String,
}

/// Where our own groups are: (mounted hierarchy, path).
fn homes() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let own = fs::read_to_string("/proc/self/cgroup").expect("cgroup");
    let path_of = |kind: &str, options: &str| {
        own.lines().find_map(|line| {
            let (list, path) = line.split_once(':')?.1.split_once(':')?;
            let fits = match list {
                "" => kind == "cgroup2",
                list => kind == "cgroup" && options.split(',').any(|o| o == list),
            };
            fits.then(|| path.to_owned())
        })
    };
    let home = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let (root, at) = (front.next()?, front.next()?);
        let mut back = back.split(' ');
        let path = path_of(back.next()?, back.nth(1)?)?;
        (root == "/").then(|| Path::new(at).join(path.trim_start_matches('/')))
    };
    mounts.lines().filter_map(home).collect()
}

impl Groups {
    fn new(what: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self { name: format!("amber-{what}-{}-{count}", std::process::id()) }
    }

    pub(crate) fn all(&self) -> Vec<PathBuf> {
        homes().into_iter().map(|home| home.join(&self.name)).filter(|p| p.exists()).collect()
    }

    pub(crate) fn v2(&self) -> PathBuf {
        let all = self.all();
        all.into_iter().find(|p| p.join("cgroup.events").exists()).expect("a group of v2")
    }

    pub(crate) fn remove(&self) {
        self.all().iter().for_each(|group| remove(group));
    }
}

fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove(&entry.path());
        }
    }
    for _ in 0..3000 {
        if fs::remove_dir(group).is_ok() || !group.exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{} cannot be removed", group.display());
}

impl Drop for Groups {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.remove();
        } else {
            self.all().iter().for_each(|g| println!("left: {}", g.display()));
        }
    }
}

pub(crate) struct Run {
    // First, so that the tasks are gone before their groups.
    pub(crate) sandbox: Sandbox,
    pub(crate) pid: String,
    pub(crate) images: PathBuf,
    pub(crate) before: Groups,
    after: Groups,
}

impl Run {
    /// `None`, and told, if this machine cannot.
    pub(crate) fn new(moves: bool, more: &[&str]) -> Option<Self> {
        let before = Groups::new("cg");
        let after = if moves { Groups::new("to") } else { Groups { name: before.name.clone() } };
        let sandbox = Sandbox::new("cgroup");
        let dir = sandbox.dir().to_str().expect("utf-8").to_owned();
        let mut args = vec![dir.as_str(), &before.name, &after.name];
        args.extend(more);
        sandbox.start(&subject("cgroup"), &args);
        let heard = sandbox.hear(&["ready", "bad", "skip"], LIMIT).expect("ready");
        if let Some(why) = heard.strip_prefix("skip: ") {
            crate::support::skip("cgroup", why);
            return None;
        }
        let pid = heard.strip_prefix("ready ").unwrap_or_else(|| panic!("{heard}")).to_owned();
        let images = sandbox.path("images");
        fs::create_dir(&images).expect("images");
        Some(Self { sandbox, pid, images, before, after })
    }

    pub(crate) fn dump(&self, criu: &Criu, more: &[&str]) -> Result<(), String> {
        dump(&self.sandbox, criu, &self.pid, &self.images, more)
    }

    pub(crate) fn finish(&self) {
        self.sandbox.go();
        let heard = self.sandbox.hear(&["ok", "bad"], LIMIT);
        let logs = || {
            tail(&self.images.join("dump.log"), 20) + &tail(&self.images.join("restore.log"), 30)
        };
        assert_eq!(heard.as_deref(), Some("ok"), "{}", logs());
        self.sandbox.empty().expect("all ended");
    }
}

fn all_directions(moves: bool, subject: &[&str], mode: &str) {
    for (by, to) in directions(&Criu::ours(), Criu::stock().as_ref()) {
        let Some(run) = Run::new(moves, subject) else { return };
        let mode = format!("--manage-cgroups{mode}");
        let home = fs::read_to_string("/proc/self/cgroup").expect("cgroup");
        let home = home.lines().find_map(|l| l.strip_prefix("0::")).expect("v2");
        let below = |groups: &Groups| format!("{}/{}", home.trim_end_matches('/'), groups.name);
        let (from, into) = (below(&run.before), below(&run.after));
        let mut options = vec![mode.as_str()];
        if moves && by.name == "ours" {
            // One tree: stock puts each tree of several at the new root. It also fails to dump
            // where a hierarchy does not have the root that is asked for.
            options.extend(["--cgroup-root", &from]);
        }
        run.dump(&by, &options).unwrap_or_else(|e| panic!("{} -> {}: {e}", by.name, to.name));
        run.sandbox.empty().expect("dumped");
        run.before.remove();
        options.truncate(1);
        if moves {
            options.extend(["--cgroup-root", &into]);
        }
        let done = restore(&run.sandbox, &to, &run.images, &options);
        done.unwrap_or_else(|e| panic!("{} -> {}: {e}", by.name, to.name));
        run.finish();
        run.after.remove();
    }
}

#[test]
fn groups_are_made_again() {
    all_directions(false, &[], "");
}

#[test]
fn groups_are_made_again_strictly() {
    all_directions(false, &[], "=strict");
}

#[test]
fn a_cgroup_namespace_has_its_root_where_it_was() {
    all_directions(false, &["ns"], "=full");
}

#[test]
fn another_root_takes_the_place_of_the_old_one() {
    all_directions(true, &[], "");
}

#[test]
fn groups_stay_as_they_are_when_ignored() {
    let Some(run) = Run::new(false, &[]) else { return };
    let ignore = ["--manage-cgroups=ignore"];
    run.dump(&Criu::ours(), &ignore).expect("dump");
    assert!(!run.images.join("cgroup.img").exists());
    restore(&run.sandbox, &Criu::ours(), &run.images, &ignore).expect("restore");
    let text = fs::read_to_string(run.sandbox.inside(&format!("/proc/{}/cgroup", run.pid)));
    assert_eq!(text.expect("cgroup"), fs::read_to_string("/proc/self/cgroup").expect("cgroup"));
    run.sandbox.kill_all();
}

/// `--cgroup-props` says what is worth saving of a controller's groups.
#[test]
fn only_properties_that_are_asked_for_are_saved() {
    for by in [Some(Criu::ours()), Criu::stock()].into_iter().flatten() {
        let Some(run) = Run::new(false, &[]) else { return };
        let replace = "\"pids\":\n - \"strategy\": \"replace\"\n - \"properties\": []\n";
        let file = run.sandbox.path("props.yaml");
        fs::write(&file, replace).expect("props.yaml");
        let saved = |n: usize, more: &[&str]| {
            let images = run.sandbox.path(&format!("images{n}"));
            fs::create_dir(&images).expect("images");
            let args = [&["--leave-running", "--manage-cgroups=full"], more].concat();
            dump(&run.sandbox, &by, &run.pid, &images, &args).expect(by.name);
            let image = fs::read(images.join("cgroup.img")).expect("cgroup.img");
            String::from_utf8_lossy(&image).contains("pids.max")
        };
        if !saved(0, &[]) {
            return crate::support::skip("--cgroup-props", "no v1 hierarchy of pids here");
        }
        assert!(!saved(1, &["--cgroup-props", replace]), "{}", by.name);
        let file = file.to_str().expect("utf-8");
        assert!(!saved(2, &["--cgroup-props-file", file]), "{}", by.name);
        run.finish();
    }
}

#[test]
fn groups_that_are_not_there_are_not_made_if_so_asked() {
    for mode in ["none", "props"] {
        let Some(run) = Run::new(false, &[]) else { return };
        run.dump(&Criu::ours(), &[]).expect("dump");
        run.sandbox.empty().expect("dumped");
        run.before.remove();
        let option = format!("--manage-cgroups={mode}");
        let error = restore(&run.sandbox, &Criu::ours(), &run.images, &[&option]).expect_err(mode);
        assert!(error.contains("it is not there"), "{error}");
        run.sandbox.empty().expect("nothing left");
        assert!(run.before.all().is_empty());
        restore(&run.sandbox, &Criu::ours(), &run.images, &[]).expect("restore");
        run.finish();
    }
}

#[test]
fn groups_that_are_there_are_refused_if_so_asked() {
    let Some(run) = Run::new(false, &[]) else { return };
    run.dump(&Criu::ours(), &[]).expect("dump");
    let strict = ["--manage-cgroups=strict"];
    let error = restore(&run.sandbox, &Criu::ours(), &run.images, &strict).expect_err("strict");
    assert!(error.contains("it is there already"), "{error}");
    restore(&run.sandbox, &Criu::ours(), &run.images, &[]).expect("restore");
    run.finish();
}

/// A group is frozen for a moment only, whatever comes of the dump, and stays frozen if it was.
#[test]
fn a_freezer_is_put_back() {
    let Some(run) = Run::new(false, &[]) else { return };
    let group = run.before.v2();
    let frozen = || fs::read_to_string(group.join("cgroup.freeze")).expect("cgroup.freeze");
    let freeze = ["--freeze-cgroup", group.to_str().expect("utf-8"), "--leave-running"];
    for state in ["0\n", "1\n"] {
        fs::write(group.join("cgroup.freeze"), state).expect("cgroup.freeze");
        run.dump(&Criu::ours(), &freeze).expect("dump");
        assert_eq!(frozen(), state);
        let mut refused = freeze.to_vec();
        refused.extend(["--action-script", "/bin/false"]);
        run.dump(&Criu::ours(), &refused).expect_err("refused");
        assert_eq!(frozen(), state);
    }
    fs::write(group.join("cgroup.freeze"), "0").expect("thawed");
    let error = run.dump(&Criu::ours(), &["--freeze-cgroup", "/sys"]).expect_err("no freezer");
    assert!(error.contains("--freeze-cgroup /sys"), "{error}");
    run.finish();
}

#[test]
fn a_tree_that_was_frozen_is_frozen_again() {
    let Some(run) = Run::new(false, &[]) else { return };
    let group = run.before.v2().join("a");
    fs::write(group.join("cgroup.freeze"), "1").expect("frozen");
    run.dump(&Criu::ours(), &["--freeze-cgroup", group.to_str().expect("utf-8")]).expect("dump");
    run.sandbox.empty().expect("dumped");
    run.before.remove();
    restore(&run.sandbox, &Criu::ours(), &run.images, &[]).expect("restore");
    let now = fs::read_to_string(group.join("cgroup.freeze")).expect("cgroup.freeze");
    assert_eq!(now, "1\n");
    fs::write(group.join("cgroup.freeze"), "0").expect("thawed");
    run.finish();
}

#[test]
fn hierarchies_that_are_not_mounted_here_are_found() {
    let Some(run) = Run::new(false, &[]) else { return };
    // In the sandbox's mount namespace only.
    let all = "awk '$3 ~ /^cgroup/ { print $2 }' /proc/self/mounts | tac";
    let mounts = run.sandbox.shell(all);
    run.sandbox.shell("mount --make-rprivate /");
    for at in mounts.lines() {
        run.sandbox.shell(&format!("umount -l {at}"));
    }
    run.dump(&Criu::ours(), &[]).expect("dump");
    run.sandbox.empty().expect("dumped");
    run.before.remove();
    restore(&run.sandbox, &Criu::ours(), &run.images, &[]).expect("restore");
    assert!(!run.before.all().is_empty(), "groups are made");
    let pid = run.pid.clone();
    let groups = run.sandbox.shell(&format!("cat /proc/{pid}/cgroup"));
    assert!(groups.contains(&run.before.name), "{groups}");
    // The subject would look into its groups by their mounts.
    let pids: Vec<String> = run.sandbox.pids().iter().map(u32::to_string).collect();
    run.sandbox.shell(&format!("kill -9 {}", pids.join(" ")));
    run.sandbox.empty().expect("all ended");
}

/// `--cgroup-yard`: each hierarchy in a directory that has its name.
#[test]
fn hierarchies_are_looked_for_in_a_yard() {
    let fill = "mkdir yard; mount -t tmpfs yard yard; cut -d: -f2 /proc/self/cgroup >all
        while read -r name; do
            at=yard/${name:-unified}; at=${at/name=/}; mkdir $at
            case $name in
                \"\") mount -t cgroup2 none $at ;;
                name=*) mount -t cgroup -o none,$name none $at ;;
                *) mount -t cgroup -o $name none $at ;;
            esac
        done <all";
    for (by, to) in directions(&Criu::ours(), Criu::stock().as_ref()) {
        let Some(run) = Run::new(false, &[]) else { return };
        run.sandbox.shell(fill);
        let yard = run.sandbox.path("yard");
        let yard = ["--cgroup-yard", yard.to_str().expect("utf-8")];
        let none = ["--cgroup-yard", "/proc"];
        if by.name == "ours" {
            let error = run.dump(&by, &none).expect_err("no yard");
            assert!(error.contains("--cgroup-yard has no hierarchy of"), "{error}");
        }
        run.dump(&by, &yard).unwrap_or_else(|e| panic!("{} -> {}: {e}", by.name, to.name));
        run.sandbox.empty().expect("dumped");
        run.before.remove();
        if to.name == "ours" {
            let error = restore(&run.sandbox, &to, &run.images, &none).expect_err("no yard");
            assert!(error.contains("/proc/"), "{error}");
        }
        let done = restore(&run.sandbox, &to, &run.images, &yard);
        done.unwrap_or_else(|e| panic!("{} -> {}: {e}", by.name, to.name));
        run.finish();
        run.before.remove();
    }
}
