//! Sockets: making, naming, connecting and filling them. Addresses are `sockaddr`s as bytes.

use crate::Result;
use crate::error::check;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the callers pass a descriptor which the kernel has just made for us, so it is
    // open and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

/// `socket(2)`, `O_CLOEXEC`.
pub fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    check(ret.into(), || format!("socket({family}, {kind}, {protocol})")).map(owned)
}

/// `socketpair(2)` of unix sockets, `O_CLOEXEC`.
pub fn socketpair(kind: i32) -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1i32; 2];
    // SAFETY: the kernel writes two ints.
    let ret =
        unsafe { libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()) };
    check(ret.into(), || format!("socketpair(AF_UNIX, {kind})"))?;
    Ok((owned(ends[0].into()), owned(ends[1].into())))
}

/// `bind(2)`.
pub fn bind(fd: BorrowedFd<'_>, address: &[u8]) -> Result<()> {
    let raw = fd.as_raw_fd();
    let len = address.len() as libc::socklen_t;
    // SAFETY: pointer and length are those of `address`, which the kernel only reads.
    let ret = unsafe { libc::bind(raw, address.as_ptr().cast(), len) };
    check(ret.into(), || format!("bind({raw}, {})", address.escape_ascii())).map(|_| ())
}

/// `connect(2)`.
pub fn connect(fd: BorrowedFd<'_>, address: &[u8]) -> Result<()> {
    let raw = fd.as_raw_fd();
    let len = address.len() as libc::socklen_t;
    // SAFETY: pointer and length are those of `address`, which the kernel only reads.
    let ret = unsafe { libc::connect(raw, address.as_ptr().cast(), len) };
    check(ret.into(), || format!("connect({raw}, {})", address.escape_ascii())).map(|_| ())
}

/// `listen(2)`.
pub fn listen(fd: BorrowedFd<'_>, backlog: i32) -> Result<()> {
    let raw = fd.as_raw_fd();
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::listen(raw, backlog) };
    check(ret.into(), || format!("listen({raw}, {backlog})")).map(|_| ())
}

/// `accept4(2)`, `O_CLOEXEC`.
pub fn accept(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    let raw = fd.as_raw_fd();
    let none = std::ptr::null_mut();
    // SAFETY: no address is asked for.
    let ret = unsafe { libc::accept4(raw, none, std::ptr::null_mut(), libc::SOCK_CLOEXEC) };
    check(ret.into(), || format!("accept4({raw})")).map(owned)
}

/// `shutdown(2)`.
pub fn shutdown(fd: BorrowedFd<'_>, how: i32) -> Result<()> {
    let raw = fd.as_raw_fd();
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::shutdown(raw, how) };
    check(ret.into(), || format!("shutdown({raw}, {how})")).map(|_| ())
}

/// `sendmsg(2)`: `data` with descriptors attached (at most 253), to `address` unless empty.
pub fn send_msg(
    fd: BorrowedFd<'_>,
    data: &[u8],
    fds: &[RawFd],
    address: &[u8],
    flags: i32,
) -> Result<usize> {
    let raw = fd.as_raw_fd();
    let mut iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    let mut control: Vec<u64> = Vec::new();
    // SAFETY: all-zero bytes are a valid msghdr (null pointers, zero lengths).
    let mut msg: libc::msghdr = unsafe { std::mem::zeroed() };
    msg.msg_iov = &raw mut iov;
    msg.msg_iovlen = 1;
    if !address.is_empty() {
        msg.msg_name = address.as_ptr().cast_mut().cast();
        msg.msg_namelen = address.len() as libc::socklen_t;
    }
    if !fds.is_empty() {
        let len = 16 + 4 * fds.len();
        let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
        bytes.extend((len as u64).to_ne_bytes());
        bytes.extend(libc::SOL_SOCKET.to_ne_bytes());
        bytes.extend(libc::SCM_RIGHTS.to_ne_bytes());
        bytes.extend(fds.iter().flat_map(|f| f.to_ne_bytes()));
        bytes.resize(len.next_multiple_of(8), 0);
        // As words, so that the cmsghdr in them is aligned.
        control.extend(
            bytes.chunks_exact(8).map(|c| u64::from_ne_bytes(c.try_into().unwrap_or_default())),
        );
        msg.msg_control = control.as_mut_ptr().cast();
        msg.msg_controllen = len;
    }
    // SAFETY: `msg` describes buffers that outlive the call, which only reads them.
    let ret = unsafe { libc::sendmsg(raw, &raw const msg, flags) };
    check(ret as libc::c_long, || {
        format!("sendmsg({raw}, {} bytes, {} descriptors)", data.len(), fds.len())
    })
    .map(|n| n as usize)
}

