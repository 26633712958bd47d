//! Network namespaces: `netns-N.img`, and what belongs to it.

use super::{Cx, Namespace, not_yet};
use crate::Error;
use images::Image;
use images::proto::NetnsEntry;

/// Refuses what cannot be saved, before anything is touched.
pub(crate) fn check(ns: &Namespace, _cx: &Cx<'_>) -> Result<(), Error> {
    if ns.external.is_some() { Ok(()) } else { Err(not_yet(ns.kind)) }
}

/// Writes its images: of an external one only its key.
pub(crate) fn dump(ns: &Namespace, cx: &Cx<'_>) -> Result<(), Error> {
    let entry = NetnsEntry { ext_key: ns.external.clone(), ..NetnsEntry::default() };
    cx.dir.write_one(Image::Netns(ns.id), &entry)?;
    Ok(())
}
