//! Asking, and waiting for answers.

use super::message::{Message, attribute, messages};
use super::{ACK, ACK_TLVS, CAPPED, DUMP, DUMP_INTR, HEADER, MSG_DONE, MSG_ERROR, Request};
use crate::{Error, Result, net};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A netlink socket: belongs to the net namespace in which it was made, wherever its user is.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    seq: u32,
    buffer: Vec<u8>,
}

/// How often a list is read again that changed meanwhile.
const TRIES: usize = 10;

impl Socket {
    /// A socket of this `NETLINK_*` protocol in the namespace of this thread.
    pub fn open(protocol: i32) -> Result<Self> {
        const EXT_ACK: i32 = 11;
        let fd = net::socket(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
        let one = 1i32.to_ne_bytes();
        // Both only add comfort: absent on old kernels, forbidden without rights.
        let _ = crate::fd::setsockopt(fd.as_fd(), libc::SOL_NETLINK, EXT_ACK, &one);
        let big = (4i32 << 20).to_ne_bytes();
        for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
            let _ = crate::fd::setsockopt(fd.as_fd(), libc::SOL_SOCKET, option, &big);
        }
        Ok(Self { fd, seq: 0, buffer: vec![0; 64 << 10] })
    }

    /// The same in another net namespace.
    pub fn in_net_ns(ns: BorrowedFd<'_>, protocol: i32) -> Result<Self> {
        in_net_ns(ns, || Self::open(protocol))?
    }

    /// Has lists filtered by what the request says, which the kernel otherwise ignores
    /// (`NETLINK_GET_STRICT_CHK`, Linux 4.20).
    pub fn strict(&self) -> Result<()> {
        const STRICT: i32 = 12;
        let one = 1i32.to_ne_bytes();
        crate::fd::setsockopt(self.fd.as_fd(), libc::SOL_NETLINK, STRICT, &one)
    }

    /// The descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A list: all messages of the answer back to back, without the closing `NLMSG_DONE`.
    pub fn dump(&mut self, request: &Request) -> Result<Vec<u8>> {
        let mut last = Ok(Vec::new());
        for _ in 0..TRIES {
            last = self.dump_once(request);
            if !matches!(&last, Err(e) if e.errno() == libc::EINTR) {
                break;
            }
        }
        last
    }

    fn dump_once(&mut self, request: &Request) -> Result<Vec<u8>> {
        self.send(std::slice::from_ref(request), DUMP)?;
        let mut all = Vec::new();
        let mut changed = false;
        loop {
            let len = self.receive(0, || request.call())?;
            for message in messages(&self.buffer[..len]).filter(|m| m.seq == self.seq) {
                changed |= message.flags & DUMP_INTR != 0;
                match message.kind {
                    // Its first word is the length, or an error.
                    MSG_DONE | MSG_ERROR => {
                        result(request, &message)?;
                        if changed {
                            return Err(Error::new(request.call(), libc::EINTR));
                        }
                        return Ok(all);
                    }
                    _ => all.extend(message.raw),
                }
            }
        }
    }

    /// A question: the messages of the answer, back to back.
    pub fn ask(&mut self, request: &Request) -> Result<Vec<u8>> {
        self.send(std::slice::from_ref(request), ACK)?;
        let mut all = Vec::new();
        loop {
            let len = self.receive(0, || request.call())?;
            for message in messages(&self.buffer[..len]).filter(|m| m.seq == self.seq) {
                if message.kind == MSG_ERROR {
                    return result(request, &message).map(|()| all);
                }
                all.extend(message.raw);
            }
        }
    }

    /// An order: done when this returns.
    pub fn order(&mut self, request: &Request) -> Result<()> {
        self.ask(request).map(|_| ())
    }

    /// Many independent orders: a result for each. They go in few calls.
    pub fn orders(&mut self, requests: &[Request]) -> Result<Vec<Result<()>>> {
        // Acknowledgements must fit into the receive buffer, even where it could not be made big.
        const AT_ONCE: usize = 100;
        let mut results = Vec::with_capacity(requests.len());
        for some in requests.chunks(AT_ONCE) {
            let first = self.send(some, ACK)?;
            let mut done: Vec<Option<Result<()>>> = vec![None; some.len()];
            while let Some(waiting) = done.iter().position(Option::is_none) {
                let len = self.receive(0, || some[waiting].call())?;
                for message in messages(&self.buffer[..len]).filter(|m| m.kind == MSG_ERROR) {
                    let index = message.seq.wrapping_sub(first) as usize;
                    if let Some(request) = some.get(index) {
                        done[index] = Some(result(request, &message));
                    }
                }
            }
            results.extend(done.into_iter().flatten());
        }
        Ok(results)
    }

