//! From inode to path by looking through directories: for watches whose file handles lead
//! nowhere, or with `--force-irmap`.
//!
//! First the paths of `--irmap-scan-path`, then places where watched files commonly are. Each is
//! walked once per dump, and only as far as it takes.

use super::FileTable;
use super::error::Why;
use super::ghost::kernel_dev;
use super::mounts::below;
use nix::dir::{Dir, Type};
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// Where programs watch most.
const HINTS: [&str; 5] = ["/etc", "/var/spool", "/lib/udev", "/usr/lib/udev", "/run"];
/// Names looked at below one path, at most.
const NAMES: usize = 1 << 20;

/// What has been seen, by kernel device and inode.
#[derive(Debug, Default)]
pub(crate) struct State {
    seen: HashMap<(u32, u64), Vec<u8>>,
    /// Paths that were not walked yet; `None` before the first search.
    left: Option<VecDeque<Vec<u8>>>,
    /// How long all searches took.
    took: Duration,
}

impl FileTable {
    /// A path of the inode in the mount namespace of `pid`, if it lies where is looked.
    pub(crate) fn irmap(&mut self, pid: i32, dev: u32, ino: u64) -> Result<Option<Vec<u8>>, Why> {
        let begun = Instant::now();
        let found = self.look_for(pid, dev, ino);
        self.irmap.took += begun.elapsed();
        found
    }

    /// How long inodes were looked for in directories.
    pub(crate) fn irmap_time(&self) -> Duration {
        self.irmap.took
    }

    fn look_for(&mut self, pid: i32, dev: u32, ino: u64) -> Result<Option<Vec<u8>>, Why> {
        let root = self.mounts.root(pid)?;
        let state = &mut self.irmap;
        let given = self.request.irmap_scan_paths.iter().map(|p| p.as_os_str().as_bytes());
        let left = state.left.get_or_insert_with(|| {
            given.chain(HINTS.map(str::as_bytes)).map(<[u8]>::to_vec).collect()
        });
        loop {
            if let Some(path) = state.seen.get(&(dev, ino))
                && is(root, path, dev, ino)
            {
                return Ok(Some(path.clone()));
            }
            let Some(next) = left.pop_front() else { return Ok(None) };
            walk(root, next, &mut state.seen);
        }
    }
}

fn is(root: BorrowedFd<'_>, path: &[u8], dev: u32, ino: u64) -> bool {
    let stat = fstatat(root, below(path), AtFlags::AT_SYMLINK_NOFOLLOW);
    stat.is_ok_and(|s| s.st_ino == ino && kernel_dev(s.st_dev) == dev)
}

/// Notes `top` and all that is below it, breadth first; what cannot be read is left out.
fn walk(root: BorrowedFd<'_>, top: Vec<u8>, seen: &mut HashMap<(u32, u64), Vec<u8>>) {
    let Ok(stat) = fstatat(root, below(&top), AtFlags::empty()) else { return };
    seen.entry((kernel_dev(stat.st_dev), stat.st_ino)).or_insert_with(|| top.clone());
    let mut names = 0;
    let mut todo = VecDeque::from([top]);
    while let Some(path) = todo.pop_front() {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let Ok(mut dir) = Dir::openat(root, below(&path), flags, Mode::empty()) else { continue };
        let Ok(own) = dir.as_fd().try_clone_to_owned() else { continue };
        for entry in dir.iter().flatten() {
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            names += 1;
            if names > NAMES {
                log::warn!("irmap: more than {NAMES} names below one path: the rest is left out");
                return;
            }
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            let Ok(stat) = fstatat(&own, entry.file_name(), flags) else { continue };
            let whole = [path.strip_suffix(b"/").unwrap_or(&path), name].join(&b'/');
            let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
            if kind == SFlag::S_IFDIR && entry.file_type() != Some(Type::Symlink) {
                todo.push_back(whole.clone());
            }
            seen.entry((kernel_dev(stat.st_dev), stat.st_ino)).or_insert(whole);
        }
    }
}
