//! Collects TCP listeners, closed TCP sockets, UDP, raw and ping sockets, of IPv4 and IPv6.

use super::error::Why;
use super::parse::InetDiag;
use super::sk_opts::{self, get_u32, opt_u32};
use super::tcp_stream::Stream;
use super::{FileTable, Open, entry};
use images::proto::{
    AmberSockoptEntry, FdTypes, InetSkEntry, IpOptsEntry, IpOptsRawEntry, SkShutdown, TcpOptsEntry,
};
use std::os::fd::BorrowedFd;
use sys::tcp::state::{BOUND_INACTIVE, CLOSE, LISTEN};

const UDP_CORK: i32 = 1;
/// As `getpeername`, but it answers for closed connections too.
const SO_PEERNAME: i32 = 28;

impl FileTable {
    pub(crate) fn inet_sk(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let own = open.own;
        let get = |name| get_u32(own, libc::SOL_SOCKET, name);
        let family = get(libc::SO_DOMAIN)?;
        let (kind, proto) = (get(libc::SO_TYPE)?, get(libc::SO_PROTOCOL)?);
        match (kind as i32, proto as i32) {
            (libc::SOCK_STREAM, libc::IPPROTO_TCP) => {}
            (libc::SOCK_STREAM, libc::IPPROTO_MPTCP) => unconnected(own)?,
            (libc::SOCK_DGRAM, libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE) => {
                self.datagrams(open)?
            }
            (libc::SOCK_RAW, _) | (libc::SOCK_DGRAM, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6) => {
                return self.raw(open, family, kind, proto);
            }
            _ => {
                return Err(Why::refused(format!(
                    "Unsupported proto {proto} for socket of type {kind}"
                )));
            }
        }
        let ino = open.stat.st_ino as u32;
        let (net, ns_id) = self.net_of(open)?;
        let multipath = proto as i32 == libc::IPPROTO_MPTCP;
        // The TCP socket that listens for it goes by its inode.
        let asked = if multipath { libc::IPPROTO_TCP } else { proto as i32 };
        let known = self.diag.inet(net, family as u8, asked as u8)?.get(&ino).cloned();
        if multipath && known.is_none() && get(libc::SO_ACCEPTCONN)? != 0 {
            return Err(Why::yet("MPTCP listeners that this kernel does not list"));
        }
        // A socket that is neither bound nor connected is in no table of the kernel.
        let mut diag = known.unwrap_or_else(|| InetDiag { state: CLOSE, ..InetDiag::default() });
        if asked == libc::IPPROTO_TCP {
            if diag.state == BOUND_INACTIVE {
                diag.state = CLOSE;
            }
            if diag.state == CLOSE {
                closed_connection(own, family as i32 == libc::AF_INET6, &mut diag)?;
            }
            self.tcp_state(&diag)?;
        }
        if proto as i32 == libc::IPPROTO_TCP {
            upper_protocol(own)?;
        }
        let mut opts = sk_opts::collect(own, false)?;
        let same = (family as i32, kind as i32, proto as i32);
        opts.amber_others = match proto as i32 {
            libc::IPPROTO_TCP if !is_connection(libc::IPPROTO_TCP, &diag) => {
                self.sk_defaults.of_quiet(own, same)
            }
            _ => self.sk_defaults.differing(own, same),
        };
        if asked == libc::IPPROTO_TCP {
            opts.amber_others.extend(diag.keys.iter().map(signing_key));
        } else {
            let v6 = family as i32 == libc::AF_INET6;
            opts.amber_others.extend(self.memberships(open, net, v6)?);
        }
        let words = if family as i32 == libc::AF_INET { 1 } else { 4 };
        let mut file = entry(FdTypes::Inetsk, open.id);
        file.isk = Some(InetSkEntry {
            id: open.id,
            ino,
            family,
            r#type: kind,
            proto,
            state: diag.state.into(),
            src_port: diag.ports.0.into(),
            dst_port: diag.ports.1.into(),
            flags: open.info.flags,
            backlog: if diag.state == LISTEN { diag.wqueue } else { 0 },
            src_addr: diag.addrs.0[..words].to_vec(),
            dst_addr: diag.addrs.1[..words].to_vec(),
            fown: open.fown,
            v6only: (words == 4)
                .then(|| get_u32(own, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).map(|v| v != 0))
                .transpose()?,
            ip_opts: Some(ip_opts(own, words == 4)),
            ifname: scope(&diag, words == 4, opts.so_bound_dev.clone()),
            opts,
            ns_id: Some(ns_id),
            shutdown: shutdown(asked, diag.shutdown),
            tcp_opts: Some(tcp_opts(own, asked)),
        });
        self.files.push(file);
        let alive = diag.state != CLOSE && self.request.tcp_close;
        if is_connection(proto as i32, &diag) && !alive {
            let fd = own.try_clone_to_owned().map_err(|e| sys::Error::io("dup", &e))?;
            if diag.state != CLOSE {
                self.lock_connection(&diag)?;
            }
            self.tcp.streams.push(Stream { id: open.id, ino, desc: open.desc, fd });
        }
        Ok(())
    }

