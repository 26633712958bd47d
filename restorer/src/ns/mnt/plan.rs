//! What mounts are made of, decided from the images: pure.

use super::groups;
use super::options::MountOptions;
use images::proto::MntEntry;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// `MS_*` flags in images.
mod flag {
    pub(super) const RDONLY: u32 = 1;
    pub(super) const NOSUID: u32 = 2;
    pub(super) const NODEV: u32 = 4;
    pub(super) const NOEXEC: u32 = 8;
    pub(super) const NOSYMFOLLOW: u32 = 0x100;
    pub(super) const NOATIME: u32 = 0x400;
    pub(super) const NODIRATIME: u32 = 0x800;
    pub(super) const UNBINDABLE: u32 = 0x2_0000;
    pub(super) const STRICTATIME: u32 = 0x100_0000;
}

/// Where a mount comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// `--root`.
    Root,
    /// A path of the restorer's own mount namespace.
    Host(PathBuf),
    /// A new mount of a kind of file system.
    New(NewFs),
    /// A part of another mount, by its position.
    Bind {
        /// Of which.
        of: usize,
        /// Path below its root, empty for the root itself.
        path: Vec<u8>,
        /// Made for the purpose, and deleted when bound.
        deleted: bool,
    },
}

/// A file system to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewFs {
    /// Its kind, as the kernel names it.
    pub(crate) name: String,
    /// `source` of `mount(2)`.
    pub(crate) source: Vec<u8>,
    /// Options of the kind.
    pub(crate) options: Vec<u8>,
    /// `MS_*` flags of the superblock.
    pub(crate) sb_flags: u32,
    /// Path in it that is mounted, when it is not the root.
    pub(crate) path: Vec<u8>,
    /// Number of the device it was: the archive of its content is named by it.
    pub(crate) dev: u32,
    /// Its content is in an archive.
    pub(crate) content: bool,
    /// It can be mounted in a user namespace only by those outside of it.
    pub(crate) privileged: bool,
}

/// A mount to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Its id in the images.
    pub(crate) id: u32,
    /// Position of its namespace in [`MountTrees::namespaces`].
    pub(crate) ns: usize,
    /// What it is mounted on; `None` for the root of a namespace.
    pub(crate) parent: Option<usize>,
    /// Where below the root of the parent; empty: on that root.
    pub(crate) place: Vec<u8>,
    /// Where in its namespace, for messages.
    pub(crate) point: Vec<u8>,
    /// What it is.
    pub(crate) source: Source,
    /// `MOUNT_ATTR_*`, without `RDONLY`.
    pub(crate) attr: u64,
    /// Read-only, as soon as all files are open.
    pub(crate) read_only: bool,
    /// Can be made only when the tree below stands: overlays, and what is on them.
    pub(crate) late: bool,
    /// `MS_UNBINDABLE`.
    pub(crate) unbindable: bool,
    /// How it keeps to its peers outside.
    pub(crate) outer: Outer,
    /// What of the file system it shows, and which: for groups.
    pub(crate) root: Vec<u8>,
    pub(crate) dev: u32,
    pub(crate) shared: u32,
    pub(crate) master: u32,
}

/// What a mount from outside keeps of its propagation there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outer {
    /// Nothing.
    Private,
    /// It goes on to get what is mounted there.
    Slave,
    /// It stays a peer.
    Peer,
}

/// A namespace to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    /// Its number in the images.
    pub(crate) id: u32,
    /// Its mounts in the order in which they are put in place, the root first.
    pub(crate) order: Vec<usize>,
}

/// All mounts of a restore.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountTrees {
    /// All, in the order of the images.
    pub(crate) mounts: Vec<Mount>,
    /// The namespace of the root task comes first.
    pub(crate) namespaces: Vec<Tree>,
    /// How peer groups are made when all is in place.
    pub(crate) steps: Vec<groups::Step>,
}

/// What of the request matters.
#[derive(Clone, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) options: &'a MountOptions,
    /// `--root` is given.
    pub(crate) root: bool,
    /// In a new user namespace.
    pub(crate) user_ns: bool,
}

fn show(path: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(path)
}

/// Whether `outer` leads to `inner` or is the same.
pub(crate) fn covers(outer: &[u8], inner: &[u8]) -> bool {
    match inner.strip_prefix(outer) {
        Some(rest) => outer.ends_with(b"/") || rest.is_empty() || rest.starts_with(b"/"),
        None => false,
    }
}

