//! Address spaces: which VMAs a task has and what they map.

use crate::files::FileTable;
use crate::tree::Task;
use crate::{Error, Request};
use images::proto::MmEntry;

/// The address space of one task.
#[derive(Debug)]
pub struct Mm {
    /// Virtual pid of its task.
    pub vpid: i32,
    /// What goes to `mm-PID.img`.
    pub entry: MmEntry,
}

/// Collects the address space of `task`; files that it maps go to `files`.
pub fn collect(_task: &Task, _files: &mut FileTable, _request: &Request) -> Result<Mm, Error> {
    Err(Error::NotYet("memory".into()))
}
