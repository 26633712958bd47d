//! Control groups: a task goes back to the groups it was in (`cgroup.img`, `cg_set`).
//!
//! Groups that do not exist any more are refused: making them with their limits is not supported
//! yet.

use crate::Error;
use crate::plan::Plan;
use images::checkpoint::Task;
use images::proto::CgMemberEntry;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Moves the calling task to the groups of `task`, if it was in others than the dumper.
pub(crate) fn join(plan: &Plan<'_>, task: &Task) -> Result<(), Error> {
    for member in wanted(plan, task) {
        let (name, path) = (&member.name, &member.path);
        let dir = directory(member)?;
        let procs = dir.join("cgroup.procs");
        fs::write(&procs, "0").map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::Cgroup { name: name.clone(), path: path.clone() }
            }
            _ => sys::Error::io(format_args!("write({}, 0)", procs.display()), &e).into(),
        })?;
    }
    Ok(())
}

/// The groups of a task which differ from those of this process.
fn wanted<'a>(plan: &Plan<'a>, task: &Task) -> Vec<&'a CgMemberEntry> {
    let set = task.leader().thread_core().cg_set.or_else(|| task.tc().cg_set);
    let Some(set) = set.filter(|s| plan.cp.inventory.root_cg_set != Some(*s)) else {
        return Vec::new();
    };
    let sets = plan.cp.cgroup.iter().flat_map(|c| &c.sets);
    let members = sets.filter(|s| s.id == set).flat_map(|s| &s.ctls);
    let present = present();
    members.filter(|m| present.get(&m.name) != Some(&m.path)).collect()
}

/// Where this process is: path by controllers.
fn present() -> BTreeMap<String, String> {
    let text = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let line = |l: &str| {
        let mut parts = l.splitn(3, ':').skip(1);
        Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// The directory of a group: below where its hierarchy is mounted.
fn directory(member: &CgMemberEntry) -> Result<PathBuf, Error> {
    let text = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| sys::Error::io("read(/proc/self/mountinfo)", &e))?;
    let found = text.lines().find_map(|l| mount_of(l, &member.name));
    let Some(mount) = found else {
        let (name, path) = (member.name.clone(), member.path.clone());
        return Err(Error::Cgroup { name, path });
    };
    Ok(PathBuf::from(mount).join(member.path.trim_start_matches('/')))
}

/// The mount point if a line of mountinfo is about the hierarchy with these controllers.
fn mount_of<'a>(line: &'a str, controllers: &str) -> Option<&'a str> {
    let (front, back) = line.split_once(" - ")?;
    let mut back = back.split(' ');
    let (kind, _, options) = (back.next()?, back.next(), back.next()?);
    let mut front = front.split(' ').skip(3);
    let (root, point) = (front.next()?, front.next()?);
    let fits = match controllers {
        "" => kind == "cgroup2",
        all => kind == "cgroup" && all.split(',').all(|c| options.split(',').any(|o| o == c)),
    };
    (fits && root == "/").then_some(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hierarchy_is_found_by_its_controllers() {
        let cpu = "33 27 0:28 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct";
        assert_eq!(mount_of(cpu, "cpu,cpuacct"), Some("/sys/fs/cgroup/cpu"));
        assert_eq!(mount_of(cpu, "memory"), None);
        assert_eq!(mount_of(cpu, ""), None);
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(mount_of(v2, ""), Some("/sys/fs/cgroup"));
        let inner = "30 23 0:26 /docker/x /sys/fs/cgroup ro - cgroup2 cgroup rw";
        assert_eq!(mount_of(inner, ""), None);
    }
}
