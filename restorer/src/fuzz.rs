//! What reads foreign bytes, for fuzzing: each may fail, and does nothing else.

use crate::facts::Facts;
use crate::plan::{Plan, vdso};
use crate::{Error, Request, files};
use images::Dir;
use images::checkpoint::Checkpoint;
use std::fs::File;
use std::sync::OnceLock;

/// Decides how the checkpoint in `dir` would be restored here.
pub fn plan(dir: &Dir, request: &Request) -> Result<(), Error> {
    static FACTS: OnceLock<Facts> = OnceLock::new();
    let facts = match FACTS.get() {
        Some(facts) => facts,
        None => {
            let facts = Facts::gather()?;
            FACTS.get_or_init(|| facts)
        }
    };
    let cp = Checkpoint::load(dir)?;
    let amber = crate::execute::coordinator::amber(&cp)?;
    let mut facts = facts.clone();
    facts.lsm.asked(request.lsm_profile.as_deref(), &cp);
    Plan::new(&cp, amber, request, facts, &[], 2).map(drop)
}

/// Fits a saved vDSO to a running one, each with the distance to its data.
pub fn vdso(saved: (&[u8], u64), running: (&[u8], u64)) -> bool {
    vdso::fit(saved, running).is_ok()
}

/// The build-id of an ELF file.
pub fn build_id(file: &File) -> Option<Vec<u32>> {
    files::build_id::of(file)
}

/// `/proc/PID/maps`: how many mappings.
pub fn maps(text: &str) -> usize {
    text.lines().filter_map(crate::facts::map_line).count()
}

/// `/proc/PID/cgroup`: how many hierarchies.
pub fn cgroups(text: &str) -> usize {
    crate::facts::cgroups(text).len()
}
