//! The pid namespace of the tree: has no state but the numbers of its tasks.

use super::{Cx, Namespace, Namespaces};
use crate::Error;
use crate::tree::Tree;
use images::Image;
use images::checkpoint::NsKind;
use images::proto::PidnsEntry;

/// A namespace of the tree's own comes back with its init, or not at all.
pub(super) fn check(all: &Namespaces, tree: &Tree) -> Result<(), Error> {
    let Some(ns) = all.root(NsKind::Pid) else { return Ok(()) };
    let root = tree.root();
    if ns.external.is_none() && root.vpid != 1 {
        return Err(Error::Refused(format!(
            "task {}: it is {} in its own pid namespace: Can't dump a pid namespace without the \
             process init; try --external pid[{}]:KEY",
            root.pid, root.vpid, ns.ino
        )));
    }
    Ok(())
}

/// Only external ones have an image.
pub(crate) fn dump(ns: &Namespace, cx: &Cx<'_>) -> Result<(), Error> {
    if let Some(key) = &ns.external {
        let entry = PidnsEntry { ext_key: Some(key.clone()) };
        cx.dir.write_one(Image::Pidns(ns.id), &entry)?;
    }
    Ok(())
}
