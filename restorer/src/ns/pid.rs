//! The pid namespace of the tree: a new one, which the root task begins, or one that was given.

use super::{external, own};
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, NsKind};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, RawFd};

/// Where the numbers of the tree count.
#[derive(Debug)]
pub(crate) enum PidPlan {
    /// In a new namespace.
    New,
    /// In the one behind this descriptor of ours.
    Given(RawFd),
}

/// Decides what is made.
pub(crate) fn plan(cp: &Checkpoint, request: &Request) -> Result<Option<PidPlan>, Error> {
    let Some(id) = own(cp, NsKind::Pid) else { return Ok(None) };
    let key = cp.ns.pid.get(&id).and_then(|entry| entry.ext_key.as_deref());
    Ok(Some(match key {
        Some(key) => PidPlan::Given(external(request, NsKind::Pid, key)?),
        None => PidPlan::New,
    }))
}

impl PidPlan {
    /// Whether the root is forked into a new one.
    pub(crate) fn is_new(&self) -> bool {
        matches!(self, Self::New)
    }

    /// Has the children of this process be born in a given namespace, until the value is dropped.
    pub(crate) fn for_children(&self) -> Result<Option<Children>, Error> {
        let Self::Given(fd) = self else { return Ok(None) };
        let open = |path: &str| {
            File::open(path).map_err(|e| sys::Error::io(format_args!("open({path})"), &e))
        };
        let own = open("/proc/self/ns/pid_for_children")?;
        super::enter(NsKind::Pid, open(&format!("/proc/self/fd/{fd}"))?)?;
        Ok(Some(Children { own }))
    }
}

/// See [`PidPlan::for_children`].
#[derive(Debug)]
pub(crate) struct Children {
    own: File,
}

impl Drop for Children {
    fn drop(&mut self) {
        if let Err(e) = super::enter(NsKind::Pid, &self.own) {
            log::error!("{e}: further processes would be made in the tree's pid namespace");
        }
    }
}

/// `_IO(0xb7, 0x6)`, with an int (6.11).
const NS_GET_PID_FROM_PIDNS: u64 = 0x8004_b706;

/// Numbers of the tree's tasks and threads as the coordinator knows them.
#[derive(Debug, Default)]
pub(crate) struct Pids {
    /// The tree's namespace and its root task; `None`: its numbers are ours.
    inner: Option<(File, i32)>,
    known: RefCell<HashMap<u32, i32>>,
}

impl Pids {
    /// Of a tree whose root task is our `root`; `apart` when its pid namespace is not ours.
    pub(crate) fn new(root: i32, apart: bool) -> Result<Self, Error> {
        if !apart {
            return Ok(Self::default());
        }
        let path = format!("/proc/{root}/ns/pid");
        let ns = File::open(&path).map_err(|e| sys::Error::io(format_args!("open({path})"), &e))?;
        Ok(Self { inner: Some((ns, root)), known: RefCell::default() })
    }

    /// Our number of the task or thread `vtid`, if it has been asked for before.
    pub(crate) fn known(&self, vtid: u32) -> Option<i32> {
        match self.inner {
            None => Some(vtid.cast_signed()),
            Some(_) => self.known.borrow().get(&vtid).copied(),
        }
    }

    /// Our number of the task or thread `vtid`.
    pub(crate) fn real(&self, vtid: u32) -> Result<i32, Error> {
        let Some((ns, root)) = &self.inner else { return Ok(vtid.cast_signed()) };
        if let Some(known) = self.known.borrow().get(&vtid) {
            return Ok(*known);
        }
        let real = match sys::fd::ioctl_int(ns.as_fd(), NS_GET_PID_FROM_PIDNS, vtid.into()) {
            Ok(real) => real,
            // An older kernel.
            Err(e) if [libc::ENOTTY, libc::EINVAL].contains(&e.errno()) => {
                self.known.borrow_mut().extend(search(*root));
                let gone = || sys::Error::new(format_args!("search({vtid})"), libc::ESRCH);
                return Ok(*self.known.borrow().get(&vtid).ok_or_else(gone)?);
            }
            Err(e) => return Err(e.into()),
        };
        self.known.borrow_mut().insert(vtid, real);
        Ok(real)
    }
}

/// All tasks and threads below `root`: their innermost numbers, and ours.
fn search(root: i32) -> Vec<(u32, i32)> {
    let mut found = Vec::new();
    let mut todo = vec![root];
    while let Some(pid) = todo.pop() {
        for tid in numbers(&format!("/proc/{pid}/task")) {
            let of = |name| std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/{name}"));
            let status = of("status").unwrap_or_default();
            let inner = status.lines().find_map(|l| l.strip_prefix("NSpid:"));
            let inner = inner.and_then(|l| l.split_whitespace().last()?.parse().ok());
            found.extend(inner.map(|inner| (inner, tid)));
            let children = of("children").unwrap_or_default();
            todo.extend(children.split_whitespace().filter_map(|n| n.parse::<i32>().ok()));
        }
    }
    found
}

fn numbers(dir: &str) -> Vec<i32> {
    let names = std::fs::read_dir(dir).into_iter().flatten();
    names.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_found_either_way() {
        let me = std::process::id();
        let pids = Pids::new(me.cast_signed(), true).unwrap();
        assert_eq!(pids.real(me).unwrap(), me.cast_signed());
        let tid = nix::unistd::gettid().as_raw();
        assert!(search(me.cast_signed()).contains(&(tid.cast_unsigned(), tid)));
    }
}
