//! What is queued in unix sockets, copied by peeking.

use super::error::Why;
use super::{FileTable, Open};
use images::proto::{ScmEntry, SkPacketEntry};
use images::{Dir, Image};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::socket::{Message, recv_msg};

const SO_PEEK_OFF: i32 = 42;

/// Packets of all sockets, in the order of their queues.
pub(crate) type Packets = Vec<(SkPacketEntry, Vec<u8>)>;

/// Moves the peek position while it lives, and puts the old one back.
struct Peeking<'a> {
    fd: BorrowedFd<'a>,
    old: [u8; 4],
}

impl<'a> Peeking<'a> {
    fn from_start(fd: BorrowedFd<'a>) -> Result<Self, Why> {
        let mut old = [0u8; 4];
        sys::fd::getsockopt(fd, libc::SOL_SOCKET, SO_PEEK_OFF, &mut old)?;
        let peeking = Self { fd, old };
        peeking.go_to(0)?;
        Ok(peeking)
    }

    fn go_to(&self, at: usize) -> Result<(), Why> {
        let at = at as i32;
        Ok(sys::fd::setsockopt(self.fd, libc::SOL_SOCKET, SO_PEEK_OFF, &at.to_ne_bytes())?)
    }
}

impl Drop for Peeking<'_> {
    fn drop(&mut self) {
        if let Err(e) = sys::fd::setsockopt(self.fd, libc::SOL_SOCKET, SO_PEEK_OFF, &self.old) {
            log::warn!("the peek offset of a socket is not as before: {e}");
        }
    }
}

/// All that is queued; `bytes` is how much the kernel says that is (of datagrams, the first).
///
/// An empty datagram shows itself to the first who looks behind the one before it, and never
/// again: a second dump of the same queue does not have it.
fn peek(fd: BorrowedFd<'_>, kind: i32, bytes: usize) -> Result<Vec<Message>, Why> {
    let peeking = Peeking::from_start(fd)?;
    let mut out: Vec<Message> = Vec::new();
    let mut read = 0;
    // Larger than the queue: a peek that ends just before descriptors shows them, and the next
    // one shows them again.
    let mut room = bytes + 4096;
    loop {
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        let message = match recv_msg(peeking.fd, room, flags) {
            Err(e) if e.errno() == libc::EAGAIN => break,
            message => message?,
        };
        if message.flags & libc::MSG_TRUNC != 0 {
            room *= 2;
            peeking.go_to(read)?;
            continue;
        }
        if message.flags & libc::MSG_CTRUNC != 0 {
            return Err(Why::refused(
                "more descriptors in one message than fit: raise RLIMIT_NOFILE",
            ));
        }
        // Nothing means the end for streams, and for sequences once all bytes are here. Of
        // datagrams it is one without content.
        let end = message.data.is_empty();
        if end && (kind == libc::SOCK_STREAM || (kind == libc::SOCK_SEQPACKET && read >= bytes)) {
            break;
        }
        read += message.data.len();
        out.push(message);
    }
    Ok(out)
}

