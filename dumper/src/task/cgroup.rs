//! Control groups: which sets of groups the tasks and their threads are in.
//!
//! A set is one group in each hierarchy. Paths are those of our own cgroup namespace; for tasks
//! in another one the images hold besides how much of each path is the root of theirs.

use super::cgroup_dirs::{self, Hierarchies};
use super::cgroup_props::Names;
use crate::freezer::Freezer;
use crate::ns::{Namespace, Namespaces};
use crate::tree::Tree;
use crate::{Error, Request};
use images::checkpoint::NsKind;
use images::proto::{CgMemberEntry, CgSetEntry, CgroupEntry};
use parasite::proc;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The set in which the dumper is: known by number only.
pub(crate) const OWN_SET: u32 = 1;

/// The sets of all tasks.
#[derive(Debug)]
pub(crate) struct Sets {
    /// Groups of each set; the place is the number less one.
    sets: Vec<Vec<CgMemberEntry>>,
    /// Number of the set of each thread that is not in [`OWN_SET`], by tid.
    of: HashMap<i32, u32>,
    /// Hierarchies in which threads of one process are in different groups.
    threaded: BTreeSet<String>,
}

impl Sets {
    /// The dumper's own.
    pub(crate) fn ours(request: &Request) -> Result<Self, Error> {
        let own = wanted(&proc::read("/proc/self/cgroup")?, request);
        Ok(Self { sets: vec![own], of: HashMap::new(), threaded: BTreeSet::new() })
    }

    /// Finds the sets of all tasks and their threads. `self`: [`Sets::ours`].
    pub(crate) fn collect(
        self,
        tree: &Tree,
        namespaces: &Namespaces,
        request: &Request,
    ) -> Result<Self, Error> {
        let mut all = self;
        if !request.manage_cgroups {
            return Ok(all);
        }
        let mut roots: HashMap<u64, Roots> = HashMap::new();
        // Threads mostly are where others are: the texts say so without being read.
        let mut known: HashMap<(u64, Vec<u8>), u32> = HashMap::new();
        for task in tree.alive() {
            let ns = namespaces.of(task, NsKind::Cgroup).filter(|ns| !ns.is_ours());
            let ino = ns.map_or(0, |ns| ns.ino);
            if let Some(ns) = ns
                && !roots.contains_key(&ino)
            {
                roots.insert(ino, roots_of(ns, request).map_err(Error::on(task.pid))?);
            }
            let mut leader = None;
            for thread in &task.threads {
                let text = proc::read(format!("/proc/{}/task/{}/cgroup", task.pid, thread.tid))?;
                let id = match known.get(&(ino, text.clone())) {
                    Some(id) => *id,
                    None => {
                        let set = set_of(&text, roots.get(&ino), request);
                        let id = all.id(set.map_err(Error::on(thread.tid))?);
                        known.insert((ino, text), id);
                        id
                    }
                };
                let of_leader = *leader.get_or_insert(id);
                all.note_threads(of_leader, id);
                if id != OWN_SET {
                    all.of.insert(thread.tid, id);
                }
            }
        }
        Ok(all)
    }

    /// The set of a thread, by its tid.
    pub(crate) fn of(&self, tid: i32) -> u32 {
        self.of.get(&tid).copied().unwrap_or(OWN_SET)
    }

    fn id(&mut self, set: Vec<CgMemberEntry>) -> u32 {
        let at = self.sets.iter().position(|s| *s == set).unwrap_or_else(|| {
            self.sets.push(set);
            self.sets.len() - 1
        });
        at as u32 + 1
    }

    fn note_threads(&mut self, leader: u32, thread: u32) {
        if leader == thread {
            return;
        }
        let set = |id: u32| &self.sets[id as usize - 1];
        let differs = |(a, b): &(&CgMemberEntry, &CgMemberEntry)| a.path != b.path;
        let pairs = set(leader).iter().zip(set(thread)).filter(differs);
        let names: Vec<String> = pairs.map(|(a, _)| a.name.clone()).collect();
        self.threaded.extend(names);
    }

    /// What goes to `cgroup.img`; `None` when all tasks are in our set.
    pub(crate) fn entry(
        &self,
        request: &Request,
        freezer: Option<&Freezer>,
    ) -> Result<Option<CgroupEntry>, Error> {
        if self.of.is_empty() {
            return Ok(None);
        }
        let sets: Vec<CgSetEntry> =
            (2..).zip(&self.sets[1..]).map(|(id, s)| CgSetEntry { id, ctls: s.clone() }).collect();
        let mut tops: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for member in sets.iter().flat_map(|s| &s.ctls) {
            let list = tops.entry(&member.name).or_default();
            if let Some(top) = self.top(member, request) {
                list.push(top);
            }
        }
        let hierarchies = Hierarchies::find(request)?;
        let names = Names::new(request);
        let mut controllers = Vec::new();
        for (name, tops) in tops {
            let mut entry =
                cgroup_dirs::controller(&hierarchies, &names, name, topmost(tops), freezer)?;
            entry.is_threaded = Some(self.threaded.contains(name));
            controllers.push(entry);
        }
        Ok(Some(CgroupEntry { sets, controllers }))
    }

