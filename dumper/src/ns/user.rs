//! User namespaces: `userns-N.img`. Ids in all other images are those inside.

use super::{Cx, Namespace};
use crate::Error;
use images::Image;
use images::checkpoint::NsKind;
use images::proto::{UidGidExtent, UsernsEntry};
use parasite::proc;

/// What ids beyond all maps show as.
const OVERFLOW: u32 = 65534;

/// How ids of the tree's user namespace look from ours. Empty: they are the same.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Maps {
    own: bool,
    uids: Vec<UidGidExtent>,
    gids: Vec<UidGidExtent>,
}

impl Maps {
    /// The maps of a process in a user namespace that is not ours.
    pub(super) fn read(pid: i32) -> Result<Self, Error> {
        let read = |name: &'static str| -> Result<Vec<UidGidExtent>, Error> {
            let path = format!("/proc/{pid}/{name}");
            let text = proc::read(&path)?;
            let field = || Error::Proc(proc::Error::Field { path: path.into(), field: name });
            parse(&String::from_utf8_lossy(&text)).ok_or_else(field)
        };
        Ok(Self { own: true, uids: read("uid_map")?, gids: read("gid_map")? })
    }

    /// The user id inside.
    pub(crate) fn uid(&self, outside: u32) -> u32 {
        if self.own { inside(&self.uids, outside).unwrap_or(OVERFLOW) } else { outside }
    }

    /// What the ids 0 inside are outside, if the namespace is the tree's own.
    pub(crate) fn root(&self) -> Option<(u32, u32)> {
        let outside = |map: &[UidGidExtent]| Some(map.iter().find(|e| e.first == 0)?.lower_first);
        Some((outside(&self.uids)?, outside(&self.gids)?))
    }

    /// The group id inside.
    pub(crate) fn gid(&self, outside: u32) -> u32 {
        self.known_gid(outside).unwrap_or(OVERFLOW)
    }

    /// The group id inside, if there is one.
    pub(crate) fn known_gid(&self, outside: u32) -> Option<u32> {
        if self.own { inside(&self.gids, outside) } else { Some(outside) }
    }
}

fn inside(map: &[UidGidExtent], outside: u32) -> Option<u32> {
    let within = |e: &&UidGidExtent| {
        outside.checked_sub(e.lower_first).is_some_and(|offset| offset < e.count)
    };
    map.iter().find(within).map(|e| e.first + (outside - e.lower_first))
}

pub(super) fn parse(text: &str) -> Option<Vec<UidGidExtent>> {
    let line = |line: &str| {
        let mut n = line.split_ascii_whitespace().map(str::parse);
        let mut next = || n.next()?.ok();
        Some(UidGidExtent { first: next()?, lower_first: next()?, count: next()? })
    };
    text.lines().map(line).collect()
}

/// Refuses what no restore could make: from inside of a user namespace nobody chooses numbers in
/// a pid namespace of outside (clone(2), `set_tid`), and the tree is made by root inside.
pub(crate) fn check(_ns: &Namespace, cx: &Cx<'_>) -> Result<(), Error> {
    let root = cx.tree.root();
    // The first of all is made from outside.
    let others = cx.tree.tasks.iter().flat_map(|t| t.threads.iter().map(move |h| (t, h))).nth(1);
    let tids_inside = cx.all.root(NsKind::Pid).is_some_and(|ns| !ns.is_ours());
    if let Some((task, thread)) = others.filter(|_| !tids_inside) {
        return Err(Error::Refused(format!(
            "task {}: thread {} is in a user namespace of the tree's own (task {}), but in the pid \
             namespace of criu, where its number cannot be chosen from inside: not supported yet",
            task.pid, thread.tid, root.pid
        )));
    }
    if cx.all.maps.root().is_none() {
        return Err(Error::Refused(format!(
            "task {}: Can't dump a user namespace whose uid_map or gid_map has no id 0",
            root.pid
        )));
    }
    Ok(())
}

/// Writes the maps.
pub(crate) fn dump(ns: &Namespace, cx: &Cx<'_>) -> Result<(), Error> {
    let Maps { uids, gids, .. } = &cx.all.maps;
    let entry = UsernsEntry { uid_map: uids.clone(), gid_map: gids.clone() };
    cx.dir.write_one(Image::Userns(ns.id), &entry)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_inside() {
        let uids =
            parse("         0     100000      1000\n      5000          7          1\n").unwrap();
        let maps = Maps { own: true, uids, gids: vec![] };
        assert_eq!(
            [100_000, 100_999, 101_000, 7, 8, 0].map(|id| maps.uid(id)),
            [0, 999, OVERFLOW, 5000, OVERFLOW, OVERFLOW]
        );
        assert_eq!(maps.known_gid(100_000), None);
        assert_eq!(Maps::default().uid(7), 7);
        assert_eq!(maps.root(), None);
        let maps = Maps { gids: maps.uids.clone(), ..maps };
        assert_eq!(maps.root(), Some((100_000, 100_000)));
        assert_eq!(parse("1 2"), None);
    }
}
