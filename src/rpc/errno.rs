//! `cr_errno`: why a request failed, as a number.
//!
//! CRIU's own where it has one: `EBADRQC` for options that make no sense or have no effect
//! here, `ESRCH` for a process to dump that is not there, `EEXIST` for a pid to restore that is
//! in use. Where CRIU says nothing (0), the errno nearest to the cause.

use crate::{request, run};

/// The number for an error.
pub(crate) fn of(error: &anyhow::Error) -> i32 {
    error.chain().find_map(known).unwrap_or(libc::EINVAL)
}

fn known(e: &(dyn std::error::Error + 'static)) -> Option<i32> {
    if let Some(e) = e.downcast_ref::<run::Failed>() {
        return Some(e.errno);
    }
    if let Some(e) = e.downcast_ref::<super::options::Error>() {
        return Some(e.errno());
    }
    if let Some(e) = e.downcast_ref::<request::Error>() {
        return Some(match e {
            request::Error::NotBuilt(_) => libc::EOPNOTSUPP,
            _ => libc::EBADRQC,
        });
    }
    if let Some(e) = e.downcast_ref::<images::Error>() {
        return Some(e.errno());
    }
    if let Some(e) = e.downcast_ref::<sys::Error>() {
        return Some(e.errno());
    }
    if let Some(e) = e.downcast_ref::<nix::Error>() {
        return Some(*e as i32);
    }
    e.downcast_ref::<std::io::Error>()?.raw_os_error()
}
