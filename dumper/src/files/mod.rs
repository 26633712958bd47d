//! Open files: descriptors, cwd, root, the executable, mapped files.
//!
//! ```text
//! /proc/PID/fd + fdinfo ─walk─> table: number → description ─ident─> each description once
//!                                     description ─pidfd_getfd─> kind ─collect─> FileEntry
//! ```
//! The walk covers the whole tree before anything is collected, so that a kind may ask where
//! else a description or an inode is in use. What depends on having seen everything (peers of
//! sockets, queues of terminals) waits for [`FileTable::finish`].

mod ahead;
pub mod error;
mod eventfd;
mod eventpoll;
mod external;
mod file_lock;
mod fs;
mod fsnotify;
mod ghost;
mod ident;
mod inet_sk;
mod irmap;
mod kind;
mod memfd;
mod mounts;
pub(crate) mod multicast;
mod net_lock;
mod netlink_sk;
mod ns_file;
mod packet_sock;
pub mod parse;
mod pidfd;
mod pipe;
mod reg_file;
mod remap;
mod signalfd;
mod sk_opts;
mod sk_others;
mod sk_queue;
mod sock_diag;
mod tcp_stream;
#[cfg(test)]
mod tests;
mod timerfd;
mod tty;
pub(crate) mod tun;
mod unix_sk;
mod write;

pub use ahead::Ahead;
pub use error::Error as FilesError;
pub(crate) use net_lock::method as lock_method;
pub use write::Finished;

use crate::ns::Namespaces;
use crate::task::lsm::Lsm;
use crate::tree::{Task, Tree};
use crate::{Error, Request};
use error::{Why, text};
use ident::{Desc, Walk};
use images::proto::{FdTypes, FdinfoEntry, FileEntry, FownEntry, FsEntry, RemapFilePathEntry};
use kind::Kind;
use nix::sys::stat::{FileStat, fstat};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

/// A file that a VMA maps.
#[derive(Debug)]
pub struct MappedFile {
    /// Its text in `/proc/PID/maps`.
    pub path: Vec<u8>,
    /// Opened through `map_files`.
    pub fd: OwnedFd,
}

/// What is known about a task without asking again.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) pid: i32,
    pub(crate) pgid: i32,
    pub(crate) sid: i32,
    /// Our view of the same.
    real_pgid: i32,
    real_sid: i32,
}

/// All files the tree uses, each once, with the ids they have in the images.
#[derive(Debug)]
pub struct FileTable {
    request: Request,
    ns: Rc<Namespaces>,
    external: external::External,
    owners: Vec<Owner>,
    walk: Walk,
    /// Descriptions by position in `walk.descs`: their type once collected.
    types: HashMap<usize, FdTypes>,
    /// Contexts of sockets, under SELinux.
    contexts: HashMap<usize, String>,
    last_id: u32,
    files: Vec<FileEntry>,
    remaps: Vec<RemapFilePathEntry>,
    regular: reg_file::State,
    remap: remap::State,
    irmap: irmap::State,
    mounts: mounts::State,
    pipes: pipe::State,
    memfds: memfd::State,
    ttys: tty::State,
    unix: unix_sk::State,
    diag: sock_diag::State,
    sk_defaults: sk_others::Defaults,
    /// Multicast groups of network namespaces, by inode.
    groups: HashMap<u64, Vec<multicast::Group>>,
    /// Before the connections: packets may come again before repair is off.
    net_lock: net_lock::State,
    tcp: tcp_stream::State,
}

/// One description, pulled over: what a kind's `collect` gets.
#[derive(Debug)]
pub(crate) struct Open<'a> {
    /// File id.
    pub(crate) id: u32,
    /// Position in the walk.
    pub(crate) desc: usize,
    /// Holder's pid, in our pid namespace: for paths in `/proc`.
    pub(crate) pid: i32,
    /// Its number there.
    pub(crate) fd: RawFd,
    /// The same description in our table.
    pub(crate) own: BorrowedFd<'a>,
    /// Text of the link.
    pub(crate) link: &'a [u8],
    /// Text of `fdinfo`.
    pub(crate) text: &'a [u8],
    /// Its common lines.
    pub(crate) info: parse::Fdinfo,
    /// `fstat`.
    pub(crate) stat: FileStat,
    /// Owner for SIGIO.
    pub(crate) fown: FownEntry,
}

