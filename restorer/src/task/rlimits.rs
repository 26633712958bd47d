//! Resource limits (`tc.rlimits`): the position in the list is the resource.

use crate::facts::Facts;
use crate::script::{Data, Full, Script};
use images::proto::RlimitEntry;
use parasite_abi::restore::What;

/// What can be set of a saved limit: without CAP_SYS_RESOURCE the hard one cannot grow.
pub(crate) fn possible(resource: usize, saved: &RlimitEntry, facts: &Facts) -> (u64, u64) {
    let mut max = saved.max;
    if let Some((_, hard)) = facts.rlimits.get(resource)
        && !facts.has_cap(crate::facts::CAP_SYS_RESOURCE)
    {
        max = max.min(*hard);
    }
    (saved.cur.min(max), max)
}

/// Sets them all; last, as they may be tighter than what the restore itself needs.
pub(crate) fn steps(
    limits: &[RlimitEntry],
    facts: &Facts,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    for (resource, saved) in limits.iter().enumerate() {
        let (cur, max) = possible(resource, saved, facts);
        if facts.rlimits.get(resource) == Some(&(cur, max)) {
            continue;
        }
        data.align(8);
        let addr = data.put_u64s(&[cur, max])?;
        script.call(What::Rlimit, libc::SYS_prlimit64, [0, resource as u64, addr, 0]);
    }
    Ok(())
}
