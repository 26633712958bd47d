//! Terminals: pseudo terminals with their old index, the caller's own (`--shell-job`, or
//! inherited), consoles, and `/dev/tty`.
//!
//! A pair is made by opening its `ptmx` until the wanted index comes. Input that was unread is
//! put back raw, from the other end, before the settings; what keeps others out (lock,
//! exclusive) comes last. Controlling terminals are taken by the session leaders themselves.

mod params;

use super::open::{Files, Opened, is_ctty, set_flags};
use super::path::open_flags;
use super::set::FileSet;
use super::{At, Error, FilesPlan, Result, external, failed};
use crate::Request;
use images::proto::{FileEntry, TtyFileEntry, TtyInfoEntry, TtyType};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

const TIOCSCTTY: u64 = 0x540e;
const TIOCSPGRP: u64 = 0x5410;
const TIOCGPTN: u64 = 0x8004_5430;
const TIOCSPTLCK: u64 = 0x4004_5431;
const TIOCGPTPEER: u64 = 0x5441;
/// `O_LARGEFILE` as the kernel shows it: opens by a path have it, those by `TIOCGPTPEER` not.
const LARGEFILE: i32 = 0o100_000;
/// How many pairs are opened to come to an index.
const MAX_INDEX: u32 = 1000;
/// How long the session leader may take to get its terminal.
const PATIENCE: Duration = Duration::from_secs(30);

/// The two ends of one pseudo terminal, or the only one of another.
#[derive(Default)]
struct Ends<'a> {
    master: Option<&'a TtyInfoEntry>,
    slave: Option<&'a TtyInfoEntry>,
    files: Vec<&'a TtyFileEntry>,
}

/// The id of a slave whose master is to be made anew for somebody outside of the tree, if file
/// `id` is open on it.
pub(super) fn orphan(set: &FileSet, request: &Request, id: u32) -> Option<u32> {
    let tty = set.files.get(&id)?.tty.as_ref()?;
    let info = set.ttys.get(&tty.tty_info_id)?;
    let index = info.pty.as_ref()?.index;
    let slave = info.r#type == TtyType::Pty as i32 && !is_master(info) && info.termios.is_some();
    let has_master =
        set.ttys.values().any(|i| is_master(i) && i.pty.as_ref().is_some_and(|p| p.index == index));
    let wanted = request.orphan_pts_master && !request.shell_job;
    let given = external::find(set, id, request).is_some();
    (wanted && slave && !has_master && !given).then_some(info.id)
}

/// Fetches the masters that are for somebody outside. When all tasks have installed their files.
pub fn masters(plan: &FilesPlan, pid_of: &dyn Fn(i32) -> i32) -> Result<Vec<OwnedFd>> {
    let fetch = |(id, (owner, number)): (&u32, &(i32, RawFd))| {
        let task = sys::fd::pidfd_open(pid_of(*owner), 0)?;
        sys::fd::pidfd_getfd(task.as_fd(), *number).at(|| format!("master of terminal {id}"))
    };
    plan.masters.iter().map(fetch).collect()
}

/// Whether an entry is the master's end.
fn is_master(info: &TtyInfoEntry) -> bool {
    info.r#type == TtyType::Pty as i32 && info.id & 1 == 1
}

/// Opens a `ptmx` until the pair with this index comes.
pub(crate) fn open_master(index: u32, open: impl Fn() -> sys::Result<OwnedFd>) -> Result<OwnedFd> {
    if index > MAX_INDEX {
        return Err(Error::Refused(format!("pts {index} is too high")));
    }
    // Kept until the right one is there: so that the next has another index.
    let mut lower = Vec::new();
    for _ in 0..=index {
        let fd = open()?;
        let mut got = [0u8; 4];
        sys::fd::ioctl_bytes(fd.as_fd(), TIOCGPTN, &mut got)?;
        let got = u32::from_ne_bytes(got);
        if got == index {
            return Ok(fd);
        }
        if got > index {
            break;
        }
        lower.push(fd);
    }
    let text = format!("pts {index} is in use, the number cannot be restored here");
    Err(Error::Refused(text))
}

