//! Directories of control groups with their properties.

use super::cgroup::is_below;
use super::cgroup_props::Names;
use crate::freezer::Freezer;
use crate::{Error, Request};
use images::proto::{CgControllerEntry, CgroupDirEntry, CgroupPerms, CgroupPropEntry};
use parasite::proc;
use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Deeper trees are no honest ones.
const DEEPEST: usize = 128;
/// As much of a property as CRIU saves.
const LONGEST: usize = 1023;

/// Where the hierarchies are mounted.
#[derive(Debug)]
pub(super) struct Hierarchies {
    mounts: Vec<Mount>,
    yard: Option<PathBuf>,
    /// Mounted by us, as they are not here.
    own: RefCell<HashMap<String, OwnedFd>>,
}

/// A mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Directory of the hierarchy that is mounted.
    root: String,
    pub(super) at: PathBuf,
    v2: bool,
    /// Options of the superblock: controllers and `name=`.
    options: Vec<String>,
}

impl Mount {
    /// Where a directory of the hierarchy `name` is, if it is here.
    pub(super) fn dir(&self, name: &str, path: &str) -> Option<PathBuf> {
        let wanted = match name {
            "" => self.v2,
            _ => !self.v2 && name.split(',').all(|c| self.options.iter().any(|o| o == c)),
        };
        (wanted && is_below(path, &self.root)).then_some(())?;
        let below = path.strip_prefix(self.root.trim_end_matches('/'))?;
        Some(self.at.join(below.trim_start_matches('/')))
    }
}

impl Hierarchies {
    /// Those of our mount namespace, or of a yard.
    pub(super) fn find(request: &Request) -> Result<Self, Error> {
        let mountinfo = proc::read("/proc/self/mountinfo")?;
        let mounts = mounts(&String::from_utf8_lossy(&mountinfo));
        Ok(Self { mounts, yard: request.cgroup_yard.clone(), own: RefCell::default() })
    }

    /// Where a directory of the hierarchy `name` is to be found.
    fn dir(&self, name: &str, path: &str) -> Option<PathBuf> {
        if let Some(yard) = &self.yard {
            let name = match name.strip_prefix("name=").unwrap_or(name) {
                "" => "unified",
                name => name,
            };
            return Some(yard.join(name).join(path.trim_start_matches('/')));
        }
        self.mounts.iter().find_map(|m| m.dir(name, path))
    }
}

pub(crate) fn mounts(mountinfo: &str) -> Vec<Mount> {
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

impl Hierarchies {
    /// A yard, if one is given, has the hierarchy `name`: else its groups would seem to be gone.
    fn check_yard(&self, name: &str) -> Result<(), Error> {
        let place = self.yard.as_ref().and_then(|_| self.dir(name, "/"));
        match place.filter(|place| !place.is_dir()) {
            None => Ok(()),
            Some(place) => Err(Error::Refused(format!(
                "control groups: --cgroup-yard has no hierarchy of {name:?}: no directory {}",
                place.display()
            ))),
        }
    }

    /// The same in a mount of our own, for hierarchies that only others have mounted.
    fn own_dir(&self, name: &str, path: &str) -> Result<PathBuf, sys::Error> {
        use std::collections::hash_map::Entry;
        let mut own = self.own.borrow_mut();
        let fd = match own.entry(name.to_owned()) {
            Entry::Occupied(fd) => fd.into_mut(),
            Entry::Vacant(place) => place.insert(sys::mount::cgroup(name)?),
        };
        let root = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        Ok(root.join(path.trim_start_matches('/')))
    }
}

/// The hierarchy `name` with the trees below `tops`.
pub(super) fn controller(
    hierarchies: &Hierarchies,
    names: &Names<'_>,
    name: &str,
    tops: Vec<&str>,
    freezer: Option<&Freezer>,
) -> Result<CgControllerEntry, Error> {
    hierarchies.check_yard(name)?;
    let mut dirs = Vec::new();
    for top in tops {
        let path = match hierarchies.dir(name, top) {
            Some(path) => path,
            None => hierarchies.own_dir(name, top).map_err(|e| {
                Error::Refused(format!(
                    "control groups: the hierarchy of {name:?} is not mounted here ({e}): mount \
                     it, or use --cgroup-yard or --manage-cgroups=ignore"
                ))
            })?,
        };
        let walk = Walk { names, v1: (!name.is_empty()).then(|| names.v1(name)), freezer };
        // As CRIU, without the first slash.
        dirs.extend(walk.dir(&path, top.trim_start_matches('/'), 0)?);
    }
    let cnames = name.split(',').map(str::to_owned).collect();
    Ok(CgControllerEntry { cnames, dirs, is_threaded: None })
}

struct Walk<'a> {
    names: &'a Names<'a>,
    /// The same in all directories; in v2 it depends on what is enabled there.
    v1: Option<Vec<&'a str>>,
    freezer: Option<&'a Freezer>,
}