impl FileTable {
    /// Looks at every descriptor of `tree`, which `ahead` reads.
    pub fn new(
        request: &Request,
        tree: &Tree,
        ahead: Ahead,
        ns: Rc<Namespaces>,
    ) -> Result<Self, Error> {
        let walk = Walk::new(tree, ahead).map_err(Error::Files)?;
        let owners = tree
            .tasks
            .iter()
            .map(|t| Owner {
                pid: t.pid,
                pgid: t.pgid,
                sid: t.sid,
                real_pgid: t.stat.pgid,
                real_sid: t.stat.sid,
            })
            .collect();
        if let Some(lock) = walk.first_lock().filter(|_| !request.file_locks) {
            let why = Why::refused(
                "Some file locks are hold by dumping tasks! You can try --file-locks to dump them.",
            );
            return Err(Error::Files(lock.error(why)));
        }
        Ok(Self {
            request: request.clone(),
            external: external::External::parse(&request.external),
            owners,
            walk,
            types: HashMap::new(),
            contexts: HashMap::new(),
            last_id: 0,
            files: Vec::new(),
            remaps: Vec::new(),
            regular: reg_file::State::default(),
            remap: remap::State::default(),
            irmap: irmap::State::default(),
            mounts: mounts::State::new(Rc::clone(&ns)),
            ns: Rc::clone(&ns),
            pipes: pipe::State::default(),
            memfds: memfd::State::default(),
            ttys: tty::State::default(),
            unix: unix_sk::State::default(),
            diag: sock_diag::State::new(ns),
            sk_defaults: sk_others::Defaults::default(),
            groups: HashMap::new(),
            net_lock: net_lock::State::default(),
            tcp: tcp_stream::State::default(),
        })
    }

    /// The descriptors of `task`: contents of `fdinfo-<files_id>.img`.
    /// Called once for each `files_id`.
    pub fn collect_fds(&mut self, task: &Task) -> Result<Vec<FdinfoEntry>, Error> {
        let fds = self.walk.tables.get(&task.files_id).cloned().unwrap_or_default();
        let mut out = Vec::with_capacity(fds.len());
        for fd in fds {
            if !self.types.contains_key(&fd.desc) {
                self.pull(task, fd.desc).map_err(Error::Files)?;
            }
            self.drain_queued().map_err(Error::Files)?;
            let (id, kind) = (self.walk.descs[fd.desc].id, self.types[&fd.desc]);
            out.push(FdinfoEntry {
                id,
                flags: fd.cloexec.into(),
                r#type: kind.into(),
                fd: fd.num as u32,
                xattr_security_selinux: self.contexts.get(&fd.desc).cloned(),
            });
        }
        Ok(out)
    }

    /// cwd, root and umask of `task`.
    pub fn collect_fs(&mut self, task: &Task) -> Result<FsEntry, Error> {
        self.fs(task).map_err(Error::Files)
    }

    /// File id of the executable of `task`.
    pub fn exe(&mut self, task: &Task) -> Result<u32, Error> {
        self.exe_link(task).map_err(Error::Files)
    }

    /// File id of a file that `task` maps.
    pub fn mapped(&mut self, task: &Task, file: &MappedFile) -> Result<u32, Error> {
        self.mapped_file(task.pid, file).map_err(|why| mapping_error(task, file, why))
    }

    /// File id of a memfd (also: shared anonymous memory, named `/dev/zero`) that `task` maps.
    pub fn memfd_mapped(&mut self, task: &Task, file: &MappedFile) -> Result<u32, Error> {
        self.mapped_memfd(task.pid, file).map_err(|why| mapping_error(task, file, why))
    }

    /// File id of a packet socket whose rings `task` maps.
    pub fn socket_mapped(&mut self, task: &Task, ino: u64) -> Result<Option<u32>, Error> {
        let found = self.mapped_socket(task.pid, ino);
        found.map_err(|why| {
            let what = format!("socket:[{ino}]");
            Error::Files(error::Error::Path {
                pid: task.pid,
                what: "mapped socket",
                path: what,
                why,
            })
        })
    }

    fn pull(&mut self, task: &Task, desc: usize) -> Result<(), error::Error> {
        let num = self.walk.descs[desc].fd;
        let own = sys::fd::pidfd_getfd(task.pidfd.as_fd(), num);
        let done = own.map_err(Why::from).and_then(|own| self.collect(desc, own.as_fd()));
        done.map_err(|why| self.walk.descs[desc].error(why))
    }

