//! Credentials of threads.

use crate::ns::user::Maps;
use images::proto::CredsEntry;
use parasite::proc::{self, Status};
use std::sync::OnceLock;

/// The security module whose labels tasks carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lsm {
    /// None that labels.
    None,
    /// SELinux.
    Selinux,
    /// AppArmor.
    Apparmor,
}

impl Lsm {
    /// What this kernel runs; looked for once.
    pub(crate) fn detect() -> Self {
        static FOUND: OnceLock<Lsm> = OnceLock::new();
        *FOUND.get_or_init(Self::look)
    }

    fn look() -> Self {
        let there = |path: &str| std::path::Path::new(path).exists();
        if there("/sys/fs/selinux/enforce") {
            Self::Selinux
        } else if there("/sys/kernel/security/apparmor") || enabled_apparmor() {
            Self::Apparmor
        } else {
            Self::None
        }
    }

    /// Label of a thread; `None`: the default one.
    pub(crate) fn label(self, pid: i32, tid: i32) -> Option<String> {
        let file = match self {
            Self::None => return None,
            Self::Selinux | Self::Apparmor => format!("/proc/{pid}/task/{tid}/attr/current"),
        };
        let text = proc::read(file).ok()?;
        let text = String::from_utf8_lossy(&text);
        let text = text.trim_end_matches(['\0', '\n']);
        let name = match self {
            // "profile (enforce)".
            Self::Apparmor => text.rsplit_once(" (").map_or(text, |(name, _)| name),
            _ => text,
        };
        (name != "unconfined" && !name.is_empty()).then(|| name.to_owned())
    }
}

fn enabled_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with(b"Y"))
}

fn two_words(set: u64) -> Vec<u32> {
    vec![set as u32, (set >> 32) as u32]
}

/// Credentials as in the thread's core image. Ids are those of our user namespace, which is
/// the tasks' too.
pub(crate) fn entry(
    status: &Status,
    maps: &Maps,
    securebits: u32,
    label: Option<String>,
) -> CredsEntry {
    let (uids, gids) = (status.uids.map(|id| maps.uid(id)), status.gids.map(|id| maps.gid(id)));
    let [inh, prm, eff, bnd, amb] = status.caps.map(two_words);
    CredsEntry {
        uid: uids[0],
        euid: uids[1],
        suid: uids[2],
        fsuid: uids[3],
        gid: gids[0],
        egid: gids[1],
        sgid: gids[2],
        fsgid: gids[3],
        cap_inh: inh,
        cap_prm: prm,
        cap_eff: eff,
        cap_bnd: bnd,
        cap_amb: amb,
        secbits: securebits,
        groups: status.groups.iter().map(|id| maps.gid(*id)).collect(),
        lsm_profile: label,
        lsm_sockcreate: None,
        apparmor_data: None,
        no_new_privs: Some(status.no_new_privs.into()),
    }
}