impl Walk<'_> {
    /// A directory and all below it; `None` if it is gone.
    fn dir(&self, path: &Path, name: &str, depth: usize) -> Result<Option<CgroupDirEntry>, Error> {
        if depth > DEEPEST {
            let path = path.display();
            return Err(Error::Refused(format!("control groups: {path} is too deep")));
        }
        let dir_perms = perms(path);
        let Ok(entries) = std::fs::read_dir(path) else { return Ok(None) };
        let mut below: Vec<_> = entries
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .map(|e| e.file_name())
            .collect();
        below.sort();
        let mut children = Vec::new();
        for child in below {
            let path = path.join(&child);
            children.extend(self.dir(&path, &child.to_string_lossy(), depth + 1)?);
        }
        let properties = self.properties(path);
        Ok(Some(CgroupDirEntry { dir_name: name.to_owned(), children, properties, dir_perms }))
    }

    fn properties(&self, dir: &Path) -> Vec<CgroupPropEntry> {
        let mut all: Vec<CgroupPropEntry> = match &self.v1 {
            Some(names) => names.iter().filter_map(|p| property(dir, p)).collect(),
            None => {
                let enabled = std::fs::read_to_string(dir.join("cgroup.controllers"));
                let names = self.names.v2(&enabled.unwrap_or_default());
                names.iter().filter_map(|p| property(dir, p)).collect()
            }
        };
        if let Some(freezer) = self.freezer.filter(|f| same(f.dir(), dir)) {
            let (name, value) = freezer.property();
            all.retain(|p| p.name != name);
            let perms = perms(&dir.join(name));
            all.push(CgroupPropEntry { name: name.into(), value: value.into(), perms });
        }
        all
    }
}

fn same(a: &Path, b: &Path) -> bool {
    let id = |p: &Path| std::fs::metadata(p).map(|m| (m.dev(), m.ino())).ok();
    id(a).is_some_and(|id_of_a| Some(id_of_a) == id(b))
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
    if value.len() > LONGEST {
        log::warn!("{}: {} bytes are too long to be saved", path.display(), value.len());
        return None;
    }
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
        let mut all =
            Hierarchies { mounts: mounts(MOUNTINFO), yard: None, own: RefCell::default() };
        assert_eq!(all.mounts.len(), 3);
        let check = |name, path| all.dir(name, path).map(|p| p.display().to_string());
        assert_eq!(check("cpu", "/a/b"), Some("/sys/fs/cgroup/cpu/a/b".into()));
        assert_eq!(check("name=systemd", "/"), Some("/sys/fs/cgroup/systemd/".into()));
        assert_eq!(check("", "/part/x"), Some("/sys/fs/cgroup/unified/x".into()));
        assert_eq!(check("", "/partly/x"), None);
        assert_eq!(check("", "/other"), None);
        assert_eq!(check("cpuset", "/"), None);
        all.yard = Some("/yard".into());
        assert_eq!(all.dir("name=x", "/a"), Some("/yard/x/a".into()));
        assert_eq!(all.dir("", "/a"), Some("/yard/unified/a".into()));
    }

    #[test]
    fn limits_beyond_all_memory_are_none() {
        assert_eq!(value("memory.limit_in_bytes", "9223372036854771712\n"), "-1");
        assert_eq!(value("pids.max", "max\n"), "max");
        assert_eq!(value("memory.oom_control", "oom_kill_disable 1\nunder_oom 0\n"), "1");
    }
}