    /// Raw and ping sockets: their diag is a module of its own that few kernels have, and tells
    /// no more than the socket itself.
    fn raw(&mut self, open: &Open<'_>, family: u32, kind: u32, proto: u32) -> Result<(), Why> {
        let own = open.own;
        let v6 = family as i32 == libc::AF_INET6;
        if sys::socket::peer_name(own).is_ok() {
            return Err(Why::yet("connected raw and ping sockets"));
        }
        self.datagrams(open)?;
        let (net, ns_id) = self.net_of(open)?;
        let (port, words) = address(&sys::socket::own_name(own)?, v6);
        let raw = kind as i32 == libc::SOCK_RAW;
        let mut opts = sk_opts::collect(own, false)?;
        let same = (family as i32, kind as i32, proto as i32);
        opts.amber_others = self.sk_defaults.differing(own, same);
        opts.amber_others.extend(self.memberships(open, net, v6)?);
        let mut ip = ip_opts(own, v6);
        if raw {
            let level = if v6 { libc::IPPROTO_IPV6 } else { libc::IPPROTO_IP };
            let hdrincl = if v6 { libc::IPV6_HDRINCL } else { libc::IP_HDRINCL };
            ip.raw = Some(IpOptsRawEntry {
                hdrincl: opt_u32(own, level, hdrincl).filter(|&v| v != 0).map(|_| true),
                icmpv_filter: icmp_filter(own, proto as i32),
                ..IpOptsRawEntry::default()
            });
        }
        let mut file = entry(FdTypes::Inetsk, open.id);
        file.isk = Some(InetSkEntry {
            id: open.id,
            ino: open.stat.st_ino as u32,
            family,
            r#type: kind,
            proto,
            state: CLOSE.into(),
            src_port: if raw { proto } else { port.into() },
            dst_port: 0,
            flags: open.info.flags,
            backlog: 0,
            dst_addr: vec![0; words.len()],
            src_addr: words,
            fown: open.fown,
            v6only: v6
                .then(|| get_u32(own, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).map(|v| v != 0))
                .transpose()?,
            ip_opts: Some(ip),
            ifname: opts.so_bound_dev.clone().filter(|_| v6),
            opts,
            ns_id: Some(ns_id),
            shutdown: None,
            tcp_opts: Some(TcpOptsEntry::default()),
        });
        self.files.push(file);
        Ok(())
    }

    fn datagrams(&self, open: &Open<'_>) -> Result<(), Why> {
        if opt_u32(open.own, libc::IPPROTO_UDP, UDP_CORK).is_some_and(|v| v != 0) {
            return Err(Why::refused("Can't dump corked dgram socket"));
        }
        let mut queued = [0u8; 4];
        if sys::fd::ioctl_bytes(open.own, libc::FIONREAD, &mut queued).is_ok()
            && i32::from_ne_bytes(queued) > 0
        {
            log::warn!("task {}: fd {}: unread datagrams will be dropped", open.pid, open.fd);
        }
        Ok(())
    }

