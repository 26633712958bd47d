//! The walk over all descriptor tables, and which descriptors share one description.

use super::error::{Error, Why, call, text};
use super::file_lock::Held;
use super::parse::{Fdinfo, LockKind, file_locks};
use crate::tree::Tree;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use sys::fd::{Kcmp, kcmp};

/// A descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fd {
    pub(crate) num: RawFd,
    pub(crate) cloexec: bool,
    /// Position of its description.
    pub(crate) desc: usize,
}

/// An open file description, as its first holder shows it.
#[derive(Clone, Debug)]
pub(crate) struct Desc {
    /// File id, 0 until it is collected.
    pub(crate) id: u32,
    pub(crate) pid: i32,
    pub(crate) fd: RawFd,
    pub(crate) link: Vec<u8>,
    pub(crate) text: Vec<u8>,
    pub(crate) info: Fdinfo,
    /// Who else has it: virtual pid, pid and number, in walking order, the first included.
    pub(crate) holders: Vec<(i32, i32, RawFd)>,
}

impl Desc {
    pub(crate) fn error(&self, why: Why) -> Error {
        Error::Fd { pid: self.pid, fd: self.fd, link: text(&self.link), why }
    }
}

/// Descriptors that look alike, but need not share a description.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Looks {
    link: Vec<u8>,
    flags: u32,
    pos: u64,
    ino: u64,
    mnt_id: i32,
    rest: Vec<u8>,
}

impl Looks {
    fn of(link: &[u8], info: &Fdinfo, text: &[u8]) -> Self {
        // The remaining time of a timerfd runs on between two looks at the same one; locks are
        // shown to those who hold them only.
        let rest = match link {
            b"anon_inode:[timerfd]" => Vec::new(),
            l if l.starts_with(b"anon_inode:") => text.to_vec(),
            _ => Vec::new(),
        };
        let rest = if rest.is_empty() { rest } else { without_flags(&rest) };
        Self {
            link: link.to_vec(),
            flags: info.flags,
            pos: info.pos,
            ino: info.ino,
            mnt_id: info.mnt_id,
            rest,
        }
    }
}

/// `fdinfo` without the one line that belongs to the descriptor and not to the description.
fn without_flags(text: &[u8]) -> Vec<u8> {
    let lines = text.split_inclusive(|&b| b == b'\n').filter(|l| !l.starts_with(b"flags:"));
    lines.flatten().copied().collect()
}

/// All descriptors of a tree.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) descs: Vec<Desc>,
    /// By `files_id`, in order of numbers.
    pub(crate) tables: HashMap<u32, Vec<Fd>>,
    /// Thread ids of the tree, ours → theirs.
    pub(crate) virtual_tids: HashMap<i32, i32>,
    /// Position of the description behind `socket:[ino]`.
    pub(crate) sockets: HashMap<u64, usize>,
    /// Descriptions that look alike, in the kernel's order for kcmp.
    alike: HashMap<Looks, Vec<usize>>,
    /// The description that a number had in the last table that had it: forked tasks have most
    /// of theirs in common.
    by_num: HashMap<RawFd, usize>,
    /// File locks, by every descriptor that shows them.
    pub(crate) locks: Vec<Held>,
    /// Positions by inode, for targets of epolls.
    pub(crate) by_ino: HashMap<u64, Vec<usize>>,
}

impl Walk {
    pub(crate) fn new(tree: &Tree) -> Result<Self, Error> {
        let mut walk = Self::default();
        for task in &tree.tasks {
            walk.virtual_tids.insert(task.pid, task.vpid);
            for t in &task.threads {
                walk.virtual_tids.insert(t.tid, t.vtid);
            }
        }
        for task in tree.alive() {
            if !walk.tables.contains_key(&task.files_id) {
                walk.table(task.pid, task.vpid, task.files_id)?;
            }
        }
        Ok(walk)
    }

    /// The first description with a file lock.
    pub(crate) fn first_lock(&self) -> Option<&Desc> {
        self.descs.iter().find(|d| d.info.locks)
    }

    fn table(&mut self, pid: i32, vpid: i32, files_id: u32) -> Result<(), Error> {
        let failed = |why| Error::Task { pid, why };
        let proc_error = |e: crate::proc::Error| failed(Why::Text(e.to_string()));
        let mut numbers = crate::proc::numbers(&format!("/proc/{pid}/fd")).map_err(proc_error)?;
        numbers.sort_unstable();
        let dirs = [format!("/proc/{pid}/fd"), format!("/proc/{pid}/fdinfo")];
        let [links, infos] = dirs.map(|d| open_dir(&d));
        let (links, infos) = (links.map_err(failed)?, infos.map_err(failed)?);
        let mut fds = Vec::with_capacity(numbers.len());
        let mut buf = Vec::with_capacity(4096);
        for num in numbers {
            let fd_error = |link: &[u8], why| Error::Fd { pid, fd: num, link: text(link), why };
            let name = num.to_string();
            if let Some(desc) = self.same_as_before(pid, num) {
                let link = |walk: &Self| walk.descs[desc].link.clone();
                read_at(&infos, &name, &mut buf).map_err(|why| fd_error(&link(self), why))?;
                let info = Fdinfo::parse(&buf)
                    .ok_or_else(|| fd_error(&link(self), Why::field("pos, flags, mnt_id")))?;
                self.descs[desc].info.locks |= info.locks;
                self.descs[desc].holders.push((vpid, pid, num));
                let fd = Fd { num, cloexec: info.cloexec, desc };
                self.note_locks(vpid, fd, &info, &buf);
                fds.push(fd);
                continue;
            }
            let link = call(
                || format!("readlink(/proc/{pid}/fd/{num})"),
                readlinkat(&links, name.as_str()),
            )
            .map_err(|why| fd_error(b"?", why))?
            .into_vec();
            read_at(&infos, &name, &mut buf).map_err(|why| fd_error(&link, why))?;
            let info = Fdinfo::parse(&buf)
                .ok_or_else(|| fd_error(&link, Why::field("pos, flags, mnt_id")))?;
            let desc = self
                .identify(pid, num, link, &buf, info)
                .map_err(|(link, why)| fd_error(&link, why))?;
            self.descs[desc].holders.push((vpid, pid, num));
            self.by_num.insert(num, desc);
            let fd = Fd { num, cloexec: info.cloexec, desc };
            self.note_locks(vpid, fd, &info, &buf);
            fds.push(fd);
        }
        self.tables.insert(files_id, fds);
        Ok(())
    }

