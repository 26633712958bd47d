//! Control group namespaces: their roots are told by the sets of groups in `cgroup.img`
//! (`cgns_prefix`), so they have no image. See [`crate::task::cgroup`].

use super::{Cx, Namespace};
use crate::Error;

/// Nothing about it cannot be saved.
pub(crate) fn check(_ns: &Namespace, _cx: &Cx<'_>) -> Result<(), Error> {
    Ok(())
}

/// No image.
pub(crate) fn dump(_ns: &Namespace, _cx: &Cx<'_>) -> Result<(), Error> {
    Ok(())
}
