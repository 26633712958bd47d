//! Current directory, root directory, umask.

use super::open::Files;
use super::path::show;
use super::{At, Result, failed};
use std::os::fd::OwnedFd;

impl Files<'_> {
    /// Sets the caller's cwd, root and umask to those of task `vpid`. After `install`.
    pub fn set_fs(&self, vpid: i32) -> Result<()> {
        let fs = self.task(vpid)?.fs;
        let dir = |id: u32, what: &str| -> Result<OwnedFd> {
            let entry = self.set.reg(id)?;
            let at = || format!("task {vpid}: {what} {:?}", show(&entry.name));
            let fd = self.open_as(entry, libc::O_PATH | libc::O_DIRECTORY).at(at)?;
            self.raise_owned(fd)
        };
        let cwd = dir(fs.cwd_id, "cwd")?;
        let enter = |fd: &OwnedFd| nix::unistd::fchdir(fd).map_err(|e| failed("fchdir", e));
        // A task that was not chrooted has the root of its mount namespace, which is ours.
        let root = self.set.regs.get(&fs.root_id).filter(|r| r.name.iter().any(|b| *b != b'/'));
        if root.is_some() {
            enter(&dir(fs.root_id, "root")?)?;
            nix::unistd::chroot(".").map_err(|e| failed("chroot", e))?;
        }
        enter(&cwd)?;
        if let Some(umask) = fs.umask {
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask));
        }
        Ok(())
    }
}