    /// Whether a file with this inode number has a lease.
    pub(crate) fn is_leased(&self, ino: u64) -> bool {
        let lease = |h: &&Held| h.lock.kind == LockKind::Lease;
        self.locks.iter().filter(lease).any(|h| self.descs[h.fd.desc].info.ino == ino)
    }

    fn note_locks(&mut self, vpid: i32, fd: Fd, info: &Fdinfo, text: &[u8]) {
        if info.locks {
            let held = |lock| Held { vpid, fd, lock };
            self.locks.extend(file_locks(text).into_iter().map(held));
        }
    }

    /// The description that the last table had under this number, if this one has it too.
    fn same_as_before(&self, pid: i32, fd: RawFd) -> Option<usize> {
        let at = *self.by_num.get(&fd)?;
        let (old, a, b) = (&self.descs[at], self.descs[at].fd as u64, fd as u64);
        kcmp(old.pid, pid, Kcmp::File, a, b).ok().filter(|o| o.is_eq()).map(|_| at)
    }

    /// Position of the description of descriptor `fd` of `pid`, made when it is a new one.
    pub(crate) fn identify(
        &mut self,
        pid: i32,
        fd: RawFd,
        link: Vec<u8>,
        text: &[u8],
        info: Fdinfo,
    ) -> Result<usize, (Vec<u8>, Why)> {
        let ino = socket_ino(&link);
        // A socket has one description for ever: its inode tells which.
        if let Some(&at) = ino.and_then(|ino| self.sockets.get(&ino)) {
            return Ok(at);
        }
        let new = self.descs.len();
        let looks = Looks::of(&link, &info, text);
        let group = self.alike.entry(looks).or_default();
        let descs = &self.descs;
        let mut failed = None;
        let found = group.binary_search_by(|&at| {
            let other = &descs[at];
            kcmp(other.pid, pid, Kcmp::File, other.fd as u64, fd as u64).unwrap_or_else(|e| {
                failed = Some(e);
                Ordering::Equal
            })
        });
        if let Some(e) = failed {
            return Err((link, e.into()));
        }
        match found {
            Ok(i) => return Ok(group[i]),
            Err(i) => group.insert(i, new),
        }
        if let Some(ino) = ino {
            self.sockets.insert(ino, new);
        }
        self.by_ino.entry(info.ino).or_default().push(new);
        let text = text.to_vec();
        self.descs.push(Desc { id: 0, pid, fd, link, text, info, holders: Vec::new() });
        Ok(new)
    }

    /// The description behind a descriptor of our own (one that came out of a socket's queue).
    pub(crate) fn identify_own(&mut self, fd: BorrowedFd<'_>) -> Result<usize, Why> {
        let num = fd.as_raw_fd();
        let pid = std::process::id() as i32;
        let (link, text) = own_texts(fd)?;
        let info = Fdinfo::parse(&text).ok_or_else(|| Why::field("pos, flags, mnt_id"))?;
        self.identify(pid, num, link, &text, info).map_err(|(_, why)| why)
    }
}

/// Link and `fdinfo` of a descriptor of our own.
pub(crate) fn own_texts(fd: BorrowedFd<'_>) -> Result<(Vec<u8>, Vec<u8>), Why> {
    let num = fd.as_raw_fd();
    let path = format!("/proc/self/fd/{num}");
    let link = call(|| format!("readlink({path})"), nix::fcntl::readlink(path.as_str()))?;
    let text = crate::proc::read(format!("/proc/self/fdinfo/{num}"))
        .map_err(|e| Why::Text(e.to_string()))?;
    Ok((link.into_vec(), text))
}

/// The inode in `socket:[N]`.
pub(crate) fn socket_ino(link: &[u8]) -> Option<u64> {
    let digits = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn open_dir(path: &str) -> Result<OwnedFd, Why> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    call(|| format!("open({path})"), nix::fcntl::open(path, flags, Mode::empty()))
}

fn read_at(dir: &OwnedFd, name: &str, buf: &mut Vec<u8>) -> Result<(), Why> {
    let fd = call(
        || format!("open(fdinfo/{name})"),
        openat(dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()),
    )?;
    buf.clear();
    let mut file = std::fs::File::from(fd);
    // One read for all but epolls and inotifies with many targets.
    buf.resize(4096, 0);
    let mut len = 0;
    loop {
        if len == buf.len() {
            buf.resize(len * 2, 0);
        }
        match file.read(&mut buf[len..]) {
            Ok(n) => {
                len += n;
                // The kernel gives all there is, if it fits.
                if len < buf.len() {
                    break;
                }
            }
            Err(e) => return Err(sys::Error::io(format!("read(fdinfo/{name})"), &e).into()),
        }
    }
    buf.truncate(len);
    Ok(())
}
