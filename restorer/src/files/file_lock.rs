//! File locks: taken by the tasks themselves when nothing of the restore is open any more, as a
//! process that closes any descriptor of a file loses its POSIX locks there.

use super::set::FileSet;
use super::{At, Error, Files, FilesPlan, Result, failed};
use crate::script::{Data, Full, Script};
use images::proto::FileLockEntry;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;
use parasite_abi::restore::What;
use std::collections::HashMap;
use std::os::fd::AsFd;

const POSIX: u32 = 1;
const FLOCK: u32 = 2;
const OFD: u32 = 4;
const LEASE: u32 = 8;
/// In `type` of a lease that was being broken; the rest is what it was to become.
const BREAKING: u32 = 4;

const F_OFD_SETLK: u64 = 37;
const F_SETLEASE: u64 = 1024;

/// Refuses locks that nobody could take.
pub(super) fn check(set: &FileSet, plan: &FilesPlan) -> Result<()> {
    for lock in &set.locks {
        let refuse = |what: &str| {
            let text = format!("filelocks.img: lock of task {}, fd {}: {what}", lock.pid, lock.fd);
            Err(Error::Refused(text))
        };
        if !matches!(lock.flag, POSIX | FLOCK | OFD | LEASE) {
            return refuse(&format!("flag {:#x} is not known", lock.flag));
        }
        if lock.start < 0 || lock.len < 0 {
            return refuse("a negative range");
        }
        let table = plan.tables.get(&plan.table_owner(lock.pid));
        if !table.is_some_and(|t| t.iter().any(|s| s.fd == lock.fd)) {
            return refuse("the task has no such descriptor");
        }
    }
    Ok(())
}

impl Files<'_> {
    /// Owners of files on which the caller, task `vpid`, gets leases, by descriptor. In a user
    /// namespace nothing else gives the right to one.
    pub(crate) fn lease_owners(&self, vpid: i32) -> Result<HashMap<i32, u32>> {
        let mut out = HashMap::new();
        let own = |l: &&FileLockEntry| l.pid == vpid && l.flag == LEASE;
        for lock in self.set.locks.iter().filter(own) {
            let path = Self::self_path(lock.fd);
            let stat = nix::sys::stat::fstatat(&self.proc, &path[..], AtFlags::empty())
                .map_err(|e| failed(format_args!("stat(/proc/{path})"), e))?;
            out.insert(lock.fd, stat.st_uid);
        }
        Ok(out)
    }
}

/// Steps of task `vpid`, whose user is `user` so far; `owners` of the files under leases.
pub(crate) fn steps(
    plan: &FilesPlan,
    (vpid, user): (i32, u32),
    owners: &HashMap<i32, u32>,
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    for lock in plan.set.locks.iter().filter(|l| l.pid == vpid) {
        let fd = lock.fd as u64;
        match lock.flag {
            FLOCK => {
                let how = flock_of(lock.r#type) | libc::LOCK_NB as u64;
                script.call(What::FileLock, libc::SYS_flock, [fd, how]);
            }
            LEASE => {
                let owner = owners.get(&lock.fd).filter(|owner| **owner != user);
                if let Some(owner) = owner {
                    script.call(What::FileLock, libc::SYS_setfsuid, [u64::from(*owner)]);
                }
                let args = [fd, F_SETLEASE, lease_of(plan, lock)];
                script.call(What::FileLock, libc::SYS_fcntl, args);
                if owner.is_some() {
                    script.call(What::FileLock, libc::SYS_setfsuid, [u64::from(user)]);
                }
            }
            kind => {
                let command = if kind == OFD { F_OFD_SETLK } else { libc::F_SETLK as u64 };
                // struct flock: l_type and l_whence, l_start, l_len, l_pid.
                data.align(8);
                let [start, len] = [lock.start, lock.len].map(i64::cast_unsigned);
                let addr = data.put_u64s(&[lock.r#type.into(), start, len, 0])?;
                script.call(What::FileLock, libc::SYS_fcntl, [fd, command, addr]);
            }
        }
    }
    Ok(())
}

/// Type of a lock as `flock` has it.
fn flock_of(kind: u32) -> u64 {
    match kind as i32 {
        libc::F_RDLCK => libc::LOCK_SH as u64,
        libc::F_WRLCK => libc::LOCK_EX as u64,
        libc::F_UNLCK => libc::LOCK_UN as u64,
        // LOCK_MAND and what goes with it.
        _ => kind.into(),
    }
}

/// The lease to be taken: one that can be broken into what it was to become.
fn lease_of(plan: &FilesPlan, lock: &FileLockEntry) -> u64 {
    if lock.r#type & BREAKING == 0 {
        return lock.r#type.into();
    }
    let downgrade = lock.r#type & !BREAKING == libc::F_RDLCK as u32;
    let table = plan.tables.get(&plan.table_owner(lock.pid));
    let id = table.and_then(|t| t.iter().find(|s| s.fd == lock.fd)).map_or(0, |s| s.id);
    let flags = plan.set.regs.get(&id).map_or(0, |r| r.flags as i32);
    let read_only = flags & libc::O_ACCMODE == libc::O_RDONLY;
    // A file that is only read may have other readers, of which a write lease would know.
    let kind = if downgrade || !read_only { libc::F_WRLCK } else { libc::F_RDLCK };
    kind as u64
}

/// Breaks the leases that were being broken, without telling their owners again. When all tasks
/// have taken theirs, and stand still.
pub fn break_leases(plan: &FilesPlan, pid_of: &dyn Fn(i32) -> i32) -> Result<()> {
    let broken = |l: &&FileLockEntry| l.flag == LEASE && l.r#type & BREAKING != 0;
    for lock in plan.set.locks.iter().filter(broken) {
        let at = || format!("task {}: fd {}: breaking its lease", lock.pid, lock.fd);
        let pid = pid_of(lock.pid);
        let task = sys::fd::pidfd_open(pid, 0).at(at)?;
        let fd = sys::fd::pidfd_getfd(task.as_fd(), lock.fd).at(at)?;
        let (kind, owner) = sys::fd::owner(fd.as_fd()).at(at)?;
        sys::fd::fcntl(fd.as_fd(), libc::F_SETOWN, 0).at(at)?;
        let downgrade = lock.r#type & !BREAKING == libc::F_RDLCK as u32;
        let mode = if downgrade { OFlag::O_RDONLY } else { OFlag::O_WRONLY };
        let path = format!("/proc/{pid}/fd/{}", lock.fd);
        let opened = nix::fcntl::open(&path[..], mode | OFlag::O_NONBLOCK, Mode::empty());
        if owner != 0 {
            sys::fd::set_owner(fd.as_fd(), kind, owner).at(at)?;
        }
        match opened {
            Err(nix::errno::Errno::EAGAIN) => {}
            Err(e) => return Err(failed(format_args!("open({path})"), e)).at(at),
            Ok(_) => log::warn!("{}: it was not in the way", at()),
        }
    }
    Ok(())
}