impl<'a> Files<'a> {
    /// Opens all descriptions of a unit of terminals.
    pub(super) fn open_ttys(&mut self, ids: &[u32], opened: &mut Opened) -> Result<()> {
        let mut groups: BTreeMap<u32, Ends<'a>> = BTreeMap::new();
        for id in ids {
            let Some(file) = &self.set.file(*id)?.tty else { continue };
            let info = self.set.ttys.get(&file.tty_info_id).ok_or_else(|| {
                Error::Refused(format!("tty-info.img: no terminal {}", file.tty_info_id))
            })?;
            let key = info.pty.as_ref().map_or(info.id, |p| p.index << 1);
            let ends = groups.entry(key).or_default();
            ends.files.push(file);
            let end = if is_master(info) { &mut ends.master } else { &mut ends.slave };
            *end = Some(info);
        }
        for ends in groups.into_values() {
            let id = ends.files[0].id;
            self.open_tty(&ends, opened).at(|| format!("file {id}, terminal"))?;
        }
        Ok(())
    }

    fn open_tty(&mut self, ends: &Ends<'a>, opened: &mut Opened) -> Result<()> {
        let info = ends.master.or(ends.slave);
        let Some(info) = info else { return Ok(()) };
        if let Some(number) = self.given(ends, info) {
            return self.open_given(ends, number, opened);
        }
        match TtyType::try_from(info.r#type) {
            Ok(TtyType::Pty) => self.open_pair(ends, opened),
            Ok(TtyType::Ctty) => self.open_ctty(ends, opened),
            Ok(TtyType::ExtTty) => {
                let key = external::tty_key(info);
                Err(Error::Refused(format!("is external: needs --inherit-fd fd[N]:{key}")))
            }
            _ => self.open_node(ends, opened),
        }
    }

    /// The number of the caller's descriptor that stands for a terminal.
    fn given(&self, ends: &Ends<'_>, info: &TtyInfoEntry) -> Option<RawFd> {
        let given = ends.files.iter().find_map(|f| external::find(self.set, f.id, self.request));
        // With --shell-job, a slave without its master is our own terminal.
        let shell =
            self.request.shell_job && ends.master.is_none() && info.r#type != TtyType::Ctty as i32;
        given.or_else(|| shell.then_some(0))
    }

    fn open_given(&self, ends: &Ends<'_>, number: RawFd, opened: &mut Opened) -> Result<()> {
        let fd = external::copy(number)?;
        if !nix::unistd::isatty(&fd).unwrap_or(false) {
            let text = format!("descriptor {number}, which stands for it, is no terminal");
            return Err(Error::Refused(text));
        }
        for file in &ends.files {
            // A description of its own, as the status flags are; of some terminals (those of
            // another container) only copies can be had.
            let own = match self.reopen(fd.as_raw_fd(), open_flags(file.flags)) {
                Ok(own) => own,
                Err(_) => fd.try_clone().map_err(|e| super::failed_io("dup", &e))?,
            };
            opened.insert(file.id, own);
        }
        if let Some(info) = ends.slave.or(ends.master) {
            // The size is that of the window in which it is now.
            params::restore_termios(fd.as_fd(), info)?;
        }
        Ok(())
    }

    fn open_pair(&self, ends: &Ends<'_>, opened: &mut Opened) -> Result<()> {
        let info = ends.master.or(ends.slave);
        let index = info.and_then(|i| i.pty.as_ref()).map(|p| p.index);
        let Some(index) = index else {
            return Err(Error::Refused("a pseudo terminal without index".to_owned()));
        };
        let of = |master: bool| {
            move |f: &&&TtyFileEntry| {
                let info = self.set.ttys.get(&f.tty_info_id);
                info.is_some_and(|i| is_master(i) == master)
            }
        };
        let hung_up = ends.master.is_none() && ends.slave.is_some_and(|s| s.termios.is_none());
        let orphan = ends.slave.and_then(|s| self.plan.masters.get(&s.id));
        if ends.master.is_none() && !hung_up && orphan.is_none() {
            let key = ends.slave.map(external::tty_key).unwrap_or_default();
            return Err(Error::Refused(format!(
                "its master (pts {index}) is not in the images: \
                 needs --shell-job or --inherit-fd fd[N]:{key}"
            )));
        }
        let master_file = ends.files.iter().find(of(true)).copied();
        let master = self.ptmx(master_file, ends.files[0], index)?;
        sys::fd::ioctl_bytes(master.as_fd(), TIOCSPTLCK, &mut 0i32.to_ne_bytes())?;
        let slave = self.peer(master.as_fd(), libc::O_RDWR)?;
        if let Some(info) = ends.slave
            && (info.uid.is_some() || info.gid.is_some())
        {
            let (uid, gid) = (info.uid.map(Into::into), info.gid.map(Into::into));
            nix::unistd::fchown(&slave, uid, gid).map_err(|e| failed("fchown", e))?;
        }
        for file in ends.files.iter().filter(of(false)) {
            let fd = self.slave(master.as_fd(), file)?;
            opened.insert(file.id, fd);
        }
        if !hung_up {
            self.put_back(ends, master.as_fd(), slave.as_fd())?;
            params::restore(ends.master, ends.slave, master.as_fd(), slave.as_fd())?;
        }
        if let Some((_, number)) = orphan {
            sys::fd::dup3(master.as_fd(), *number, true)?;
        }
        // The first master's description is the one just made; others do not exist.
        let mut master = Some(master);
        for file in ends.files.iter().filter(of(true)) {
            let fd = match master.take() {
                Some(fd) => fd,
                None => {
                    let text = format!("the master of pts {index} is open twice");
                    return Err(Error::NotYet(text));
                }
            };
            set_flags(fd.as_fd(), file.flags)?;
            opened.insert(file.id, fd);
        }
        Ok(())
    }

