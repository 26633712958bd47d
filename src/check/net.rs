//! Probes of sockets and of what netlink tells about them.

use super::{Answer, why};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::{AsFd, OwnedFd};
use sys::netlink::{Request, Socket};

pub(super) const TCP_REPAIR: i32 = 19;

pub(super) fn inet_stream() -> Result<OwnedFd, String> {
    socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(why)
}

pub(super) fn set_int(fd: &OwnedFd, level: i32, name: i32, value: i32) -> Answer {
    sys::fd::setsockopt(fd.as_fd(), level, name, &value.to_ne_bytes()).map_err(why)
}

pub(super) fn tcp_repair() -> Answer {
    let fd = inet_stream()?;
    set_int(&fd, libc::IPPROTO_TCP, TCP_REPAIR, 1)
}

/// A connection over loopback, one half of it closed: may it still be repaired?
pub(super) fn tcp_half_closed() -> Answer {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(why)?;
    let here = std::net::TcpStream::connect(listener.local_addr().map_err(why)?).map_err(why)?;
    let (_there, _) = listener.accept().map_err(why)?;
    here.shutdown(std::net::Shutdown::Write).map_err(why)?;
    set_int(&here.into(), libc::IPPROTO_TCP, TCP_REPAIR, 1)
}

pub(super) fn so_get_filter() -> Answer {
    socket_option(libc::AF_INET, libc::SOL_SOCKET, 26)
}

pub(super) fn socket_ioctl(family: i32, request: u64, fine: Option<i32>) -> Answer {
    let fd = open_socket(family)?;
    match sys::file::ioctl_fd(fd.as_fd(), request) {
        Ok(_) => Ok(()),
        Err(e) if Some(e.errno()) == fine => Ok(()),
        Err(e) => Err(why(e)),
    }
}

pub(super) fn open_socket(family: i32) -> Result<OwnedFd, String> {
    let family = AddressFamily::from_i32(family).ok_or("unknown address family")?;
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(why)
}

pub(super) fn socket_option(family: i32, level: i32, name: i32) -> Answer {
    let mut value = [0; 64];
    sys::fd::getsockopt(open_socket(family)?.as_fd(), level, name, &mut value)
        .map(drop)
        .map_err(why)
}

pub(super) fn sk_unix_file() -> Answer {
    // SIOCUNIXFILE on a socket without a name: ENOENT where it is known.
    socket_ioctl(libc::AF_UNIX, 0x89e0, Some(libc::ENOENT))
}

pub(super) fn unix_diag() -> Answer {
    // struct unix_diag_req: family, then states (all), inode, what to show, cookie.
    let mut body = vec![libc::AF_UNIX as u8, 0, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend([0; 16]);
    diag(&body)
}

fn diag(body: &[u8]) -> Answer {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    let request = Request::new("SOCK_DIAG_BY_FAMILY", SOCK_DIAG_BY_FAMILY).body(body);
    let mut socket = Socket::open(libc::NETLINK_SOCK_DIAG).map_err(why)?;
    socket.dump(&request).map(drop).map_err(why)
}

fn ask(protocol: i32, request: &Request) -> Answer {
    Socket::open(protocol).and_then(|mut s| s.ask(request)).map(drop).map_err(why)
}

/// Raw sockets are asked about by diag, or through a copy of their descriptor where the kernel
/// has no raw_diag: either will do.
pub(super) fn net_diag_raw() -> Answer {
    // struct inet_diag_req_v2: family, protocol, ext, pad, states, then a socket id.
    let mut body = vec![libc::AF_INET as u8, libc::IPPROTO_RAW as u8, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend([0; 48]);
    diag(&body).or_else(|_| super::task::pidfd_store())
}

pub(super) fn sk_ns() -> Answer {
    const SIOCGSKNS: u64 = 0x894c;
    socket_ioctl(libc::AF_INET, SIOCGSKNS, None)
}

pub(super) fn nsid() -> Answer {
    const RTM_GETNSID: u16 = 90;
    const NETNSA_PID: u16 = 2;
    let request =
        Request::new("RTM_GETNSID", RTM_GETNSID).body(&[0; 4]).u32(NETNSA_PID, std::process::id());
    ask(libc::NETLINK_ROUTE, &request)
}

pub(super) fn nftables() -> Answer {
    // Subsystem nf_tables (10), message GETGEN (16): which generation of rules is in force.
    let request = Request::new("NFT_MSG_GETGEN", 10 << 8 | 16).body(&[0; 4]);
    ask(libc::NETLINK_NETFILTER, &request)
}
