//! Control groups: which directories there have to be, and who goes where.

use crate::request::CgroupMode;
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, Thread};
use images::proto::{CgControllerEntry, CgroupDirEntry, CgroupPerms, CgroupPropEntry};
use std::collections::BTreeMap;

/// The image, for messages.
const IMAGE: &str = "cgroup.img";

/// The groups of a tree.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    pub(crate) mode: CgroupMode,
    /// Groups of each set, by its number. That of the dumper is not among them.
    pub(crate) sets: BTreeMap<u32, Vec<Member>>,
    /// Directories, parents before children.
    pub(crate) dirs: Vec<Dir>,
}

/// A group in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its controllers, as `/proc/PID/cgroup` writes them; empty for v2.
    pub(crate) hierarchy: String,
    pub(crate) path: String,
    /// How much of the path is the root of the tasks' cgroup namespace; 0: they have none.
    pub(crate) ns_root: usize,
}

impl Member {
    /// Where a task makes its cgroup namespace.
    pub(crate) fn first(&self) -> &str {
        if self.ns_root > 0 { &self.path[..self.ns_root] } else { &self.path }
    }
}

/// A directory of the image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dir {
    pub(crate) hierarchy: String,
    pub(crate) path: String,
    pub(crate) perms: Option<CgroupPerms>,
    pub(crate) properties: Vec<CgroupPropEntry>,
}

/// The set of a thread, if the images tell of sets at all.
pub(crate) fn set_of(cp: &Checkpoint, thread: &Thread) -> Option<u32> {
    let set = thread.thread_core().cg_set.filter(|set| *set != 0)?;
    (cp.inventory.root_cg_set != Some(set)).then_some(set)
}

impl Cgroups {
    /// Decides; `present` are the groups of this process, by hierarchy.
    pub(crate) fn new(
        cp: &Checkpoint,
        request: &Request,
        present: &BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        let mut plan = Self { mode: request.manage_cgroups, ..Self::default() };
        let Some(image) = cp.cgroup.as_ref().filter(|_| plan.mode != CgroupMode::Ignore) else {
            return Ok(plan);
        };
        for set in &image.sets {
            let mut members = Vec::new();
            for m in &set.ctls {
                check_path(&m.path)?;
                let ns_root = m.cgns_prefix.unwrap_or(0) as usize;
                if ns_root > m.path.len() || !m.path.is_char_boundary(ns_root) {
                    let text = format!("set {}: cgns_prefix {ns_root} of {:?}", set.id, m.path);
                    return Err(images::Error::invalid(IMAGE, text).into());
                }
                let (hierarchy, path) = (m.name.clone(), m.path.clone());
                members.push(Member { hierarchy, path, ns_root });
            }
            plan.sets.insert(set.id, members);
        }
        for controller in &image.controllers {
            plan.controller(controller, request, present)?;
        }
        Ok(plan)
    }

    fn controller(
        &mut self,
        entry: &CgControllerEntry,
        request: &Request,
        present: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let name = entry.cnames.join(",");
        let mut dirs = Vec::new();
        for top in &entry.dirs {
            let path = format!("/{}", top.dir_name.trim_matches('/'));
            check_path(&path)?;
            flatten(&name, top, path.trim_end_matches('/'), 0, &mut dirs)?;
        }
        // Only what the tasks are in, below and above, and the rest of the world is not: CRIU also
        // saves the groups of others.
        let others =
            |m: &Member| m.path == "/" || m.ns_root == 0 && present.get(&name) == Some(&m.path);
        let wanted: Vec<String> = self
            .sets
            .values()
            .flatten()
            .filter(|m| m.hierarchy == name && !others(m))
            .map(|m| m.first().to_owned())
            .collect();
        dirs.retain(|d| {
            wanted.iter().any(|w| below(&d.path, w).is_some() || below(w, &d.path).is_some())
        });
        if let Some(root) = asked_root(request, &entry.cnames)
            && let Some(old) = common(dirs.iter().map(|d| d.path.as_str()))
        {
            check_path(&root)?;
            let moved = |path: &str| {
                let joined = format!("{}{}", root.trim_end_matches('/'), below(path, &old)?);
                Some(if joined.is_empty() { "/".to_owned() } else { joined })
            };
            for dir in &mut dirs {
                dir.path = moved(&dir.path).unwrap_or_else(|| dir.path.clone());
            }
            let members = self.sets.values_mut().flatten();
            for member in members.filter(|m| m.hierarchy == name && !others(m)) {
                let first = moved(member.first());
                let Some(path) = moved(&member.path) else { continue };
                if member.ns_root > 0 {
                    // A namespace whose root is above what moves has no such root any more.
                    member.ns_root = first.map_or(0, |f| f.trim_end_matches('/').len());
                }
                member.path = path;
            }
        }
        self.dirs.extend(dirs);
        Ok(())
    }
}

/// The new root for a hierarchy: one of its controllers', or that of all others.
fn asked_root(request: &Request, names: &[String]) -> Option<String> {
    let whole = names.join(",");
    let named = |c: &str| c == whole || names.iter().any(|n| n == c);
    let mut own =
        request.cgroup_roots.iter().rev().filter(|(c, _)| c.as_deref().is_some_and(named));
    let mut any = request.cgroup_roots.iter().rev().filter(|(c, _)| c.is_none());
    own.next().or_else(|| any.next()).map(|(_, path)| path.clone())
}