    /// Opens `ptmx` until the pair with this index comes.
    fn ptmx(
        &self,
        master: Option<&TtyFileEntry>,
        any: &TtyFileEntry,
        index: u32,
    ) -> Result<OwnedFd> {
        let held = self.masters.borrow().iter().position(|(known, _)| *known == index);
        if let Some(held) = held {
            return Ok(self.masters.borrow_mut().swap_remove(held).1);
        }
        let path: Vec<u8> = match master.and_then(|m| self.set.regs.get(&m.regf_id())) {
            Some(reg) => reg.name.clone(),
            // A slave alone: the ptmx of its own file system.
            None => {
                let name = self.set.regs.get(&any.regf_id()).map_or(&b""[..], |r| &r.name);
                let (dir, _) = super::path::split(name);
                match dir {
                    [] => b"/dev/ptmx".to_vec(),
                    dir => [dir, b"/ptmx"].concat(),
                }
            }
        };
        let flags = libc::O_RDWR | libc::O_NOCTTY;
        let root = self.root()?;
        open_master(index, || match sys::path::open_in_root(root, &path, flags) {
            // The ptmx inside of devpts may be without permissions, or the node a link.
            Err(_) if path != b"/dev/ptmx" => sys::path::open_in_root(root, b"/dev/ptmx", flags),
            other => other,
        })
    }

