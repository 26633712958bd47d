//! Who forks whom, in which session, and who only helps.
//!
//! A session is inherited at birth or made by `setsid`, so a child that is in its parent's former
//! session has to be born before the parent calls `setsid`. Sessions and groups whose leader is
//! dead are made by helpers of that number; tasks whose session lives elsewhere in the tree than
//! their parent are born there and handed over by the death of a helper.

use images::checkpoint::{Checkpoint, Task, TaskState};
use std::collections::{BTreeMap, BTreeSet};

/// What a process of the plan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A task that will run; index in [`Checkpoint::tasks`].
    Live(usize),
    /// A zombie; index in [`Checkpoint::tasks`].
    Zombie(usize),
    /// Exits before the tree runs.
    Helper,
}

/// A process to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) role: Role,
    /// Index of who forks it; `None` for the root.
    pub(crate) parent: Option<usize>,
    /// Forked before `setsid`.
    pub(crate) early: Vec<usize>,
    /// Forked after it.
    pub(crate) late: Vec<usize>,
    /// Calls `setsid`.
    pub(crate) setsid: bool,
    /// Group to be in: 0 to stay, own pid to lead.
    pub(crate) pgid: u32,
    /// Has its descriptor table in common with the parent.
    pub(crate) share_files: bool,
    /// Adopts orphans of helpers meanwhile.
    pub(crate) adopts: bool,
}

impl Process {
    fn new(pid: u32, role: Role) -> Self {
        Self {
            pid,
            role,
            parent: None,
            early: Vec::new(),
            late: Vec::new(),
            setsid: false,
            pgid: 0,
            share_files: false,
            adopts: false,
        }
    }
}

/// The processes; parents before children, the root first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    pub(crate) processes: Vec<Process>,
}

/// A tree of processes that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Children that had to be born in different sessions before the parent's own.
    #[error(
        "task {pid}: children were born in session {a} and in session {b} before its setsid: not supported yet"
    )]
    Births {
        /// The parent.
        pid: u32,
        /// One session.
        a: u32,
        /// The other.
        b: u32,
    },
    /// A group in two sessions.
    #[error(
        "process group {pgid} is in session {a} (task {first}) and in session {b} (task {second})"
    )]
    Group {
        /// The group.
        pgid: u32,
        /// Session of the one.
        a: u32,
        /// Task in it.
        first: u32,
        /// Session of the other.
        b: u32,
        /// Task in it.
        second: u32,
    },
    /// Orphans of a session whose new parent cannot be chosen.
    #[error("task {pid} is in session {sid}, and its parent {ppid} never was: not supported yet")]
    Session {
        /// The task.
        pid: u32,
        /// Its session.
        sid: u32,
        /// Its parent.
        ppid: u32,
    },
}

struct Builder<'a> {
    tasks: &'a [Task],
    /// Session and group of each task; 0: those of the restorer.
    sid: Vec<u32>,
    pgid: Vec<u32>,
    children: Vec<Vec<usize>>,
    /// Session in which each task has to be born, if it matters.
    born: Vec<Option<u32>>,
    tree: Tree,
    by_pid: BTreeMap<u32, usize>,
}

impl Tree {
    /// Plans the tree of a checkpoint. With `shell_job` the root's session and group are replaced
    /// by those of the restorer.
    ///
    /// `dead`: numbers that have to exist until all tasks have their files.
    pub(crate) fn new(cp: &Checkpoint, shell_job: bool, dead: &[u32]) -> Result<Self, Error> {
        let ids = |i: usize| cp.tasks[i].ids.as_ref().map(|ids| ids.files_id);
        let mut tree = plan(&cp.tasks, shell_job, dead)?;
        for i in 0..tree.processes.len() {
            let p = &tree.processes[i];
            let parent = p.parent.map(|p| tree.processes[p].role);
            let shared = match (p.role, parent) {
                (Role::Live(a), Some(Role::Live(b))) => ids(a).is_some() && ids(a) == ids(b),
                _ => false,
            };
            tree.processes[i].share_files = shared;
        }
        Ok(tree)
    }
}

