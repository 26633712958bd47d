//! Control group namespaces: the root task makes one where the coordinator has put it (see
//! [`crate::execute`]), so that its group there becomes the root.

use super::{Cx, make, own};
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, NsKind};

/// A namespace whose root is the group that the root task is in.
#[derive(Debug)]
pub(crate) struct CgroupPlan {}

/// Decides whether there is one.
pub(crate) fn plan(cp: &Checkpoint, _request: &Request) -> Result<Option<CgroupPlan>, Error> {
    Ok(own(cp, NsKind::Cgroup).map(|_| CgroupPlan {}))
}

impl CgroupPlan {
    /// Makes it, in the root task.
    pub(crate) fn prepare(&self, _cx: &mut Cx<'_>) -> Result<(), Error> {
        make(NsKind::Cgroup)
    }
}
