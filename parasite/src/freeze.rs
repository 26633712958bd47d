//! Holding a whole tree still.
//!
//! Level by level: all threads of all processes of a level are seized and interrupted, then
//! waited for; a stopped thread makes no more threads or children, so what its `task` and
//! `children` files show then is final, and is the next level. Two things can still add to a
//! level that was left: orphans that move up to a subreaper, and children by `CLONE_PARENT`;
//! both only below processes that have descendants, which are looked at once more at the end.

use crate::proc::{self, Status};
use crate::tracee::{Pause, Stop, Thread, poll};
use crate::{Dying, Error, Result};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Instant;
use sys::{fd, ptrace, task};

/// How long freezing and calls in the tasks may take.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// When to give up.
    pub deadline: Option<Instant>,
    /// Says that whoever asked is gone.
    pub stop: &'a dyn Fn() -> bool,
}

impl fmt::Debug for Limits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl Limits<'_> {
    /// Fails when time is over or nobody wants the result; `tid` is who is waited for.
    pub(crate) fn check(&self, tid: i32) -> Result<()> {
        if (self.stop)() {
            return Err(Error::Stopped);
        }
        if self.deadline.is_some_and(|d| Instant::now() > d) {
            return Err(Error::Timeout { tid, why: what_it_does(tid) });
        }
        Ok(())
    }
}

/// Why a task does not stop: its state and system call, in words.
fn what_it_does(tid: i32) -> String {
    let text = |name: &str| {
        let t = proc::read(format!("/proc/{tid}/{name}")).unwrap_or_default();
        String::from_utf8_lossy(&t).trim().to_owned()
    };
    let call = text("syscall");
    let nr = call.split(' ').next().unwrap_or("");
    if nr == "58" || ["56", "435"].contains(&nr) && text("wchan").contains("vfork") {
        let child = proc::children(tid, tid).unwrap_or_default();
        return format!("it waits in vfork for {child:?} to exec or exit");
    }
    let state = proc::Stat::read(tid).map_or('?', |s| char::from(s.state));
    format!("state {state}, system call {nr}, waits in {}", text("wchan"))
}

/// A process of a [`Frozen`] tree.
#[derive(Debug)]
pub struct Process {
    /// In our pid namespace.
    pub pid: i32,
    /// Its parent's.
    pub ppid: i32,
    /// Holds it.
    pub pidfd: OwnedFd,
    /// It is dead and not waited for; it has no threads to trace then.
    pub zombie: bool,
    /// Its threads, the leader first; for a zombie only the (untraced) leader.
    pub threads: Vec<Thread>,
    /// Bottom of its main stack, 0 when not known.
    pub start_stack: u64,
    /// It gets SIGSTOP when it is let go.
    pub leave_stopped: bool,
    children: Vec<i32>,
}

impl Process {
    /// `/proc/PID/status`.
    pub fn status(&self) -> &Status {
        &self.threads[0].status
    }

    /// The signal that had stopped the process before we came.
    pub fn stopped_by(&self) -> Option<i32> {
        self.threads[0].stopped_by
    }

    /// Process 1 of a pid namespace below ours.
    pub(crate) fn is_init(&self) -> bool {
        let nspid = &self.status().nspid;
        nspid.len() > 1 && nspid.last() == Some(&1)
    }

    fn release(&mut self) {
        if self.zombie {
            return;
        }
        if self.leave_stopped && self.stopped_by().is_none() {
            // Queued while all threads are held, so none of them runs on before it stops.
            let _ = task::kill(self.pid, libc::SIGSTOP);
        }
        // The leader last: it speaks for the process.
        for thread in self.threads.iter_mut().rev() {
            thread.release(self.pid);
        }
    }
}

/// A tree that holds still. Dropping it lets all tasks go on.
#[derive(Debug)]
#[must_use = "the tree runs on as soon as this is dropped"]
pub struct Frozen {
    /// Parents before children, the root first.
    pub processes: Vec<Process>,
}

impl Frozen {
    /// Kills all tasks; dropping what this gives waits until they are dead. The root's parent
    /// sees an exit by SIGKILL.
    pub fn kill(mut self) -> Dying {
        Dying::kill(std::mem::take(&mut self.processes))
    }

    fn release(&mut self) {
        // Parents last, so that none of them sees a child change while it is still held.
        for p in self.processes.iter_mut().rev() {
            p.release();
        }
        self.processes.clear();
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.release();
    }
}

/// How often the tree may turn out to have grown at the end of a walk.
const PASSES: u32 = 100;

