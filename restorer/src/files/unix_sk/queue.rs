//! What is queued in unix sockets, and the descriptors in flight there.

use super::super::open::{Files, Opened};
use super::super::plan::rights;
use super::super::sk_buf::SEND;
use super::super::{At, Error, Result, failed, failed_io};
use super::{Unit, name};
use images::proto::UnixSkEntry;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

const LIMIT: &str = "sys/net/unix/max_dgram_qlen";

/// Who sends a queued datagram again.
enum Sender<'a> {
    /// A restored socket.
    Made(BorrowedFd<'a>),
    /// One that is closed afterwards.
    Helper(OwnedFd),
}

impl Unit<'_, '_> {
    /// Sends a socket what was in its queue.
    pub(super) fn fill(&self, e: &UnixSkEntry, opened: &Opened) -> Result<()> {
        let Some(packets) = self.files.set.packets.get(&e.id) else { return Ok(()) };
        if self.given.contains(&e.ino) {
            return Ok(());
        }
        let total: u64 = packets.iter().map(|(p, _)| u64::from(p.length) + 1024).sum();
        let mut spare = None;
        let (sender, address) = self.sender(e, &mut spare)?;
        self.make_room(sender, total)?;
        for (packet, body) in packets {
            let data = self.files.extent(*body)?;
            let mut fds: Vec<RawFd> = Vec::new();
            for id in rights(packet) {
                let fd = opened.get(&id).or_else(|| self.socket(id));
                let fd = fd.ok_or_else(|| Error::Refused(format!("file {id} is not open")))?;
                fds.push(fd.as_raw_fd());
            }
            let own = packet.amber_sender.as_deref().and_then(|a| a.get(2..));
            let other = own.map(|name| self.sender_named(e, name)).transpose()?.flatten();
            let other = match &other {
                Some(Sender::Made(fd)) => *fd,
                Some(Sender::Helper(fd)) => fd.as_fd(),
                None => {
                    self.send(sender, &data, &fds, &address)?;
                    continue;
                }
            };
            self.make_room(other, total)?;
            self.send(other, &data, &fds, &self.address_of(e)?)?;
        }
        Ok(())
    }

    fn socket(&self, id: u32) -> Option<&OwnedFd> {
        let entry = self.files.set.files.get(&id)?.usk.as_ref()?;
        self.made.get(&entry.ino)
    }

    /// Who can send to a socket, and with which address.
    fn sender<'s>(
        &'s self,
        e: &UnixSkEntry,
        spare: &'s mut Option<OwnedFd>,
    ) -> Result<(BorrowedFd<'s>, Vec<u8>)> {
        if let Some(far) = self.far.get(&e.ino) {
            return Ok((far.as_fd(), Vec::new()));
        }
        let to_it = |x: &&&UnixSkEntry| x.peer == e.ino;
        let peer = self.entries.get(&e.peer).copied();
        // A connected socket takes datagrams from its peer only.
        let from = peer.or_else(|| self.entries.values().find(to_it).copied());
        if let Some(fd) = from.and_then(|p| self.made.get(&p.ino)) {
            let direct = from.is_some_and(|p| p.peer == e.ino);
            let address = if direct { Vec::new() } else { self.address_of(e)? };
            return Ok((fd.as_fd(), address));
        }
        if Self::is_stream(e) || e.name.is_empty() {
            return Err(Error::Refused("nobody can send to it".to_owned()));
        }
        let fd = self.files.socket(e.id, e.ns_id, (libc::AF_UNIX, e.r#type as i32, 0))?;
        let address = self.address_of(e)?;
        let fd: &'s OwnedFd = spare.insert(fd);
        Ok((fd.as_fd(), address))
    }

    /// The socket of that name, or one that has it for the moment: who reads the datagram sees
    /// from where it came. A connected receiver takes datagrams from its peer only.
    fn sender_named(&self, e: &UnixSkEntry, own: &[u8]) -> Result<Option<Sender<'_>>> {
        if e.peer != 0 || e.name.is_empty() {
            return Ok(None);
        }
        let bound = |x: &&&UnixSkEntry| !own.is_empty() && x.name == own && x.r#type == e.r#type;
        let found = self.entries.values().find(bound);
        if let Some(fd) = found.and_then(|x| self.made.get(&x.ino)) {
            return Ok(Some(Sender::Made(fd.as_fd())));
        }
        let fd = self.files.socket(e.id, e.ns_id, (libc::AF_UNIX, e.r#type as i32, 0))?;
        match own.first() {
            None => {}
            // Only abstract names: a path may belong to somebody else.
            Some(0) => {
                let address = [&(libc::AF_UNIX as u16).to_ne_bytes(), own].concat();
                if sys::net::bind(fd.as_fd(), &address).is_err() {
                    return Ok(None);
                }
            }
            Some(_) => return Ok(None),
        }
        Ok(Some(Sender::Helper(fd)))
    }

    /// Lets a sender put `bytes` into flight; its own limit is restored later.
    fn make_room(&self, fd: BorrowedFd<'_>, bytes: u64) -> Result<()> {
        // Each buffer counts with its overhead.
        let size = u32::try_from(bytes.saturating_mul(2)).unwrap_or(u32::MAX);
        self.files.make_room(fd, SEND, size).map(drop)
    }

    fn send(&self, fd: BorrowedFd<'_>, data: &[u8], fds: &[RawFd], address: &[u8]) -> Result<()> {
        let send = || {
            let sent = sys::net::send_msg(fd, data, fds, address, libc::MSG_DONTWAIT);
            let sent = sent.at(|| format!("{} bytes{}", data.len(), SEND.hint()))?;
            if sent == data.len() {
                return Ok(());
            }
            Err(Error::Refused(format!("only {sent} of {} bytes fit{}", data.len(), SEND.hint())))
        };
        if !address.is_empty() && name::is_handle(address) {
            return self.files.in_proc(send);
        }
        send()
    }
}

/// A raised `net.unix.max_dgram_qlen`. Sockets take over the value of when they are made.
#[derive(Debug)]
pub(super) struct Limit {
    file: std::fs::File,
    old: String,
}

impl Limit {
    pub(super) fn put_back(mut self) -> Result<()> {
        self.file
            .rewind()
            .and_then(|()| self.file.write_all(self.old.as_bytes()))
            .map_err(|e| failed_io(format_args!("write(/proc/{LIMIT})"), &e))
    }
}

/// Raises the limit if a queue of the unit is longer.
pub(super) fn raise_limit(files: &Files<'_>, ids: &[u32]) -> Result<Option<Limit>> {
    let longest = |id: &u32| files.set.packets.get(id).map_or(0, Vec::len);
    let wanted = ids.iter().map(longest).max().unwrap_or(0);
    if wanted <= 1 {
        return Ok(None);
    }
    let call = || format!("/proc/{LIMIT}");
    let Ok(file) = nix::fcntl::openat(&files.proc, LIMIT, OFlag::O_RDWR, Mode::empty())
        .map_err(|e| failed(call(), e))
    else {
        return Ok(None);
    };
    let mut limit = Limit { file: file.into(), old: String::new() };
    limit.file.read_to_string(&mut limit.old).map_err(|e| failed_io(call(), &e))?;
    if limit.old.trim().parse().is_ok_and(|n: usize| n > wanted) {
        return Ok(None);
    }
    limit
        .file
        .rewind()
        .and_then(|()| limit.file.write_all((wanted + 1).to_string().as_bytes()))
        .map_err(|e| failed_io(call(), &e))?;
    Ok(Some(limit))
}
