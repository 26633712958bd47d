//! The tree being dumped: which tasks and threads it has, all of them held still.

use crate::proc::{Stat, Status};
use std::os::fd::OwnedFd;

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
}

/// State of a process that only code inside it can tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// `brk(0)`.
    pub brk: u64,
    /// `PR_GET_DUMPABLE`.
    pub dumpable: u32,
    /// `PR_GET_THP_DISABLE`.
    pub thp_disabled: bool,
}