    fn tcp_state(&self, diag: &InetDiag) -> Result<(), Why> {
        match diag.state {
            CLOSE => Ok(()),
            LISTEN if diag.rqueue == 0 || self.request.skip_in_flight => Ok(()),
            LISTEN => Err(Why::refused(format!(
                "In-flight connection (l) for {:x}. In-flight connections can be ignored with the \
                 --skip-in-flight option.",
                diag.ino
            ))),
            _ if self.request.tcp_established || self.request.tcp_close => Ok(()),
            _ => {
                Err(Why::refused("Connected TCP socket, consider using --tcp-established option."))
            }
        }
    }
}

/// Refuses an MPTCP connection. A socket that has no peer is no more than a TCP socket, and those
/// that it accepts from peers without MPTCP are such.
fn unconnected(fd: BorrowedFd<'_>) -> Result<(), Why> {
    let had = sys::fd::getsockopt(fd, libc::SOL_SOCKET, SO_PEERNAME, &mut [0; 28]).is_ok();
    if had || sys::socket::peer_name(fd).is_ok() {
        return Err(Why::yet("an MPTCP connection: its keys are the kernel's alone"));
    }
    Ok(())
}

/// Refuses what another protocol between TCP and the program keeps to itself.
fn upper_protocol(fd: BorrowedFd<'_>) -> Result<(), Why> {
    const TCP_ULP: i32 = 31;
    const TCP_AO_INFO: i32 = 40;
    let mut name = [0u8; 16];
    if let Ok(len @ 1..) = sys::fd::getsockopt(fd, libc::IPPROTO_TCP, TCP_ULP, &mut name) {
        let name = name[..len.min(name.len())].split(|b| *b == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name);
        return Err(Why::refused(format!(
            "Can't dump TCP socket with upper layer protocol {name} (TCP_ULP): its state is the \
             kernel's alone"
        )));
    }
    if sys::fd::getsockopt(fd, libc::IPPROTO_TCP, TCP_AO_INFO, &mut [0; 64]).is_ok() {
        return Err(Why::yet("TCP sockets that sign segments with TCP-AO keys"));
    }
    Ok(())
}

/// The option that has segments signed (MD5), of `struct tcp_diag_md5sig`: family, length of the
/// prefix, of the key, address, key.
fn signing_key(diag: &[u8; 100]) -> AmberSockoptEntry {
    const TCP_MD5SIG: i32 = 14;
    const TCP_MD5SIG_EXT: i32 = 32;
    const FLAG_PREFIX: u8 = 1;
    const ADDRESS: usize = 128;
    let (family, prefix) = (diag[0], diag[1]);
    let (at, len) = if i32::from(family) == libc::AF_INET { (4, 4) } else { (8, 16) };
    // struct tcp_md5sig.
    let mut value = vec![0u8; ADDRESS + 88];
    value[0] = family;
    value[at..at + len].copy_from_slice(&diag[4..4 + len]);
    value[ADDRESS + 1] = prefix;
    value[ADDRESS + 2..ADDRESS + 4].copy_from_slice(&diag[2..4]);
    value[ADDRESS + 8..].copy_from_slice(&diag[20..]);
    let whole = usize::from(prefix) == 8 * len;
    if !whole {
        value[ADDRESS] = FLAG_PREFIX;
    }
    let name = if whole { TCP_MD5SIG } else { TCP_MD5SIG_EXT };
    AmberSockoptEntry { level: libc::SOL_TCP, name, value, device: None }
}

/// Whether the socket has a peer, or had one.
fn is_connection(proto: i32, diag: &InetDiag) -> bool {
    proto == libc::IPPROTO_TCP && diag.state != LISTEN && diag.ports.1 != 0
}

/// A connection that has come to its end is in no table of the kernel, but its socket remembers.
fn closed_connection(fd: BorrowedFd<'_>, v6: bool, diag: &mut InetDiag) -> Result<(), Why> {
    let fill = |(port, words): (u16, Vec<u32>)| {
        let mut address = [0; 4];
        address[..words.len()].copy_from_slice(&words);
        (port, address)
    };
    // No longer than the address: the kernel minds.
    let mut peer = vec![0u8; if v6 { 28 } else { 16 }];
    let Ok(len) = sys::fd::getsockopt(fd, libc::SOL_SOCKET, SO_PEERNAME, &mut peer) else {
        // Only bound, which not all kernels list.
        (diag.ports.0, diag.addrs.0) = fill(address(&sys::socket::own_name(fd)?, v6));
        return Ok(());
    };
    let (peer, own) = (address(&peer[..len], v6), address(&sys::socket::own_name(fd)?, v6));
    let ((port, address), (own_port, own_address)) = (fill(peer), fill(own));
    diag.ports = (own_port, port);
    diag.addrs = (own_address, address);
    Ok(())
}

