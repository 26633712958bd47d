//! User namespaces.

use super::{Cx, Namespace, not_yet};
use crate::Error;

/// Refuses what cannot be saved, before anything is touched.
pub(crate) fn check(ns: &Namespace, _cx: &Cx<'_>) -> Result<(), Error> {
    Err(not_yet(ns.kind))
}

/// Writes its images.
pub(crate) fn dump(ns: &Namespace, _cx: &Cx<'_>) -> Result<(), Error> {
    Err(not_yet(ns.kind))
}