/// `inner` seen from `outer`, without a slash in front.
pub(crate) fn below(outer: &[u8], inner: &[u8]) -> Vec<u8> {
    let rest = inner.strip_prefix(outer).unwrap_or(inner);
    rest.strip_prefix(b"/").unwrap_or(rest).to_vec()
}

/// Plans the namespaces of `images`, by their numbers; `root_ns` is the root task's.
pub(crate) fn plan(
    images: &BTreeMap<u32, Vec<MntEntry>>,
    root_ns: u32,
    wish: &Wish<'_>,
) -> Result<MountTrees, String> {
    if !wish.root {
        return Err("The --root option is required to restore a mount namespace".to_owned());
    }
    let mut ids: Vec<u32> = images.keys().copied().collect();
    ids.sort_by_key(|id| (*id != root_ns, *id));
    let mut out = MountTrees::default();
    let mut entries: Vec<(&MntEntry, bool)> = Vec::new();
    for (ns, id) in ids.iter().enumerate() {
        let list = &images[id];
        let first = out.mounts.len();
        let at: HashMap<u32, usize> =
            list.iter().enumerate().map(|(i, e)| (e.mnt_id, first + i)).collect();
        for entry in list {
            let parent = at.get(&entry.parent_mnt_id).copied();
            entries.push((entry, ns == 0 && parent.is_none()));
            out.mounts.push(mount(entry, ns, parent));
        }
        out.namespaces.push(Tree { id: *id, order: Vec::new() });
    }
    places(&mut out)?;
    sources(&mut out, &entries, wish)?;
    order(&mut out);
    late(&mut out)?;
    out.steps = groups::steps(&out.mounts)?;
    Ok(out)
}

fn mount(entry: &MntEntry, ns: usize, parent: Option<usize>) -> Mount {
    let has = |flag: u32| entry.flags & flag != 0;
    let mut attr = 0;
    for (flag, bit) in [
        (flag::NOSUID, sys::mount::ATTR_NOSUID),
        (flag::NODEV, sys::mount::ATTR_NODEV),
        (flag::NOEXEC, sys::mount::ATTR_NOEXEC),
        (flag::NODIRATIME, sys::mount::ATTR_NODIRATIME),
        (flag::NOSYMFOLLOW, sys::mount::ATTR_NOSYMFOLLOW),
    ] {
        if has(flag) {
            attr |= bit;
        }
    }
    if has(flag::NOATIME) {
        attr |= sys::mount::ATTR_NOATIME;
    } else if has(flag::STRICTATIME) {
        attr |= sys::mount::ATTR_STRICTATIME;
    }
    Mount {
        id: entry.mnt_id,
        ns,
        parent,
        place: Vec::new(),
        point: entry.mountpoint.clone(),
        source: Source::Root,
        attr,
        read_only: has(flag::RDONLY),
        late: false,
        unbindable: has(flag::UNBINDABLE),
        outer: Outer::Private,
        root: entry.root.clone(),
        dev: entry.root_dev,
        shared: entry.shared_id.unwrap_or(0),
        master: entry.master_id.unwrap_or(0),
    }
}

/// Places of mounts within their parents.
fn places(trees: &mut MountTrees) -> Result<(), String> {
    for i in 0..trees.mounts.len() {
        let m = &trees.mounts[i];
        let Some(parent) = m.parent.map(|p| &trees.mounts[p]) else { continue };
        if !covers(&parent.point, &m.point) {
            let (point, outer) = (show(&m.point), show(&parent.point));
            return Err(format!("mount {} at {point} is on one at {outer}, {}", m.id, parent.id));
        }
        let place = below(&parent.point, &m.point);
        if place.split(|b| *b == b'/').any(|c| c == b"..") {
            return Err(format!("mount {} at {}: a place with ..", m.id, show(&m.point)));
        }
        trees.mounts[i].place = place;
    }
    let mut places = HashMap::new();
    for m in &trees.mounts {
        if let Some(other) = places.insert((m.parent, m.ns, &m.place), m.id) {
            let parent = m.parent.map_or(0, |p| trees.mounts[p].id);
            return Err(format!(
                "Mount {parent} has two children with same mountpoint: {other} and {} at {}",
                m.id,
                show(&m.point)
            ));
        }
    }
    Ok(())
}

