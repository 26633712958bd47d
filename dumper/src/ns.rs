//! Namespaces: tasks have to be in ours (dumping others comes with the namespaces' own state).

use crate::Error;
use crate::task::ids::OWN;
use crate::tree::{Task, Tree};
use images::proto::TaskKobjIdsEntry;
use std::ffi::OsString;

/// Kinds and the numbers that the dumper's own namespaces have in the images.
const KINDS: [(&str, u32); 8] = [
    ("pid", 1),
    ("net", 2),
    ("ipc", 3),
    ("uts", 4),
    ("time", 5),
    ("mnt", 6),
    ("user", 7),
    ("cgroup", 8),
];

/// Number in the images of the dumper's own namespace of this kind.
pub(crate) fn own_id(kind: &str) -> Option<u32> {
    KINDS.iter().find(|(name, _)| *name == kind).map(|(_, id)| *id)
}

type Links = [Option<OsString>; KINDS.len()];

fn links(pid: &str) -> Links {
    KINDS.map(|(kind, _)| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok().map(Into::into))
}

/// Refuses tasks that live in other namespaces than this process.
pub(crate) fn check(tree: &Tree) -> Result<(), Error> {
    let own = links("self");
    for task in tree.alive() {
        same(&own, task)?;
    }
    Ok(())
}

fn same(own: &Links, task: &Task) -> Result<(), Error> {
    for ((kind, _), (ours, theirs)) in
        KINDS.iter().zip(own.iter().zip(links(&task.pid.to_string())))
    {
        // Absent in both: the kernel has no such namespaces.
        if *ours != theirs {
            return Err(Error::NotYet(format!("task {}: its own {kind} namespace", task.pid)));
        }
    }
    Ok(())
}

/// `ids` of the dumper (`index` `None`) or of a task.
pub(crate) fn ids(task: Option<(u32, u32)>) -> TaskKobjIdsEntry {
    let (own, files_id) = task.unwrap_or((OWN, OWN));
    let n = |kind: usize| Some(KINDS[kind].1);
    TaskKobjIdsEntry {
        vm_id: own,
        files_id,
        fs_id: own,
        sighand_id: own,
        pid_ns_id: n(0),
        net_ns_id: n(1),
        ipc_ns_id: n(2),
        uts_ns_id: n(3),
        time_ns_id: n(4),
        mnt_ns_id: n(5),
        user_ns_id: n(6),
        cgroup_ns_id: n(7),
    }
}
