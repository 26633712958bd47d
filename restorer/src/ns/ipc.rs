//! IPC namespaces.

use super::{Cx, own};
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, NsKind};

/// What will be made.
#[derive(Debug)]
pub(crate) struct IpcPlan {}

/// Decides what is made.
pub(crate) fn plan(cp: &Checkpoint, _request: &Request) -> Result<Option<IpcPlan>, Error> {
    match own(cp, NsKind::Ipc) {
        None => Ok(None),
        Some(_) => Err(Error::Namespace { pid: cp.root().pid, kind: NsKind::Ipc.name() }),
    }
}

impl IpcPlan {
    /// Makes and fills it, in the root task.
    pub(crate) fn prepare(&self, _cx: &mut Cx<'_>) -> Result<(), Error> {
        Ok(())
    }
}
