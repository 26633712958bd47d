//! Resources that the caller hands over with `--inherit-fd fd[N]:KEY`.

use super::set::FileSet;
use super::{At, Result};
use crate::Request;
use images::proto::TtyInfoEntry;
use std::os::fd::{OwnedFd, RawFd};

/// Key of a terminal: its device and the file system of its node, in hexadecimal.
pub(super) fn tty_key(info: &TtyInfoEntry) -> String {
    format!("tty[{:x}:{:x}]", info.rdev, info.dev())
}

fn keys(set: &FileSet, id: u32) -> Vec<String> {
    let mut keys = Vec::new();
    let mut numbered = |kind: &str, number: u32| {
        keys.push(format!("{kind}:[{number}]"));
        keys.push(format!("{kind}[{number}]"));
    };
    if let Some(file) = set.files.get(&id) {
        if let Some(pipe) = &file.pipe {
            numbered("pipe", pipe.pipe_id);
        }
        if let Some(sk) = &file.usk {
            numbered("socket", sk.ino);
        }
        if let Some(info) = file.tty.as_ref().and_then(|t| set.ttys.get(&t.tty_info_id)) {
            keys.push(tty_key(info));
        }
        if let Some(inode) = file.memfd.as_ref().map(|m| u64::from(m.inode_id))
            && let Some(inode) = set.memfds.get(&inode)
        {
            keys.push(format!("/memfd:{}", String::from_utf8_lossy(&inode.name)));
            keys.push(format!("memfd:{}", String::from_utf8_lossy(&inode.name)));
        }
        if let Some(fifo) = &file.fifo
            && let Some(reg) = set.regs.get(&fifo.regf_id())
        {
            keys.extend(path_keys(&reg.name));
            // Of a FIFO the inode is known too.
            keys.push(format!("file[{:x}:{:x}]", reg.mnt_id(), fifo.pipe_id));
        }
    } else if let Some(reg) = set.regs.get(&id) {
        keys.extend(path_keys(&reg.name));
    }
    keys
}

fn path_keys(name: &[u8]) -> [String; 2] {
    let name = String::from_utf8_lossy(name).into_owned();
    [name.trim_start_matches('/').to_owned(), name]
}

/// The descriptor of ours that stands for a file, if the caller gave one.
pub(super) fn find(set: &FileSet, id: u32, request: &Request) -> Option<RawFd> {
    if request.inherit_fd.is_empty() {
        return None;
    }
    let keys = keys(set, id);
    request.inherit_fd.iter().find(|(_, key)| keys.contains(key)).map(|(fd, _)| *fd)
}

/// Whether a file has to be opened where the caller's descriptors are: in the root task.
pub(super) fn is(set: &FileSet, id: u32, request: &Request) -> bool {
    let tty = || set.files.get(&id).is_some_and(|f| f.tty.is_some());
    (request.shell_job && tty()) || find(set, id, request).is_some()
}

/// A copy of the descriptor that stands for a file.
pub(super) fn take(set: &FileSet, id: u32, request: &Request) -> Result<Option<OwnedFd>> {
    find(set, id, request).map(copy).transpose()
}

/// A copy of a descriptor of this process, by number.
pub(super) fn copy(fd: RawFd) -> Result<OwnedFd> {
    let us = sys::fd::pidfd_open(nix::unistd::getpid().as_raw(), 0)?;
    sys::fd::pidfd_getfd(std::os::fd::AsFd::as_fd(&us), fd).at(|| format!("--inherit-fd fd[{fd}]"))
}