/// Freezes the tree below `root`.
pub fn freeze(root: i32, limits: &Limits<'_>) -> Result<Frozen> {
    let mut walk = Walk { tree: Frozen { processes: Vec::new() }, seen: HashMap::new() };
    walk.refuse_ourselves(root)?;
    let status = proc::read(format!("/proc/{root}/status"))
        .map_err(|_| Error::NoProcess { pid: root })
        .map(|t| Status::parse(&t))?;
    if status.tgid != root {
        return Err(Error::IsThread { pid: root, tgid: status.tgid });
    }
    if status.state == b'Z' && status.threads <= 1 {
        return Err(Error::Zombie { pid: root });
    }
    let mut level = vec![(root, 0)];
    for _ in 0..PASSES {
        while !level.is_empty() {
            level = walk.level(&level, limits)?;
        }
        level = walk.grown()?;
        if level.is_empty() {
            if walk.tree.processes.is_empty() {
                return Err(Error::NoProcess { pid: root });
            }
            return Ok(walk.tree);
        }
    }
    Err(Error::Unstable { passes: PASSES })
}

struct Walk {
    tree: Frozen,
    /// pid → index in the tree.
    seen: HashMap<i32, usize>,
}

impl Walk {
    /// A task cannot trace itself, and would wait for itself for ever.
    fn refuse_ourselves(&self, root: i32) -> Result<()> {
        let mut pid = std::process::id() as i32;
        while pid > 0 {
            if pid == root {
                return Err(Error::WithinTree { pid: std::process::id() as i32, root });
            }
            pid = proc::Stat::read(pid)?.ppid;
        }
        Ok(())
    }

    /// Stops all processes of a level (pid, parent) and answers the next one.
    fn level(&mut self, level: &[(i32, i32)], limits: &Limits<'_>) -> Result<Vec<(i32, i32)>> {
        let first = self.tree.processes.len();
        for &(pid, ppid) in level {
            self.attach(pid, ppid)?;
        }
        let mut last = first;
        // `settle` may drop processes that turn out to be none of the tree's.
        while last < self.tree.processes.len() {
            if self.settle(last, limits)? {
                last += 1;
            }
        }
        let mut next = Vec::new();
        for i in first..self.tree.processes.len() {
            for pid in self.read_children(i)? {
                next.push((pid, self.tree.processes[i].pid));
            }
        }
        Ok(next)
    }

