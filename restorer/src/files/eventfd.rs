//! Eventfds.

use super::Result;
use super::open::set_flags;
use images::proto::EventfdFileEntry;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

pub(super) fn open(entry: &EventfdFileEntry) -> Result<OwnedFd> {
    // eventfd2 takes an `unsigned int`; the rest of a 64-bit counter is added by writing, which
    // sums in the kernel.
    let semaphore = if entry.amber_semaphore() { libc::EFD_SEMAPHORE } else { 0 };
    let initial = u32::try_from(entry.counter).unwrap_or(u32::MAX);
    let fd = sys::events::eventfd(initial, semaphore)?;
    let rest = entry.counter - u64::from(initial);
    if rest > 0 {
        let mut file =
            std::fs::File::from(fd.try_clone().map_err(|e| super::failed_io("dup", &e))?);
        file.write_all(&rest.to_ne_bytes())
            .map_err(|e| super::failed_io(format_args!("write({rest})"), &e))?;
    }
    set_flags(fd.as_fd(), entry.flags)?;
    Ok(fd)
}