/// Port and words of a `sockaddr_in` or `sockaddr_in6`.
fn address(name: &[u8], v6: bool) -> (u16, Vec<u32>) {
    let port = name.get(2..4).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    let bytes = if v6 { name.get(8..24) } else { name.get(4..8) };
    let words = bytes.unwrap_or_default().chunks_exact(4);
    (port, words.map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect())
}

/// The filter of types of a raw ICMP socket.
fn icmp_filter(fd: BorrowedFd<'_>, proto: i32) -> Vec<u32> {
    // ICMP_FILTER and ICMPV6_FILTER are both 1.
    let (level, mut buf) = match proto {
        libc::IPPROTO_ICMP => (libc::IPPROTO_RAW, vec![0u8; 4]),
        libc::IPPROTO_ICMPV6 => (libc::IPPROTO_ICMPV6, vec![0u8; 32]),
        _ => return Vec::new(),
    };
    match sys::fd::getsockopt(fd, level, 1, &mut buf) {
        Ok(len) if buf[..len].iter().any(|&b| b != 0) => buf[..len]
            .chunks_exact(4)
            .map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
            .collect(),
        _ => Vec::new(),
    }
}

/// Options of the IP layer that are not as usual.
fn ip_opts(fd: BorrowedFd<'_>, v6: bool) -> IpOptsEntry {
    let set = |level, name| opt_u32(fd, level, name).filter(|&v| v != 0);
    if v6 {
        return IpOptsEntry {
            freebind: set(libc::IPPROTO_IPV6, libc::IPV6_FREEBIND).map(|_| true),
            pktinfo: set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO).map(|_| true),
            ..IpOptsEntry::default()
        };
    }
    IpOptsEntry {
        freebind: set(libc::IPPROTO_IP, libc::IP_FREEBIND).map(|_| true),
        pktinfo: set(libc::IPPROTO_IP, libc::IP_PKTINFO).map(|_| true),
        tos: set(libc::IPPROTO_IP, libc::IP_TOS),
        ttl: set(libc::IPPROTO_IP, libc::IP_TTL),
        ..IpOptsEntry::default()
    }
}

fn tcp_opts(fd: BorrowedFd<'_>, proto: i32) -> TcpOptsEntry {
    if proto != libc::IPPROTO_TCP {
        return TcpOptsEntry::default();
    }
    let get = |name| opt_u32(fd, libc::IPPROTO_TCP, name);
    let flag = |name| get(name).filter(|&v| v != 0).map(|_| true);
    TcpOptsEntry {
        cork: flag(libc::TCP_CORK),
        nodelay: flag(libc::TCP_NODELAY),
        keepcnt: get(libc::TCP_KEEPCNT),
        keepidle: get(libc::TCP_KEEPIDLE),
        keepintvl: get(libc::TCP_KEEPINTVL),
    }
}

/// Link-local addresses mean something on one interface only.
fn scope(diag: &InetDiag, v6: bool, bound: Option<String>) -> Option<String> {
    // fe80::/10, in memory order.
    let local = |a: &[u32; 4]| {
        let b = a[0].to_ne_bytes();
        b[0] == 0xfe && b[1] & 0xc0 == 0x80
    };
    if !v6 || !(local(&diag.addrs.0) || local(&diag.addrs.1)) {
        return None;
    }
    bound
}

fn shutdown(proto: i32, bits: u8) -> Option<i32> {
    let kind = match bits & 3 {
        _ if proto == libc::IPPROTO_TCP => return None,
        0 => return None,
        1 => SkShutdown::Read,
        2 => SkShutdown::Write,
        _ => SkShutdown::Both,
    };
    Some(kind.into())
}
