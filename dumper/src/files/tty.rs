//! Collects terminals.
//!
//! Each end of a pair, and each other terminal, is one entry of `tty-info.img`; descriptors
//! refer to it. Reading what is queued in a pair takes it out, so this is left to the very end,
//! and [`Queues`] puts it back when the tasks live on.

use super::error::{Error, Why, call};
use super::ghost::user_dev;
use super::kind::Tty;
use super::reg_file::Path;
use super::{FileTable, Open, entry};
use images::proto::{
    FdTypes, TermiosEntry, TtyDataEntry, TtyFileEntry, TtyInfoEntry, TtyPtyEntry, TtyType,
    WinsizeEntry,
};
use images::{Dir, Image};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const TIOCGPTN: u64 = 0x8004_5430;
const TIOCGPKT: u64 = 0x8004_5438;
const TIOCGPTLCK: u64 = 0x8004_5439;
const TIOCGEXCL: u64 = 0x8004_5440;
const TIOCGLCKTRMIOS: u64 = 0x5456;
const TIOCGPTPEER: u64 = 0x5441;
/// Larger pty numbers cannot be told from the numbers of other terminals.
const MAX_INDEX: u32 = 1000;
/// CRIU's restorer takes no more for one end.
const MAX_QUEUED: usize = 16 << 10;
/// `struct termios`: four words, line discipline, 19 control characters.
const TERMIOS: usize = 36;

type Termios = [u8; TERMIOS];

/// Terminals seen so far.
#[derive(Debug, Default)]
pub(crate) struct State {
    infos: Vec<TtyInfoEntry>,
    ends: HashMap<u32, End>,
    /// Session and foreground group (virtual) by device, of controlling terminals.
    sessions: Option<HashMap<u32, (u32, u32)>>,
    externals: u32,
}

/// Our copy of one end of a pair, and who showed it.
#[derive(Debug)]
struct End {
    fd: OwnedFd,
    desc: usize,
}

fn int(fd: BorrowedFd<'_>, request: u64) -> Option<i32> {
    let mut buf = [0u8; 4];
    sys::fd::ioctl_bytes(fd, request, &mut buf).ok()?;
    Some(i32::from_ne_bytes(buf))
}

fn termios(fd: BorrowedFd<'_>, request: u64) -> Result<Termios, sys::Error> {
    let mut buf = [0u8; TERMIOS];
    sys::fd::ioctl_bytes(fd, request, &mut buf)?;
    Ok(buf)
}

fn set_termios(fd: BorrowedFd<'_>, mut termios: Termios) -> Result<(), sys::Error> {
    sys::fd::ioctl_bytes(fd, libc::TCSETS, &mut termios).map(drop)
}

fn termios_entry(t: &Termios) -> TermiosEntry {
    let word = |i: usize| u32::from_ne_bytes([t[4 * i], t[4 * i + 1], t[4 * i + 2], t[4 * i + 3]]);
    // CRIU copies the 19 characters over its 19 words as they lie in memory: the first five
    // words hold all of them.
    let mut c_cc = vec![0u32; 19];
    for (i, &c) in t[17..].iter().enumerate() {
        c_cc[i / 4] |= u32::from(c) << (8 * (i % 4));
    }
    TermiosEntry {
        c_iflag: word(0),
        c_oflag: word(1),
        c_cflag: word(2),
        c_lflag: word(3),
        c_line: t[16].into(),
        c_ispeed: 0,
        c_ospeed: 0,
        c_cc,
    }
}

impl FileTable {
    pub(crate) fn tty(&mut self, open: &Open<'_>, tty: Tty) -> Result<(), Why> {
        let regf_id = self.next_id();
        // The position of a terminal means nothing.
        self.path_entry(&Path { pos: 0, ..Path::of(open, regf_id) })?;
        let tty_info_id = self.tty_info(open, tty)?;
        let mut file = entry(FdTypes::Tty, open.id);
        file.tty = Some(TtyFileEntry {
            id: open.id,
            tty_info_id,
            flags: open.info.flags,
            fown: open.fown,
            regf_id: Some(regf_id),
        });
        self.files.push(file);
        Ok(())
    }

