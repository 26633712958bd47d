//! The first process of the tree.

use crate::execute::premap::Pieces;
use crate::execute::stage::Board;
use crate::execute::{fork, task};
use crate::files::{Files, Outside};
use crate::ns::Made;
use crate::ns::mnt;
use crate::ns::pid::PidPlan;
use crate::plan::Plan;
use crate::{Error, Request};
use std::os::fd::AsFd;
use std::rc::Rc;

/// Forks the root task, whose coordinator is `coordinator`: as a sibling of this process, whose
/// parent `reap` tells of children to wait for.
pub(super) fn fork_root(
    plan: &Plan<'_>,
    request: &Request,
    board: &Board,
    (coordinator, born): (i32, fn(u32)),
    reap: impl Fn(i32),
) -> Result<i32, Error> {
    let pid = plan.tree.processes[0].pid;
    let ns = &plan.ns;
    let flags = libc::CLONE_PARENT as u64;
    let outside = ns.in_user_ns().then_some(board as &dyn Outside);
    let files = Files::new(&plan.files, request, &plan.cp.chain, board.filled(), outside)?;
    let coordinator = sys::fd::pidfd_open(coordinator, 0)?;
    let least = files.least();
    let numbers = Rc::new(fork::Numbers::of(&plan.facts, least)?);
    let given = ns.pid.as_ref().is_some_and(|p| !p.is_new());
    if given && !plan.facts.set_tid {
        // Its counter can be set from within only.
        let call = format_args!("clone3(set_tid={pid}) into a given pid namespace");
        return Err(Error::from(sys::Error::new(call, libc::ENOSYS)).of_task(pid));
    }
    let outside = match &ns.mnt {
        Some(mnt) => mnt::Outside::open(mnt, request, least)?,
        None => mnt::Outside::default(),
    };
    let mut context = task::Context {
        plan,
        board,
        numbers: Rc::clone(&numbers),
        born,
        coordinator: sys::fd::dup_above(coordinator.as_fd(), least)?,
        made: Made::new(least),
        outside,
        request,
        premaps: Pieces::new(),
        files,
    };
    let born_in = ns.pid.as_ref().map(PidPlan::for_children).transpose()?;
    let flags = flags | ns.clone_flags();
    // The first of a namespace is 1 in any case.
    let new = ns.pid.as_ref().is_some_and(PidPlan::is_new) && !plan.facts.set_tid;
    let wanted = if new { 0 } else { pid.cast_signed() };
    let made = fork::fork(&numbers, board, (flags, libc::SIGCHLD), wanted, reap, || {
        task::root(&mut context);
    });
    drop(born_in);
    made.map_err(|e| Error::from(e).of_task(pid))
}

/// What a process that forks the root changes of itself meanwhile, as the root inherits it.
pub(super) struct Quiet {
    mask: u64,
}

impl Quiet {
    pub(super) fn enter() -> Result<Self, Error> {
        sys::arena::rseq_unregister()?;
        sys::arena::default_action(libc::SIGCHLD)?;
        Ok(Self { mask: sys::arena::swap_signal_mask(u64::MAX)? })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = sys::arena::swap_signal_mask(self.mask);
    }
}
