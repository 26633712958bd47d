//! cwd, root and umask; the executable.

use super::error::{Error, Why, call, text};
use super::reg_file::Path;
use super::{FileTable, MappedFile, ident};
use crate::tree::Task;
use images::proto::{FownEntry, FsEntry};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fstat};
use std::os::fd::{AsFd, OwnedFd};

/// Opens what a magic link of `/proc/PID` leads to, without its being used.
fn open_link(pid: i32, name: &str) -> Result<OwnedFd, Why> {
    let path = format!("/proc/{pid}/{name}");
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    call(|| format!("open({path})"), open(path.as_str(), flags, Mode::empty()))
}

fn error(pid: i32, name: &'static str, why: Why) -> Error {
    let path = nix::fcntl::readlink(format!("/proc/{pid}/{name}").as_str());
    let path = path.map(|p| text(p.as_encoded_bytes())).unwrap_or_default();
    Error::Path { pid, what: name, path, why }
}

impl FileTable {
    pub(crate) fn fs(&mut self, task: &Task) -> Result<FsEntry, Error> {
        let pid = task.pid;
        let cwd_id = self.directory(pid, "cwd").map_err(|why| error(pid, "cwd", why))?;
        let root_id = self.directory(pid, "root").map_err(|why| error(pid, "root", why))?;
        Ok(FsEntry { cwd_id, root_id, umask: task.status.umask })
    }

    fn directory(&mut self, pid: i32, name: &str) -> Result<u32, Why> {
        let own = open_link(pid, name)?;
        let stat = call(|| "fstat".into(), fstat(own.as_fd()))?;
        let (link, mnt_id) = ident::own_place(own.as_fd())?;
        let id = self.next_id();
        self.path_entry(&Path {
            id,
            pid,
            link: &link,
            own: own.as_fd(),
            stat: &stat,
            flags: 0,
            pos: 0,
            mnt_id,
            fown: FownEntry::default(),
        })?;
        Ok(id)
    }

    pub(crate) fn exe_link(&mut self, task: &Task) -> Result<u32, Error> {
        let exe = || -> Result<MappedFile, Why> {
            Ok(MappedFile { path: Vec::new(), fd: open_link(task.pid, "exe")? })
        };
        exe()
            .and_then(|file| self.mapped_file(task.pid, &file))
            .map_err(|why| error(task.pid, "exe", why))
    }
}
