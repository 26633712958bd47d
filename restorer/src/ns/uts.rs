//! UTS namespaces: host and domain name.

use super::{Cx, make, own};
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, NsKind};
use images::proto::UtsnsEntry;

/// What will be made.
#[derive(Debug)]
pub(crate) struct UtsPlan {
    names: UtsnsEntry,
}

/// Longest name.
const MAX: usize = 64;

/// Decides what is made.
pub(crate) fn plan(cp: &Checkpoint, _request: &Request) -> Result<Option<UtsPlan>, Error> {
    let Some(names) = own(cp, NsKind::Uts).and_then(|id| cp.ns.uts.get(&id)) else {
        return Ok(None);
    };
    for (what, name) in [("nodename", &names.nodename), ("domainname", &names.domainname)] {
        if name.len() > MAX {
            return Err(Error::Field { what, value: name.len() as u64 });
        }
    }
    Ok(Some(UtsPlan { names: names.clone() }))
}

impl UtsPlan {
    /// Makes and fills it, in the root task.
    pub(crate) fn prepare(&self, _cx: &mut Cx<'_>) -> Result<(), Error> {
        make(NsKind::Uts)?;
        nix::unistd::sethostname(&self.names.nodename)
            .map_err(|e| sys::Error::new("sethostname()", e as i32))?;
        Ok(sys::task::set_domain_name(self.names.domainname.as_bytes())?)
    }
}