    /// Number of the terminal in `tty-info.img`.
    fn tty_info(&mut self, open: &Open<'_>, tty: Tty) -> Result<u32, Why> {
        let rdev = user_dev(open.stat.st_rdev);
        let dev = user_dev(open.stat.st_dev);
        let external = self.external.has_tty(rdev, dev);
        let (kind, index) = match tty {
            _ if external => {
                self.ttys.externals += 1;
                (TtyType::ExtTty, 1012 + self.ttys.externals)
            }
            Tty::Master | Tty::Slave => (TtyType::Pty, pty_index(open, tty)?),
            Tty::Console => (TtyType::Console, 1002),
            Tty::Vt => (TtyType::Vt, 1004),
            Tty::Current => (TtyType::Ctty, 1006),
            Tty::Serial => (TtyType::Serial, 1010),
        };
        if external
            && let Some(i) = self.ttys.infos.iter().find(|i| (i.rdev, i.dev) == (rdev, Some(dev)))
        {
            return Ok(i.id);
        }
        let id = index << 1 | u32::from(tty == Tty::Master);
        if let Some(known) = self.ttys.infos.iter().find(|i| i.id == id) {
            // A master is opened once: the second one is another. A slave says where it is.
            let another = match tty {
                Tty::Master => true,
                Tty::Slave => known.dev != Some(dev),
                _ => false,
            };
            return if another && kind == TtyType::Pty {
                Err(two_instances(index))
            } else {
                Ok(id)
            };
        }
        let (sid, pgrp) = self.session_of(open, tty, rdev)?;
        let own = open.own;
        let hung_up = |e: &sys::Error| e.errno() == libc::EIO;
        let modes = match termios(own, libc::TCGETS) {
            Err(e) if hung_up(&e) => None,
            modes => Some(modes?),
        };
        let locked = modes.map(|_| termios(own, TIOCGLCKTRMIOS)).transpose()?;
        let winsize = modes.map(|_| winsize(own)).transpose()?;
        self.ttys.infos.push(TtyInfoEntry {
            id,
            r#type: kind.into(),
            locked: tty == Tty::Master && int(own, TIOCGPTLCK).unwrap_or(0) != 0,
            exclusive: int(own, TIOCGEXCL).unwrap_or(0) != 0,
            packet_mode: tty == Tty::Master && int(own, TIOCGPKT).unwrap_or(0) != 0,
            sid,
            pgrp,
            rdev,
            termios: modes.as_ref().map(termios_entry),
            termios_locked: locked.as_ref().map(termios_entry),
            winsize,
            pty: (kind == TtyType::Pty).then_some(TtyPtyEntry { index }),
            dev: Some(dev),
            uid: Some(self.ns.maps.uid(open.stat.st_uid)),
            gid: Some(self.ns.maps.gid(open.stat.st_gid)),
        });
        if kind == TtyType::Pty && modes.is_some() {
            let fd = own.try_clone_to_owned().map_err(|e| sys::Error::io("dup", &e))?;
            self.ttys.ends.insert(id, End { fd, desc: open.desc });
        }
        Ok(id)
    }

    /// Session and foreground group that have the terminal as theirs, 0 for none. The ioctls
    /// for it answer only those who have.
    fn session_of(&mut self, open: &Open<'_>, tty: Tty, rdev: u32) -> Result<(u32, u32), Why> {
        if self.ttys.sessions.is_none() {
            let mut found = HashMap::new();
            for owner in &self.owners {
                let Some((tty_nr, sid, tpgid)) = ctty(owner.pid) else { continue };
                if tty_nr == 0 {
                    continue;
                }
                let sid = self.virtual_sid(sid).unwrap_or(sid);
                let pgrp = self.virtual_pgid(tpgid).unwrap_or_else(|| tpgid.max(0));
                found.insert(tty_nr, (sid as u32, pgrp as u32));
            }
            self.ttys.sessions = Some(found);
        }
        let sessions = self.ttys.sessions.as_ref().expect("filled above");
        let device = match tty {
            Tty::Master => {
                136 << 8 | pty_index(open, tty)? & 0xff | (pty_index(open, tty)? & !0xff) << 12
            }
            // It stands for the terminal of whoever opened it.
            Tty::Current => ctty(open.pid).map_or(0, |c| c.0),
            _ => rdev,
        };
        Ok(sessions.get(&device).copied().unwrap_or_default())
    }

