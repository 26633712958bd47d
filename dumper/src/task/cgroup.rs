//! Control groups: which sets of groups the tasks are in.

use super::cgroup_dirs;
use crate::Error;
use crate::tree::Tree;
use images::proto::{CgMemberEntry, CgSetEntry, CgroupEntry};
use parasite::proc;
use std::collections::BTreeMap;

/// The set in which the dumper is: known by number only.
pub(crate) const OWN_SET: u32 = 1;

/// The sets of all tasks.
#[derive(Debug)]
pub(crate) struct Sets {
    /// Texts of `/proc/PID/cgroup`; the place is the number less one.
    texts: Vec<Vec<u8>>,
    /// Set of each task, in the order of the tree.
    pub of_task: Vec<u32>,
}

impl Sets {
    /// Finds the sets of all tasks and their threads.
    pub(crate) fn collect(tree: &Tree) -> Result<Self, Error> {
        let mut sets = Self { texts: vec![proc::read("/proc/self/cgroup")?], of_task: Vec::new() };
        for task in &tree.tasks {
            if task.is_zombie() {
                sets.of_task.push(OWN_SET);
                continue;
            }
            let text = proc::read(format!("/proc/{}/cgroup", task.pid))?;
            for thread in &task.threads[1..] {
                if proc::read(format!("/proc/{}/task/{}/cgroup", task.pid, thread.tid))? != text {
                    return Err(Error::NotYet(format!(
                        "task {}: its thread {} is in another control group",
                        task.pid, thread.tid
                    )));
                }
            }
            let id = sets.id(text);
            sets.of_task.push(id);
        }
        Ok(sets)
    }

    fn id(&mut self, text: Vec<u8>) -> u32 {
        let at = self.texts.iter().position(|t| *t == text).unwrap_or_else(|| {
            self.texts.push(text);
            self.texts.len() - 1
        });
        at as u32 + 1
    }

    /// What goes to `cgroup.img`; `None` when all tasks are in our set.
    pub(crate) fn entry(&self) -> Result<Option<CgroupEntry>, Error> {
        if self.texts.len() == 1 {
            return Ok(None);
        }
        let sets = (2..)
            .zip(&self.texts[1..])
            .map(|(id, text)| CgSetEntry { id, ctls: members(&String::from_utf8_lossy(text)) });
        let sets: Vec<CgSetEntry> = sets.collect();
        let mountinfo = proc::read("/proc/self/mountinfo")?;
        let mountinfo = String::from_utf8_lossy(&mountinfo);
        let mut paths: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for member in sets.iter().flat_map(|s| &s.ctls) {
            let list = paths.entry(&member.name).or_default();
            // The root is always there.
            if member.path != "/" && !list.contains(&member.path.as_str()) {
                list.push(&member.path);
            }
        }
        let controllers =
            paths.iter().map(|(name, list)| cgroup_dirs::controller(&mountinfo, name, list));
        let controllers = controllers.collect();
        Ok(Some(CgroupEntry { sets, controllers }))
    }
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