/// What each mount is made of.
fn sources(
    trees: &mut MountTrees,
    entries: &[(&MntEntry, bool)],
    wish: &Wish<'_>,
) -> Result<(), String> {
    let inside = groups::shared_inside(&trees.mounts);
    let mut found: Vec<Option<Source>> = vec![None; entries.len()];
    let mut missing = Vec::new();
    for (i, (entry, is_root)) in entries.iter().enumerate() {
        if entry.with_plugin == Some(true) {
            let point = show(&entry.mountpoint);
            return Err(format!(
                "not supported yet: mount {} at {point} of a plugin",
                entry.mnt_id
            ));
        }
        let source =
            if *is_root { Some(Source::Root) } else { external(entry, wish, &mut missing)? };
        if source.is_some() {
            let m = &mut trees.mounts[i];
            m.outer = if m.master != 0 && !inside.contains(&m.master) {
                Outer::Slave
            } else if !is_root && m.shared != 0 && entry.internal_sharing != Some(true) {
                Outer::Peer
            } else {
                Outer::Private
            };
        }
        found[i] = source;
    }
    if !missing.is_empty() {
        return Err(format!("No mapping for {} mountpoint", missing.join(", ")));
    }
    let bind = |found: &[Option<Source>], m: &Mount| {
        let usable = |(i, o): (usize, &Mount)| {
            let whole = !matches!(found[i], None | Some(Source::Bind { .. }));
            (whole && o.dev == m.dev && covers(&o.root, &m.root)).then_some((i, o.root.len()))
        };
        let all = trees.mounts.iter().enumerate().filter_map(usable);
        all.min_by_key(|(_, len)| *len).map(|(i, _)| i)
    };
    // Whole file systems first: what is only a part of one may come before it.
    for whole in [true, false] {
        for (i, (entry, _)) in entries.iter().enumerate() {
            if found[i].is_some() || whole != (entry.root == b"/") {
                continue;
            }
            let m = &trees.mounts[i];
            let deleted = entry.deleted == Some(true);
            found[i] = if let Some(of) = bind(&found, m) {
                let path = below(&trees.mounts[of].root, &m.root);
                Some(Source::Bind { of, path, deleted })
            } else {
                Some(Source::New(new_fs(entry, wish).ok_or_else(|| {
                    let (point, root) = (show(&entry.mountpoint), show(&entry.root));
                    format!("{}:{point} doesn't have a proper root mount ({root})", entry.mnt_id)
                })?))
            };
        }
    }
    for (m, source) in trees.mounts.iter_mut().zip(found) {
        m.source = source.unwrap_or(Source::Root);
    }
    Ok(())
}

/// What an external mount is made of.
fn external(
    entry: &MntEntry,
    wish: &Wish<'_>,
    missing: &mut Vec<String>,
) -> Result<Option<Source>, String> {
    let Some(key) = entry.ext_key.as_deref() else { return Ok(None) };
    let path = |bytes: &[u8]| {
        use std::os::unix::ffi::OsStrExt;
        PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
    };
    let point = show(&entry.mountpoint);
    match key {
        "CRIU:AUTOGENERATED" => {
            if !wish.options.auto {
                return Err(format!(
                    "mount {} at {point} was found by itself: needs --external mnt[] here too",
                    entry.mnt_id
                ));
            }
            Ok(Some(Source::Host(path(&entry.source))))
        }
        "CRIU:EXTERNAL_DEV" => {
            let name = show(&entry.source);
            let key = name.strip_prefix("dev[").and_then(|n| n.strip_suffix(']')).unwrap_or(&name);
            let Some(device) = wish.options.device(key) else {
                missing.push(format!("{}:{point} (--external dev[{key}]:PATH)", entry.mnt_id));
                return Ok(None);
            };
            let Some(name) = entry.fsname.clone() else {
                return Err(format!(
                    "mount {} at {point}: kind of file system unknown",
                    entry.mnt_id
                ));
            };
            Ok(Some(Source::New(NewFs {
                name,
                source: device.as_bytes().to_vec(),
                privileged: wish.user_ns,
                content: false,
                ..plain(entry, wish, "")
            })))
        }
        key => {
            let given = wish.options.path_of(key);
            if given.is_none() {
                missing.push(format!("{}:{point} (--external mnt[{key}]:PATH)", entry.mnt_id));
            }
            Ok(given.map(|p| Source::Host(PathBuf::from(p))))
        }
    }
}

fn plain(entry: &MntEntry, wish: &Wish<'_>, name: &str) -> NewFs {
    let context = wish.options.context.as_deref();
    NewFs {
        name: name.to_owned(),
        source: entry.source.clone(),
        options: context.map_or_else(
            || entry.options.clone(),
            |context| super::context::replaced(&entry.options, context),
        ),
        sb_flags: entry.sb_flags.unwrap_or(entry.flags & flag::RDONLY),
        path: Vec::new(),
        dev: entry.root_dev,
        content: false,
        privileged: false,
    }
}

