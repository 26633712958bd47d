//! Properties of control groups: in which order, and how they are written.

use super::journal::Journal;
use crate::Error;
use crate::plan::cgroup::Dir;
use images::proto::CgroupPropEntry;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

/// Tasks cannot come in, or this cannot be changed, once they are.
const BEFORE_TASKS: &[&str] = &[
    "cgroup.subtree_control",
    "cgroup.type",
    "cpuset.cpus",
    "cpuset.mems",
    "devices.list",
    "memory.kmem.limit_in_bytes",
    "memory.oom_control",
    "memory.swappiness",
    "memory.use_hierarchy",
];
/// Stop the tasks.
const FREEZERS: &[&str] = &["freezer.state", "cgroup.freeze"];

/// A directory was made: whatever it needs for tasks to come in at all.
pub(super) fn usable(dir: &Path, hierarchy: &str) {
    let Some(parent) = dir.parent() else { return };
    if !hierarchy.split(',').any(|c| c == "cpuset") {
        return;
    }
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let empty = |dir: &Path| {
            let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
            (text.trim().is_empty(), text)
        };
        if empty(dir).0
            && let (false, text) = empty(parent)
            && let Err(e) = fs::write(dir.join(name), text)
        {
            log::warn!("cgroups: {}/{name}: {e}", dir.display());
        }
    }
}

/// Sets what must be set before tasks and further directories are in `path`.
pub(super) fn before_tasks(path: &Path, dir: &Dir, journal: &mut Journal<'_>) -> Result<(), Error> {
    if dir.hierarchy.is_empty() {
        enable_controllers(path, dir, journal);
    }
    let mut early = dir.properties.iter().filter(|p| BEFORE_TASKS.contains(&p.name.as_str()));
    early.try_for_each(|p| set(path, dir, p, journal))
}

/// Sets all else.
pub(super) fn limits(path: &Path, dir: &Dir, journal: &mut Journal<'_>) -> Result<(), Error> {
    let late = |p: &&CgroupPropEntry| {
        !BEFORE_TASKS.contains(&p.name.as_str()) && !FREEZERS.contains(&p.name.as_str())
    };
    dir.properties.iter().filter(late).try_for_each(|p| set(path, dir, p, journal))
}

/// Freezes, if the group was frozen when it was dumped.
pub(super) fn freezer(path: &Path, dir: &Dir, journal: &mut Journal<'_>) {
    let frozen = |p: &&CgroupPropEntry| {
        FREEZERS.contains(&p.name.as_str()) && (p.value == "FROZEN" || p.value == "1")
    };
    for property in dir.properties.iter().filter(frozen) {
        if let Err(e) = set(path, dir, property, journal) {
            log::error!("{e}");
        }
    }
}

/// Properties of controllers are there only if the group above has enabled these.
fn enable_controllers(path: &Path, dir: &Dir, journal: &mut Journal<'_>) {
    let missing = |p: &&CgroupPropEntry| !path.join(&p.name).exists();
    for property in dir.properties.iter().filter(missing) {
        let Some((controller, _)) = property.name.split_once('.') else { continue };
        if controller != "cgroup" {
            // From above: a group can give on what it has.
            let above: Vec<&Path> = path.ancestors().skip(1).collect();
            let groups = above.iter().rev().map(|d| d.join("cgroup.subtree_control"));
            for file in groups.filter(|f| f.exists()) {
                journal.writes(&file);
                let _ = fs::write(&file, format!("+{controller}"));
            }
        }
    }
}

fn set(
    path: &Path,
    dir: &Dir,
    property: &CgroupPropEntry,
    journal: &mut Journal<'_>,
) -> Result<(), Error> {
    let file = path.join(&property.name);
    let done = permissions(&file, property, journal).and_then(|()| write(&file, property, journal));
    match done {
        Ok(()) => Ok(()),
        // Of controllers that may not be here, and that CRIU does not save.
        Err(e) if dir.hierarchy.is_empty() && e.kind() == io::ErrorKind::NotFound => {
            log::warn!("cgroups: {}: {e}: {:?} is not set", file.display(), property.value);
            Ok(())
        }
        Err(e) if property.name == "memory.kmem.limit_in_bytes" => {
            log::warn!("cgroups: {}: {e}", file.display());
            Ok(())
        }
        Err(e) => Err(Error::Cgroup {
            name: dir.hierarchy.clone(),
            path: dir.path.clone(),
            why: format!("write({}, {:?}): {e}", file.display(), property.value),
        }),
    }
}

fn permissions(
    file: &Path,
    property: &CgroupPropEntry,
    journal: &mut Journal<'_>,
) -> io::Result<()> {
    let Some(perms) = &property.perms else { return Ok(()) };
    let now = fs::metadata(file)?;
    let owned = (now.uid(), now.gid()) == (perms.uid, perms.gid);
    let mode = perms.mode & 0o7777;
    if owned && now.mode() & 0o7777 == mode {
        return Ok(());
    }
    journal.gives(file, &now);
    if !owned {
        chown(file, Some(perms.uid), Some(perms.gid))?;
    }
    fs::set_permissions(file, fs::Permissions::from_mode(mode))
}

fn write(file: &Path, property: &CgroupPropEntry, journal: &mut Journal<'_>) -> io::Result<()> {
    let wanted = property.value.trim_end();
    let name = property.name.as_str();
    match name {
        "cgroup.procs" | "tasks" => return Ok(()),
        // What it is made as; the kernel says no in deeper groups.
        "memory.swappiness" if wanted == "60" => return Ok(()),
        "memory.oom_control" if wanted == "0" => return Ok(()),
        "cgroup.type" if wanted != "threaded" => return Ok(()),
        _ => {}
    }
    // Much is so already, and cannot always be written again.
    if wanted.is_empty() || value(file).is_ok_and(|now| now == wanted) {
        return Ok(());
    }
    journal.writes(file);
    put(file, wanted)
}

/// The value of a property, as it can be written.
pub(super) fn value(file: &Path) -> io::Result<String> {
    let text = fs::read_to_string(file)?;
    let all = text.trim_end();
    if file.ends_with("memory.oom_control") {
        let first = all.lines().next().and_then(|line| line.split(' ').nth(1));
        return Ok(first.unwrap_or_default().to_owned());
    }
    Ok(all.to_owned())
}

/// Gives a property the value again that it had before.
pub(super) fn put_back(file: &Path, before: &str) -> io::Result<()> {
    let now = value(file)?;
    if now == before {
        return Ok(());
    }
    if file.ends_with("cgroup.subtree_control") {
        let more = now.split_whitespace().filter(|c| !before.split_whitespace().any(|b| b == *c));
        let less: Vec<String> = more.map(|c| format!("-{c}")).collect();
        return fs::write(file, less.join(" "));
    }
    put(file, before)
}

fn put(file: &Path, value: &str) -> io::Result<()> {
    match file.file_name().and_then(|name| name.to_str()) {
        Some("devices.list") => {
            fs::write(file.with_file_name("devices.deny"), "a")?;
            let allow = file.with_file_name("devices.allow");
            value.lines().try_for_each(|line| fs::write(&allow, line))
        }
        Some("net_prio.ifpriomap") => value.lines().try_for_each(|line| fs::write(file, line)),
        Some("cgroup.subtree_control") => {
            let all: Vec<String> = value.split_whitespace().map(|c| format!("+{c}")).collect();
            fs::write(file, all.join(" "))
        }
        _ => fs::write(file, value),
    }
}
