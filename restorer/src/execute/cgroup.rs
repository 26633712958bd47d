//! Control groups: their directories are made, and the tasks put into them.
//!
//! All of it is the coordinator's work, which is in none of the tree's namespaces: directories
//! with what must be there before tasks ([`Groups::make`]), the root task right after its birth and
//! again when it has made its cgroup namespace, the others when all exist, threads when they do,
//! limits when nothing is made any more, a freezer in the end.

mod journal;
mod property;

use crate::Error;
use crate::execute::guard::Front;
use crate::ns::pid::Pids;
use crate::plan::Plan;
use crate::plan::cgroup::{Cgroups, Dir, Member, set_of};
use crate::request::CgroupMode;
use images::checkpoint::Thread;
use journal::Journal;
pub(crate) use journal::take_back;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// The groups of a tree being restored. Unless [`Groups::finish`] is called, dropping it removes
/// the directories that were made, and puts back what was set in others.
#[derive(Debug)]
pub(crate) struct Groups<'a> {
    plan: &'a Cgroups,
    // Ends before the mounts that its paths are in.
    journal: RefCell<Journal<'a>>,
    hierarchies: Hierarchies,
    /// Where this process is: path by hierarchy.
    present: &'a BTreeMap<String, String>,
    /// Directories that get their properties.
    set: Vec<(PathBuf, &'a Dir)>,
}

impl<'a> Groups<'a> {
    /// Makes the directories, with what has to be set before tasks are in them.
    pub(crate) fn make(
        plan: &'a Plan<'_>,
        yard: Option<&Path>,
        front: &'a Front,
    ) -> Result<Self, Error> {
        let present = &plan.facts.cgroups;
        let plan = &plan.cgroups;
        let mut all = Self {
            plan,
            journal: RefCell::new(Journal::told_to(front)),
            hierarchies: Hierarchies::default(),
            present,
            set: Vec::new(),
        };
        if plan.sets.is_empty() {
            return Ok(all);
        }
        all.hierarchies = Hierarchies::find(yard, present)?;
        if plan.mode == CgroupMode::None {
            return Ok(all);
        }
        for dir in &plan.dirs {
            let path = all.hierarchies.dir(&dir.hierarchy, &dir.path)?;
            let fresh = all.make_one(dir, &path)?;
            let sets = match plan.mode {
                CgroupMode::Soft | CgroupMode::Strict => fresh,
                CgroupMode::Props | CgroupMode::Full => true,
                CgroupMode::Ignore | CgroupMode::None => false,
            };
            if sets {
                property::before_tasks(&path, dir, all.journal.get_mut())?;
                all.set.push((path, dir));
            }
        }
        Ok(all)
    }

    /// Whether the directory was not there.
    fn make_one(&mut self, dir: &Dir, path: &Path) -> Result<bool, Error> {
        let failed = |why: &dyn std::fmt::Display| Error::Cgroup {
            name: dir.hierarchy.clone(),
            path: dir.path.clone(),
            why: why.to_string(),
        };
        let exists = path.is_dir();
        match (exists, self.plan.mode) {
            (true, CgroupMode::Strict) if !self.is_ours(dir) => {
                return Err(failed(&"it is there already (--manage-cgroups=strict)"));
            }
            (true, _) => return Ok(false),
            (false, CgroupMode::Props) => {
                return Err(failed(&"it is not there (--manage-cgroups=props makes none)"));
            }
            (false, _) => {}
        }
        let mut missing: Vec<&Path> = path.ancestors().take_while(|p| !p.is_dir()).collect();
        missing.reverse();
        for path in missing {
            self.journal
                .get_mut()
                .makes(path, || fs::DirBuilder::new().mode(0o755).create(path))
                .map_err(|e| failed(&format_args!("mkdir({}): {e}", path.display())))?;
            property::usable(path, &dir.hierarchy);
        }
        if let Some(perms) = &dir.perms {
            let set = chown(path, Some(perms.uid), Some(perms.gid));
            let mode = fs::Permissions::from_mode(perms.mode & 0o7777);
            set.and_then(|()| fs::set_permissions(path, mode)).map_err(|e| failed(&e))?;
        }
        Ok(true)
    }

    /// Whether we are in this group or below: it is no group of the tree's alone.
    fn is_ours(&self, dir: &Dir) -> bool {
        let here = self.present.get(&dir.hierarchy);
        here.is_some_and(|here| Path::new(here).starts_with(&dir.path))
    }