    /// Collects descriptions that were found in queues of sockets; they may bring more.
    fn drain_queued(&mut self) -> Result<(), error::Error> {
        while let Some((desc, own)) = self.unix.in_flight.pop() {
            if !self.types.contains_key(&desc) {
                let done = self.collect(desc, own.as_fd());
                done.map_err(|why| self.walk.descs[desc].error(why))?;
            }
            // Kept open: it is compared with what other queues hold.
            self.unix.keep.push(own);
        }
        Ok(())
    }

    fn next_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    /// Collects one description through our copy of it.
    fn collect(&mut self, desc: usize, own: BorrowedFd<'_>) -> Result<(), Why> {
        let id = match self.walk.descs[desc].id {
            0 => self.next_id(),
            id => id,
        };
        self.walk.descs[desc].id = id;
        let Desc { pid, fd, link, text, info, .. } = self.walk.descs[desc].clone();
        let stat = error::call(|| "fstat".into(), fstat(own))?;
        let fown = self.owner(own, info.flags)?;
        let open = Open { id, desc, pid, fd, own, link: &link, text: &text, info, stat, fown };
        let mut kind = Kind::of(&open)?;
        if matches!(kind, Kind::Fifo) && self.external.has_file(info.mnt_id, stat.st_ino) {
            // What is in it stays in it.
            kind = Kind::RegFile;
        }
        self.types.insert(desc, kind.fd_type());
        if stat.st_mode & libc::S_IFMT == libc::S_IFSOCK {
            self.contexts.extend(Lsm::detect().socket(own).map(|context| (desc, context)));
        }
        match kind {
            Kind::RegFile => self.reg_file(&open),
            Kind::Pipe => self.pipe(&open),
            Kind::Fifo => self.fifo(&open),
            Kind::UnixSk => self.unix_sk(&open),
            Kind::InetSk => self.inet_sk(&open),
            Kind::NetlinkSk => self.netlink_sk(&open),
            Kind::PacketSk => self.packet_sock(&open),
            Kind::Tun => self.tun(&open),
            Kind::Eventfd => self.eventfd(&open),
            Kind::Eventpoll => self.eventpoll(&open),
            Kind::Signalfd => self.signalfd(&open),
            Kind::Timerfd => self.timerfd(&open),
            Kind::Inotify => self.inotify(&open),
            Kind::Fanotify => self.fanotify(&open),
            Kind::Memfd => self.memfd(&open),
            Kind::Tty(tty) => self.tty(&open, tty),
            Kind::Pidfd => self.pidfd(&open),
            Kind::NsFile => self.ns_file(&open),
        }
    }

    fn owner(&self, fd: BorrowedFd<'_>, flags: u32) -> Result<FownEntry, Why> {
        if flags & libc::O_PATH as u32 != 0 {
            return Ok(FownEntry::default());
        }
        let signum = sys::fd::fcntl(fd, 11 /* F_GETSIG */, 0)? as u32;
        let (kind, pid) = sys::fd::owner(fd)?;
        if pid == 0 {
            return Ok(FownEntry { signum, ..FownEntry::default() });
        }
        let [uid, euid] = sys::fd::owner_uids(fd)?.map(|uid| self.ns.maps.uid(uid));
        let virt = if kind == 2 { self.virtual_pgid(pid) } else { self.virtual_pid(pid) };
        let pid = virt.unwrap_or_else(|| {
            log::warn!("the owner of a file, {pid}, is not in the tree: its number is kept");
            pid
        });
        Ok(FownEntry { uid, euid, signum, pid_type: kind as u32, pid: pid as u32 })
    }

    fn virtual_pid(&self, pid: i32) -> Option<i32> {
        self.walk.virtual_tids.get(&pid).copied()
    }

    fn virtual_pgid(&self, pgid: i32) -> Option<i32> {
        self.owners.iter().find(|o| o.real_pgid == pgid).map(|o| o.pgid)
    }

    fn virtual_sid(&self, sid: i32) -> Option<i32> {
        self.owners.iter().find(|o| o.real_sid == sid).map(|o| o.sid)
    }
}

fn mapping_error(task: &Task, file: &MappedFile, why: Why) -> Error {
    Error::Files(error::Error::Path {
        pid: task.pid,
        what: "mapped file",
        path: text(&file.path),
        why,
    })
}

/// An entry of `files.img` of this type; the caller puts its message in.
pub(crate) fn entry(kind: FdTypes, id: u32) -> FileEntry {
    FileEntry { r#type: kind.into(), id, ..FileEntry::default() }
}
