//! Whether all numbers of the tree can be had, before anything is made.

use crate::plan::tree::{Role, Tree};
use images::Checkpoint;

/// Numbers that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody has it.
    #[error("pid {pid} in use by {owner}")]
    Taken {
        /// The number.
        pid: u32,
        /// By whom.
        owner: String,
    },
    /// The kernel does not give such high numbers.
    #[error("pid {pid} is not below pid_max ({max}): raise /proc/sys/kernel/pid_max")]
    TooHigh {
        /// The number.
        pid: u32,
        /// The limit.
        max: u32,
    },
}

/// All numbers the tree needs.
pub(crate) fn wanted<'a>(cp: &'a Checkpoint, tree: &'a Tree) -> impl Iterator<Item = u32> + 'a {
    let helpers = tree.processes.iter().filter(|p| p.role == Role::Helper).map(|p| p.pid);
    cp.tasks.iter().flat_map(|t| &t.threads).map(|t| t.tid).chain(helpers)
}

/// Checks all numbers; `owner` names the process that has one.
pub(crate) fn check(
    wanted: impl Iterator<Item = u32>,
    max: u32,
    owner: impl Fn(u32) -> Option<String>,
) -> Result<(), Error> {
    for pid in wanted {
        if pid >= max {
            return Err(Error::TooHigh { pid, max });
        }
        if let Some(owner) = owner(pid) {
            return Err(Error::Taken { pid, owner });
        }
    }
    Ok(())
}

/// Who has a number, as a process, a thread, a group or a session.
pub(crate) fn owner(pid: u32) -> Option<String> {
    let name = |pid: u32| {
        let comm = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
        Some(format!("\"{}\"", String::from_utf8_lossy(&comm).trim_end()))
    };
    let signed = pid.cast_signed();
    // Costs less than opening /proc; EPERM means that it exists.
    let exists = |pid| !matches!(sys::task::kill(pid, 0), Err(e) if e.errno() == libc::ESRCH);
    if exists(signed) {
        return Some(name(pid).unwrap_or_else(|| "a process of another pid namespace".into()));
    }
    if exists(-signed) {
        return Some(format!("a process group whose leader is dead (kill -0 -{pid})"));
    }
    None
}
