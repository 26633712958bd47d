//! The walk over all descriptor tables, and which descriptors share one description.

use super::ahead::{Ahead, Shown, Table};
use super::error::{Error, Why, call, text};
use super::file_lock::Held;
use super::parse::{Fdinfo, LockKind, file_locks};
use crate::tree::Tree;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
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
    /// File locks, by every descriptor that shows them.
    pub(crate) locks: Vec<Held>,
    /// Positions by inode, for targets of epolls.
    pub(crate) by_ino: HashMap<u64, Vec<usize>>,
}

impl Walk {
    pub(crate) fn new(tree: &Tree, ahead: Ahead) -> Result<Self, Error> {
        let mut walk = Self::default();
        for task in &tree.tasks {
            walk.virtual_tids.insert(task.pid, task.vpid);
            for t in &task.threads {
                walk.virtual_tids.insert(t.tid, t.vtid);
            }
        }
        for (table, shown) in ahead.finish()? {
            walk.table(&table, shown)?;
        }
        Ok(walk)
    }

    /// The first description with a file lock.
    pub(crate) fn first_lock(&self) -> Option<&Desc> {
        self.descs.iter().find(|d| d.info.locks)
    }

    fn table(&mut self, table: &Table, shown: Vec<Shown>) -> Result<(), Error> {
        let pid = table.pid;
        let mut fds = Vec::with_capacity(shown.len());
        for Shown { num, link, text: info_text, info } in shown {
            let desc = match link {
                None => self.inherited(table, num)?,
                Some(link) => self
                    .identify(pid, num, link, &info_text, info)
                    .map_err(|(link, why)| Error::Fd { pid, fd: num, link: text(&link), why })?,
            };
            self.descs[desc].info.locks |= info.locks;
            self.descs[desc].holders.push((table.vpid, pid, num));
            let fd = Fd { num, cloexec: info.cloexec, desc };
            self.note_locks(table.vpid, fd, &info, &info_text);
            fds.push(fd);
        }
        self.tables.insert(table.files_id, fds);
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

    /// The description that the parent has under this number too.
    fn inherited(&self, table: &Table, num: RawFd) -> Result<usize, Error> {
        let parent = table.parent().and_then(|id| self.tables.get(&id));
        let found = parent.and_then(|fds| {
            let at = fds.binary_search_by_key(&num, |fd| fd.num).ok()?;
            Some(fds[at].desc)
        });
        let why = || Why::Text("its parent's table changed under us".into());
        found.ok_or_else(|| Error::Task { pid: table.pid, why: why() })
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
    let text = crate::proc::read(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))
        .map_err(|e| Why::Text(e.to_string()))?;
    Ok((own_link(fd)?, text))
}

/// Link and mount of a descriptor of our own.
pub(crate) fn own_place(fd: BorrowedFd<'_>) -> Result<(Vec<u8>, i32), Why> {
    let Some(mnt_id) = sys::file::mnt_id(fd) else {
        let (link, text) = own_texts(fd)?;
        let info = Fdinfo::parse(&text).ok_or_else(|| Why::field("mnt_id"))?;
        return Ok((link, info.mnt_id));
    };
    Ok((own_link(fd)?, mnt_id))
}

fn own_link(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Why> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let link = call(|| format!("readlink({path})"), nix::fcntl::readlink(path.as_str()))?;
    Ok(link.into_vec())
}

/// The inode in `socket:[N]`.
pub(crate) fn socket_ino(link: &[u8]) -> Option<u64> {
    let digits = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}
