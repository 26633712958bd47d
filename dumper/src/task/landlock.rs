//! Whether a task is in a Landlock domain.
//!
//! Nothing shows domains. But a task in one may not look at tasks outside of it, even if they are
//! like itself in all else; so a process of ours becomes like the task, and the task is asked to
//! look at it. Only tasks with `no_new_privs` are asked: those that restrict themselves set it.

use crate::ns::user::Maps;
use crate::task::lsm::Lsm;
use crate::tree::Task;
use nix::sched::{CloneFlags, setns};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

/// `KCMP_VM`: any will do.
const KCMP_VM: u64 = 1;

/// Processes for tasks to look at, by namespaces and ids of the tasks.
#[derive(Debug, Default)]
pub(crate) struct Outsiders {
    /// This kernel has domains.
    active: bool,
    maps: Maps,
    made: HashMap<Like, Option<Outsider>>,
}

/// What of a task has to be the same: user and pid namespace, real user and group (outside).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Like {
    user: String,
    pid: String,
    uid: u32,
    gid: u32,
}

/// A process of ours that ends with this value.
#[derive(Debug)]
struct Outsider {
    /// As the tasks see it.
    pid: i32,
    /// It ends when this does.
    hold: Option<OwnedFd>,
    child: i32,
}

impl Drop for Outsider {
    fn drop(&mut self) {
        self.hold.take();
        let _ = sys::worker::wait(self.child);
    }
}

/// The call by which a task looks at `pid`.
pub(crate) fn look(pid: i32) -> (i64, [u64; 5]) {
    (libc::SYS_kcmp, [pid as u64, pid as u64, KCMP_VM, 0, 0])
}

/// Whether it was kept from looking.
pub(crate) fn is_restricted(result: i64) -> bool {
    result == -i64::from(libc::EPERM)
}

impl Outsiders {
    /// None yet. `maps`: of the tree's user namespace.
    pub(crate) fn new(maps: Maps) -> Self {
        Self { active: sys::probe::has_landlock(), maps, made: HashMap::new() }
    }

    /// The number of a process that only a domain keeps `task` from looking at. `None`: it need not
    /// be asked, or cannot be.
    pub(crate) fn of(&mut self, task: &Task) -> Option<i32> {
        if !self.active || !task.status.no_new_privs {
            return None;
        }
        // A task that another module confines may be kept from looking by that.
        if Lsm::detect().confines(task.pid) {
            return None;
        }
        let name = |kind: &str| {
            let link = std::fs::read_link(format!("/proc/{}/ns/{kind}", task.pid)).ok()?;
            Some(link.to_string_lossy().into_owned())
        };
        let (uid, gid) = (task.status.uids[0], task.status.gids[0]);
        let like = Like { user: name("user")?, pid: name("pid")?, uid, gid };
        if !self.made.contains_key(&like) {
            let made = make(task, &like, &self.maps);
            if made.is_none() {
                log::warn!("task {}: cannot be asked whether Landlock restricts it", task.pid);
            }
            self.made.insert(like.clone(), made);
        }
        self.made[&like].as_ref().map(|o| o.pid)
    }
}

/// Two processes: one that stays in our pid namespace and is the parent of the other, which nobody
/// inside shall have to wait for.
fn make(task: &Task, like: &Like, maps: &Maps) -> Option<Outsider> {
    let open = |kind: &str, name: &str| {
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).ok()?;
        if own.to_string_lossy() == name {
            return Some(None);
        }
        File::open(format!("/proc/{}/ns/{kind}", task.pid)).ok().map(Some)
    };
    let (user, pid) = (open("user", &like.user)?, open("pid", &like.pid)?);
    let ids = match &user {
        Some(_) => (maps.uid(like.uid), maps.gid(like.gid)),
        None => (like.uid, like.gid),
    };
    let (ended, hold) = sys::events::pipe(libc::O_CLOEXEC).ok()?;
    let (answer, told) = sys::events::pipe(libc::O_CLOEXEC).ok()?;
    let (mut ended, mut hold, mut told) = (File::from(ended), Some(hold), File::from(told));
    let child = sys::worker::fork(|| {
        hold.take();
        if let Some(pid) = &pid
            && setns(pid, CloneFlags::CLONE_NEWPID).is_err()
        {
            return 1;
        }
        let inner = sys::worker::fork(|| {
            if become_like(user.as_ref(), ids).is_err() {
                return 1;
            }
            let number = std::process::id().to_ne_bytes();
            i32::from(told.write_all(&number).is_err() || ended.read(&mut [0]).is_err())
        });
        inner.and_then(sys::worker::wait).map_or(1, i32::from)
    })
    .ok()?;
    drop((told, ended));
    let mut outsider = Outsider { pid: 0, hold, child };
    let mut number = [0; 4];
    File::from(answer).read_exact(&mut number).ok()?;
    outsider.pid = i32::from_ne_bytes(number);
    Some(outsider)
}

fn become_like(user: Option<&File>, (uid, gid): (u32, u32)) -> sys::Result<()> {
    sys::task::prctl(libc::PR_SET_PDEATHSIG, [libc::SIGKILL as u64, 0, 0, 0])?;
    if let Some(user) = user {
        setns(user, CloneFlags::CLONE_NEWUSER)
            .map_err(|e| sys::Error::new("setns(user)", e as i32))?;
    }
    sys::path::set_thread_gids(gid, gid, gid)?;
    sys::path::set_thread_uids(uid, uid, uid)?;
    sys::task::set_capabilities(0, 0)?;
    // Changed ids have taken it.
    sys::task::prctl(libc::PR_SET_DUMPABLE, [1, 0, 0, 0]).map(drop)
}
