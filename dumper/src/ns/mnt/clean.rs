//! File systems as they are without what is mounted on top of them.

use super::analyse::covers;
use super::mountinfo::MountInfo;
use crate::Error;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::pipe2;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
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
/// `user`: the user namespace of the tree, if it has its own.
pub(crate) fn open_roots(
    ns: BorrowedFd<'_>,
    user: Option<BorrowedFd<'_>>,
    all: &[MountInfo],
    wanted: &[&MountInfo],
) -> Result<Vec<OwnedFd>, Error> {
    inside(ns, || wanted.iter().map(|m| root_of(m, all, user)).collect())
}

fn root_of(
    m: &MountInfo,
    all: &[MountInfo],
    user: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, Error> {
    if let Ok(at) = path(m)
        && mount::id_of(at.as_fd(), c"")? == Some(m.id.into())
        && let Ok(clean) = copy(&at)
    {
        return Ok(clean);
    }
    // It is covered. In a copy of the namespace, which ends with a thread, we may uncover it.
    let done = match user {
        Some(user) => in_user_ns(user, || uncovered(m, all)),
        None => std::thread::scope(|scope| {
            let thread = scope.spawn(|| uncovered(m, all));
            thread.join().map_err(|_| died())?
        }),
    };
    let point = String::from_utf8_lossy(&m.point);
    done.map_err(|e| match e {
        Error::Sys(e) => Error::Refused(format!(
            "The mount {} at {point} is overmounted so paths are invisible ({e})",
            m.id
        )),
        e => e,
    })
}

/// Runs `open` in a user namespace, where copies of its mounts are not locked. It takes a process
/// to get there.
fn in_user_ns(
    user: BorrowedFd<'_>,
    open: impl FnOnce() -> Result<OwnedFd, Error>,
) -> Result<OwnedFd, Error> {
    let failed = |call: &str, e: nix::Error| Error::from(sys::Error::new(call, e as i32));
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(|e| failed("pipe2", e))?;
    let child = sys::worker::fork(|| {
        // Our thread waits for it, to its end.
        let _ = sys::task::prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as u64, 0, 0, 0]);
        let done = setns(user, CloneFlags::CLONE_NEWUSER)
            .map_err(|e| failed("setns(user)", e))
            .and_then(|()| open());
        let text = match &done {
            Ok(fd) => fd.as_raw_fd().to_string(),
            Err(e) => format!("{} {e}", e.errno()),
        };
        if nix::unistd::write(&write, text.as_bytes()).is_err() {
            return 1;
        }
        // Until the parent has the descriptor, and kills us.
        loop {
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
    })?;
    let mut text = [0; 1024];
    let heard = nix::unistd::read(&read, &mut text).map_err(|e| failed("read(pipe)", e));
    let got = || -> Result<OwnedFd, Error> {
        let text = String::from_utf8_lossy(&text[..heard?]);
        if let Ok(number) = text.parse() {
            let pidfd = sys::fd::pidfd_open(child, 0)?;
            return Ok(sys::fd::pidfd_getfd(pidfd.as_fd(), number)?);
        }
        let (errno, text) =
            text.split_once(' ').unwrap_or(("5", "a process that looks at mounts died"));
        Err(sys::Error::new(text, errno.parse().unwrap_or(libc::EIO)).into())
    };
    let got = got();
    let _ = sys::task::kill(child, libc::SIGKILL);
    sys::worker::wait(child)?;
    got
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
