//! Peer groups: made when all mounts are in place, so that nothing propagates meanwhile.

use super::plan::{Mount, Outer, covers};
use std::collections::{BTreeMap, HashSet};

/// One step, by positions of mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The second gets the peers and the master of the first (`MOVE_MOUNT_SET_GROUP`).
    Copy(usize, usize),
    /// Becomes a peer of what it was copied from outside.
    Outside(usize),
    /// `MS_SLAVE`.
    Slave(usize),
    /// `MS_SHARED`.
    Share(usize),
    /// `MS_UNBINDABLE`.
    Unbindable(usize),
}

/// Numbers of groups that have members among the mounts.
pub(crate) fn shared_inside(mounts: &[Mount]) -> HashSet<u32> {
    mounts.iter().map(|m| m.shared).filter(|s| *s != 0).collect()
}

/// All steps, masters before their slaves.
pub(crate) fn steps(mounts: &[Mount]) -> Result<Vec<Step>, String> {
    let mut groups: BTreeMap<(u32, u32), Vec<usize>> = BTreeMap::new();
    for (i, m) in mounts.iter().enumerate() {
        if m.shared != 0 || m.master != 0 {
            groups.entry((m.shared, m.master)).or_default().push(i);
        }
    }
    let inside = shared_inside(mounts);
    let mut done: HashSet<u32> = HashSet::new();
    let mut steps = Vec::new();
    while !groups.is_empty() {
        let ready = |(_, master): &(u32, u32)| {
            *master == 0 || !inside.contains(master) || done.contains(master)
        };
        let Some(key) = groups.keys().copied().find(ready) else {
            let circle: Vec<String> = groups.keys().map(|(s, m)| format!("{s} of {m}")).collect();
            return Err(format!(
                "peer groups that are slaves of each other: {}",
                circle.join(", ")
            ));
        };
        let mut members = groups.remove(&key).unwrap_or_default();
        members.sort_by_key(|i| (mounts[*i].outer == Outer::Private, mounts[*i].root.len(), *i));
        group(mounts, key, &members, &inside, &mut steps)?;
        if key.0 != 0 && !groups.keys().any(|(s, _)| *s == key.0) {
            done.insert(key.0);
        }
    }
    let unbindable = mounts.iter().enumerate().filter(|(_, m)| m.unbindable);
    steps.extend(unbindable.map(|(i, _)| Step::Unbindable(i)));
    Ok(steps)
}

/// A member whose root leads to that of `to`.
fn wider(mounts: &[Mount], from: &[usize], to: usize) -> Option<usize> {
    let m = &mounts[to];
    from.iter().copied().find(|f| mounts[*f].dev == m.dev && covers(&mounts[*f].root, &m.root))
}

fn group(
    mounts: &[Mount],
    (shared, master): (u32, u32),
    members: &[usize],
    inside: &HashSet<u32>,
    steps: &mut Vec<Step>,
) -> Result<(), String> {
    let masters: Vec<usize> = (0..mounts.len()).filter(|i| mounts[*i].shared == master).collect();
    let mut made: Vec<usize> = Vec::new();
    for &i in members {
        let m = &mounts[i];
        let what = || format!("mount {} at {}", m.id, String::from_utf8_lossy(&m.point));
        if let Some(from) = wider(mounts, &made, i) {
            steps.push(Step::Copy(from, i));
        } else if !made.is_empty() && shared != 0 {
            return Err(format!(
                "{}: none of its peers (group {shared}) shows what it shows: the group cannot be made",
                what()
            ));
        } else if master == 0 {
            steps.push(if m.outer == Outer::Peer { Step::Outside(i) } else { Step::Share(i) });
        } else if inside.contains(&master) {
            let from = wider(mounts, &masters, i).ok_or_else(|| {
                format!("{}: no master (group {master}) shows what it shows", what())
            })?;
            steps.extend([Step::Copy(from, i), Step::Slave(i)]);
            if shared != 0 {
                steps.push(Step::Share(i));
            }
        } else if m.outer == Outer::Slave {
            // It came as a slave.
            if shared != 0 {
                steps.push(Step::Share(i));
            }
        } else {
            return Err(format!("{}: its master (group {master}) is out of reach", what()));
        }
        made.push(i);
    }
    Ok(())
}
