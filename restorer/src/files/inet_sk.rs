//! Internet sockets: TCP listeners and closed sockets, UDP, UDPLITE, raw.

use super::open::{Files, Opened, set_flags};
use super::sk_opts::{self, set_int};
use super::{At, Error, Result, tcp_stream};
use images::checkpoint::TcpStream;
use images::proto::{InetSkEntry, SkShutdown};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const ESTABLISHED: u32 = 1;
const LISTEN: u32 = 10;
const IPV6_FREEBIND: i32 = 78;

impl Files<'_> {
    /// Opens the sockets of one port: all bind before any of them listens or gives up the
    /// right to share the port.
    pub(super) fn open_inets(&mut self, ids: &[u32], opened: &mut Opened) -> Result<()> {
        let mut socks: Vec<(&InetSkEntry, OwnedFd)> = Vec::with_capacity(ids.len());
        let entries = ids.iter().filter_map(|id| self.set.files.get(id)?.isk.as_ref());
        let share = entries.clone().filter(|e| is_tcp(e)).any(|e| e.opts.so_reuseport());
        for id in ids {
            let Some(entry) = &self.set.file(*id)?.isk else { continue };
            let fd = self
                .bind_inet(entry, share && is_tcp(entry))
                .at(|| format!("file {id}, socket {}", name(entry)))?;
            socks.push((entry, fd));
        }
        for (entry, fd) in &socks {
            let stream = tcp_stream::stream(self.set, self.request, entry);
            self.finish_inet(entry, stream, fd.as_fd())
                .at(|| format!("file {}, socket {}", entry.id, name(entry)))?;
        }
        for (entry, fd) in socks {
            // Whoever gave up the right to share the port did so when all of them listened.
            let reuse = i32::from(entry.opts.so_reuseport());
            if share && is_tcp(entry) {
                set_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, reuse)?;
            }
            if let Some((_, number)) = self.plan.flying.get(&entry.id) {
                sys::fd::dup3(fd.as_fd(), *number, true)?;
            }
            opened.insert(entry.id, fd);
        }
        Ok(())
    }

    fn bind_inet(&self, entry: &InetSkEntry, share: bool) -> Result<OwnedFd> {
        self.in_context(entry.id)?;
        let _away = self.in_net(entry.ns_id)?;
        let (family, kind) = (entry.family as i32, entry.r#type as i32);
        let connection = tcp_stream::stream(self.set, self.request, entry);
        let fd = match connection {
            Some(stream) => self.roomy_socket(entry, &stream.entry)?,
            None => sys::net::socket(family, kind, entry.proto as i32)?,
        };
        let sk = fd.as_fd();
        if family == libc::AF_INET6 {
            set_int(sk, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, entry.v6only().into())?;
        }
        sk_opts::before_bind((self, entry.id), sk, &entry.opts, connection.is_none())?;
        set_int(sk, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        if share {
            set_int(sk, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        if let Some(ip) = &entry.ip_opts
            && ip.freebind()
        {
            let (level, name) = freebind(entry);
            set_int(sk, level, name, 1)?;
        }
        if let Some(stream) = connection {
            self.connect_tcp(sk, entry, stream)?;
            return Ok(fd);
        }
        if tcp_stream::is_connection(entry) {
            shut(sk)?;
            return Ok(fd);
        }
        let raw = kind == libc::SOCK_RAW;
        let any = entry.src_addr.iter().all(|w| *w == 0);
        if (raw && !any) || (!raw && entry.src_port != 0) {
            let port = if raw { 0 } else { entry.src_port };
            self.bind_to(sk, entry, &address(entry, &entry.src_addr, port)?)?;
        }
        Ok(fd)
    }

    fn finish_inet(
        &self,
        entry: &InetSkEntry,
        stream: Option<&TcpStream>,
        sk: BorrowedFd<'_>,
    ) -> Result<()> {
        if is_tcp(entry) {
            sk_opts::tcp(sk, entry.tcp_opts.as_ref(), stream.map(|s| &s.entry), &entry.opts)?;
            if entry.state == LISTEN {
                sys::net::listen(sk, entry.backlog as i32)?;
            }
        } else if entry.state == ESTABLISHED && entry.dst_port != 0 {
            sys::net::connect(sk, &address(entry, &entry.dst_addr, entry.dst_port)?)?;
        }
        ip_opts(entry, sk)?;
        sk_opts::restore((self, entry.id), sk, &entry.opts)?;
        if stream.is_some() {
            // Now that nobody has to deliver segments to it any more.
            sk_opts::device(sk, &entry.opts)?;
        } else {
            // Of connections, repair makes what it will: later.
            set_int(sk, libc::SOL_SOCKET, libc::SO_REUSEADDR, entry.opts.reuseaddr().into())?;
        }
        if let Some(how) = entry.shutdown.filter(|_| !is_tcp(entry))
            && let Err(e) = shutdown(sk, how)
        {
            // It is shut down all the same, the kernel only adds that nobody was connected.
            let unconnected = matches!(&e, Error::Sys(e) if e.errno() == libc::ENOTCONN);
            if !unconnected {
                return Err(e);
            }
        }
        set_flags(sk, entry.flags)
    }

    /// An address that is gone from the host can still be bound to with IP_FREEBIND, which the
    /// program may have set and cleared.
    pub(super) fn bind_to(
        &self,
        sk: BorrowedFd<'_>,
        entry: &InetSkEntry,
        address: &[u8],
    ) -> Result<()> {
        let again = match sys::net::bind(sk, address) {
            Err(e) if e.errno() == libc::EADDRNOTAVAIL => e,
            other => return Ok(other?),
        };
        let (level, name) = freebind(entry);
        set_int(sk, level, name, 1)?;
        sys::net::bind(sk, address)?;
        set_int(sk, level, name, entry.ip_opts.as_ref().is_some_and(|o| o.freebind()).into())?;
        log::warn!("file {}: {again}: bound all the same (IP_FREEBIND)", entry.id);
        Ok(())
    }
}

fn freebind(entry: &InetSkEntry) -> (i32, i32) {
    match entry.family as i32 {
        libc::AF_INET6 => (libc::IPPROTO_IPV6, IPV6_FREEBIND),
        _ => (libc::IPPROTO_IP, libc::IP_FREEBIND),
    }
}

fn is_tcp(entry: &InetSkEntry) -> bool {
    entry.r#type as i32 == libc::SOCK_STREAM
}

/// What a connection is for its program when it was not to be restored: at its end.
fn shut(sk: BorrowedFd<'_>) -> Result<()> {
    match sys::net::shutdown(sk, libc::SHUT_RDWR) {
        // Shut down all the same.
        Err(e) if e.errno() == libc::ENOTCONN => Ok(()),
        other => Ok(other?),
    }
}

fn ip_opts(entry: &InetSkEntry, sk: BorrowedFd<'_>) -> Result<()> {
    let Some(ip) = &entry.ip_opts else { return Ok(()) };
    let v6 = entry.family as i32 == libc::AF_INET6;
    if let Some(on) = ip.pktinfo {
        match v6 {
            true => set_int(sk, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, on.into())?,
            false => set_int(sk, libc::IPPROTO_IP, libc::IP_PKTINFO, on.into())?,
        }
    }
    if let Some(tos) = ip.tos {
        set_int(sk, libc::IPPROTO_IP, libc::IP_TOS, tos as i32)?;
    }
    if let Some(ttl) = ip.ttl {
        set_int(sk, libc::IPPROTO_IP, libc::IP_TTL, ttl as i32)?;
    }
    let Some(raw) = &ip.raw else { return Ok(()) };
    if raw.hdrincl() {
        let level = if v6 { libc::IPPROTO_IPV6 } else { libc::IPPROTO_IP };
        let name = if v6 { libc::IPV6_HDRINCL } else { libc::IP_HDRINCL };
        set_int(sk, level, name, 1)?;
    }
    if raw.nodefrag() {
        set_int(sk, libc::IPPROTO_IP, libc::IP_NODEFRAG, 1)?;
    }
    if raw.checksum() {
        set_int(sk, libc::IPPROTO_IPV6, libc::IPV6_CHECKSUM, 1)?;
    }
    if !raw.icmpv_filter.is_empty() {
        let bytes: Vec<u8> = raw.icmpv_filter.iter().flat_map(|w| w.to_ne_bytes()).collect();
        // ICMP_FILTER and ICMPV6_FILTER are both 1, at their own levels.
        let level = if v6 { libc::IPPROTO_ICMPV6 } else { libc::IPPROTO_RAW };
        sys::fd::setsockopt(sk, level, 1, &bytes)?;
    }
    Ok(())
}

/// `shutdown(2)` as images have it.
pub(super) fn shutdown(sk: BorrowedFd<'_>, how: i32) -> Result<()> {
    let how = match SkShutdown::try_from(how) {
        Ok(SkShutdown::Read) => libc::SHUT_RD,
        Ok(SkShutdown::Write) => libc::SHUT_WR,
        Ok(SkShutdown::Both) => libc::SHUT_RDWR,
        _ => return Ok(()),
    };
    Ok(sys::net::shutdown(sk, how)?)
}

/// The `sockaddr` that a socket is bound to.
pub(super) fn own_address(entry: &InetSkEntry) -> Result<Vec<u8>> {
    address(entry, &entry.src_addr, entry.src_port)
}

/// The `sockaddr` that a socket is connected to.
pub(super) fn peer_address(entry: &InetSkEntry) -> Result<Vec<u8>> {
    address(entry, &entry.dst_addr, entry.dst_port)
}

fn address(entry: &InetSkEntry, words: &[u32], port: u32) -> Result<Vec<u8>> {
    let mut bytes = (entry.family as u16).to_ne_bytes().to_vec();
    bytes.extend((port as u16).to_be_bytes());
    let address = words.iter().flat_map(|w| w.to_ne_bytes());
    match (entry.family as i32, words.len()) {
        (libc::AF_INET, 1) => {
            bytes.extend(address);
            bytes.extend([0; 8]);
        }
        (libc::AF_INET6, 4) => {
            bytes.extend([0; 4]);
            bytes.extend(address);
            bytes.extend(scope(entry)?.to_ne_bytes());
        }
        (family, n) => {
            let text = format!("an address of {n} words in family {family}");
            return Err(Error::Refused(text));
        }
    }
    Ok(bytes)
}

/// The device of a link-local address.
pub(super) fn scope(entry: &InetSkEntry) -> Result<u32> {
    let Some(device) = entry.ifname.as_ref().filter(|n| !n.is_empty()) else { return Ok(0) };
    Ok(sys::net::device_index(device)?)
}

/// What a user would call the socket.
pub(super) fn name(entry: &InetSkEntry) -> String {
    let protocol = match (entry.r#type as i32, entry.proto as i32) {
        (libc::SOCK_STREAM, _) => "tcp",
        (libc::SOCK_RAW, _) => "raw",
        (_, libc::IPPROTO_UDPLITE) => "udplite",
        _ => "udp",
    };
    let bytes: Vec<u8> = entry.src_addr.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let address = match (<[u8; 4]>::try_from(&bytes[..]), <[u8; 16]>::try_from(&bytes[..])) {
        (Ok(v4), _) => Ipv4Addr::from(v4).to_string(),
        (_, Ok(v6)) => format!("[{}]", Ipv6Addr::from(v6)),
        _ => "?".to_owned(),
    };
    format!("{protocol} {address}:{}", entry.src_port)
}
