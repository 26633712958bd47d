//! How much memory our own control group lets us have.

use super::cgroup::is_below;
use super::cgroup_dirs::{Mount, mounts};
use std::fs;
use std::path::Path;

/// Limits of a group, what it has, and which part of that the kernel takes back before any process
/// has to die.
const WORDS: [(&[&str], &str, &str); 2] = [
    (&["memory.max", "memory.high"], "memory.current", "inactive_file "),
    (&["memory.limit_in_bytes"], "memory.usage_in_bytes", "total_inactive_file "),
];

/// Bytes that we may yet get before the limit of a group of ours is reached: then the kernel kills
/// processes of it, and the tree to be dumped may be among them.
pub(crate) fn headroom() -> u64 {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mounts = mounts(&read("/proc/self/mountinfo"));
    let groups = read("/proc/self/cgroup");
    groups.lines().filter_map(|line| of_group(line, &mounts)).min().unwrap_or(u64::MAX)
}

/// By a line of `/proc/self/cgroup`.
fn of_group(line: &str, mounts: &[Mount]) -> Option<u64> {
    let (_, group) = line.split_once(':')?;
    let (controllers, path) = group.split_once(':')?;
    let is_memory = |name: &str| name == "memory";
    let has_memory = |m: &Mount| match controllers {
        "" => m.v2,
        _ => {
            !m.v2 && controllers.split(',').any(is_memory) && m.options.iter().any(|o| is_memory(o))
        }
    };
    let mount = mounts.iter().find(|m| has_memory(m) && is_below(path, &m.root))?;
    let below = path.strip_prefix(mount.root.trim_end_matches('/'))?;
    let dir = mount.at.join(below.trim_start_matches('/'));
    let all = dir.ancestors().take_while(|d| d.starts_with(&mount.at));
    all.filter_map(left).min()
}

/// What is left in one group, if it has a limit.
fn left(dir: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
    let number = |name: &&str| read(name)?.trim().parse::<u64>().ok();
    let of = |(limits, used, spare): (&[&str], &str, &str)| {
        let limit = limits.iter().filter_map(number).min()?;
        let stat = read("memory.stat").unwrap_or_default();
        let spare = stat.lines().find_map(|l| l.strip_prefix(spare)?.trim().parse().ok());
        Some(limit.saturating_sub(number(&used)?.saturating_sub(spare.unwrap_or(0))))
    };
    WORDS.into_iter().filter_map(of).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_group_above_counts() {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path().to_str().unwrap();
        fs::create_dir_all(temp.path().join("a/b")).unwrap();
        let write = |name: &str, text: &str| fs::write(temp.path().join(name), text).unwrap();
        write("a/memory.max", "1000\n");
        write("a/memory.high", "max\n");
        write("a/memory.current", "700\n");
        write("a/memory.stat", "anon 600\ninactive_file 100\nfile 9\n");
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "300\n");
        let mounts = |kind: &str, options: &str| {
            mounts(&format!("30 20 0:25 /up {top} rw - {kind} {kind} {options}\n"))
        };
        let v2 = mounts("cgroup2", "rw");
        assert_eq!(of_group("0::/up/a/b", &v2), Some(400));
        assert_eq!(of_group("0::/up", &v2), None);
        assert_eq!(of_group("0::/elsewhere", &v2), None);
        assert_eq!(of_group("4:memory:/up/a/b", &v2), None);
        write("a/b/memory.limit_in_bytes", "500\n");
        write("a/b/memory.usage_in_bytes", "600\n");
        write("a/b/memory.stat", "inactive_file 1\ntotal_inactive_file 150\n");
        let v1 = mounts("cgroup", "rw,cpu,memory");
        assert_eq!(of_group("4:cpu,memory:/up/a/b", &v1), Some(50));
        assert_eq!(of_group("5:cpuset:/up/a/b", &v1), None);
    }
}
