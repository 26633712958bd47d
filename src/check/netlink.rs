//! As much of netlink as the probes need: one request, its first answer.

use super::why;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, send, socket};
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// A request.
#[derive(Debug)]
pub(super) struct Message {
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

impl Message {
    /// A question that has one answer. `body`: the fixed struct of its kind.
    pub(super) fn new(kind: u16, body: &[u8]) -> Self {
        Self { kind, flags: NLM_F_REQUEST, body: body.to_vec() }
    }

    /// A question that has a list for an answer.
    pub(super) fn dump(kind: u16, body: &[u8]) -> Self {
        Self { flags: NLM_F_REQUEST | NLM_F_DUMP, ..Self::new(kind, body) }
    }

    /// An order, which is acknowledged; `flags` besides (`NLM_F_CREATE` 0x400).
    pub(super) fn order(kind: u16, flags: u16, body: &[u8]) -> Self {
        Self { flags: NLM_F_REQUEST | NLM_F_ACK | flags, ..Self::new(kind, body) }
    }

    /// With one more attribute.
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.body.extend(attribute(kind, value));
        self
    }

    /// As it is sent.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + self.body.len());
        out.extend((HEADER as u32 + self.body.len() as u32).to_ne_bytes());
        out.extend(self.kind.to_ne_bytes());
        out.extend(self.flags.to_ne_bytes());
        out.extend([0; 8]);
        out.extend(&self.body);
        out
    }
}

/// One attribute, padded; a nested one when `value` is made of attributes.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + 7);
    out.extend((value.len() as u16 + 4).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

/// The value of an attribute in an answer whose fixed struct is `fixed` bytes long.
pub(super) fn find(answer: &[u8], fixed: usize, wanted: u16) -> Option<&[u8]> {
    let mut rest = answer.get(HEADER + fixed..)?;
    while let [l0, l1, k0, k1, ..] = rest {
        let len = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let value = rest.get(4..len)?;
        if u16::from_ne_bytes([*k0, *k1]) == wanted {
            return Some(value);
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
    None
}

/// Sends a request and returns the first answer, unless it is an error.
pub(super) fn ask(protocol: SockProtocol, request: &Message) -> Result<Vec<u8>, String> {
    ask_bytes(protocol, &request.bytes())
}

/// The same for several requests that go together.
pub(super) fn ask_bytes(protocol: SockProtocol, request: &[u8]) -> Result<Vec<u8>, String> {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
        .map_err(why)?;
    send(fd.as_raw_fd(), request, MsgFlags::empty()).map_err(why)?;
    let mut answer = vec![0u8; 16384];
    let len = File::from(fd).read(&mut answer).map_err(why)?;
    answer.truncate(len);
    // The first answer only, of those which came together.
    if let [a, b, c, d, ..] = answer[..] {
        answer.truncate(u32::from_ne_bytes([a, b, c, d]) as usize);
    }
    if len >= 20 && u16::from_ne_bytes([answer[4], answer[5]]) == NLMSG_ERROR {
        let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        if code != 0 {
            return Err(why(nix::errno::Errno::from_raw(-code)));
        }
    }
    Ok(answer)
}
