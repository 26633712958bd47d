//! User namespaces.

use super::own;
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, NsKind};

/// What will be made.
#[derive(Debug)]
pub(crate) struct UserPlan {}

/// Decides what is made.
pub(crate) fn plan(cp: &Checkpoint, _request: &Request) -> Result<Option<UserPlan>, Error> {
    match own(cp, NsKind::User) {
        None => Ok(None),
        Some(_) => Err(Error::Namespace { pid: cp.root().pid, kind: NsKind::User.name() }),
    }
}

impl UserPlan {
    /// Becomes its root, in the root task.
    pub(crate) fn enter(&self) -> Result<(), Error> {
        Ok(())
    }
}
