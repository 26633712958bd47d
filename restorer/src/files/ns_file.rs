//! Descriptors of namespaces: those of a task that lives in them.

use super::set::FileSet;
use super::{Error, Result, failed};
use images::proto::NsFileEntry;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::os::fd::OwnedFd;

pub(super) fn open(set: &FileSet, entry: &NsFileEntry) -> Result<OwnedFd> {
    let wanted = (entry.ns_cflag, entry.ns_id);
    let task = set.tasks.iter().find(|t| t.namespaces.contains(&wanted)).ok_or_else(|| {
        let text = format!("no task of the images is in namespace {}", entry.ns_id);
        Error::Refused(text)
    })?;
    let kind = match entry.ns_cflag as i32 {
        libc::CLONE_NEWPID => "pid",
        libc::CLONE_NEWNET => "net",
        libc::CLONE_NEWIPC => "ipc",
        libc::CLONE_NEWUTS => "uts",
        libc::CLONE_NEWNS => "mnt",
        libc::CLONE_NEWUSER => "user",
        libc::CLONE_NEWCGROUP => "cgroup",
        0x80 => "time",
        other => return Err(Error::Refused(format!("no namespace has flag {other:#x}"))),
    };
    let path = format!("/proc/{}/ns/{kind}", task.vpid);
    nix::fcntl::open(&path[..], OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| failed(format_args!("open({path})"), e))
}
