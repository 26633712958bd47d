//! Resource limits (`tc.rlimits`): the position in the list is the resource.

use crate::facts::Facts;
use crate::script::{Data, Full, Script};
use images::checkpoint::Task;
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

/// Names by number, as `prlimit(1)` has them.
const NAMES: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// Hard limits that cannot be restored: number, what it is to be, what it will be, the first task
/// that has it and how many others do.
fn capped(tasks: &[Task], facts: &Facts) -> Vec<(usize, u64, u64, u32, usize)> {
    let mut all: Vec<(usize, u64, u64, u32, usize)> = Vec::new();
    for task in tasks.iter().filter(|t| t.live.is_some()) {
        let limits = task.tc().rlimits.iter().flat_map(|l| &l.rlimits);
        for (resource, saved) in limits.enumerate() {
            let (_, hard) = possible(resource, saved, facts);
            if hard == saved.max {
                continue;
            }
            match all.iter_mut().find(|c| (c.0, c.1) == (resource, saved.max)) {
                Some(known) => known.4 += 1,
                None => all.push((resource, saved.max, hard, task.pid, 0)),
            }
        }
    }
    all
}

/// Tells of hard limits that will be lower than they were.
pub(crate) fn tell(tasks: &[Task], facts: &Facts) {
    let number = |n: u64| if n == u64::MAX { "unlimited".to_owned() } else { n.to_string() };
    for (resource, saved, hard, pid, others) in capped(tasks, facts) {
        let name = NAMES.get(resource).copied().unwrap_or("?");
        log::warn!(
            "task {pid} and {others} others: the hard limit RLIMIT_{name} becomes {}, not {}: to \
             raise it needs CAP_SYS_RESOURCE outside of user namespaces",
            number(hard),
            number(saved)
        );
    }
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