    /// Messages that belong together, sent with one call: a transaction of nf_tables, with its
    /// begin and end. The kernel has worked through them when the call returns; the first error
    /// among its answers is the result, and other answers are of no interest.
    pub fn batch(&mut self, requests: &[Request]) -> Result<()> {
        let first = self.send(requests, 0)?;
        let mut failed: Option<(usize, Error)> = None;
        loop {
            let len = match self.receive(libc::MSG_DONTWAIT, || "batch".into()) {
                Err(e) if e.errno() == libc::EAGAIN => break,
                len => len?,
            };
            for message in messages(&self.buffer[..len]).filter(|m| m.kind == MSG_ERROR) {
                let index = message.seq.wrapping_sub(first) as usize;
                let Some(request) = requests.get(index) else { continue };
                if let Err(e) = result(request, &message)
                    && failed.as_ref().is_none_or(|(at, _)| index < *at)
                {
                    failed = Some((index, e));
                }
            }
        }
        failed.map_or(Ok(()), |(_, e)| Err(e))
    }

    /// Sends; returns the sequence number of the first.
    fn send(&mut self, requests: &[Request], flags: u16) -> Result<u32> {
        let first = self.seq.wrapping_add(1);
        let mut bytes = Vec::new();
        for request in requests {
            self.seq = self.seq.wrapping_add(1);
            request.write(self.seq, flags, &mut bytes);
        }
        let fd = self.fd.as_fd();
        net::send_msg(fd, &bytes, &[], &[], 0).map_err(|e| match requests {
            [one] => Error::new(one.call(), e.errno()),
            _ => e,
        })?;
        Ok(first)
    }

    fn receive(&mut self, flags: i32, call: impl FnOnce() -> String) -> Result<usize> {
        loop {
            match net::recv(self.fd.as_fd(), &mut self.buffer, flags | libc::MSG_TRUNC) {
                Ok(len) if len > self.buffer.len() => {
                    return Err(Error::new(call(), libc::EMSGSIZE));
                }
                Ok(len) => return Ok(len),
                Err(e) if e.errno() == libc::EINTR => {}
                Err(e) => return Err(Error::new(call(), e.errno())),
            }
        }
    }
}

/// What an acknowledgement says.
fn result(request: &Request, message: &Message<'_>) -> Result<()> {
    let code = message.body.first_chunk().map_or(-libc::EBADMSG, |b| i32::from_ne_bytes(*b));
    if code >= 0 {
        return Ok(());
    }
    let call = request.call();
    Err(match kernels_words(message) {
        Some(text) => Error::new(format_args!("{call} [{text}]"), code.wrapping_neg()),
        None => Error::new(call, code.wrapping_neg()),
    })
}

/// The text that the kernel adds to an error.
fn kernels_words(message: &Message<'_>) -> Option<String> {
    const TEXT: u16 = 1;
    if message.flags & ACK_TLVS == 0 {
        return None;
    }
    // The error, then the request: in full unless capped. Behind a list, only the error.
    let mut skip = 4;
    if message.kind == MSG_ERROR {
        let len = u32::from_ne_bytes(*message.body.get(4..)?.first_chunk()?) as usize;
        let full = message.flags & CAPPED == 0;
        skip += if full { len.next_multiple_of(4) } else { HEADER };
    }
    let text = attribute(message.body.get(skip..)?, TEXT)?.text();
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Runs `work` in a thread that is in net namespace `ns`: sockets made there belong to it.
pub fn in_net_ns<T: Send>(ns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T> {
    let thread = || -> Result<T> {
        net::enter_net_ns(ns)?;
        Ok(work())
    };
    let died = || Error::new("thread in a net namespace", libc::ECHILD);
    std::thread::scope(|scope| scope.spawn(thread).join().unwrap_or_else(|_| Err(died())))
}
