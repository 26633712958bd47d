//! The tree being dumped: which tasks and threads it has, all of them held still.

pub use crate::task::inside::{Inside, ThreadInside};
use crate::{Error, Request};
use parasite::Frozen;
use parasite::proc::{Stat, Status};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

/// A frozen tree: parents before children, the root first.
#[derive(Debug)]
pub struct Tree {
    /// Its tasks.
    pub tasks: Vec<Task>,
}

impl Tree {
    /// The root of the tree.
    pub fn root(&self) -> &Task {
        &self.tasks[0]
    }

    /// Tasks that are not zombies: they have memory, files, credentials.
    pub fn alive(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter().filter(|t| !t.is_zombie())
    }
}

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs or sleeps.
    Alive,
    /// It was stopped by this signal before we came.
    Stopped(i32),
    /// It is dead and not waited for: the raw wait status.
    Zombie(u32),
}

/// A process (thread group).
#[derive(Debug)]
pub struct Task {
    /// In our pid namespace.
    pub pid: i32,
    /// As the root of the tree sees it: the number in the images.
    pub vpid: i32,
    /// Virtual pid of the parent, 0 for the root.
    pub ppid: i32,
    /// Process group, virtual; 0 when its leader is outside the pid namespace.
    pub pgid: i32,
    /// Session, virtual; 0 when its leader is outside the pid namespace.
    pub sid: i32,
    /// What it does.
    pub state: State,
    /// Holds the process, so that the number cannot be reused.
    pub pidfd: OwnedFd,
    /// Its threads, the leader first.
    pub threads: Vec<Thread>,
    /// Equal for tasks that share one descriptor table; names the `fdinfo` image.
    pub files_id: u32,
    /// `/proc/PID/stat`.
    pub stat: Stat,
    /// `/proc/PID/status` of the leader.
    pub status: Status,
    /// What only code inside the task could tell.
    pub inside: Inside,
}

impl Task {
    /// It is dead: only its number, groups and exit code are left.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, State::Zombie(_))
    }
}

/// A thread of a [`Task`].
#[derive(Debug, Default)]
pub struct Thread {
    /// In our pid namespace.
    pub tid: i32,
    /// As the root of the tree sees it.
    pub vtid: i32,
    /// What only code inside the thread could tell.
    pub inside: ThreadInside,
}

/// Describes what is frozen. Index for index the same tasks and threads as in `frozen`.
pub(crate) fn describe(frozen: &Frozen) -> Result<Tree, Error> {
    let mut vpids = HashMap::new();
    let levels = frozen.processes.first().map_or(0, |p| p.status().nspid.len());
    let mut tasks = Vec::with_capacity(frozen.processes.len());
    for p in &frozen.processes {
        let task = task(p, levels, &vpids).map_err(Error::on(p.pid))?;
        vpids.insert(p.pid, task.vpid);
        tasks.push(task);
    }
    Ok(Tree { tasks })
}

fn task(p: &parasite::Process, levels: usize, vpids: &HashMap<i32, i32>) -> Result<Task, Error> {
    let stat = Stat::read(p.pid)?;
    let status = p.status().clone();
    let state = match p.stopped_by() {
        _ if p.zombie => State::Zombie(stat.exit_code),
        None => State::Alive,
        Some(signo @ (libc::SIGSTOP | libc::SIGTSTP)) => State::Stopped(signo),
        Some(signo) => {
            log::warn!("{}: stopped by signal {signo}, will come back stopped by SIGSTOP", p.pid);
            State::Stopped(libc::SIGSTOP)
        }
    };
    let threads = p.threads.iter().map(|t| {
        let vtid = virtual_id(&t.status, levels)?;
        Ok(Thread { tid: t.tid, vtid, inside: ThreadInside::default() })
    });
    Ok(Task {
        pid: p.pid,
        vpid: virtual_id(&status, levels)?,
        // The root's parent is not in the map: 0.
        ppid: vpids.get(&p.ppid).copied().unwrap_or(0),
        pgid: status.nspgid.last().copied().unwrap_or(0),
        sid: status.nssid.last().copied().unwrap_or(0),
        state,
        pidfd: p.pidfd.as_fd().try_clone_to_owned().map_err(|e| sys::Error::io("dup", &e))?,
        threads: threads.collect::<Result<_, Error>>()?,
        files_id: 0,
        stat,
        status,
        inside: Inside::default(),
    })
}

/// The number in the images: the one in the innermost namespace, which the root is in as well.
fn virtual_id(status: &Status, levels: usize) -> Result<i32, Error> {
    match status.nspid.last() {
        Some(last) if status.nspid.len() == levels => Ok(*last),
        _ => Err(Error::Refused(
            "Can't dump nested pid namespace: it differs from the root task's".into(),
        )),
    }
}

/// Sessions and groups that a restore could not make: refused before anything is saved.
pub(crate) fn check_sessions(tree: &Tree, request: &Request) -> Result<(), Error> {
    let root = tree.root();
    if !request.shell_job && root.sid != root.vpid {
        return Err(Error::Refused(format!(
            "A session leader of {}({}) is outside of its pid namespace (session {}): it was \
             started by a shell or another program that is not dumped; try --shell-job",
            root.pid, root.vpid, root.sid
        )));
    }
    for task in &tree.tasks {
        let outside = task.sid == 0 || task.pgid == 0;
        if outside && !request.shell_job {
            return Err(Error::Refused(format!(
                "task {}: its session or group leader is outside of the pid namespace; \
                 try --shell-job",
                task.pid
            )));
        }
    }
    Ok(())
}
