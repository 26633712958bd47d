//! UTS namespaces: `utsns-N.img`.

use super::{Cx, Namespace};
use crate::Error;
use images::Image;
use images::proto::UtsnsEntry;

/// Saves host and domain name.
pub(crate) fn dump(ns: &Namespace, cx: &Cx<'_>) -> Result<(), Error> {
    let names = ns.inside(|| {
        let failed = |e: nix::Error| sys::Error::new("uname()", e as i32);
        let name = nix::sys::utsname::uname().map_err(failed)?;
        let text = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
        Ok(UtsnsEntry { nodename: text(name.nodename()), domainname: text(name.domainname()) })
    })?;
    cx.dir.write_one(Image::Utsns(ns.id), &names)?;
    Ok(())
}
