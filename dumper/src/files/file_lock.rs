//! Collects file locks, from the `lock:` lines of `fdinfo`.
//!
//! The kernel shows a lock with the description that it was taken through. POSIX locks belong to
//! a process (a descriptor table, to be exact) and are shown to it only; all others belong to the
//! description, and everybody who has it shows them.

use super::FileTable;
use super::error::{Error, Why};
use super::ident::Fd;
use super::parse::{FileLock, LockKind};
use images::proto::FileLockEntry;
use images::{Dir, Image};
use std::collections::HashSet;

const F_RDLCK: u32 = 0;
const F_WRLCK: u32 = 1;
/// In `type` of a lease that is being broken.
const BREAKING: u32 = 4;

/// A lock, and a descriptor that shows it.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// Virtual pid of the task.
    pub(crate) vpid: i32,
    pub(crate) fd: Fd,
    pub(crate) lock: FileLock,
}

impl FileTable {
    /// Writes `filelocks.img`, if there are locks.
    pub(super) fn write_locks(&self, dir: &Dir) -> Result<(), Error> {
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        for held in &self.walk.locks {
            let lock = &held.lock;
            let owner = (lock.kind == LockKind::Posix).then_some(held.vpid);
            // By another descriptor of the same description.
            if !seen.insert((held.fd.desc, owner, lock.clone())) {
                continue;
            }
            let entry = entry(held);
            let desc = &self.walk.descs[held.fd.desc];
            entries.push(entry.map_err(|why| desc.error(why))?);
        }
        if entries.is_empty() {
            return Ok(());
        }
        let mut out = dir.writer(Image::Filelocks)?;
        for entry in &entries {
            out.write(entry)?;
        }
        out.finish()?;
        Ok(())
    }
}

fn entry(held: &Held) -> Result<FileLockEntry, Why> {
    let lock = &held.lock;
    let (flag, whole) = match lock.kind {
        LockKind::Posix => (1, false),
        LockKind::Flock => (2, true),
        LockKind::Ofd => (4, false),
        LockKind::Lease => (8, true),
        LockKind::Other => return Err(Why::refused("Can't dump a lock of unknown kind")),
    };
    let kind = if lock.breaking { lock.kind_of_lock | BREAKING } else { lock.kind_of_lock };
    if !lock.breaking && !matches!(kind, F_RDLCK | F_WRLCK) {
        return Err(Why::refused(format!("Can't dump a lock of type {kind}")));
    }
    let range = if whole { (0, 0) } else { (lock.start as i64, lock.len as i64) };
    Ok(FileLockEntry {
        flag,
        r#type: kind,
        pid: held.vpid,
        fd: held.fd.num,
        start: range.0,
        len: range.1,
    })
}
