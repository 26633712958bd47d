//! Directories of control groups with their properties.

use images::proto::{CgControllerEntry, CgroupDirEntry, CgroupPerms, CgroupPropEntry};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Properties of every directory of a v1 hierarchy.
const EVERY_V1: &[&str] = &["cgroup.clone_children", "notify_on_release", "cgroup.procs", "tasks"];
/// Properties of every directory of the v2 hierarchy.
const EVERY_V2: &[&str] = &[
    "cgroup.subtree_control",
    "cgroup.max.descendants",
    "cgroup.max.depth",
    "cgroup.freeze",
    "cgroup.type",
];
/// Properties by v1 controller.
const OF_CONTROLLER: &[(&str, &[&str])] = &[
    (
        "cpu",
        &[
            "cpu.shares",
            "cpu.cfs_period_us",
            "cpu.cfs_quota_us",
            "cpu.rt_period_us",
            "cpu.rt_runtime_us",
        ],
    ),
    (
        "memory",
        &[
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.swappiness",
            "memory.soft_limit_in_bytes",
            "memory.move_charge_at_immigrate",
            "memory.oom_control",
            "memory.use_hierarchy",
            "memory.kmem.limit_in_bytes",
            "memory.kmem.tcp.limit_in_bytes",
        ],
    ),
    (
        "cpuset",
        &[
            "cpuset.cpus",
            "cpuset.mems",
            "cpuset.memory_migrate",
            "cpuset.cpu_exclusive",
            "cpuset.mem_exclusive",
            "cpuset.mem_hardwall",
            "cpuset.memory_spread_page",
            "cpuset.memory_spread_slab",
            "cpuset.sched_load_balance",
            "cpuset.sched_relax_domain_level",
        ],
    ),
    ("blkio", &["blkio.weight"]),
    ("net_cls", &["net_cls.classid"]),
    ("net_prio", &["net_prio.ifpriomap"]),
    ("pids", &["pids.max"]),
    ("devices", &["devices.list"]),
];

/// A mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// Directory of the hierarchy that is mounted.
    root: String,
    at: PathBuf,
    v2: bool,
    /// Options of the superblock: controllers and `name=`.
    options: Vec<String>,
}

fn mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, sb) = line.split_once(" - ")?;
            let mut mount = mount.split(' ').skip(3);
            let mut sb = sb.split(' ');
            let fstype = sb.next()?;
            let v2 = fstype == "cgroup2";
            (v2 || fstype == "cgroup").then_some(())?;
            Some(Mount {
                root: mount.next()?.to_owned(),
                at: mount.next()?.replace("\\040", " ").into(),
                v2,
                options: sb.nth(1)?.split(',').map(str::to_owned).collect(),
            })
        })
        .collect()
}

/// Where a directory of the hierarchy `name` is to be found.
fn find(mounts: &[Mount], name: &str, path: &str) -> Option<PathBuf> {
    mounts.iter().find_map(|m| {
        let wanted = match name {
            "" => m.v2,
            _ => !m.v2 && name.split(',').all(|c| m.options.iter().any(|o| o == c)),
        };
        let below = path.strip_prefix(m.root.trim_end_matches('/'))?;
        wanted.then(|| m.at.join(below.trim_start_matches('/')))
    })
}

fn perms(path: &Path) -> Option<CgroupPerms> {
    let meta = std::fs::metadata(path).ok()?;
    Some(CgroupPerms { mode: meta.mode(), uid: meta.uid(), gid: meta.gid() })
}

fn property(dir: &Path, name: &str) -> Option<CgroupPropEntry> {
    let path = dir.join(name);
    let perms = perms(&path);
    perms.as_ref()?;
    // Who is inside is told by the sets; only the file's permissions count here.
    let value = match name {
        "cgroup.procs" | "tasks" => String::new(),
        _ => value(name, &std::fs::read_to_string(&path).ok()?),
    };
    Some(CgroupPropEntry { name: name.to_owned(), value, perms })
}

fn value(name: &str, text: &str) -> String {
    let text = text.trim_end_matches('\n');
    // "oom_kill_disable 0\nunder_oom 0 ...": only the first can be written.
    if name == "memory.oom_control" {
        return text.lines().next().and_then(|l| l.split(' ').nth(1)).unwrap_or("0").to_owned();
    }
    match text.parse::<u64>() {
        // "No limit" of v1, by page: LONG_MAX rounded down.
        Ok(n) if n >= (i64::MAX as u64 & !0xfff) => "-1".to_owned(),
        _ => text.to_owned(),
    }
}

/// The hierarchy `name` with the directories `paths`, each by its full path.
pub(super) fn controller(mountinfo: &str, name: &str, paths: &[&str]) -> CgControllerEntry {
    let mounts = mounts(mountinfo);
    let every = if name.is_empty() { EVERY_V2 } else { EVERY_V1 };
    let own = name.split(',').filter_map(|c| OF_CONTROLLER.iter().find(|(k, _)| *k == c));
    let names: Vec<&str> =
        every.iter().copied().chain(own.flat_map(|(_, list)| list.iter().copied())).collect();
    let dirs = paths.iter().filter_map(|path| {
        let dir = find(&mounts, name, path)?;
        let properties = names.iter().filter_map(|p| property(&dir, p)).collect();
        let dir_perms = perms(&dir);
        dir_perms.as_ref()?;
        let dir_name = (*path).to_owned();
        Some(CgroupDirEntry { dir_name, children: Vec::new(), properties, dir_perms })
    });
    CgControllerEntry {
        cnames: name.split(',').map(str::to_owned).collect(),
        dirs: dirs.collect(),
        is_threaded: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Linux 6.18, a hybrid layout.
    const MOUNTINFO: &str = "30 24 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
        31 24 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
        32 24 0:28 /part /sys/fs/cgroup/unified rw shared:3 - cgroup2 cgroup2 rw,nsdelegate\n\
        33 24 0:29 / /tmp rw - tmpfs tmpfs rw\n";

    #[test]
    fn directories_are_found_by_hierarchy_and_root() {
        let m = mounts(MOUNTINFO);
        assert_eq!(m.len(), 3);
        let check = |name, path| find(&m, name, path).map(|p| p.display().to_string());
        assert_eq!(check("cpu", "/a/b"), Some("/sys/fs/cgroup/cpu/a/b".into()));
        assert_eq!(check("name=systemd", "/"), Some("/sys/fs/cgroup/systemd/".into()));
        assert_eq!(check("", "/part/x"), Some("/sys/fs/cgroup/unified/x".into()));
        assert_eq!(check("", "/other"), None);
        assert_eq!(check("cpuset", "/"), None);
    }

    #[test]
    fn limits_beyond_all_memory_are_none() {
        assert_eq!(value("memory.limit_in_bytes", "9223372036854771712\n"), "-1");
        assert_eq!(value("pids.max", "max\n"), "max");
        assert_eq!(value("memory.oom_control", "oom_kill_disable 1\nunder_oom 0\n"), "1");
    }
}