fn check_path(path: &str) -> Result<(), Error> {
    let good = path.starts_with('/') && path.split('/').all(|part| part != ".." && part != ".");
    let bad = || images::Error::invalid(IMAGE, format!("{path:?} is no path of a group"));
    good.then_some(()).ok_or_else(|| bad().into())
}

/// Deeper trees are no honest ones.
const DEEPEST: usize = 256;

fn flatten(
    hierarchy: &str,
    entry: &CgroupDirEntry,
    path: &str,
    depth: usize,
    all: &mut Vec<Dir>,
) -> Result<(), Error> {
    let bad = |what: &str| images::Error::invalid(IMAGE, format!("{path}: {what}"));
    if depth > DEEPEST {
        return Err(bad("too deep").into());
    }
    if let Some(p) = entry.properties.iter().find(|p| p.name.contains('/') || p.name == "..") {
        return Err(bad(&format!("{:?} is no property", p.name)).into());
    }
    all.push(Dir {
        hierarchy: hierarchy.to_owned(),
        path: if path.is_empty() { "/".into() } else { path.to_owned() },
        perms: entry.dir_perms,
        properties: entry.properties.clone(),
    });
    for child in &entry.children {
        let name = &child.dir_name;
        if name.is_empty() || name.contains('/') || name == ".." || name == "." {
            return Err(bad(&format!("{name:?} is no directory in it")).into());
        }
        flatten(hierarchy, child, &format!("{path}/{name}"), depth + 1, all)?;
    }
    Ok(())
}

/// What is left of `path` below `root`: empty, or with a leading slash.
fn below<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(root.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest.trim_end_matches('/'))
}

/// The deepest directory that all are in.
fn common<'a>(mut paths: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut common = paths.next()?.to_owned();
    for path in paths {
        while below(path, &common).is_none() {
            let up = common.rfind('/')?;
            common.truncate(up);
        }
    }
    Some(common)
}

#[cfg(test)]
mod tests {
    use super::*;
    use images::proto::{CgMemberEntry, CgSetEntry, CgroupEntry};

    fn dir(name: &str, children: Vec<CgroupDirEntry>) -> CgroupDirEntry {
        let dir_name = name.to_owned();
        CgroupDirEntry { dir_name, children, properties: vec![], dir_perms: None }
    }

    fn image(member: (&str, u32), dirs: Vec<CgroupDirEntry>) -> CgroupEntry {
        let (path, prefix) = (member.0.to_owned(), Some(member.1).filter(|p| *p > 0));
        let ctls = vec![CgMemberEntry { name: String::new(), path, cgns_prefix: prefix }];
        CgroupEntry {
            sets: vec![CgSetEntry { id: 2, ctls }],
            controllers: vec![CgControllerEntry {
                cnames: vec!["".into()],
                dirs,
                is_threaded: None,
            }],
        }
    }

    /// (path, root of the namespace) of the only member, and the directories.
    fn check(
        entry: CgroupEntry,
        root: Option<&str>,
    ) -> Result<(String, usize, Vec<String>), Error> {
        let mut request = Request::new("/img");
        request.cgroup_roots = root.map(|r| (None, r.to_owned())).into_iter().collect();
        let present = BTreeMap::from([(String::new(), "/session".to_owned())]);
        let mut plan = Cgroups { mode: CgroupMode::Soft, ..Cgroups::default() };
        for set in &entry.sets {
            let m = &set.ctls[0];
            let ns_root = m.cgns_prefix.unwrap_or(0) as usize;
            let (hierarchy, path) = (m.name.clone(), m.path.clone());
            plan.sets.insert(set.id, vec![Member { hierarchy, path, ns_root }]);
        }
        for controller in &entry.controllers {
            plan.controller(controller, &request, &present)?;
        }
        let m = &plan.sets[&2][0];
        Ok((m.path.clone(), m.ns_root, plan.dirs.iter().map(|d| d.path.clone()).collect()))
    }

    #[test]
    fn another_root_replaces_what_all_groups_are_in() {
        let entry = || image(("/pod/c1/sub", 7), vec![dir("/pod/c1", vec![dir("sub", vec![])])]);
        let (path, root, dirs) = check(entry(), Some("/x")).unwrap();
        assert_eq!((path.as_str(), root), ("/x/sub", 2));
        assert_eq!(dirs, ["/x", "/x/sub"]);
        let (path, root, _) = check(entry(), None).unwrap();
        assert_eq!((path.as_str(), root), ("/pod/c1/sub", 7));
    }

    #[test]
    fn groups_of_others_are_not_made() {
        let tree = vec![dir("/", vec![dir("mine", vec![dir("x", vec![])]), dir("theirs", vec![])])];
        let (_, _, dirs) = check(image(("/mine", 0), tree.clone()), None).unwrap();
        assert_eq!(dirs, ["/", "/mine", "/mine/x"]);
        let (path, _, dirs) = check(image(("/", 0), tree), Some("/pod")).unwrap();
        assert_eq!((path.as_str(), dirs.len()), ("/", 0));
        let tree = vec![dir("session", vec![dir("x", vec![])])];
        let (path, _, dirs) = check(image(("/session", 0), tree), Some("/pod")).unwrap();
        assert_eq!((path.as_str(), dirs.len()), ("/session", 0));
    }

    #[test]
    fn paths_stay_in_the_hierarchy() {
        for bad in ["../x", "a/b", ""] {
            let tree = vec![dir("/mine", vec![dir(bad, vec![])])];
            assert!(check(image(("/mine", 0), tree), None).is_err(), "{bad}");
        }
        assert!(check(image(("/mine", 0), vec![dir("/mine/../..", vec![])]), None).is_err());
    }
}