    /// The slave of a master (4.13).
    fn peer(&self, master: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd> {
        let flags = flags | libc::O_NOCTTY | libc::O_CLOEXEC;
        Ok(sys::tty::open_peer(master, TIOCGPTPEER, flags)?)
    }

    fn slave(&self, master: BorrowedFd<'_>, file: &TtyFileEntry) -> Result<OwnedFd> {
        let flags = open_flags(file.flags);
        // By its path if that leads there, so that /proc/PID/fd shows it as it was; but what
        // was opened through its master (`openpty`) is so again.
        if flags & LARGEFILE != 0
            && let Some(reg) = self.set.regs.get(&file.regf_id())
            && let Ok(fd) = self.open_as(reg, flags | libc::O_NONBLOCK)
        {
            let own = self.peer(master, libc::O_RDWR)?;
            let rdev = |fd: &OwnedFd| nix::sys::stat::fstat(fd).map(|s| s.st_rdev).ok();
            if rdev(&fd) == rdev(&own) {
                let now = sys::fd::fcntl(fd.as_fd(), libc::F_GETFL, 0)?;
                let nonblock = flags & libc::O_NONBLOCK;
                let new = (now & !libc::O_NONBLOCK) | nonblock;
                sys::fd::fcntl(fd.as_fd(), libc::F_SETFL, new as u64)?;
                return Ok(fd);
            }
        }
        self.peer(master, flags)
    }

    /// Puts unread input back: each end's from the other one, unchanged by settings.
    fn put_back(
        &self,
        ends: &Ends<'_>,
        master: BorrowedFd<'_>,
        slave: BorrowedFd<'_>,
    ) -> Result<()> {
        let data = |info: Option<&TtyInfoEntry>| {
            info.and_then(|i| self.set.tty_data.get(&i.id)).filter(|d| !d.is_empty())
        };
        let (to_master, to_slave) = (data(ends.master), data(ends.slave));
        if to_master.is_none() && to_slave.is_none() {
            return Ok(());
        }
        params::make_raw(slave)?;
        for (data, through) in [(to_slave, master), (to_master, slave)] {
            let Some(data) = data else { continue };
            let written = nix::unistd::write(through, data).map_err(|e| failed("write", e))?;
            if written != data.len() {
                let text = format!("only {written} of {} bytes of input fit", data.len());
                return Err(Error::Refused(text));
            }
        }
        Ok(())
    }

    /// Consoles and serial lines: by their path.
    fn open_node(&self, ends: &Ends<'_>, opened: &mut Opened) -> Result<()> {
        for file in &ends.files {
            let Some(regf) = file.regf_id else {
                return Err(Error::Refused("the entry has no path (--deprecated)".to_owned()));
            };
            let fd = self.open_as(self.set.reg(regf)?, open_flags(file.flags))?;
            if let Some(info) = ends.slave {
                params::restore_termios(fd.as_fd(), info)?;
            }
            opened.insert(file.id, fd);
        }
        Ok(())
    }

    /// `/dev/tty`: exists as soon as the session leader has its terminal.
    fn open_ctty(&self, ends: &Ends<'_>, opened: &mut Opened) -> Result<()> {
        for file in &ends.files {
            let begin = Instant::now();
            let fd = loop {
                let path = match self.set.regs.get(&file.regf_id()) {
                    Some(reg) => &reg.name[..],
                    None => b"/dev/tty",
                };
                match sys::path::open_in_root(self.root()?, path, open_flags(file.flags)) {
                    Err(e) if e.errno() == libc::ENXIO && begin.elapsed() < PATIENCE => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    other => break other?,
                }
            };
            opened.insert(file.id, fd);
        }
        Ok(())
    }

    /// As session leader: makes the session's terminal the controlling one, and sets the
    /// foreground group.
    pub(super) fn take_terminal(&self, vpid: i32, opened: &Opened) -> Result<()> {
        let task = self.task(vpid)?;
        if task.sid != vpid {
            return Ok(());
        }
        let Some((id, info)) = session_tty(self.set, vpid) else { return Ok(()) };
        let owner = self.plan.table_owner(vpid);
        let in_table = || {
            let table = self.plan.tables.get(&owner)?;
            table.iter().find(|s| s.id == id).map(|s| s.fd)
        };
        let number = opened
            .get(&id)
            .or_else(|| self.held.get(&id))
            .map(AsRawFd::as_raw_fd)
            .or_else(in_table)
            .ok_or_else(|| Error::Refused(format!("file {id}: the terminal is not open")))?;
        let at = || format!("controlling terminal of session {vpid} (file {id})");
        let mut tty = external::copy(number).at(at)?;
        if self.set.files.get(&id).is_some_and(|f| is_master_file(self.set, f)) {
            tty = self.peer(tty.as_fd(), libc::O_RDWR).at(at)?;
        }
        sys::fd::ioctl_int(tty.as_fd(), TIOCSCTTY, 0).at(at)?;
        if info.pgrp != 0 && info.pgrp as i32 != vpid {
            let mut group = (info.pgrp as i32).to_ne_bytes();
            // The group may have ended since: the kernel then has nobody to signal, as before.
            if let Err(e) = sys::fd::ioctl_bytes(tty.as_fd(), TIOCSPGRP, &mut group) {
                log::warn!("{}: foreground group {}: {e}", at(), info.pgrp);
            }
        }
        Ok(())
    }
}

/// The terminal of a session, and a file that is open on it: its slave if possible.
/// Session and group may stand at either end.
fn session_tty(set: &FileSet, sid: i32) -> Option<(u32, &TtyInfoEntry)> {
    let of_session = |i: &&TtyInfoEntry| i.sid as i32 == sid && sid != 0 && !is_ctty(i.r#type);
    let info = set.ttys.values().find(of_session)?;
    let same = |other: &TtyInfoEntry| match (&info.pty, &other.pty) {
        (Some(a), Some(b)) => a.index == b.index,
        _ => info.id == other.id,
    };
    let mut files: Vec<&FileEntry> = set
        .files
        .values()
        .filter(|f| {
            let tty = f.tty.as_ref().and_then(|t| set.ttys.get(&t.tty_info_id));
            tty.is_some_and(same)
        })
        .collect();
    files.sort_by_key(|f| is_master_file(set, f));
    Some((files.first()?.id, info))
}

fn is_master_file(set: &FileSet, file: &FileEntry) -> bool {
    let info = file.tty.as_ref().and_then(|t| set.ttys.get(&t.tty_info_id));
    info.is_some_and(is_master)
}
