//! File systems as they are without what is mounted on top of them.

use super::analyse::covers;
use super::mountinfo::MountInfo;
use crate::Error;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, fstat};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use sys::mount::{self, Propagation};

fn died() -> Error {
    Error::Failed { text: "a thread that looks at mounts died".to_owned(), errno: libc::EIO }
}

/// Runs `work` in a mount namespace, in a thread that ends with it.
pub(crate) fn inside<T: Send>(
    ns: BorrowedFd<'_>,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            mount::unshare_fs()?;
            mount::enter_ns(ns)?;
            work()
        });
        thread.join().map_err(|_| died())?
    })
}

/// Opens the root of each of `wanted`, mounts of one namespace, as if nothing else were mounted.
pub(crate) fn open_roots(
    ns: BorrowedFd<'_>,
    all: &[MountInfo],
    wanted: &[&MountInfo],
) -> Result<Vec<OwnedFd>, Error> {
    inside(ns, || wanted.iter().map(|m| root_of(m, all)).collect())
}

fn root_of(m: &MountInfo, all: &[MountInfo]) -> Result<OwnedFd, Error> {
    let at = path(m)?;
    if mount::id_of(at.as_fd(), c"")? == Some(m.id.into())
        && let Ok(clean) = copy(&at)
    {
        return Ok(clean);
    }
    // It is covered. In a copy of the namespace, which ends with a thread, we may uncover it.
    let done = std::thread::scope(|scope| {
        let thread = scope.spawn(|| uncovered(m, all));
        thread.join().map_err(|_| died())?
    });
    let point = String::from_utf8_lossy(&m.point);
    done.map_err(|e| match e {
        Error::Sys(e) => Error::Refused(format!(
            "The mount {} at {point} is overmounted so paths are invisible ({e})",
            m.id
        )),
        e => e,
    })
}

fn uncovered(m: &MountInfo, all: &[MountInfo]) -> Result<OwnedFd, Error> {
    mount::unshare_fs()?;
    mount::unshare_mounts()?;
    let root = sys::path::open_at("/", libc::O_PATH)?;
    mount::set_propagation(root.as_fd(), Propagation::Private, true)?;
    let mut below = vec![m.id];
    while let Some(parent) = all.iter().find(|p| below.last() == Some(&p.id)).map(|p| p.parent) {
        if below.contains(&parent) {
            break;
        }
        below.push(parent);
    }
    // What was mounted last is on top.
    let on_top = |o: &&MountInfo| {
        !below.contains(&o.id) && (covers(&o.point, &m.point) || covers(&m.point, &o.point))
    };
    for other in all.iter().rev().filter(on_top) {
        let point = OsStr::from_bytes(&other.point);
        let done = umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        done.map_err(|e| sys::Error::new(format_args!("umount2({point:?})"), e as i32))?;
    }
    let at = path(m)?;
    let dev = fstat(&at).map_err(|e| sys::Error::new("fstat", e as i32))?.st_dev;
    if libc::makedev(m.dev >> 20, m.dev & 0xf_ffff) != dev {
        let point = String::from_utf8_lossy(&m.point);
        return Err(sys::Error::new(format_args!("open({point})"), libc::ENOENT).into());
    }
    Ok(copy(&at)?)
}

fn path(m: &MountInfo) -> Result<OwnedFd, Error> {
    let point = OsStr::from_bytes(&m.point);
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = open(point, flags, Mode::empty());
    Ok(opened.map_err(|e| sys::Error::new(format_args!("open({point:?})"), e as i32))?)
}

/// A copy of a mount alone, attached nowhere: what is mounted on it is not in the way.
fn copy(at: &OwnedFd) -> Result<OwnedFd, sys::Error> {
    mount::clone_tree(at.as_fd(), false)
}
