//! Credentials (`thread_core.creds`), per thread.
//!
//! The order is that of privilege: whatever needs a capability comes before it goes. Calls whose
//! value is right already are left out, so that a restorer with few rights can restore tasks that
//! had no more.

use crate::facts::Facts;
use crate::script::{Data, Full, Script};
use crate::task::lsm;
use images::proto::CredsEntry;
use parasite_abi::restore::What;

const SECBIT_NO_SETUID_FIXUP: u64 = 1 << 2;
const PR_CAP_AMBIENT_RAISE: u64 = 2;
const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// A capability set of two words.
pub(crate) fn caps(words: &[u32]) -> u64 {
    words.iter().take(2).rev().fold(0, |n, w| n << 32 | u64::from(*w))
}

/// Credentials in the shape in which two can be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Creds {
    /// Real, effective, saved, file system.
    pub(crate) uids: [u32; 4],
    /// Likewise.
    pub(crate) gids: [u32; 4],
    pub(crate) groups: Vec<u32>,
    pub(crate) inheritable: u64,
    pub(crate) permitted: u64,
    pub(crate) effective: u64,
    pub(crate) bounding: u64,
    pub(crate) ambient: u64,
    pub(crate) securebits: u32,
    pub(crate) no_new_privs: bool,
    /// Profile of AppArmor; `None`: unconfined.
    pub(crate) label: Option<String>,
}

impl Creds {
    /// From an image; capabilities that this kernel does not know are dropped.
    pub(crate) fn of(entry: &CredsEntry, facts: &Facts) -> Self {
        let known = |words: &[u32]| caps(words) & facts.known_caps();
        Self {
            uids: [entry.uid, entry.euid, entry.suid, entry.fsuid],
            gids: [entry.gid, entry.egid, entry.sgid, entry.fsgid],
            groups: entry.groups.clone(),
            inheritable: known(&entry.cap_inh),
            permitted: known(&entry.cap_prm),
            effective: known(&entry.cap_eff),
            bounding: known(&entry.cap_bnd),
            ambient: known(&entry.cap_amb),
            securebits: entry.secbits,
            no_new_privs: entry.no_new_privs.unwrap_or(0) != 0,
            label: facts.lsm.profile(entry),
        }
    }
}

/// Turns the credentials `from` of the restorer into `to`.
pub(crate) fn steps(
    from: &Creds,
    to: &Creds,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    let what = What::Creds;
    if from.groups != to.groups {
        let list = data.put_u32s(&to.groups)?;
        data.align(8);
        script.call(what, libc::SYS_setgroups, [to.groups.len() as u64, list]);
    }
    let securebits = |bits: u64| [libc::PR_SET_SECUREBITS as u64, bits, 0, 0, 0];
    let ids = from.uids != to.uids || from.gids != to.gids;
    if ids {
        // Else leaving uid 0 would take the capabilities that the next steps need.
        script.call(what, libc::SYS_prctl, securebits(SECBIT_NO_SETUID_FIXUP));
        let [r, e, s, fs] = to.gids.map(u64::from);
        script.call(what, libc::SYS_setresgid, [r, e, s]);
        script.call(what, libc::SYS_setfsgid, [fs]);
        // setfsgid tells of no failure; asked with an impossible id it tells what is set.
        script.call_expecting(what, libc::SYS_setfsgid, [u64::from(u32::MAX)], fs);
        let [r, e, s, fs] = to.uids.map(u64::from);
        script.call(what, libc::SYS_setresuid, [r, e, s]);
        script.call(what, libc::SYS_setfsuid, [fs]);
        script.call_expecting(what, libc::SYS_setfsuid, [u64::from(u32::MAX)], fs);
    }
    if ids || from.securebits != to.securebits {
        script.call(what, libc::SYS_prctl, securebits(to.securebits.into()));
    }
    for cap in bits(from.bounding & !to.bounding) {
        script.call(what, libc::SYS_prctl, [libc::PR_CAPBSET_DROP as u64, cap, 0, 0, 0]);
    }
    let sets = |c: &Creds| [c.effective, c.permitted, c.inheritable];
    if sets(from) != sets(to) {
        data.align(8);
        let head = data.put_u32s(&[CAPABILITY_VERSION_3, 0])?;
        let [e, p, i] = sets(to);
        let low = |n: u64| n as u32;
        let high = |n: u64| (n >> 32) as u32;
        let body = data.put_u32s(&[low(e), low(p), low(i), high(e), high(p), high(i)])?;
        script.call(what, libc::SYS_capset, [head, body]);
    }
    let ambient = |op, cap| [libc::PR_CAP_AMBIENT as u64, op, cap, 0, 0];
    if from.ambient & !to.ambient != 0 {
        script.call(what, libc::SYS_prctl, ambient(PR_CAP_AMBIENT_CLEAR_ALL, 0));
    }
    for cap in bits(to.ambient) {
        script.call(what, libc::SYS_prctl, ambient(PR_CAP_AMBIENT_RAISE, cap));
    }
    if let Some(label) = &to.label {
        // Before no_new_privs, which keeps profiles from changing; from here on it confines us.
        lsm::steps(label, script, data)?;
    }
    if to.no_new_privs && !from.no_new_privs {
        script.call(what, libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0]);
    }
    Ok(())
}

fn bits(set: u64) -> impl Iterator<Item = u64> {
    (0..64).filter(move |bit| set >> bit & 1 != 0)
}
