//! Seccomp filters: one list for all threads of the tree.
//!
//! A thread's chain is stored as a block, newest filter first; `prev` of an element is the
//! index of the one before it (the next newer), and the thread points at the last element of
//! its block, the oldest filter.

use crate::Error;
use images::proto::{SeccompEntry, SeccompFilter};
use std::collections::HashMap;
use sys::ptrace;

/// `SECCOMP_MODE_FILTER`.
pub(crate) const MODE_FILTER: u32 = 2;

/// One filter: program and flags.
type Filter = (Vec<u8>, u32);

/// All filters of a tree, each chain once.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    entry: SeccompEntry,
    chains: HashMap<Vec<Filter>, u32>,
}

impl Filters {
    /// Reads the chain of thread `tid`; answers the index for its core image.
    pub(crate) fn add(&mut self, tid: i32) -> Result<u32, Error> {
        let chain = chain(tid).map_err(|e| explain(&e))?;
        if let Some(&index) = self.chains.get(&chain) {
            return Ok(index);
        }
        let first = self.entry.seccomp_filters.len() as u32;
        for (i, (filter, flags)) in chain.iter().rev().enumerate() {
            let prev = (i > 0).then(|| first + i as u32 - 1);
            let flags = Some(*flags);
            self.entry.seccomp_filters.push(SeccompFilter { filter: filter.clone(), prev, flags });
        }
        let index = self.entry.seccomp_filters.len() as u32 - 1;
        self.chains.insert(chain, index);
        Ok(index)
    }

    /// What goes to `seccomp.img`.
    pub(crate) fn entry(&self) -> &SeccompEntry {
        &self.entry
    }
}

/// Filters of a thread, oldest first.
fn chain(tid: i32) -> sys::Result<Vec<Filter>> {
    let mut all = Vec::new();
    while let Some(program) = ptrace::seccomp_filter(tid, all.len() as u64)? {
        let flags = ptrace::seccomp_flags(tid, all.len() as u64)?;
        all.push((program, flags as u32));
    }
    Ok(all)
}

fn explain(e: &sys::Error) -> Error {
    let why = match e.errno() {
        libc::EACCES => {
            "it needs CAP_SYS_ADMIN in the initial user namespace, and a criu without seccomp"
        }
        libc::EINVAL => "the kernel lacks CONFIG_CHECKPOINT_RESTORE or seccomp filters",
        libc::EMEDIUMTYPE => "the filter's program cannot be had",
        _ => "a filter that cannot be saved",
    };
    Error::Refused(format!("seccomp: {e} ({why})"))
}
