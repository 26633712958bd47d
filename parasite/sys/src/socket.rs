//! Sockets: messages with descriptors attached.

use crate::Result;
use crate::error::check;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What [`recv_msg`] got.
#[derive(Debug, Default)]
pub struct Message {
    /// Payload.
    pub data: Vec<u8>,
    /// The sender's address (a `sockaddr`), empty when the kernel gave none.
    pub sender: Vec<u8>,
    /// Descriptors that came with it (`SCM_RIGHTS`).
    pub fds: Vec<OwnedFd>,
    /// (level, type) of other control messages.
    pub other: Vec<(i32, i32)>,
    /// `MSG_TRUNC`, `MSG_CTRUNC`, `MSG_EOR`, …
    pub flags: i32,
}

/// `recvmsg(2)` of at most `max` bytes, with `MSG_CMSG_CLOEXEC` added to `flags`.
pub fn recv_msg(fd: BorrowedFd<'_>, max: usize, flags: i32) -> Result<Message> {
    let raw = fd.as_raw_fd();
    let mut data = vec![0u8; max];
    let mut sender = [0u8; 128];
    // 253 descriptors are 1012 bytes; of u64 so that cmsghdr is aligned.
    let mut control = [0u64; 512];
    let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
    // SAFETY: all-zero bytes are a valid msghdr (null pointers, zero lengths).
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_name = sender.as_mut_ptr().cast();
    msg.msg_namelen = sender.len() as libc::socklen_t;
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    msg.msg_control = control.as_mut_ptr().cast();
    msg.msg_controllen = size_of_val(&control);
    // SAFETY: `msg` describes four buffers that outlive the call.
    let ret = unsafe { libc::recvmsg(raw, &raw mut msg, flags | libc::MSG_CMSG_CLOEXEC) };
    let len = check(ret as libc::c_long, || format!("recvmsg({raw}, {max}, {flags:#x})"))?;
    data.truncate(len as usize);
    let bytes: Vec<u8> = control.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let (fds, other) = control_messages(&bytes[..msg.msg_controllen.min(bytes.len())]);
    Ok(Message {
        data,
        sender: sender[..(msg.msg_namelen as usize).min(sender.len())].to_vec(),
        fds,
        other,
        flags: msg.msg_flags,
    })
}

fn control_messages(mut bytes: &[u8]) -> (Vec<OwnedFd>, Vec<(i32, i32)>) {
    const HEAD: usize = 16;
    let int = |b: &[u8], at: usize| {
        b.get(at..at + 4).map_or(0, |x| i32::from_ne_bytes([x[0], x[1], x[2], x[3]]))
    };
    let (mut fds, mut other) = (Vec::new(), Vec::new());
    while bytes.len() >= HEAD {
        let len = int(bytes, 0) as usize;
        if len < HEAD || len > bytes.len() {
            break;
        }
        let (level, kind) = (int(bytes, 8), int(bytes, 12));
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            for at in (HEAD..len).step_by(4) {
                // SAFETY: the kernel has just put this descriptor into our table for us, and
                // each number stands in the control data once.
                fds.push(unsafe { OwnedFd::from_raw_fd(int(bytes, at) as RawFd) });
            }
        } else {
            other.push((level, kind));
        }
        bytes = bytes.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    (fds, other)
}

/// `SO_GET_FILTER`: the `len` instructions (code, jt, jf, k) of a socket's classic BPF filter.
/// The option counts instructions where others count bytes.
pub fn get_filter(fd: BorrowedFd<'_>, len: usize) -> Result<Vec<(u16, u8, u8, u32)>> {
    const SO_GET_FILTER: i32 = 26;
    let raw = fd.as_raw_fd();
    // An instruction is 8 bytes.
    let mut code = vec![0u64; len];
    let mut count = len as libc::socklen_t;
    // SAFETY: `code` has room for `count` instructions, and the kernel writes no more of them.
    let ret = unsafe {
        libc::getsockopt(raw, libc::SOL_SOCKET, SO_GET_FILTER, code.as_mut_ptr().cast(), &mut count)
    };
    check(ret.into(), || format!("getsockopt({raw}, SO_GET_FILTER, {len})"))?;
    code.truncate(count as usize);
    Ok(code
        .iter()
        .map(|w| {
            let b = w.to_ne_bytes();
            let code = u16::from_ne_bytes([b[0], b[1]]);
            (code, b[2], b[3], u32::from_ne_bytes([b[4], b[5], b[6], b[7]]))
        })
        .collect())
}

/// `getsockname(2)`: the bytes of a `sockaddr`.
pub fn own_name(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let raw = fd.as_raw_fd();
    let mut name = [0u64; 16];
    let mut len = size_of_val(&name) as libc::socklen_t;
    // SAFETY: pointer and length are those of `name`, which the kernel fills.
    let ret = unsafe { libc::getsockname(raw, name.as_mut_ptr().cast(), &mut len) };
    check(ret.into(), || format!("getsockname({raw})")).map(|_| prefix(&name, len))
}

/// `getpeername(2)`: the bytes of a `sockaddr`; `ENOTCONN` without a peer.
pub fn peer_name(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let raw = fd.as_raw_fd();
    let mut name = [0u64; 16];
    let mut len = size_of_val(&name) as libc::socklen_t;
    // SAFETY: pointer and length are those of `name`, which the kernel fills.
    let ret = unsafe { libc::getpeername(raw, name.as_mut_ptr().cast(), &mut len) };
    check(ret.into(), || format!("getpeername({raw})")).map(|_| prefix(&name, len))
}

fn prefix(words: &[u64], len: libc::socklen_t) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_ne_bytes()).take(len as usize).collect()
}