impl FileTable {
    /// Copies the queue of a socket. Descriptors in it become files of their own.
    pub(crate) fn queue(
        &mut self,
        open: &Open<'_>,
        kind: i32,
        bytes: usize,
        peer_name: Option<&[u8]>,
    ) -> Result<(), Why> {
        let in_queue: usize =
            super::parse::value(open.text, "scm_fds").and_then(|v| v.parse().ok()).unwrap_or(0);
        let messages = peek(open.own, kind, bytes)?;
        let mut found = 0;
        for message in messages {
            if !message.other.is_empty() {
                return Err(Why::refused("Control messages in queue, not supported"));
            }
            found += message.fds.len();
            let mut rights = Vec::with_capacity(message.fds.len());
            for fd in message.fds {
                rights.push(self.queued_file(fd, open.desc)?);
            }
            let scm = if rights.is_empty() {
                Vec::new()
            } else {
                vec![ScmEntry { r#type: libc::SCM_RIGHTS as u32, rights }]
            };
            // Without a word the sender is the peer.
            let name = message.sender.get(2..).unwrap_or_default();
            let sender = (kind == libc::SOCK_DGRAM && peer_name != Some(name))
                .then(|| [&(libc::AF_UNIX as u16).to_ne_bytes(), name].concat());
            let entry = SkPacketEntry {
                id_for: open.id,
                length: message.data.len() as u32,
                scm,
                amber_sender: sender,
            };
            self.unix.packets.push((entry, message.data));
        }
        if found != in_queue {
            return Err(Why::Text(format!("{found} of {in_queue} queued descriptors were found")));
        }
        Ok(())
    }

    /// File id of a descriptor that is only in a queue, perhaps.
    fn queued_file(&mut self, fd: OwnedFd, via: usize) -> Result<u32, Why> {
        let at = self.walk.identify_own(fd.as_fd())?;
        if self.walk.descs[at].id == 0 {
            self.walk.descs[at].id = self.next_id();
        }
        if !self.types.contains_key(&at) && self.walk.descs[at].holders.is_empty() {
            self.unix.in_flight.push((at, fd));
            self.unix.via.insert(at, via);
        }
        Ok(self.walk.descs[at].id)
    }

    pub(crate) fn write_queues(&self, dir: &Dir) -> Result<(), Why> {
        let mut out = dir.writer(Image::SkQueues)?;
        for (entry, bytes) in &self.unix.packets {
            out.write(entry)?;
            out.write_payload(bytes)?;
        }
        out.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg};
    use std::io::IoSlice;
    use std::os::fd::AsRawFd;

    fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
        let none = SockFlag::empty();
        nix::sys::socket::socketpair(AddressFamily::Unix, kind, None, none).unwrap()
    }

    fn give(fd: &OwnedFd, data: &[u8], fds: &[i32]) {
        let rights = [ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        let iov = [IoSlice::new(data)];
        sendmsg::<()>(fd.as_raw_fd(), &iov, rights, MsgFlags::empty(), None).unwrap();
    }

    #[test]
    fn empty_datagrams_do_not_hide_what_is_behind_them() {
        let (a, b) = pair(SockType::Datagram);
        for data in [&b"one"[..], b"", b"three", b""] {
            give(&a, data, &[]);
        }
        let got = peek(b.as_fd(), libc::SOCK_DGRAM, 3).unwrap();
        let got: Vec<&[u8]> = got.iter().map(|m| &m.data[..]).collect();
        assert_eq!(got, [&b"one"[..], b"", b"three", b""]);
    }

    #[test]
    fn datagrams_may_be_longer_than_the_first() {
        let (a, b) = pair(SockType::Datagram);
        give(&a, b"one", &[]);
        give(&a, &[7; 20_000], &[]);
        give(&a, b"three", &[]);
        for _ in 0..2 {
            let got = peek(b.as_fd(), libc::SOCK_DGRAM, 3).unwrap();
            let got: Vec<usize> = got.iter().map(|m| m.data.len()).collect();
            assert_eq!(got, [3, 20_000, 5]);
        }
    }

    #[test]
    fn descriptors_in_a_stream_are_found_once() {
        let (a, b) = pair(SockType::Stream);
        give(&a, b"abc", &[]);
        give(&a, b"d", &[0, 1]);
        give(&a, b"efg", &[]);
        give(&a, b"h", &[2]);
        drop(a);
        let got = peek(b.as_fd(), libc::SOCK_STREAM, 8).unwrap();
        let data: Vec<u8> = got.iter().flat_map(|m| m.data.clone()).collect();
        assert_eq!(data, b"abcdefgh");
        assert_eq!(got.iter().map(|m| m.fds.len()).sum::<usize>(), 3);
        let mut off = [0u8; 4];
        sys::fd::getsockopt(b.as_fd(), libc::SOL_SOCKET, SO_PEEK_OFF, &mut off).unwrap();
        assert_eq!(i32::from_ne_bytes(off), -1);
    }
}
