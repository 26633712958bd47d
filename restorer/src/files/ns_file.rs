//! Descriptors of namespaces: of those that tasks live in, of the restorer's own, and of network
//! namespaces that nobody lives in.

use super::open::Files;
use super::{Error, Result, failed};
use images::checkpoint::NsKind;
use images::proto::NsFileEntry;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// `_IO(0xff, …)`: the namespaces of a process by its pidfd (6.11).
fn request(kind: NsKind) -> u64 {
    let number = match kind {
        NsKind::Cgroup => 1,
        NsKind::Ipc => 2,
        NsKind::Mnt => 3,
        NsKind::Net => 4,
        NsKind::Pid => 5,
        NsKind::Time => 7,
        NsKind::User => 9,
        NsKind::Uts => 10,
    };
    0xff00 | number
}

impl Files<'_> {
    pub(super) fn open_namespace(&self, entry: &NsFileEntry) -> Result<OwnedFd> {
        let flag = entry.ns_cflag;
        let kind = NsKind::ALL.into_iter().find(|kind| kind.clone_flag() == flag);
        let kind =
            kind.ok_or_else(|| Error::Refused(format!("no namespace has flag {flag:#x}")))?;
        let wanted = (flag, entry.ns_id);
        if let Some(task) = self.set.tasks.iter().find(|t| t.namespaces.contains(&wanted)) {
            let pidfd = sys::fd::pidfd_open(task.vpid, 0)?;
            if let Ok(fd) = sys::file::ioctl_fd(pidfd.as_fd(), request(kind)) {
                return Ok(fd);
            }
            return self.open_below_proc(&format!("{}/ns/{}", self.seen_pid(&pidfd)?, kind.name()));
        }
        if let Some(fd) = self.namespaces.get(&(kind, entry.ns_id)) {
            let copy = fd.try_clone();
            return copy.map_err(|e| sys::Error::io("dup", &e).into());
        }
        if self.set.namespaces.contains(&wanted) {
            return self.open_below_proc(&format!("{}/ns/{}", self.coordinator, kind.name()));
        }
        let text = format!("nobody is in {} namespace {}", kind.name(), entry.ns_id);
        Err(Error::Refused(text))
    }

    fn open_below_proc(&self, path: &str) -> Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        nix::fcntl::openat(&self.proc, path, flags, Mode::empty())
            .map_err(|e| failed(format_args!("open(/proc/{path})"), e))
    }

    /// The pid that `self.proc` knows a task by: it is of the coordinator's pid namespace.
    fn seen_pid(&self, pidfd: &OwnedFd) -> Result<i32> {
        let path = format!("self/fdinfo/{}", pidfd.as_raw_fd());
        let mut text = String::new();
        std::fs::File::from(self.open_below_proc(&path)?)
            .read_to_string(&mut text)
            .map_err(|e| sys::Error::io(format_args!("read(/proc/{path})"), &e))?;
        let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
        pid.ok_or_else(|| Error::Refused(format!("/proc/{path} names no pid")))
    }
}