/// `recv(2)`; with `MSG_TRUNC`, how much there was, which may be more than `buf` holds.
pub fn recv(fd: BorrowedFd<'_>, buf: &mut [u8], flags: i32) -> Result<usize> {
    let raw = fd.as_raw_fd();
    // SAFETY: the kernel writes no more than `buf` holds.
    let ret = unsafe { libc::recv(raw, buf.as_mut_ptr().cast(), buf.len(), flags) };
    check(ret as libc::c_long, || format!("recv({raw}, {}, {flags:#x})", buf.len()))
        .map(|n| n as usize)
}

/// `setns(2)` of this thread into a net namespace.
pub fn enter_net_ns(ns: BorrowedFd<'_>) -> Result<()> {
    let raw = ns.as_raw_fd();
    // SAFETY: integers in, integer out. Moves only the calling thread.
    let ret = unsafe { libc::setns(raw, libc::CLONE_NEWNET) };
    check(ret.into(), || format!("setns({raw}, CLONE_NEWNET)")).map(|_| ())
}

/// `if_nametoindex(3)`: the number of a network device.
pub fn device_index(name: &str) -> Result<u32> {
    let c = std::ffi::CString::new(name)
        .map_err(|_| crate::Error::new("if_nametoindex(name with NUL)", libc::EINVAL))?;
    // SAFETY: `c` is NUL-terminated and outlives the call.
    match unsafe { libc::if_nametoindex(c.as_ptr()) } {
        0 => Err(crate::Error::last(format_args!("if_nametoindex({name})"))),
        index => Ok(index),
    }
}

/// `ioctl(SIOCGIFINDEX)`: the number of a device in the network namespace of a socket.
pub fn index_seen_by(socket: BorrowedFd<'_>, name: &str) -> Result<u32> {
    const SIOCGIFINDEX: u64 = 0x8933;
    let failed = |errno| crate::Error::new(format_args!("ioctl(SIOCGIFINDEX, {name})"), errno);
    // struct ifreq: 16 bytes of name, then the number.
    let mut request = [0u8; 40];
    let to = request.get_mut(..name.len()).filter(|to| to.len() < libc::IF_NAMESIZE);
    to.ok_or_else(|| failed(libc::EINVAL))?.copy_from_slice(name.as_bytes());
    crate::fd::ioctl_bytes(socket, SIOCGIFINDEX, &mut request).map_err(|e| failed(e.errno()))?;
    Ok(u32::from_ne_bytes([request[16], request[17], request[18], request[19]]))
}

/// `if_indextoname(3)`: the name of a network device.
pub fn device_name(index: u32) -> Result<Vec<u8>> {
    let mut name = [0u8; libc::IF_NAMESIZE];
    // SAFETY: the name is written to a buffer of IF_NAMESIZE bytes.
    let got = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    if got.is_null() {
        return Err(crate::Error::last(format_args!("if_indextoname({index})")));
    }
    Ok(name.iter().copied().take_while(|b| *b != 0).collect())
}

/// Attaches a classic BPF filter, given as the image's words
/// (`code << 48 | jt << 40 | jf << 32 | k`).
pub fn attach_filter(fd: BorrowedFd<'_>, words: &[u64]) -> Result<()> {
    let raw = fd.as_raw_fd();
    let mut program: Vec<libc::sock_filter> = words
        .iter()
        .map(|w| libc::sock_filter {
            code: (w >> 48) as u16,
            jt: (w >> 40) as u8,
            jf: (w >> 32) as u8,
            k: *w as u32,
        })
        .collect();
    let prog = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let len = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: `prog` points at `program`; both outlive the call, which only reads them.
    let ret = unsafe {
        libc::setsockopt(
            raw,
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const prog).cast(),
            len,
        )
    };
    check(ret.into(), || format!("setsockopt({raw}, SO_ATTACH_FILTER, {} words)", words.len()))
        .map(|_| ())
}

/// Takes the filter of [`attach_filter`] off again.
pub fn detach_filter(fd: BorrowedFd<'_>) -> Result<()> {
    // The kernel wants a value and does not look at it.
    crate::fd::setsockopt(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0i32.to_ne_bytes())
}

/// For a TCP connection: sends at once, and notices in less than a minute that the other host is
/// gone though nothing is sent. Other sockets stay as they are.
pub fn keep_alive(fd: BorrowedFd<'_>) {
    const OPTIONS: [(i32, i32, i32); 5] = [
        (libc::IPPROTO_TCP, libc::TCP_NODELAY, 1),
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 10),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 5),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 6),
    ];
    for (level, name, value) in OPTIONS {
        let _ = crate::fd::setsockopt(fd, level, name, &value.to_ne_bytes());
    }
}