fn plan(tasks: &[Task], shell_job: bool, dead: &[u32]) -> Result<Tree, Error> {
    let root = &tasks[0];
    // The leader of the root's session is not in the tree: it stays in the restorer's.
    let foreign_sid = (root.sid != root.pid).then_some(root.sid);
    let foreign_pgid = (shell_job && root.pgid != root.pid).then_some(root.pgid);
    let own = |n: u32, foreign: Option<u32>| if Some(n) == foreign { 0 } else { n };
    let mut b = Builder {
        tasks,
        sid: tasks.iter().map(|t| own(t.sid, foreign_sid)).collect(),
        pgid: tasks.iter().map(|t| own(t.pgid, foreign_pgid)).collect(),
        children: vec![Vec::new(); tasks.len()],
        born: vec![None; tasks.len()],
        tree: Tree::default(),
        by_pid: BTreeMap::new(),
    };
    for (i, t) in tasks.iter().enumerate() {
        if let Some(p) = t.parent {
            b.children[p].push(i);
        }
    }
    // Children come after their parents, so backwards all needs of children are known.
    for i in (0..tasks.len()).rev() {
        b.born[i] = b.needed_birth(i)?;
    }
    b.place_tasks()?;
    b.place_group_leaders()?;
    for pid in dead {
        if !b.by_pid.contains_key(pid) {
            let h = b.push(Process::new(*pid, Role::Helper));
            b.hang(h, 0, true);
        }
    }
    Ok(b.tree.sorted())
}

