//! Sockets of other network namespaces than their task's: a socket belongs to the namespace in
//! which it is made.

use super::{Files, Result, failed, failed_io};
use crate::Error as RestoreError;
use crate::ns::Made;
use images::checkpoint::NsKind;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// The network namespaces of the tree, and in which of them this process is.
#[derive(Debug, Default)]
pub(super) struct Nets {
    all: HashMap<u32, Rc<OwnedFd>>,
    own: u32,
    /// The context that SELinux gives to sockets of this process.
    context: RefCell<Option<String>>,
}

/// This thread is in another namespace until this is dropped.
#[derive(Debug)]
pub(super) struct Away(Option<Rc<OwnedFd>>);

impl Drop for Away {
    fn drop(&mut self) {
        if let Some(home) = self.0.take()
            && let Err(e) = sys::net::enter_net_ns(home.as_fd().as_fd())
        {
            log::error!("the task stays in another network namespace: {e}");
        }
    }
}

impl Files<'_> {
    /// Takes note of the namespaces that were made; the caller is in `own`.
    pub(crate) fn set_nets(&mut self, made: &Made, own: u32) -> Result<(), RestoreError> {
        for (id, fd) in made.of(NsKind::Net) {
            self.nets.all.insert(id, Rc::new(self.raise(fd)?));
        }
        self.nets.own = own;
        Ok(())
    }

    /// The caller has moved to another namespace.
    pub(crate) fn set_own_net(&mut self, own: u32) {
        self.nets.own = own;
    }

    /// Goes to the namespace of a socket. Without an id it is the task's own.
    pub(super) fn in_net(&self, id: Option<u32>) -> Result<Away> {
        let id = id.unwrap_or(0);
        let (there, home) = (self.nets.all.get(&id), self.nets.all.get(&self.nets.own));
        match (there, home) {
            (Some(there), Some(home)) if id != self.nets.own => {
                sys::net::enter_net_ns(there.as_fd().as_fd())?;
                Ok(Away(Some(Rc::clone(home))))
            }
            _ => Ok(Away(None)),
        }
    }

    /// The sockets that this process makes next get the context which file `id` had. The task's own
    /// choice follows when it takes on its contexts.
    pub(super) fn in_context(&self, id: u32) -> Result<()> {
        let Some((contexts, other)) = &self.plan.contexts else { return Ok(()) };
        let wanted = contexts.get(&id).unwrap_or(other);
        if self.nets.context.borrow().as_ref() == Some(wanted) {
            return Ok(());
        }
        let path = "thread-self/attr/sockcreate";
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let call = || format!("write(/proc/{path}, {wanted:?})");
        let fd = nix::fcntl::openat(&self.proc, path, flags, Mode::empty())
            .map_err(|e| failed(call(), e))?;
        fs::File::from(fd).write_all(wanted.as_bytes()).map_err(|e| failed_io(call(), &e))?;
        *self.nets.context.borrow_mut() = Some(wanted.clone());
        Ok(())
    }

    /// `socket(2)` like file `id` in a namespace.
    pub(super) fn socket(
        &self,
        id: u32,
        ns: Option<u32>,
        kind: (i32, i32, i32),
    ) -> Result<OwnedFd> {
        self.in_context(id)?;
        let _away = self.in_net(ns)?;
        Ok(sys::net::socket(kind.0, kind.1, kind.2)?)
    }

    /// `socketpair(2)` of unix sockets like file `id` in a namespace.
    pub(super) fn socketpair(
        &self,
        id: u32,
        ns: Option<u32>,
        kind: i32,
    ) -> Result<(OwnedFd, OwnedFd)> {
        self.in_context(id)?;
        let _away = self.in_net(ns)?;
        Ok(sys::net::socketpair(kind)?)
    }
}