    /// Every slave has its master in the tree, or is one that may lack it.
    pub(crate) fn check_ttys(&self) -> Result<(), Error> {
        for info in &self.ttys.infos {
            let alone = info.id & 1 == 0 && !self.ttys.infos.iter().any(|i| i.id == info.id | 1);
            let Some(end) = self.ttys.ends.get(&info.id) else { continue };
            let master = self.ttys.ends.get(&(info.id | 1)).filter(|_| !alone && info.id & 1 == 0);
            // Its own slave can be opened where it is unlocked, as it is where one is open.
            let own = master.and_then(|m| {
                let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
                let peer = sys::tty::open_peer(m.fd.as_fd(), TIOCGPTPEER, flags).ok()?;
                Some(user_dev(nix::sys::stat::fstat(&peer).ok()?.st_dev))
            });
            if own.is_some_and(|dev| info.dev != Some(dev)) {
                return Err(self.walk.descs[end.desc].error(two_instances(info.id >> 1)));
            }
            let unread = int(end.fd.as_fd(), libc::FIONREAD).unwrap_or(0);
            if alone && self.request.orphan_pts_master && unread > 0 {
                log::warn!(
                    "pty {}: {unread} bytes of unread input are lost, as its master is outside",
                    info.id >> 1
                );
            }
            if alone && !self.request.shell_job && !self.request.orphan_pts_master {
                return Err(self.walk.descs[end.desc].error(Why::refused(format!(
                    "Found dangling tty with sid {} pgid {} whose master is outside the tree. \
                     Consider using --shell-job option, or --external tty[{:x}:{:x}].",
                    info.sid,
                    info.pgrp,
                    info.rdev,
                    info.dev.unwrap_or(0)
                ))));
            }
        }
        Ok(())
    }

    /// Writes `tty-info.img`, takes out what is queued, and writes that.
    pub(crate) fn write_ttys(&mut self, dir: &Dir) -> Result<Queues, Error> {
        let mut out = dir.writer(Image::TtyInfo)?;
        for info in &self.ttys.infos {
            out.write(info)?;
        }
        out.finish()?;
        let ends = std::mem::take(&mut self.ttys.ends);
        let mut queues = Queues::default();
        let mut at: Vec<u32> = ends.keys().copied().filter(|id| id & 1 == 1).collect();
        at.sort_unstable();
        for master in at {
            let slave = ends.get(&(master & !1)).map(|e| &e.fd);
            let desc = ends[&master].desc;
            queues
                .take(master, &ends[&master].fd, slave)
                .map_err(|why| self.walk.descs[desc].error(why))?;
        }
        let mut out = dir.writer(Image::TtyData)?;
        for (tty_id, data) in queues.data() {
            out.write(&TtyDataEntry { tty_id, data })?;
        }
        out.finish()?;
        Ok(queues)
    }
}

/// Images know the ends of a terminal by its index alone.
fn two_instances(index: u32) -> Why {
    Why::refused(format!("not supported yet: pts {index} of two instances of devpts"))
}

fn pty_index(open: &Open<'_>, tty: Tty) -> Result<u32, Why> {
    let index = if tty == Tty::Master {
        int(open.own, TIOCGPTN).ok_or_else(|| Why::refused("Can't dump BSD pseudoterminal"))? as u32
    } else {
        let (major, minor) = (libc::major(open.stat.st_rdev), libc::minor(open.stat.st_rdev));
        (major - 136) << 8 | minor
    };
    if index > MAX_INDEX {
        return Err(Why::refused(format!("Can't dump pseudoterminal {index}: over {MAX_INDEX}")));
    }
    Ok(index)
}

