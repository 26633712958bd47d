//! File systems as they are without what is mounted on top of them.

use super::analyse::covers;
use super::mountinfo::MountInfo;
use crate::Error;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
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
    wanted: &[&MountInfo],
) -> Result<Vec<OwnedFd>, Error> {
    let proc = sys::path::open_at("/proc", libc::O_PATH | libc::O_DIRECTORY)?;
    inside(ns, || wanted.iter().map(|m| root_of(m, proc.as_fd(), user)).collect())
}

fn root_of(
    m: &MountInfo,
    proc: BorrowedFd<'_>,
    user: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, Error> {
    if let Some(at) = visible(m)?
        && let Ok(clean) = copy(&at)
    {
        return Ok(clean);
    }
    // It is covered. In a copy of the namespace, which ends with a thread, we may uncover it.
    let done = match user {
        Some(user) => in_user_ns(user, || uncovered(m, proc)),
        None => std::thread::scope(|scope| {
            let thread = scope.spawn(|| uncovered(m, proc));
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

/// Takes away what covers a mount, in a copy of the namespace.
fn uncovered(m: &MountInfo, proc: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    mount::unshare_fs()?;
    mount::unshare_mounts()?;
    let root = sys::path::open_at("/", libc::O_PATH)?;
    mount::set_propagation(root.as_fd(), Propagation::Private, true)?;
    let hidden = || {
        let point = String::from_utf8_lossy(&m.point);
        sys::Error::new(format_args!("open({point})"), libc::ENOENT)
    };
    loop {
        let all = super::mountinfo::parse(&super::read_mountinfo(proc)?);
        let same = |o: &&MountInfo| (o.dev, &o.root, &o.point) == (m.dev, &m.root, &m.point);
        let target = all.iter().find(same).ok_or_else(hidden)?;
        if let Some(at) = visible(target)? {
            return Ok(copy(&at)?);
        }
        let mut below = vec![target.id];
        while let Some(parent) = all.iter().find(|p| below.last() == Some(&p.id)) {
            if below.contains(&parent.parent) {
                break;
            }
            below.push(parent.parent);
        }
        // Of what lies over it, something has nothing over itself.
        let over = all.iter().filter(|o| !below.contains(&o.id) && covers(&o.point, &m.point));
        let mut top = None;
        for other in over {
            if visible(other)?.is_some() {
                top = Some(other);
            }
        }
        let point = OsStr::from_bytes(&top.ok_or_else(hidden)?.point);
        let done = umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        done.map_err(|e| sys::Error::new(format_args!("umount2({point:?})"), e as i32))?;
    }
}

/// The root of a mount, if its path leads there.
fn visible(m: &MountInfo) -> Result<Option<OwnedFd>, Error> {
    let Ok(at) = path(m) else { return Ok(None) };
    let is = mount::id_of(at.as_fd(), c"")? == Some(m.id.into());
    Ok(is.then_some(at))
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