    /// The root of the tree of groups that is saved for a member: that of its namespace, or its
    /// own. None if it is not the tasks' own, but shared with others.
    fn top<'a>(&'a self, member: &'a CgMemberEntry, request: &'a Request) -> Option<&'a str> {
        let asked = |controllers: Option<&str>| {
            let mut roots = request.cgroup_roots.iter();
            roots.find(|(c, _)| c.as_deref() == controllers).map(|(_, path)| path.as_str())
        };
        if let Some(root) = asked(Some(&member.name)).or_else(|| asked(None))
            && is_below(&member.path, root)
        {
            return Some(root);
        }
        let prefix = member.cgns_prefix.unwrap_or(0) as usize;
        let own = self.sets[0].iter().find(|m| m.name == member.name);
        match (prefix, member.path.as_str()) {
            (_, "/") => None,
            (0, path) if own.is_some_and(|own| own.path == path) => None,
            (0, path) => Some(path),
            (prefix, path) => path.get(..prefix),
        }
    }
}

/// By name of hierarchy: what of a path is the root of a namespace.
type Roots = HashMap<String, String>;

/// The roots of a foreign namespace, as seen from ours.
fn roots_of(ns: &Namespace, request: &Request) -> Result<Roots, Error> {
    let path = format!("/proc/{}/cgroup", ns.holder);
    let outside = wanted(&proc::read(&path)?, request);
    let inside = wanted(&ns.inside(|| Ok(proc::read(&path)?))?, request);
    let mut roots = Roots::new();
    for (out, within) in outside.iter().zip(&inside) {
        let rest = within.path.trim_end_matches('/');
        let root = out.path.strip_suffix(rest).filter(|_| !rest.starts_with("/.."));
        let Some(root) = root else {
            return Err(Error::Refused(format!(
                "its group {} ({}) is outside of its cgroup namespace",
                out.path, out.name
            )));
        };
        roots.insert(out.name.clone(), root.to_owned());
    }
    Ok(roots)
}

fn set_of(
    text: &[u8],
    roots: Option<&Roots>,
    request: &Request,
) -> Result<Vec<CgMemberEntry>, Error> {
    let mut set = wanted(text, request);
    for member in &mut set {
        let CgMemberEntry { name, path, .. } = member;
        if path.starts_with("/..") {
            return Err(Error::Refused(format!(
                "its group {path} ({name}) is not seen from our cgroup namespace; \
                 --manage-cgroups=ignore leaves groups alone"
            )));
        }
        let Some(root) = roots.and_then(|roots| roots.get(name)) else { continue };
        if !is_below(path, root) {
            return Err(Error::Refused(format!(
                "its group {path} ({name}) is outside of its cgroup namespace, {root}"
            )));
        }
        member.cgns_prefix = Some(root.trim_end_matches('/').len() as u32).filter(|len| *len > 0);
    }
    Ok(set)
}

/// Whether a path is `root`, or below it.
pub(super) fn is_below(path: &str, root: &str) -> bool {
    let rest = path.strip_prefix(root.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Those that are not below another.
fn topmost(mut tops: Vec<&str>) -> Vec<&str> {
    // A root sorts before all that is below it.
    tops.sort_unstable();
    let mut kept: Vec<&str> = Vec::new();
    for top in tops {
        if !kept.iter().any(|k| is_below(top, k)) {
            kept.push(top);
        }
    }
    kept
}

/// Those of a text that are to be saved.
fn wanted(text: &[u8], request: &Request) -> Vec<CgMemberEntry> {
    let mut all = members(&String::from_utf8_lossy(text));
    let only = &request.cgroup_controllers;
    let asked = |c: &str| only.iter().any(|o| o == c);
    all.retain(|m| only.is_empty() || m.name.split(',').any(asked));
    all
}

/// Lines `ID:CONTROLLERS:PATH`.
pub(crate) fn members(text: &str) -> Vec<CgMemberEntry> {
    let lines = text.lines().filter_map(|l| {
        let (_, rest) = l.split_once(':')?;
        let (name, path) = rest.split_once(':')?;
        Some(CgMemberEntry { name: name.into(), path: path.into(), cgns_prefix: None })
    });
    let mut all: Vec<CgMemberEntry> = lines.collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_below_whole_names_only() {
        assert!(is_below("/a/b", "/a") && is_below("/a", "/a") && is_below("/a", "/"));
        assert!(!is_below("/ab", "/a") && !is_below("/", "/a"));
    }

    #[test]
    fn only_the_topmost_groups_are_roots() {
        assert_eq!(topmost(vec!["/a/b", "/ab", "/a", "/a/c/d"]), ["/a", "/ab"]);
    }

    #[test]
    fn the_namespaces_root_is_told_by_its_length() {
        let mut request = Request::new(1, "/img");
        request.cgroup_controllers = vec![String::new(), "cpu".into()];
        let text = b"3:cpu,cpuacct:/x\n2:memory:/m\n0::/pod/c1/sub\n";
        let roots = Roots::from([("".into(), "/pod/c1".into()), ("cpu,cpuacct".into(), "".into())]);
        let set = set_of(text, Some(&roots), &request).unwrap();
        let told: Vec<_> =
            set.iter().map(|m| (m.name.as_str(), m.path.as_str(), m.cgns_prefix)).collect();
        assert_eq!(told, [("", "/pod/c1/sub", Some(7)), ("cpu,cpuacct", "/x", None)]);
        assert!(set_of(b"0::/pod/c2\n", Some(&roots), &request).is_err());
        assert!(set_of(b"0::/../other\n", None, &request).is_err());
    }
}