impl Builder<'_> {
    fn leads(&self, i: usize) -> bool {
        self.sid[i] == self.tasks[i].pid
    }

    fn needed_birth(&self, i: usize) -> Result<Option<u32>, Error> {
        if !self.leads(i) {
            return Ok(Some(self.sid[i]));
        }
        let pid = self.tasks[i].pid;
        let mut need = None;
        for &c in &self.children[i] {
            match (self.born[c].filter(|s| *s != pid), need) {
                (None, _) => {}
                // Born in the session of another task of the tree: that task's helper hands it
                // over; see `adopt`.
                (Some(s), _) if self.elsewhere(s, i) => {}
                (Some(s), None) => need = Some(s),
                (Some(s), Some(n)) if s == n => {}
                (Some(b), Some(a)) => return Err(Error::Births { pid, a, b }),
            }
        }
        Ok(need)
    }

    /// Whether session `sid` is not to be found among `i` and its ancestors: then a child of `i`
    /// in it cannot have inherited it from there.
    fn elsewhere(&self, sid: u32, i: usize) -> bool {
        let mut at = Some(i);
        while let Some(i) = at {
            if self.sid[i] == sid {
                return false;
            }
            at = self.tasks[i].parent;
        }
        sid != 0
    }

    fn push(&mut self, process: Process) -> usize {
        let index = self.tree.processes.len();
        self.by_pid.insert(process.pid, index);
        self.tree.processes.push(process);
        index
    }

    fn hang(&mut self, child: usize, parent: usize, late: bool) {
        self.tree.processes[child].parent = Some(parent);
        let list = &mut self.tree.processes[parent];
        if late { list.late.push(child) } else { list.early.push(child) }
    }

    fn place_tasks(&mut self) -> Result<(), Error> {
        // First all of them, so that index in `tasks` = index in the tree.
        for i in 0..self.tasks.len() {
            let t = &self.tasks[i];
            let role = match t.state {
                TaskState::Dead => Role::Zombie(i),
                _ => Role::Live(i),
            };
            let mut p = Process::new(t.pid, role);
            p.setsid = self.leads(i);
            // A session leader leads its group already, and cannot move.
            p.pgid = if p.setsid { 0 } else { self.pgid[i] };
            self.push(p);
        }
        for i in 1..self.tasks.len() {
            let Some(parent) = self.tasks[i].parent else { continue };
            let parent_pid = self.tasks[parent].pid;
            match self.born[i] {
                None => self.hang(i, parent, true),
                Some(s) if self.leads(parent) && s == parent_pid => self.hang(i, parent, true),
                Some(s)
                    if self.leads(parent)
                        && self.born[parent].unwrap_or(s) == s
                        && !self.elsewhere(s, parent) =>
                {
                    self.hang(i, parent, false)
                }
                Some(s) if !self.leads(parent) && self.sid[parent] == s => {
                    self.hang(i, parent, true);
                }
                Some(s) => self.adopt(i, parent, s)?,
            }
        }
        Ok(())
    }

    /// `i` is in session `sid`, which its parent cannot give it: born from a helper that dies,
    /// it falls to the parent, which has to be the one that adopts (root or subreaper).
    fn adopt(&mut self, i: usize, parent: usize, sid: u32) -> Result<(), Error> {
        let leader = self.by_pid.get(&sid).copied();
        match leader {
            // The session's leader is dead: the helper takes its number.
            None => {
                let mut helper = Process::new(sid, Role::Helper);
                helper.setsid = true;
                let h = self.push(helper);
                self.hang(h, parent, true);
                self.hang(i, h, true);
            }
            // A helper made before for the same session and parent.
            Some(h) if self.tree.processes[h].role == Role::Helper => {
                if self.tree.processes[h].parent != Some(parent) {
                    let (pid, ppid) = (self.tasks[i].pid, self.tasks[parent].pid);
                    return Err(Error::Session { pid, sid, ppid });
                }
                self.hang(i, h, true);
            }
            // The leader is elsewhere: its dying child is the way, or its own death.
            Some(l) => {
                if !self.is_ancestor(parent, l) {
                    let (pid, ppid) = (self.tasks[i].pid, self.tasks[parent].pid);
                    return Err(Error::Session { pid, sid, ppid });
                }
                if self.is_zombie(l) {
                    self.hang(i, l, true);
                    self.tree.processes[parent].adopts = true;
                    return Ok(());
                }
                let h = self.push(Process::new(self.free_number(), Role::Helper));
                self.hang(h, l, true);
                self.hang(i, h, true);
            }
        }
        self.tree.processes[parent].adopts = true;
        Ok(())
    }

    fn is_zombie(&self, i: usize) -> bool {
        matches!(self.tree.processes[i].role, Role::Zombie(_))
    }

    fn is_ancestor(&self, a: usize, of: usize) -> bool {
        let mut at = Some(of);
        while let Some(i) = at {
            if i == a {
                return true;
            }
            at = self.tree.processes[i].parent.or_else(|| self.tasks.get(i).and_then(|t| t.parent));
        }
        false
    }

    /// A number that nothing of the tree wants.
    fn free_number(&self) -> u32 {
        let tids = self.tasks.iter().flat_map(|t| t.threads.iter().map(|t| t.tid));
        let groups = self.tasks.iter().flat_map(|t| [t.pgid, t.sid]);
        let helpers = self.tree.processes.iter().map(|p| p.pid);
        let taken: BTreeSet<u32> = tids.chain(groups).chain(helpers).collect();
        let top = taken.last().copied().unwrap_or(1);
        (2..=top + 1).rev().find(|n| !taken.contains(n)).unwrap_or(top + 1)
    }

    /// Groups whose leader is not in the tree.
    fn place_group_leaders(&mut self) -> Result<(), Error> {
        let mut session_of: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        for (i, t) in self.tasks.iter().enumerate() {
            let (pgid, sid) = (self.pgid[i], self.sid[i]);
            if pgid == 0 {
                continue;
            }
            let (other, first) = *session_of.entry(pgid).or_insert((sid, t.pid));
            if other != sid {
                let (a, b) = (other, sid);
                return Err(Error::Group { pgid, a, first, b, second: t.pid });
            }
        }
        for i in 0..self.tasks.len() {
            let pgid = self.pgid[i];
            if pgid == 0 || self.by_pid.contains_key(&pgid) {
                continue;
            }
            let mut helper = Process::new(pgid, Role::Helper);
            helper.pgid = pgid;
            // Any task of that session can have it as a child, and reap it; a zombie could not.
            let sid = self.sid[i];
            let same = |j: &usize| self.sid[*j] == sid && !self.is_zombie(*j);
            let parent = (0..self.tasks.len()).find(same).unwrap_or(i);
            let h = self.push(helper);
            self.hang(h, parent, true);
        }
        Ok(())
    }
}

impl Tree {
    /// Parents before children; the order among siblings is kept.
    fn sorted(self) -> Self {
        let mut order = vec![0];
        let mut at = 0;
        while at < order.len() {
            let p = &self.processes[order[at]];
            order.extend(p.early.iter().chain(&p.late));
            at += 1;
        }
        let mut place = vec![0; self.processes.len()];
        for (new, old) in order.iter().enumerate() {
            place[*old] = new;
        }
        let moved = |list: &[usize]| list.iter().map(|i| place[*i]).collect();
        let processes = order
            .iter()
            .map(|old| {
                let p = &self.processes[*old];
                Process {
                    parent: p.parent.map(|i| place[i]),
                    early: moved(&p.early),
                    late: moved(&p.late),
                    ..p.clone()
                }
            })
            .collect();
        Self { processes }
    }
}

#[cfg(test)]
mod tests;