    /// Groups of a set; `None`: where we are.
    fn members(&self, set: Option<u32>) -> Vec<Member> {
        if let Some(set) = set.and_then(|set| self.plan.sets.get(&set)) {
            return set.clone();
        }
        let here = |(hierarchy, path): (&String, &String)| Member {
            hierarchy: hierarchy.clone(),
            path: path.clone(),
            ns_root: 0,
        };
        self.present.iter().map(here).collect()
    }

    fn unused(&self) -> bool {
        self.plan.sets.is_empty()
    }

    /// The root task is born: puts it where it makes its cgroup namespace, if it does.
    pub(crate) fn place_root(&self, plan: &Plan<'_>, pid: i32) -> Result<(), Error> {
        if self.unused() {
            return Ok(());
        }
        for member in self.members(set_of(plan.cp, plan.cp.root().leader())) {
            let here = self.present.get(&member.hierarchy).map(String::as_str);
            if here != Some(member.first()) {
                self.write(&member.hierarchy, member.first(), "cgroup.procs", pid)?;
            }
        }
        Ok(())
    }

    /// The root task has its namespaces: puts it where it was in them.
    pub(crate) fn place_root_inside(&self, plan: &Plan<'_>, pid: i32) -> Result<(), Error> {
        if self.unused() {
            return Ok(());
        }
        for member in self.members(set_of(plan.cp, plan.cp.root().leader())) {
            if member.path != member.first() {
                self.write(&member.hierarchy, &member.path, "cgroup.procs", pid)?;
            }
        }
        Ok(())
    }

    /// All processes exist, in the groups of the root: puts those elsewhere that were elsewhere.
    pub(crate) fn place_processes(&self, plan: &Plan<'_>, pids: &Pids) -> Result<(), Error> {
        if self.unused() {
            return Ok(());
        }
        let root = set_of(plan.cp, plan.cp.root().leader());
        for (_, task, _) in plan.live() {
            self.place(plan, root, task.leader(), "cgroup.procs", pids)
                .map_err(|e| e.of_task(task.pid))?;
        }
        Ok(())
    }

    /// All threads exist, in the groups of their leaders.
    pub(crate) fn place_threads(&self, plan: &Plan<'_>, pids: &Pids) -> Result<(), Error> {
        if self.unused() {
            return Ok(());
        }
        for (_, task, _) in plan.live() {
            let leader = set_of(plan.cp, task.leader());
            for thread in &task.threads[1..] {
                self.place(plan, leader, thread, "tasks", pids)
                    .map_err(|e| e.of_task(thread.tid))?;
            }
        }
        Ok(())
    }

    fn place(
        &self,
        plan: &Plan<'_>,
        from: Option<u32>,
        thread: &Thread,
        file: &str,
        pids: &Pids,
    ) -> Result<(), Error> {
        let to = set_of(plan.cp, thread);
        if to == from {
            return Ok(());
        }
        let from = self.members(from);
        for member in self.members(to) {
            let same = |m: &Member| m.hierarchy == member.hierarchy && m.path == member.path;
            if !from.iter().any(same) {
                self.write(&member.hierarchy, &member.path, file, pids.real(thread.tid)?)?;
            }
        }
        Ok(())
    }

    fn write(&self, hierarchy: &str, path: &str, file: &str, pid: i32) -> Result<(), Error> {
        let file = if hierarchy.is_empty() && file == "tasks" { "cgroup.threads" } else { file };
        let dir = self.hierarchies.dir(hierarchy, path)?;
        let file = dir.join(file);
        log::debug!("cgroups: {pid} into {}", file.display());
        fs::write(&file, pid.to_string()).map_err(|e| {
            let name = hierarchy.to_owned();
            let why = match e.kind() {
                io::ErrorKind::NotFound => "it is not there".to_owned(),
                _ => format!("write({}, {pid}): {e}", file.display()),
            };
            Error::Cgroup { name, path: path.to_owned(), why }
        })
    }

    /// The tree is complete: sets what might have kept it from becoming so.
    pub(crate) fn set_limits(&self) -> Result<(), Error> {
        let mut journal = self.journal.borrow_mut();
        self.set.iter().try_for_each(|(path, dir)| property::limits(path, dir, &mut journal))
    }

