//! Who gets the signals of a description.

use super::Result;
use images::proto::FownEntry;
use std::os::fd::BorrowedFd;

/// Not in libc for this target.
const F_SETSIG: i32 = 10;
const KEEP: u32 = u32::MAX;

/// Sets owner and signal. The kernel records the caller's uids with the owner, and checks
/// them when it sends: so they are those of the program for a moment.
pub(super) fn restore(fd: BorrowedFd<'_>, owner: &FownEntry) -> Result<()> {
    if owner.pid != 0 {
        let us = nix::unistd::getresuid().map_err(|e| super::failed("getresuid", e))?;
        let (real, effective) = (us.real.as_raw(), us.effective.as_raw());
        let other = (owner.uid, owner.euid) != (real, effective);
        if other {
            sys::path::set_thread_uids(owner.uid, owner.euid, KEEP)?;
        }
        let set = sys::fd::set_owner(fd, owner.pid_type as i32, owner.pid as i32);
        if other {
            sys::path::set_thread_uids(real, effective, KEEP)?;
        }
        set?;
    }
    if owner.signum != 0 {
        sys::fd::fcntl(fd, F_SETSIG, owner.signum.into())?;
    }
    Ok(())
}