fn winsize(fd: BorrowedFd<'_>) -> Result<WinsizeEntry, sys::Error> {
    let mut w = [0u8; 8];
    sys::fd::ioctl_bytes(fd, libc::TIOCGWINSZ, &mut w)?;
    let at = |i: usize| u16::from_ne_bytes([w[2 * i], w[2 * i + 1]]).into();
    Ok(WinsizeEntry { ws_row: at(0), ws_col: at(1), ws_xpixel: at(2), ws_ypixel: at(3) })
}

/// Controlling terminal, session and foreground group of a task, in our pid namespace.
fn ctty(pid: i32) -> Option<(u32, i32, i32)> {
    let text = crate::proc::read(format!("/proc/{pid}/stat")).ok()?;
    let close = text.iter().rposition(|&b| b == b')')?;
    let mut words = std::str::from_utf8(text.get(close + 2..)?).ok()?.split(' ').skip(3);
    let sid = words.next()?.parse().ok()?;
    let tty_nr: i32 = words.next()?.parse().ok()?;
    Some((tty_nr as u32, sid, words.next()?.parse().ok()?))
}

/// What was queued in terminals, taken out. Dropping it puts all back.
#[derive(Debug, Default)]
pub struct Queues(Vec<Taken>);

#[derive(Debug)]
struct Taken {
    master_id: u32,
    master: OwnedFd,
    slave: Option<OwnedFd>,
    /// Of the slave.
    modes: Termios,
    /// Unread by the slave.
    input: Vec<u8>,
    /// Unread by the master.
    output: Vec<u8>,
}

/// `modes` without anything that would change or repeat bytes on their way.
fn plain(modes: &Termios, canonical: bool) -> Termios {
    let mut out = *modes;
    let lflag = u32::from_ne_bytes([out[12], out[13], out[14], out[15]]);
    let keep = if canonical { lflag & libc::ICANON } else { 0 };
    out[..4].fill(0);
    out[4..8].fill(0);
    out[12..16].copy_from_slice(&keep.to_ne_bytes());
    if keep == 0 {
        // VTIME, VMIN: reads do not wait.
        out[17 + libc::VTIME] = 0;
        out[17 + libc::VMIN] = 0;
    }
    out
}

/// Reads what is there now.
fn drain(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Why> {
    let mut out = Vec::new();
    let mut buf = [0u8; 4096];
    loop {
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        call(|| "poll(tty)".into(), poll(&mut fds, PollTimeout::ZERO))?;
        if !fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLIN)) {
            return Ok(out);
        }
        match nix::unistd::read(fd, &mut buf) {
            Ok(0) | Err(nix::errno::Errno::EIO | nix::errno::Errno::EAGAIN) => return Ok(out),
            n => out.extend_from_slice(&buf[..call(|| "read(tty)".into(), n)?]),
        }
        if out.len() > MAX_QUEUED {
            return Err(Why::refused(format!("more than {MAX_QUEUED} bytes are queued")));
        }
    }
}

fn packet(master: BorrowedFd<'_>, on: bool) -> Result<(), sys::Error> {
    let mut flag = i32::from(on).to_ne_bytes();
    sys::fd::ioctl_bytes(master, libc::TIOCPKT, &mut flag).map(drop)
}

impl Queues {
    fn take(&mut self, id: u32, master: &OwnedFd, slave: Option<&OwnedFd>) -> Result<(), Why> {
        let copy = |fd: &OwnedFd| fd.try_clone().map_err(|e| Why::from(sys::Error::io("dup", &e)));
        let modes = termios(master.as_fd(), libc::TCGETS)?;
        let packets = int(master.as_fd(), TIOCGPKT).unwrap_or(0) != 0;
        self.0.push(Taken {
            master_id: id,
            master: copy(master)?,
            slave: slave.map(copy).transpose()?,
            modes,
            input: Vec::new(),
            output: Vec::new(),
        });
        let taken = self.0.last_mut().expect("pushed above");
        if packets {
            packet(master.as_fd(), false)?;
        }
        let mut done = drain(master.as_fd()).map(|bytes| taken.output = bytes);
        if let (Ok(()), Some(slave)) = (&done, slave) {
            // Without this a line that is not complete stays hidden.
            done = set_termios(slave.as_fd(), plain(&modes, false)).map_err(Why::from);
            done = done.and_then(|()| {
                taken.input = drain(slave.as_fd())?;
                Ok(set_termios(slave.as_fd(), modes)?)
            });
        }
        if packets {
            packet(master.as_fd(), true)?;
        }
        done
    }

