//! How much memory our own control group lets us have.

use super::cgroup_dirs::{Mount, mounts};
use images::Dir;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Limits of a group, what it has, and which parts of that the kernel takes back before any process
/// has to die.
const WORDS: [(&[&str], &str, [&str; 2]); 2] = [
    (&["memory.max", "memory.high"], "memory.current", ["inactive_file ", "active_file "]),
    (
        &["memory.limit_in_bytes"],
        "memory.usage_in_bytes",
        ["total_inactive_file ", "total_active_file "],
    ),
];

/// v1 has such numbers where there is no limit.
const NONE: u64 = 1 << 60;

/// Bytes that we may yet get before the limit of a group of ours is reached: then the kernel kills
/// processes of it, and the tree to be dumped may be among them.
pub(crate) fn headroom() -> u64 {
    // Looked for once, before the freeze: there may be many mounts.
    static GROUPS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let groups = GROUPS.get_or_init(|| {
        let mounts = mounts(&read("/proc/self/mountinfo"));
        let own = read("/proc/self/cgroup");
        own.lines().filter_map(|line| group(line, &mounts)).flatten().collect()
    });
    groups.iter().filter_map(|dir| left(dir)).min().unwrap_or(u64::MAX)
}

/// Looks at what is left while images are written that stay in memory. The kernel would not refuse
/// the write, but kill a process of our group: the largest, which may be the tree.
#[derive(Debug, Default)]
pub(crate) struct Watch(AtomicU64);

impl Watch {
    /// After so many bytes it looks again.
    const STEP: u64 = 8 << 20;
    /// So much stays for all others: more than is written between two looks.
    const RESERVE: u64 = 24 << 20;

    /// `None` if nobody has to be killed: images go to a disk, no group has a limit, or there is swap.
    pub(crate) fn over(dir: &Dir) -> Option<Self> {
        let is_watched = dir.is_in_memory() && headroom() < u64::MAX && !has_swap();
        is_watched.then(Self::default)
    }

    /// Whether `len` of the `total` bytes to be written may come; if not, how many are left.
    pub(crate) fn let_in(&self, len: u64, total: u64) -> Result<(), u64> {
        let before = self.0.fetch_add(len, Ordering::Relaxed);
        if before != 0 && before / Self::STEP == (before + len) / Self::STEP {
            return Ok(());
        }
        let left = headroom();
        let wanted = Self::RESERVE.min(total.saturating_sub(before));
        if left < wanted { Err(left) } else { Ok(()) }
    }
}

fn has_swap() -> bool {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = meminfo.lines().find_map(|line| line.strip_prefix("SwapFree:"));
    free.is_some_and(|free| !free.trim().starts_with("0 "))
}

/// The group of a line of `/proc/self/cgroup`, and all above, if it is one of memory.
fn group(line: &str, mounts: &[Mount]) -> Option<Vec<PathBuf>> {
    let (_, group) = line.split_once(':')?;
    let (controllers, path) = group.split_once(':')?;
    let is_memory = controllers.is_empty() || controllers.split(',').any(|name| name == "memory");
    let find = |mount: &Mount| mount.dir(controllers, path).map(|dir| (dir, mount.at.clone()));
    let (dir, top) = mounts.iter().filter(|_| is_memory).find_map(find)?;
    let all = dir.ancestors().take_while(|d| d.starts_with(&top));
    Some(all.map(Path::to_owned).collect())
}

/// What is left in one group, if it has a limit.
fn left(dir: &Path) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
    let number = |name: &&str| read(name)?.trim().parse::<u64>().ok();
    let of = |(limits, used, spare): (&[&str], &str, [&str; 2])| {
        let limit = limits.iter().filter_map(number).filter(|limit| *limit < NONE).min()?;
        let stat = read("memory.stat").unwrap_or_default();
        let word =
            |line: &str| spare.iter().find_map(|name| line.strip_prefix(name)?.parse::<u64>().ok());
        let spare: u64 = stat.lines().filter_map(word).sum();
        Some(limit.saturating_sub(number(&used)?.saturating_sub(spare)))
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
        write("a/memory.stat", "anon 600\ninactive_file 90\nactive_file 10\nfile 9\n");
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "300\n");
        let mounts = |kind: &str, options: &str| {
            mounts(&format!("30 20 0:25 /up {top} rw - {kind} {kind} {options}\n"))
        };
        let of_group = |line: &str, mounts: &[Mount]| {
            group(line, mounts)?.iter().filter_map(|dir| left(dir)).min()
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
        write("a/b/memory.limit_in_bytes", "9223372036854771712\n");
        fs::remove_file(temp.path().join("a/memory.max")).unwrap();
        assert_eq!(of_group("4:cpu,memory:/up/a/b", &v1), None);
    }
}