/// A kind that can be mounted anew. `None`: there is none of this number.
fn new_fs(entry: &MntEntry, wish: &Wish<'_>) -> Option<NewFs> {
    // Name, and whether a user namespace may mount it.
    let (name, unprivileged) = match entry.fstype {
        1 => ("proc", true),
        2 => ("sysfs", true),
        3 => ("devtmpfs", false),
        4 => ("binfmt_misc", true),
        5 => ("tmpfs", true),
        6 => ("devpts", true),
        8 => ("pstore", false),
        9 => ("securityfs", false),
        10 => ("fusectl", true),
        11 => ("debugfs", false),
        12 => ("cgroup", true),
        14 => ("mqueue", true),
        16 => (entry.fsname.as_deref()?, false),
        17 => ("overlay", true),
        19 => ("tracefs", false),
        23 => ("cgroup2", true),
        _ => return None,
    };
    let parts = matches!(entry.fstype, 12 | 23);
    if entry.root != b"/" && !parts {
        return None;
    }
    Some(NewFs {
        path: below(b"/", &entry.root),
        content: name == "tmpfs",
        privileged: wish.user_ns && !unprivileged,
        ..plain(entry, wish, name)
    })
}

/// The order in which mounts are put in place: parents first; of the children of one, those
/// deeper down first, which a mount higher up would hide.
fn order(trees: &mut MountTrees) {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); trees.mounts.len()];
    for (i, m) in trees.mounts.iter().enumerate() {
        if let Some(parent) = m.parent {
            children[parent].push(i);
        }
    }
    let depth = |i: &usize| trees.mounts[*i].place.split(|b| *b == b'/').count();
    for list in &mut children {
        list.sort_by_key(|i| {
            let empty = trees.mounts[*i].place.is_empty();
            (empty, std::cmp::Reverse(depth(i)), trees.mounts[*i].id)
        });
    }
    for (ns, tree) in trees.namespaces.iter_mut().enumerate() {
        let root = trees.mounts.iter().position(|m| m.ns == ns && m.parent.is_none());
        let mut todo: Vec<usize> = root.into_iter().collect();
        // Breadth first: all children of a mount are on it before one of them is built upon.
        let mut at = 0;
        while let Some(&i) = todo.get(at) {
            todo.extend(&children[i]);
            at += 1;
        }
        tree.order = todo;
    }
}

fn is_overlay(m: &Mount) -> bool {
    matches!(&m.source, Source::New(fs) if fs.name == "overlay")
}

/// Overlays are made of directories of the tree itself.
fn late(trees: &mut MountTrees) -> Result<(), String> {
    let order: Vec<usize> = trees.namespaces.iter().flat_map(|t| t.order.clone()).collect();
    for i in order {
        let m = &trees.mounts[i];
        let of_late = match &m.source {
            Source::Bind { of, .. } => trees.mounts[*of].late || is_overlay(&trees.mounts[*of]),
            _ => false,
        };
        let on_late = m.parent.is_some_and(|p| trees.mounts[p].late);
        trees.mounts[i].late = is_overlay(m) || of_late || on_late;
    }
    let MountTrees { mounts, namespaces, .. } = trees;
    namespaces.iter_mut().try_for_each(|tree| order_late(tree, mounts))
}

/// Puts late mounts behind the others, each after what it is a bind of.
fn order_late(tree: &mut Tree, mounts: &[Mount]) -> Result<(), String> {
    let (mut done, mut left): (Vec<_>, Vec<_>) = tree.order.iter().partition(|i| !mounts[**i].late);
    // What is no overlay is made early, and only put in its place late.
    let made_early = |i: usize| match &mounts[i].source {
        Source::Bind { .. } => !mounts[i].late,
        _ => !is_overlay(&mounts[i]),
    };
    while !left.is_empty() {
        let placed = |i: usize, done: &[usize]| !mounts[i].late || done.contains(&i);
        let ready = |i: &usize| {
            let m = &mounts[*i];
            let on = m.parent.is_none_or(|p| placed(p, &done));
            on && match &m.source {
                Source::Bind { of, .. } => made_early(*of) || placed(*of, &done),
                _ => true,
            }
        };
        let Some(next) = left.iter().position(ready) else {
            let m = &mounts[left[0]];
            let point = show(&m.point);
            let why = "it is of an overlay that is made after it, or in another mount namespace";
            return Err(format!("not supported yet: mount {} at {point}: {why}", m.id));
        };
        done.push(left.remove(next));
    }
    tree.order = done;
    Ok(())
}

#[cfg(test)]
mod tests;
