//! `seccomp.img`: the filters of all threads, in one list.

use crate::checkpoint::Checkpoint;
use crate::checkpoint::loader::invalid;
use crate::proto::{SeccompFilter, SeccompMode};
use crate::{Image, Result};

/// Size of one BPF instruction.
const INSN_LEN: usize = 8;

/// The filters from `last`, the oldest, to the newest.
pub(super) fn chain(filters: &[SeccompFilter], last: u32) -> impl Iterator<Item = &SeccompFilter> {
    let get = |i: u32| filters.get(i as usize);
    std::iter::successors(get(last), move |f| f.prev.and_then(get))
}

/// Every filter has to end somewhere, and every thread to have those it names.
pub(super) fn check(checkpoint: &Checkpoint) -> Result<()> {
    let filters = &checkpoint.seccomp;
    for (i, filter) in filters.iter().enumerate() {
        let len = filter.filter.len();
        if len == 0 || !len.is_multiple_of(INSN_LEN) {
            let reason = format_args!("filter {i} has {len} bytes: no whole instructions");
            return invalid(Image::Seccomp, reason);
        }
        // The next newer filter lies before it, so that following `prev` comes to an end.
        if let Some(prev) = filter.prev.filter(|prev| *prev as usize >= i) {
            return invalid(Image::Seccomp, format_args!("filter {i}: prev {prev} is not before"));
        }
    }
    for thread in checkpoint.tasks.iter().filter(|t| t.live.is_some()).flat_map(|t| &t.threads) {
        let Some(state) = &thread.core.thread_core else { continue };
        if state.seccomp_mode != Some(SeccompMode::Filter as i32) {
            continue;
        }
        let index = state.seccomp_filter.unwrap_or(0);
        if index as usize >= filters.len() {
            let n = filters.len();
            let reason = format_args!("thread_core.seccomp_filter {index}: there are {n} filters");
            return invalid(Image::Core(thread.tid), reason);
        }
    }
    Ok(())
}
