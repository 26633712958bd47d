//! Credentials of threads.

use crate::ns::user::Maps;
use images::proto::CredsEntry;
use parasite::proc::Status;

fn two_words(set: u64) -> Vec<u32> {
    vec![set as u32, (set >> 32) as u32]
}

/// Credentials as in the thread's core image. Ids are those of our user namespace, which is
/// the tasks' too.
pub(crate) fn entry(
    status: &Status,
    maps: &Maps,
    securebits: u32,
    (label, sockcreate): (Option<String>, Option<String>),
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
        lsm_sockcreate: sockcreate,
        apparmor_data: None,
        no_new_privs: Some(status.no_new_privs.into()),
    }
}