    /// Seizes and interrupts what is there of a process, without waiting.
    fn attach(&mut self, pid: i32, ppid: i32) -> Result<()> {
        let pidfd = match fd::pidfd_open(pid, 0) {
            Ok(fd) => fd,
            // Reaped already: its parent ignores SIGCHLD.
            Err(e) if [libc::ESRCH, libc::EINVAL].contains(&e.errno()) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let mut p = Process {
            pid,
            ppid,
            pidfd,
            zombie: false,
            threads: Vec::new(),
            start_stack: 0,
            leave_stopped: false,
            children: Vec::new(),
        };
        let held = seize(pid, pid)?;
        if held {
            p.threads.push(Thread::new(pid));
        }
        self.seen.insert(pid, self.tree.processes.len());
        self.tree.processes.push(p);
        if held {
            let p = self.tree.processes.last_mut().ok_or(Error::NoProcess { pid })?;
            attach_threads(p)?;
        }
        Ok(())
    }

    /// Waits until process `i` stands still with all its threads. False: it was dropped.
    fn settle(&mut self, i: usize, limits: &Limits<'_>) -> Result<bool> {
        let p = &mut self.tree.processes[i];
        let mut waited = 0;
        loop {
            while waited < p.threads.len() {
                if p.threads[waited].held || wait_stopped(&mut p.threads[waited], limits)? {
                    waited += 1;
                } else {
                    p.threads.remove(waited);
                }
            }
            let status = match Status::read(p.pid, p.pid) {
                Ok(s) => s,
                Err(e) if e.is_gone() => return Ok(self.forget(i)),
                Err(e) => return Err(e.into()),
            };
            if status.state == b'Z' || status.state == b'X' {
                if status.threads > 1 || p.threads.iter().any(|t| t.tid != p.pid) {
                    return Err(Error::ZombieLeader { pid: p.pid });
                }
                p.zombie = true;
                p.threads = vec![Thread::new(p.pid)];
                p.threads[0].status = status;
                break;
            }
            // After an execve by another thread its leader's number names a thread that nobody
            // seized: only a stopped tracee of ours answers.
            let leader = p.threads.first().is_some_and(|t| t.tid == p.pid);
            if leader && p.threads.len() == status.threads as usize && answers(p.pid) {
                p.threads[0].status = status;
                break;
            }
            limits.check(p.pid)?;
            p.threads.retain(|t| answers(t.tid));
            attach_threads(p)?;
            waited = 0;
        }
        let ppid = p.status().ppid;
        if i > 0 && ppid != p.ppid {
            // Its parent died (it hangs elsewhere now), or the number was used again.
            if !self.seen.contains_key(&ppid) {
                return Ok(self.forget(i));
            }
            self.tree.processes[i].ppid = ppid;
        }
        let p = &mut self.tree.processes[i];
        let stopped = p.threads[0].stopped_by;
        if p.threads.iter().any(|t| t.stopped_by.is_some() != stopped.is_some()) {
            return Err(Error::HalfStopped { pid: p.pid });
        }
        let pid = p.pid;
        if !p.zombie {
            for t in &mut p.threads[1..] {
                t.status = Status::read(pid, t.tid)?;
            }
        }
        Ok(true)
    }

    /// Lets a process go that is not (or no longer) part of the tree.
    fn forget(&mut self, i: usize) -> bool {
        let mut p = self.tree.processes.remove(i);
        p.release();
        self.seen = self.tree.processes.iter().enumerate().map(|(i, p)| (p.pid, i)).collect();
        false
    }

    /// Children of process `i` that are not known yet.
    fn read_children(&mut self, i: usize) -> Result<Vec<i32>> {
        let p = &mut self.tree.processes[i];
        if p.zombie {
            return Ok(Vec::new());
        }
        let mut all = Vec::new();
        for t in &p.threads {
            all.extend(proc::children(p.pid, t.tid)?);
        }
        let new = |pid: &i32| !self.seen.contains_key(pid);
        let unknown: Vec<i32> = all.iter().copied().filter(new).collect();
        self.tree.processes[i].children = all;
        Ok(unknown)
    }

    /// What came to processes that were looked at before.
    fn grown(&mut self) -> Result<Vec<(i32, i32)>> {
        let mut next = Vec::new();
        for i in 0..self.tree.processes.len() {
            if self.tree.processes[i].children.is_empty() {
                continue;
            }
            let pid = self.tree.processes[i].pid;
            next.extend(self.read_children(i)?.into_iter().map(|child| (child, pid)));
        }
        Ok(next)
    }
}

/// Seizes and interrupts all threads of a tree that a cgroup's freezer keeps from running: they
/// stop, before they run anything, as soon as it lets them. Then [`freeze`] the tree.
pub fn hold_frozen(root: i32) -> Result<()> {
    let mut left = vec![root];
    while let Some(pid) = left.pop() {
        let tids = match proc::numbers(&format!("/proc/{pid}/task")) {
            Ok(tids) => tids,
            Err(e) if e.is_gone() => continue,
            Err(e) => return Err(e.into()),
        };
        for tid in tids {
            if seize(pid, tid)? {
                left.extend(proc::children(pid, tid)?);
            }
        }
    }
    Ok(())
}

/// Seizes and interrupts one thread; false: it is dead.
fn seize(pid: i32, tid: i32) -> Result<bool> {
    match ptrace::seize(tid, ptrace::option::TRACESYSGOOD) {
        Ok(()) => {}
        Err(e) if e.errno() == libc::ESRCH => return Ok(false),
        Err(source) => {
            // EPERM stands for many things.
            let status = match Status::read(pid, tid) {
                Ok(s) => s,
                Err(e) if e.is_gone() => return Ok(false),
                Err(e) => return Err(e.into()),
            };
            if status.state == b'Z' || status.state == b'X' {
                return Ok(false);
            }
            // Held since before the tree was let out of a freezer.
            if status.tracer == std::process::id().cast_signed() {
                return Ok(true);
            }
            if status.tracer != 0 {
                return Err(Error::Traced { tid, tracer: status.tracer });
            }
            return Err(Error::NoAccess { tid, source });
        }
    }
    match ptrace::interrupt(tid) {
        Err(e) if e.errno() != libc::ESRCH => Err(e.into()),
        _ => Ok(true),
    }
}

/// `tid` is a tracee of ours that stands still.
fn answers(tid: i32) -> bool {
    ptrace::sigmask(tid).is_ok()
}

/// Seizes all threads of `p` that are not held.
fn attach_threads(p: &mut Process) -> Result<()> {
    let tids = match proc::numbers(&format!("/proc/{}/task", p.pid)) {
        Ok(tids) => tids,
        Err(e) if e.is_gone() => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let known: HashSet<i32> = p.threads.iter().map(|t| t.tid).collect();
    for tid in tids {
        if !known.contains(&tid) && seize(p.pid, tid)? {
            let at = if tid == p.pid { 0 } else { p.threads.len() };
            p.threads.insert(at, Thread::new(tid));
        }
    }
    Ok(())
}

/// Waits for the stop that was asked for; false: the thread died instead.
fn wait_stopped(thread: &mut Thread, limits: &Limits<'_>) -> Result<bool> {
    let tid = thread.tid;
    let mut pause = Pause::default();
    loop {
        match poll(tid)? {
            None => pause.next(tid, limits)?,
            Some(Stop::Ended) => return Ok(false),
            Some(Stop::Event(signo)) => {
                thread.held = true;
                thread.stopped_by = (signo != libc::SIGTRAP).then_some(signo);
                return Ok(true);
            }
            // Was on its way already: it is the task's, and our stop comes behind it.
            Some(Stop::Signal(signo)) => ptrace::cont(tid, signo)?,
            Some(Stop::Syscall) => ptrace::cont(tid, 0)?,
        }
    }
}
