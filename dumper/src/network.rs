//! The network of a tree in a net namespace of its own: locked as a whole, and its owner told.
//!
//! Connections in the dumper's namespace are locked one by one, when files are looked at.

use crate::before::Before;
use crate::files::lock_method;
use crate::hooks::{Action, Hooks};
use crate::{Error, Leave, Request};
use images::checkpoint::NsKind;
use std::fs::File;
use std::os::linux::fs::MetadataExt;
use sys::net_lock::{Guard, Method, Place, What};

/// The lock, if the tree has a net namespace of its own.
#[derive(Debug, Default)]
pub(crate) struct Network {
    guard: Option<Guard>,
    /// The caller was told that it is locked.
    told: bool,
}

impl Network {
    /// Tells the caller, and locks. All tasks stand still.
    pub(crate) fn lock(
        &mut self,
        request: &Request,
        before: &Before,
        hooks: &mut dyn Hooks,
    ) -> Result<(), Error> {
        let path = format!("/proc/{}/ns/net", request.pid);
        let theirs = File::open(&path);
        let theirs = theirs.map_err(|e| sys::Error::io(format_args!("open({path})"), &e))?;
        let stat = theirs.metadata();
        let ino = stat.map_err(|e| sys::Error::io("fstat(net namespace)", &e))?.st_ino();
        if before.namespaces.own_ino(NsKind::Net) == Some(ino) {
            return Ok(());
        }
        let failed = |code| Error::Hook { action: Action::NetworkLock.name(), code };
        hooks.run(Action::NetworkLock, request.pid).map_err(failed)?;
        self.told = true;
        let (name, method) = (Place::name(&before.run_id), lock_method(request));
        let place = Place { ns: Some(theirs.into()), name, method };
        self.guard = Some(Guard::new(place, What::Everything)?);
        Ok(())
    }

    /// How it is locked, if it is.
    pub(crate) fn method(&self) -> Option<Method> {
        self.guard.as_ref().map(Guard::method)
    }

    /// The images are complete, and the tasks are about to die: a namespace that lives on, by a
    /// name or by others in it, stays locked until their restore.
    pub(crate) fn keep(&mut self) -> Result<(), Error> {
        if let Some(guard) = self.guard.take() {
            guard.keep()?;
        }
        Ok(())
    }

    /// Unlocks and tells the caller, unless the tasks are about to die.
    pub(crate) fn unlock(&mut self, request: &Request, leave: Leave, hooks: &mut dyn Hooks) {
        if leave == Leave::Dead {
            return;
        }
        if std::mem::take(&mut self.told)
            && let Err(code) = hooks.run(Action::NetworkUnlock, request.pid)
        {
            log::error!("network-unlock hook failed with {code}");
        }
        drop(self.guard.take());
    }
}
