//! User namespaces. All ids in the images are those inside.
//!
//! The root task is forked into a new one; the coordinator, outside, writes its maps
//! ([`UserPlan::map`]) before it lets the root go on, which then becomes uid 0 inside.

use super::own;
use crate::facts::Facts;
use crate::task::creds::Creds;
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, NsKind};
use images::proto::UidGidExtent;
use std::fs;

/// What will be made.
#[derive(Debug)]
pub(crate) struct UserPlan {
    uids: Vec<UidGidExtent>,
    gids: Vec<UidGidExtent>,
}

/// Decides what is made.
pub(crate) fn plan(cp: &Checkpoint, _request: &Request) -> Result<Option<UserPlan>, Error> {
    let Some(entry) = own(cp, NsKind::User).and_then(|id| cp.ns.user.get(&id)) else {
        return Ok(None);
    };
    // The first of all is made from outside.
    let other = cp.tasks.iter().flat_map(|t| &t.threads).nth(1);
    if let Some(other) = other.filter(|_| own(cp, NsKind::Pid).is_none()) {
        return Err(Error::UserWithoutPid { pid: other.tid });
    }
    for (what, map) in [("uid_map", &entry.uid_map), ("gid_map", &entry.gid_map)] {
        if !map.iter().any(|e| e.first == 0 && e.count > 0) {
            return Err(Error::NoRoot { what });
        }
    }
    Ok(Some(UserPlan { uids: entry.uid_map.clone(), gids: entry.gid_map.clone() }))
}

impl UserPlan {
    /// Writes the maps of the root task, from outside.
    pub(crate) fn map(&self, root: i32) -> Result<(), Error> {
        for (name, map) in [("uid_map", &self.uids), ("gid_map", &self.gids)] {
            let line = |e: &UidGidExtent| format!("{} {} {}\n", e.first, e.lower_first, e.count);
            let text: String = map.iter().map(line).collect();
            let path = format!("/proc/{root}/{name}");
            let failed = |e| sys::Error::io(format_args!("write({path}, {text:?})"), &e);
            fs::write(&path, &text).map_err(failed)?;
        }
        Ok(())
    }

    /// Becomes its root, in the root task.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        sys::path::drop_thread_groups()?;
        sys::path::set_thread_gids(0, 0, 0)?;
        sys::path::set_thread_uids(0, 0, 0)?;
        // Else all of our /proc belongs to the root outside.
        sys::task::prctl(libc::PR_SET_DUMPABLE, [1, 0, 0, 0])?;
        Ok(())
    }

    /// Credentials that tasks begin with, in it.
    pub(crate) fn creds(&self, facts: &Facts) -> Creds {
        let all = facts.known_caps();
        Creds {
            uids: [0; 4],
            gids: [0; 4],
            groups: Vec::new(),
            inheritable: 0,
            permitted: all,
            effective: all,
            bounding: all,
            ambient: 0,
            securebits: 0,
            no_new_privs: facts.creds.no_new_privs,
            label: None,
        }
    }
}
