//! Probes that change the process they run in do so in a child.

use super::{Answer, why};
use std::fs::File;
use std::io::{Read as _, Write as _};

/// Runs `probe` in a child, whose namespaces and mounts go away with it.
pub(super) fn ask(probe: fn() -> Answer) -> Answer {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(why)?;
    let pid = sys::worker::fork(|| match probe() {
        Ok(()) => 0,
        Err(why) => {
            let _ = File::from(write).write_all(why.as_bytes());
            1
        }
    })
    .map_err(why)?;
    let mut reason = String::new();
    // What the parent kept of `write` went with the closure.
    let told = File::from(read).read_to_string(&mut reason);
    match sys::worker::wait(pid).map_err(why)? {
        0 => Ok(()),
        status if reason.is_empty() => Err(format!("the probe ended with status {status:#x}")),
        _ => told.map_err(why).and(Err(reason)),
    }
}
