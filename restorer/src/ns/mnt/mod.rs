//! Mount namespaces.

mod build;
mod compat;
mod content;
mod context;
mod groups;
mod options;
mod plan;
mod whole;

pub(crate) use build::{Outside, ReadOnly, read_only};
pub use options::MountOptions;
pub(crate) use whole::Whole;

use super::own;
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, NsKind};

/// What will be made.
#[derive(Debug)]
pub(crate) struct MntPlan {
    trees: plan::MountTrees,
    /// `--mntns-compat-mode`.
    compat: bool,
}

impl MntPlan {
    /// Ids in the images of the root mounts of all namespaces.
    pub(crate) fn root_mounts(&self) -> impl Iterator<Item = u32> {
        self.trees.mounts.iter().filter(|m| m.parent.is_none()).map(|m| m.id)
    }
}

/// Decides what is made.
pub(crate) fn plan(cp: &Checkpoint, request: &Request) -> Result<Option<MntPlan>, Error> {
    let Some(root_ns) = own(cp, NsKind::Mnt) else { return Ok(None) };
    let mut options = request.mounts.clone();
    options.add_external(&request.external);
    let wish = plan::Wish {
        options: &options,
        root: request.root.is_some(),
        user_ns: own(cp, NsKind::User).is_some(),
    };
    let trees = plan::plan(&cp.ns.mnt, root_ns, &wish).map_err(Error::MountPlan)?;
    Ok(Some(MntPlan { trees, compat: options.compat }))
}
