//! What the coordinator does at the very end, when all tasks stand still, and on the way out.

use super::path::{show, split, unlink};
use super::set::Remap;
use super::{At, FilesPlan, Result, timerfd};
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Starts timerfds and drops the inotify events which the restore has caused. For the moment
/// right before the tasks run; `pid_of` gives the pid in our pid namespace for a virtual one.
pub fn late(plan: &FilesPlan, pid_of: &dyn Fn(i32) -> i32) -> Result<()> {
    let mut done: HashSet<u32> = HashSet::new();
    let mut tasks: HashMap<i32, OwnedFd> = HashMap::new();
    for (owner, table) in &plan.tables {
        for slot in table {
            let Some(file) = plan.set.files.get(&slot.id) else { continue };
            let due = file.tfd.is_some() || file.ify.is_some() || file.ffy.is_some();
            if !due || !done.insert(slot.id) {
                continue;
            }
            let task = match tasks.entry(*owner) {
                std::collections::hash_map::Entry::Occupied(e) => e.into_mut(),
                std::collections::hash_map::Entry::Vacant(e) => {
                    e.insert(sys::fd::pidfd_open(pid_of(*owner), 0)?)
                }
            };
            let at = || format!("task {owner}: fd {}", slot.fd);
            let fd = sys::fd::pidfd_getfd(task.as_fd(), slot.fd).at(at)?;
            if let Some(timer) = &file.tfd {
                timerfd::arm(timer, fd.as_fd()).at(at)?;
            } else {
                drain(fd.as_fd(), file.ffy.is_some()).at(at)?;
            }
        }
    }
    Ok(())
}

/// Reads what is queued, and no more. Events of a fanotify come with descriptors.
fn drain(fd: BorrowedFd<'_>, fanotify: bool) -> Result<()> {
    let mut buffer = [0u8; 4096];
    loop {
        let mut poll = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
        let ready = nix::poll::poll(&mut poll, nix::poll::PollTimeout::ZERO)
            .map_err(|e| super::failed("poll", e))?;
        if ready == 0 {
            return Ok(());
        }
        if fanotify {
            sys::events::fanotify_drop(fd)?;
            continue;
        }
        nix::unistd::read(fd, &mut buffer).map_err(|e| super::failed("read", e))?;
    }
}

/// What the dump left beside the files for us (`link_remap.N`), by the mount that it is in.
pub(crate) fn links(plan: &FilesPlan) -> HashMap<Option<i32>, Vec<&[u8]>> {
    let mut out: HashMap<Option<i32>, Vec<&[u8]>> = HashMap::new();
    let mut seen = HashSet::new();
    for (of, remap) in &plan.set.remaps {
        let Remap::Linked(id) = remap else { continue };
        if let (Some(link), Some(of)) = (plan.set.regs.get(id), plan.set.regs.get(of))
            && seen.insert(*id)
        {
            let mnt_id = link.mnt_id.filter(|id| *id != -1).or(of.mnt_id);
            out.entry(mnt_id).or_default().push(&link.name);
        }
    }
    out
}

/// Removes such links. Only after success: the images can be restored again otherwise. `root` is
/// the root of the mount namespace.
pub(crate) fn cleanup(links: &[&[u8]], root: BorrowedFd<'_>) {
    for link in links {
        let (dir, name) = split(link);
        let gone = super::path::directory(root, dir).and_then(|dir| {
            unlink(dir.as_fd(), name, false).map_err(|e| super::failed("unlinkat", e))
        });
        if let Err(e) = gone {
            log::warn!("{:?}: {e}", show(link));
        }
    }
}
