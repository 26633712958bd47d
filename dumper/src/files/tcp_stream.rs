//! Collects TCP connections: what is queued in them, their numbers, windows and options.
//!
//! Sockets are taken into repair when everything else is known, and only with the network
//! locked: the queues must not move while they are read. [`Repaired`] lets them go on.

use super::FileTable;
use super::error::{Error, Why};
use super::sk_opts::get_u32;
use images::proto::TcpStreamEntry;
use images::{Dir, Image};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::tcp::{self, Queue, Repair, option, state};

/// The connections of the tree.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(super) streams: Vec<Stream>,
}

/// A connection to be saved.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(super) id: u32,
    pub(super) ino: u32,
    pub(super) desc: usize,
    pub(super) fd: OwnedFd,
}

/// Sockets under repair. Dropping it turns repair off.
#[derive(Debug, Default)]
pub struct Repaired(Vec<(OwnedFd, u32)>);

impl Repaired {
    /// The tasks die, and their connections with them, silently.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }

    fn take(&mut self, fd: OwnedFd) -> Result<BorrowedFd<'_>, Why> {
        let reuse = get_u32(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
        tcp::repair(fd.as_fd(), Repair::On)?;
        self.0.push((fd, reuse));
        Ok(self.0.last().expect("pushed above").0.as_fd())
    }
}

impl Drop for Repaired {
    fn drop(&mut self) {
        for (fd, reuse) in &self.0 {
            let reuse = reuse.to_ne_bytes();
            let off = tcp::repair(fd.as_fd(), Repair::Off).and_then(|()| {
                sys::fd::setsockopt(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, &reuse)
            });
            if let Err(e) = off {
                log::error!("a TCP connection stays under repair: {e}");
            }
        }
    }
}

/// A connection as it is saved.
#[derive(Debug, PartialEq, Eq)]
struct Saved {
    state: u8,
    entry: TcpStreamEntry,
    inq: Vec<u8>,
    outq: Vec<u8>,
}

impl FileTable {
    /// Writes the image of each connection. Their sockets stay under repair.
    pub(super) fn write_tcp_streams(&mut self, dir: &Dir) -> Result<Repaired, Error> {
        let mut repaired = Repaired::default();
        for stream in std::mem::take(&mut self.tcp.streams) {
            let failed = |why| self.walk.descs[stream.desc].error(why);
            let reset = had_reset(stream.fd.as_fd());
            let fd = repaired.take(stream.fd).map_err(failed)?;
            let mut saved = read(fd).map_err(failed)?;
            if saved.state == state::CLOSE && reset {
                saved.entry.amber_reset = Some(true);
            }
            let entry = self.files.iter_mut().find(|f| f.id == stream.id);
            if let Some(isk) = entry.and_then(|f| f.isk.as_mut()) {
                // It may have gone on until the network was locked.
                isk.state = saved.state.into();
            }
            let mut out = dir.writer(Image::TcpStream(stream.ino))?;
            out.write(&saved.entry)?;
            out.write_payload(&saved.inq)?;
            out.write_payload(&saved.outq)?;
            out.finish()?;
        }
        Ok(repaired)
    }
}

/// Whether the socket has an error that its owner has not heard of. To ask which would take it.
fn had_reset(fd: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    let done = poll(&mut fds, PollTimeout::ZERO).is_ok();
    done && fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLERR))
}

/// Reads a connection under repair.
fn read(fd: BorrowedFd<'_>) -> Result<Saved, Why> {
    let info = tcp::info(fd)?;
    let mss_clamp = tcp::mss_clamp(fd)?;
    let timestamp = match info.options & option::TIMESTAMPS {
        0 => None,
        _ => Some(tcp::timestamp(fd)?),
    };
    let window = tcp::window(fd)?;
    let (unacknowledged, unsent) = tcp::unacknowledged(fd)?;
    let (outq_len, unsq_len) = match info.state {
        // Nobody will ask for it any more.
        state::CLOSE => (0, 0),
        // Our own FIN is counted, if it is not acknowledged, or not sent.
        state::FIN_WAIT1 | state::LAST_ACK | state::CLOSING => {
            (unacknowledged.saturating_sub(1), unsent.saturating_sub(1))
        }
        _ => (unacknowledged, unsent),
    };
    let (inq_seq, inq) = queue(fd, Queue::Receive, tcp::unread(fd)?)?;
    let (outq_seq, outq) = queue(fd, Queue::Send, outq_len)?;
    tcp::select(fd, Queue::None)?;
    let entry = TcpStreamEntry {
        inq_len: inq.len() as u32,
        inq_seq,
        outq_len: outq.len() as u32,
        outq_seq,
        opt_mask: info.options,
        snd_wscale: info.snd_wscale,
        mss_clamp,
        rcv_wscale: (info.options & option::WSCALE != 0).then_some(info.rcv_wscale),
        timestamp,
        unsq_len: Some(unsq_len),
        snd_wl1: window.map(|w| w.snd_wl1),
        snd_wnd: window.map(|w| w.snd_wnd),
        max_window: window.map(|w| w.max_window),
        rcv_wnd: window.map(|w| w.rcv_wnd),
        rcv_wup: window.map(|w| w.rcv_wup),
        ..TcpStreamEntry::default()
    };
    Ok(Saved { state: info.state, entry, inq, outq })
}

/// The number behind a queue, and its `len` bytes.
fn queue(fd: BorrowedFd<'_>, queue: Queue, len: u32) -> Result<(u32, Vec<u8>), Why> {
    tcp::select(fd, queue)?;
    let seq = tcp::queue_seq(fd)?;
    if len == 0 {
        return Ok((seq, Vec::new()));
    }
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    let data = sys::socket::recv_msg(fd, len as usize, flags)?.data;
    if data.len() != len as usize {
        let text = format!("{} of {len} bytes in TCP queue {queue:?} are there", data.len());
        return Err(Why::Text(text));
    }
    Ok((seq, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (a, listener.accept().unwrap().0)
    }

    #[test]
    fn a_connection_is_read_and_goes_on() {
        let (mut a, mut b) = pair();
        b.write_all(b"to be read").unwrap();
        let one = 1i32.to_ne_bytes();
        sys::fd::setsockopt(a.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, &one).unwrap();
        let mut repaired = Repaired::default();
        let saved = match repaired.take(a.as_fd().try_clone_to_owned().unwrap()) {
            Ok(fd) => read(fd).unwrap(),
            // Needs CAP_NET_ADMIN.
            Err(Why::Sys(e)) if e.errno() == libc::EPERM => return,
            Err(e) => panic!("{e}"),
        };
        assert_eq!((saved.state, &saved.inq[..]), (state::ESTABLISHED, &b"to be read"[..]));
        drop(repaired);
        assert_eq!(get_u32(a.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR).unwrap(), 1);
        let mut buf = [0; 10];
        a.read_exact(&mut buf).unwrap();
        a.write_all(b"back").unwrap();
        a.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        b.read_to_end(&mut all).unwrap();
        assert_eq!((&buf[..], &all[..]), (&b"to be read"[..], &b"back"[..]));
    }
}