    fn data(&self) -> Vec<(u32, Vec<u8>)> {
        let ends = self
            .0
            .iter()
            .flat_map(|t| [(t.master_id & !1, t.input.clone()), (t.master_id, t.output.clone())]);
        ends.filter(|(_, data)| !data.is_empty()).collect()
    }

    /// The tasks die, and the queues with them.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

fn write_all(fd: BorrowedFd<'_>, mut data: &[u8]) -> Result<(), Why> {
    while !data.is_empty() {
        let n = call(|| "write(tty)".into(), nix::unistd::write(fd, data))?;
        data = &data[n..];
    }
    Ok(())
}

impl Taken {
    fn put_back(&self) -> Result<(), Why> {
        let master = self.master.as_fd();
        if self.input.is_empty() && self.output.is_empty() {
            return Ok(());
        }
        // The modes of the pair are those of the slave, whichever end is asked.
        set_termios(master, plain(&self.modes, true))?;
        let done = write_all(master, &self.input);
        self.settle();
        let done = done.and_then(|()| match &self.slave {
            Some(slave) => write_all(slave.as_fd(), &self.output),
            None if self.output.is_empty() => Ok(()),
            None => {
                let flags = libc::O_RDWR | libc::O_NOCTTY;
                let slave = sys::tty::open_peer(master, TIOCGPTPEER, flags)?;
                write_all(slave.as_fd(), &self.output)
            }
        });
        set_termios(master, self.modes)?;
        done
    }
}

impl Taken {
    /// The kernel passes what was written on in its own time, and must not echo it: waits for
    /// the complete lines to be there, and a little longer for the rest.
    fn settle(&self) {
        let Some(slave) = self.slave.as_ref().filter(|_| !self.input.is_empty()) else { return };
        let lines = self.input.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
        for _ in 0..100 {
            if int(slave.as_fd(), libc::FIONREAD).is_none_or(|n| n as usize >= lines) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        for taken in &self.0 {
            if let Err(why) = taken.put_back() {
                log::error!("pty {}: unread bytes are lost: {why}", taken.master_id >> 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;

    #[test]
    fn control_characters_lie_as_in_criu_images() {
        let pty = openpty(None, None).unwrap();
        let t = termios_entry(&termios(pty.slave.as_fd(), libc::TCGETS).unwrap());
        // ^C ^\ DEL ^U, as decoded from a dump of stock CRIU 4.2.
        assert_eq!((t.c_cc[0], t.c_cc.len()), (360_651_779, 19));
    }

    #[test]
    fn queued_bytes_are_taken_and_put_back() {
        let pty = openpty(None, None).unwrap();
        nix::unistd::write(&pty.master, b"line\npart").unwrap();
        let pause = || std::thread::sleep(std::time::Duration::from_millis(30));
        pause();
        nix::unistd::write(&pty.slave, b"out\n").unwrap();
        pause();
        let echo = b"line\r\npartout\r\n";
        for _ in 0..2 {
            let mut queues = Queues::default();
            queues.take(7, &pty.master, Some(&pty.slave)).unwrap();
            assert_eq!(queues.data(), [(6, b"line\npart".to_vec()), (7, echo.to_vec())]);
            drop(queues);
            pause();
        }
        let mut buf = [0u8; 64];
        let n = nix::unistd::read(&pty.slave, &mut buf).unwrap();
        assert_eq!(&buf[..n], b"line\n");
        nix::unistd::write(&pty.master, b"!\n").unwrap();
        let n = nix::unistd::read(&pty.slave, &mut buf).unwrap();
        assert_eq!(&buf[..n], b"part!\n");
    }
}
