//! `--join-ns KIND:{PID|FILE}`: namespaces that exist already take the place of the tree's own,
//! and of the restorer's.

use super::{Cx, enter};
use crate::facts::Facts;
use crate::task::creds::Creds;
use crate::{Error, Request};
use images::checkpoint::NsKind;
use std::fs::File;

/// A namespace to join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Join {
    /// Its kind.
    pub(crate) kind: NsKind,
    target: Target,
    /// User and group to be, in a user namespace.
    ids: (u32, u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Pid(i32),
    File(String),
}

/// Kinds that can be joined, in the order in which they are: a user namespace last, which takes
/// the right to enter others.
const ORDER: [NsKind; 6] =
    [NsKind::Time, NsKind::Uts, NsKind::Ipc, NsKind::Net, NsKind::Mnt, NsKind::User];

/// Those that a request names.
pub(super) fn plan(request: &Request) -> Result<Vec<Join>, Error> {
    let all = request
        .join_ns
        .iter()
        .map(|text| parse(text).ok_or_else(|| Error::Join { text: text.clone() }));
    let mut all = all.collect::<Result<Vec<_>, _>>()?;
    all.sort_by_key(|join| ORDER.iter().position(|k| *k == join.kind));
    Ok(all)
}

fn parse(text: &str) -> Option<Join> {
    let (kind, rest) = text.split_once(':')?;
    let kind = ORDER.into_iter().find(|k| k.name() == kind)?;
    let mut parts = rest.split(',');
    let target = parts.next().filter(|t| !t.is_empty())?;
    let mut ids = (0, 0);
    if kind == NsKind::User
        && let Some(uid) = parts.next()
    {
        ids = (uid.parse().ok()?, parts.next()?.parse().ok()?);
    }
    let target = match target.parse() {
        Ok(pid) => Target::Pid(pid),
        Err(_) => Target::File(target.to_owned()),
    };
    parts.next().is_none().then_some(Join { kind, target, ids })
}

impl Join {
    /// Enters it, in the root task.
    pub(super) fn prepare(&self, cx: &Cx<'_>) -> Result<(), Error> {
        let name = self.kind.name();
        let fd = match &self.target {
            Target::Pid(pid) => File::from(super::open_proc(cx.proc, &format!("{pid}/ns/{name}"))?),
            Target::File(path) => {
                File::open(path).map_err(|e| sys::Error::io(format_args!("open({path})"), &e))?
            }
        };
        enter(self.kind, fd)?;
        if self.kind == NsKind::User {
            let (uid, gid) = self.ids;
            sys::path::drop_thread_groups()?;
            sys::path::set_thread_gids(gid, gid, gid)?;
            sys::path::set_thread_uids(uid, uid, uid)?;
            sys::task::prctl(libc::PR_SET_DUMPABLE, [1, 0, 0, 0])?;
        }
        Ok(())
    }

    /// Credentials that tasks begin with in a joined user namespace.
    pub(crate) fn creds(&self, facts: &Facts) -> Creds {
        let (uid, gid) = self.ids;
        // Leaving uid 0 takes the capabilities.
        let caps = if uid == 0 { facts.known_caps() } else { 0 };
        Creds {
            uids: [uid; 4],
            gids: [gid; 4],
            permitted: caps,
            effective: caps,
            bounding: facts.known_caps(),
            no_new_privs: facts.creds.no_new_privs,
            ..Creds::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_and_a_file_are_told_apart() {
        let net = Target::File("/run/netns/a".to_owned());
        let net = Join { kind: NsKind::Net, target: net, ids: (0, 0) };
        assert_eq!(parse("net:/run/netns/a"), Some(net));
        let user = Join { kind: NsKind::User, target: Target::Pid(77), ids: (5, 6) };
        assert_eq!(parse("user:77,5,6"), Some(user));
        for bad in ["pid:1", "net:", "net", "user:1,2", "uts:1,2", "user:1,2,3,4"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