    /// The tree runs: freezes it if it was frozen. All stays.
    pub(crate) fn finish(mut self) {
        let journal = self.journal.get_mut();
        for (path, dir) in &self.set {
            property::freezer(path, dir, journal);
        }
        journal.keep();
    }
}

/// Where the hierarchies are mounted.
#[derive(Debug, Default)]
struct Hierarchies {
    mountinfo: String,
    yard: Option<PathBuf>,
    /// Names of those that exist.
    known: BTreeSet<String>,
    /// Mounted by us, as they are not here.
    own: RefCell<BTreeMap<String, OwnedFd>>,
}

impl Hierarchies {
    fn find(yard: Option<&Path>, present: &BTreeMap<String, String>) -> Result<Self, Error> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo")
            .map_err(|e| sys::Error::io("read(/proc/self/mountinfo)", &e))?;
        let known = present.keys().cloned().collect();
        Ok(Self { mountinfo, yard: yard.map(Path::to_owned), known, own: RefCell::default() })
    }

    /// The directory of a group.
    fn dir(&self, hierarchy: &str, path: &str) -> Result<PathBuf, Error> {
        if let Some(yard) = &self.yard {
            let name = match hierarchy.strip_prefix("name=").unwrap_or(hierarchy) {
                "" => "unified",
                name => name,
            };
            return Ok(yard.join(name).join(path.trim_start_matches('/')));
        }
        if let Some(found) = self.mountinfo.lines().find_map(|l| place_of(l, hierarchy, path)) {
            return Ok(found);
        }
        let failed = |why: &dyn std::fmt::Display| Error::Cgroup {
            name: hierarchy.to_owned(),
            path: path.to_owned(),
            why: format!(
                "its hierarchy is not mounted here{why} (see --cgroup-yard, --manage-cgroups)"
            ),
        };
        // Named hierarchies harm nobody; one of controllers would take them from another.
        if !hierarchy.starts_with("name=") && !self.known.contains(hierarchy) {
            return Err(failed(&""));
        }
        let root = self.mounted(hierarchy).map_err(|e| failed(&format_args!(" ({e})")))?;
        Ok(root.join(path.trim_start_matches('/')))
    }

    /// A mount of our own, attached nowhere.
    fn mounted(&self, hierarchy: &str) -> Result<PathBuf, sys::Error> {
        let mut own = self.own.borrow_mut();
        if !own.contains_key(hierarchy) {
            own.insert(hierarchy.to_owned(), sys::mount::cgroup(hierarchy)?);
        }
        Ok(format!("/proc/self/fd/{}", own[hierarchy].as_raw_fd()).into())
    }
}

/// Where a group is, if a line of mountinfo is about a part of the hierarchy that it is in.
fn place_of(line: &str, controllers: &str, path: &str) -> Option<PathBuf> {
    let (front, back) = line.split_once(" - ")?;
    let mut back = back.split(' ');
    let (kind, _, options) = (back.next()?, back.next(), back.next()?);
    let mut front = front.split(' ').skip(3);
    let (root, point) = (front.next()?, front.next()?.replace("\\040", " "));
    let fits = match controllers {
        "" => kind == "cgroup2",
        all => kind == "cgroup" && all.split(',').all(|c| options.split(',').any(|o| o == c)),
    };
    let rest = path.strip_prefix(root.trim_end_matches('/')).filter(|_| fits)?;
    let rest = rest.strip_prefix('/').or_else(|| rest.is_empty().then_some(""))?;
    Some(Path::new(&point).join(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_found_by_controllers_and_root() {
        let place = |line, controllers, path| {
            place_of(line, controllers, path).map(|p| p.display().to_string())
        };
        let cpu = "33 27 0:28 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct";
        assert_eq!(place(cpu, "cpu,cpuacct", "/x").as_deref(), Some("/sys/fs/cgroup/cpu/x"));
        assert_eq!(place(cpu, "memory", "/x"), None);
        assert_eq!(place(cpu, "", "/x"), None);
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(place(v2, "", "/").as_deref(), Some("/sys/fs/cgroup/"));
        let inner = "30 23 0:26 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup rw";
        assert_eq!(place(inner, "", "/docker"), None);
        assert_eq!(place(inner, "", "/docker/xy"), None);
        assert_eq!(place(inner, "", "/docker/x/y").as_deref(), Some("/sys/fs/cgroup/y"));
    }
}
