//! Network namespaces: given from outside.

use super::{Cx, enter, external, own};
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, NsKind};
use std::fs::File;
use std::os::fd::{AsFd, RawFd};

/// What will be made.
#[derive(Debug)]
pub(crate) struct NetPlan {
    namespaces: Vec<One>,
}

#[derive(Debug)]
struct One {
    id: u32,
    /// The root task lives in it.
    root: bool,
    /// Descriptor of ours.
    given: RawFd,
}

/// Decides what is made.
pub(crate) fn plan(cp: &Checkpoint, request: &Request) -> Result<Option<NetPlan>, Error> {
    let of_root = own(cp, NsKind::Net);
    let mut namespaces = Vec::new();
    for (&id, net) in &cp.ns.net {
        let key = net.netns.as_ref().and_then(|n| n.ext_key.as_deref());
        let missing = || Error::Namespace { pid: cp.root().pid, kind: NsKind::Net.name() };
        let given = external(request, NsKind::Net, key.ok_or_else(missing)?)?;
        namespaces.push(One { id, root: Some(id) == of_root, given });
    }
    Ok((!namespaces.is_empty()).then_some(NetPlan { namespaces }))
}

impl NetPlan {
    /// Enters the root's, keeps the others for their tasks.
    pub(crate) fn prepare(&self, cx: &mut Cx<'_>) -> Result<(), Error> {
        for one in &self.namespaces {
            let fd = File::from(super::open_proc(cx.proc, &format!("self/fd/{}", one.given))?);
            cx.made.put(NsKind::Net, one.id, fd.as_fd())?;
            if one.root {
                enter(NsKind::Net, fd)?;
            }
        }
        Ok(())
    }
}
