//! Files behind VMAs: which they are, and how they were opened.

use super::kind::Kind;
use super::smaps::Vma;
use crate::files::{FileTable, MappedFile};
use crate::tree::Task;
use crate::{Error, mm};
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

/// Gives file ids.
pub trait Backing {
    /// Id of a file of a file system.
    fn file(&mut self, file: &MappedFile) -> Result<u32, Error>;
    /// Id of a memfd.
    fn memfd(&mut self, file: &MappedFile) -> Result<u32, Error>;
    /// Id of a packet socket of the task, by its inode.
    fn socket(&mut self, ino: u64) -> Result<Option<u32>, Error>;
}

impl Backing for (&Task, &mut FileTable) {
    fn file(&mut self, file: &MappedFile) -> Result<u32, Error> {
        self.1.mapped(self.0, file)
    }

    fn memfd(&mut self, file: &MappedFile) -> Result<u32, Error> {
        self.1.memfd_mapped(self.0, file)
    }

    fn socket(&mut self, ino: u64) -> Result<Option<u32>, Error> {
        self.1.socket_mapped(self.0, ino)
    }
}

/// Where nobody asks for files.
#[derive(Debug)]
pub struct Unnamed;

impl Backing for Unnamed {
    fn file(&mut self, _: &MappedFile) -> Result<u32, Error> {
        Ok(0)
    }

    fn memfd(&mut self, _: &MappedFile) -> Result<u32, Error> {
        Ok(0)
    }

    fn socket(&mut self, _: u64) -> Result<Option<u32>, Error> {
        Ok(Some(0))
    }
}

/// Device, inode, path; and the mount namespace, as one device can be mounted in many places.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    mnt_ns: u64,
    dev: (u32, u32),
    ino: u64,
    name: Vec<u8>,
}

/// What is known of mapped files: each is opened once per dump.
#[derive(Debug)]
pub struct Files {
    shm_dev: (u32, u32),
    ipc_ns: u64,
    ids: HashMap<Key, u32>,
    task: Option<TaskDir>,
}

/// The task at hand.
#[derive(Debug)]
struct TaskDir {
    map_files: OwnedFd,
    mnt_ns: u64,
    ipc_ns: u64,
}

fn ns(pid: &str, name: &str) -> Result<u64, mm::Error> {
    let path = format!("/proc/{pid}/ns/{name}");
    match std::fs::metadata(&path) {
        Ok(meta) => Ok(meta.ino()),
        Err(source) => Err(mm::Error::Proc { path, source }),
    }
}

impl Files {
    pub fn new() -> Result<Self, Error> {
        let memfd = sys::fd::memfd_create(b"criu", libc::MFD_CLOEXEC)?;
        let dev = File::from(memfd)
            .metadata()
            .map_err(|source| mm::Error::Proc { path: "memfd".into(), source })?
            .dev();
        let shm_dev = (libc::major(dev), libc::minor(dev));
        Ok(Self { shm_dev, ipc_ns: ns("self", "ipc")?, ids: HashMap::new(), task: None })
    }

    /// Device of the kernel's own tmpfs.
    pub fn shm_dev(&self) -> (u32, u32) {
        self.shm_dev
    }

    /// The task at hand is in our IPC namespace.
    pub fn same_ipc_ns(&self) -> bool {
        self.task.as_ref().is_none_or(|t| t.ipc_ns == self.ipc_ns)
    }

    /// Turns to another task.
    pub fn enter(&mut self, pid: i32) -> Result<(), Error> {
        let path = format!("/proc/{pid}/map_files");
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let map_files = nix::fcntl::open(&*path, flags, Mode::empty())
            .map_err(|e| mm::Error::Proc { path, source: e.into() })?;
        let pid = pid.to_string();
        let (mnt_ns, ipc_ns) = (ns(&pid, "mnt")?, ns(&pid, "ipc")?);
        self.task = Some(TaskDir { map_files, mnt_ns, ipc_ns });
        Ok(())
    }

    /// `O_RDONLY` or `O_RDWR`, as the file of `vma` was opened.
    pub fn mode(&self, pid: i32, vma: &Vma) -> Result<u32, Error> {
        let link =
            self.at(pid, vma, |dir, link| fstatat(dir, link, AtFlags::AT_SYMLINK_NOFOLLOW))?;
        let flags = if link.st_mode & 0o200 != 0 { libc::O_RDWR } else { libc::O_RDONLY };
        Ok(flags as u32)
    }

    /// Id of the file of `vma`; `None` if it is of a type that cannot be mapped anew.
    pub fn id(
        &mut self,
        pid: i32,
        vma: &Vma,
        kind: Kind,
        files: &mut dyn Backing,
    ) -> Result<Option<u32>, Error> {
        let mnt_ns =
            if kind == Kind::Memfd { 0 } else { self.task.as_ref().map_or(0, |t| t.mnt_ns) };
        let name = if vma.name.starts_with(b"[anon_shmem:") {
            b"/dev/zero (deleted)".to_vec()
        } else {
            vma.name.clone()
        };
        let key = Key { mnt_ns, dev: vma.dev, ino: vma.ino, name };
        if let Some(&id) = self.ids.get(&key) {
            return Ok(Some(id));
        }
        // Looked at before it is opened: opening a device may do things.
        let stat = self.at(pid, vma, |dir, link| fstatat(dir, link, AtFlags::empty()))?;
        let zero = libc::makedev(1, 5);
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG => {}
            SFlag::S_IFCHR if stat.st_rdev == zero => {}
            _ => return Ok(None),
        }
        // O_NONBLOCK: a lease on the file must not hold us up.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let fd = self.at(pid, vma, |dir, link| openat(dir, link, flags, Mode::empty()))?;
        let file = MappedFile { path: key.name.clone(), fd };
        let id = if kind == Kind::Memfd { files.memfd(&file)? } else { files.file(&file)? };
        self.ids.insert(key, id);
        Ok(Some(id))
    }

    /// Does something with the link of `vma` in `map_files`.
    fn at<T>(
        &self,
        pid: i32,
        vma: &Vma,
        what: impl FnOnce(&OwnedFd, &str) -> nix::Result<T>,
    ) -> Result<T, Error> {
        let link = format!("{:x}-{:x}", vma.start, vma.end);
        let result = match &self.task {
            Some(task) => what(&task.map_files, &link),
            None => Err(nix::errno::Errno::EBADF),
        };
        let path = || format!("/proc/{pid}/map_files/{link}");
        result.map_err(|e| mm::Error::Proc { path: path(), source: e.into() }.into())
    }
}
