//! Collects descriptors of namespaces.

use super::error::{Why, call, text};
use super::{FileTable, Open, entry};
use images::proto::{FdTypes, NsFileEntry};
use nix::sys::stat::stat;

/// Kinds as `/proc/PID/ns` names them, and their `CLONE_NEW*` flags.
const KINDS: [(&str, i32); 8] = [
    ("net", libc::CLONE_NEWNET),
    ("pid", libc::CLONE_NEWPID),
    ("user", libc::CLONE_NEWUSER),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
    ("mnt", libc::CLONE_NEWNS),
    ("time", 0x80),
];

impl FileTable {
    /// The tasks live in the namespaces of the dumper, whose numbers are fixed.
    pub(crate) fn ns_file(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let kind = open.link.split(|&b| b == b':').next().unwrap_or_default();
        let (name, flag) = KINDS
            .into_iter()
            .find(|(name, _)| name.as_bytes() == kind)
            .ok_or_else(|| Why::refused(format!("namespace of unknown kind {}", text(kind))))?;
        let path = format!("/proc/self/ns/{name}");
        let own = call(|| format!("stat({path})"), stat(path.as_str()))?;
        let ns_id = crate::ns::own_id(name).filter(|_| own.st_ino == open.stat.st_ino);
        let ns_id = ns_id
            .ok_or_else(|| Why::refused("Can't dump a namespace that no task of the tree is in"))?;
        let mut file = entry(FdTypes::Ns, open.id);
        file.nsf =
            Some(NsFileEntry { id: open.id, ns_id, ns_cflag: flag as u32, flags: open.info.flags });
        self.files.push(file);
        Ok(())
    }
}
