//! What the kernel tells about all sockets of a network namespace, one question per kind.

use super::error::{Why, call};
use super::packet_sock::{self, PacketDiag, packet_diag};
use super::parse::{InetDiag, NetlinkDiag, UnixDiag, inet_diag, netlink_diag, unix_diag};
use super::{FileTable, Open};
use crate::ns::{Namespaces, Role};
use images::checkpoint::NsKind;
use nix::sys::stat::{fstat, stat};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::AsFd;
use std::rc::Rc;
use sys::netlink::{Request, Socket, messages};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// NAME, VFS, PEER, ICONS, RQLEN.
const UDIAG_SHOW: u32 = 0x1f;

/// Answers so far, by inode of the network namespace.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Namespaces of the tree, to be asked in; without them only our own is known.
    all: Option<Rc<Namespaces>>,
    ns: HashMap<i32, u64>,
    unix: HashMap<u64, HashMap<u32, UnixDiag>>,
    inet: HashMap<(u64, u8, u8), HashMap<u32, InetDiag>>,
    netlink: HashMap<u64, HashMap<u32, NetlinkDiag>>,
    packet: HashMap<u64, HashMap<u32, PacketDiag>>,
}

impl State {
    /// Nothing asked so far.
    pub(crate) fn new(all: Rc<Namespaces>) -> Self {
        Self { all: Some(all), ..Self::default() }
    }

    /// Forgets what it knows of connections: they were still moving.
    pub(crate) fn forget_inet(&mut self) {
        self.inet.clear();
    }

    /// Inode of the network namespace of `pid`.
    pub(crate) fn ns_of(&mut self, pid: i32) -> Result<u64, Why> {
        match self.ns.entry(pid) {
            Entry::Occupied(e) => Ok(*e.get()),
            Entry::Vacant(e) => {
                let path = format!("/proc/{pid}/ns/net");
                let ino = call(|| format!("stat({path})"), stat(path.as_str()))?.st_ino;
                Ok(*e.insert(ino))
            }
        }
    }

    /// All unix sockets in the namespace `ns`, by inode.
    pub(crate) fn unix(&mut self, ns: u64) -> Result<&HashMap<u32, UnixDiag>, Why> {
        if !self.unix.contains_key(&ns) {
            let mut body = vec![libc::AF_UNIX as u8, 0, 0, 0];
            body.extend(u32::MAX.to_ne_bytes());
            body.extend(0u32.to_ne_bytes());
            body.extend(UDIAG_SHOW.to_ne_bytes());
            body.extend([0xff; 8]);
            let list = self.ask(ns, &body)?;
            let map =
                messages(&list).filter_map(|m| unix_diag(m.body)).map(|d| (d.ino, d)).collect();
            self.unix.insert(ns, map);
        }
        Ok(&self.unix[&ns])
    }

    /// All sockets of this family and protocol in the namespace `ns`, by inode.
    pub(crate) fn inet(
        &mut self,
        ns: u64,
        family: u8,
        protocol: u8,
    ) -> Result<&HashMap<u32, InetDiag>, Why> {
        let key = (ns, family, protocol);
        if !self.inet.contains_key(&key) {
            // Only with this (INET_DIAG_INFO) the keys that sign segments are told.
            let info = if i32::from(protocol) == libc::IPPROTO_TCP { 1 << 1 } else { 0 };
            let mut body = vec![family, protocol, info, 0];
            body.extend(u32::MAX.to_ne_bytes());
            body.extend([0u8; 48]);
            let list = match self.ask(ns, &body) {
                // No module for this protocol: then there is no socket of it either, or it is
                // found missing when it is looked up.
                Err(Why::Sys(e)) if e.errno() == libc::ENOENT => Vec::new(),
                list => list?,
            };
            let map =
                messages(&list).filter_map(|m| inet_diag(m.body)).map(|d| (d.ino, d)).collect();
            self.inet.insert(key, map);
        }
        Ok(&self.inet[&key])
    }

    /// All netlink sockets in the namespace `ns`, by inode.
    pub(crate) fn netlink(&mut self, ns: u64) -> Result<&HashMap<u32, NetlinkDiag>, Why> {
        if !self.netlink.contains_key(&ns) {
            // All protocols.
            let mut body = vec![libc::AF_NETLINK as u8, 0xff, 0, 0];
            body.extend(0u32.to_ne_bytes());
            // GROUPS.
            body.extend(2u32.to_ne_bytes());
            body.extend([0xff; 8]);
            let list = self.ask(ns, &body)?;
            let map =
                messages(&list).filter_map(|m| netlink_diag(m.body)).map(|d| (d.ino, d)).collect();
            self.netlink.insert(ns, map);
        }
        Ok(&self.netlink[&ns])
    }

    /// All packet sockets in the namespace `ns`, by inode.
    pub(crate) fn packet(&mut self, ns: u64) -> Result<&HashMap<u32, PacketDiag>, Why> {
        if !self.packet.contains_key(&ns) {
            let mut body = vec![libc::AF_PACKET as u8, 0, 0, 0];
            body.extend(0u32.to_ne_bytes());
            body.extend(packet_sock::SHOW.to_ne_bytes());
            body.extend([0xff; 8]);
            let list = self.ask(ns, &body)?;
            let map = messages(&list).filter_map(|m| packet_diag(m.body));
            self.packet.insert(ns, map.map(|d| (d.ino, d)).collect());
        }
        Ok(&self.packet[&ns])
    }

    /// All answers to one request, asked in a network namespace.
    fn ask(&self, ns: u64, body: &[u8]) -> Result<Vec<u8>, Why> {
        let known = self.all.as_ref().and_then(|all| all.by_ino(NsKind::Net, ns));
        let mut socket = match known.filter(|ns| ns.role != Role::Criu) {
            None => Socket::open(libc::NETLINK_SOCK_DIAG)?,
            Some(ns) => Socket::in_net_ns(ns.fd.as_fd(), libc::NETLINK_SOCK_DIAG)?,
        };
        let request = Request::new("SOCK_DIAG_BY_FAMILY", SOCK_DIAG_BY_FAMILY);
        Ok(socket.dump(&request.about(format_args!("family {}", body[0])).body(body))?)
    }
}

/// `SIOCGSKNS` (4.10): the network namespace of a socket.
const SIOCGSKNS: u64 = 0x894c;

impl FileTable {
    /// Inode and id of the network namespace that a socket belongs to, wherever its task is.
    pub(crate) fn net_of(&mut self, open: &Open<'_>) -> Result<(u64, u32), Why> {
        let ino = match sys::file::ioctl_fd(open.own, SIOCGSKNS) {
            Ok(fd) => call(|| "fstat(net namespace)".into(), fstat(fd.as_fd()))?.st_ino,
            // An old kernel, or a user who may not ask: a socket from elsewhere is not found there.
            Err(e) if matches!(e.errno(), libc::ENOTTY | libc::EPERM) => {
                self.diag.ns_of(open.pid)?
            }
            Err(e) => return Err(e.into()),
        };
        let foreign = self.ns.foreign(NsKind::Net).next().is_some();
        match self.ns.by_ino(NsKind::Net, ino) {
            // The tree left it behind, or the socket came from there.
            Some(ns) if ns.role == Role::Criu && foreign => {}
            Some(ns) => return Ok((ino, ns.id)),
            None => {}
        }
        Err(Why::refused(
            "Unable to dump a socket from an external network namespace: no task of the tree is \
             in it",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn our_own_sockets_are_found() {
        use std::os::linux::fs::MetadataExt;
        let pid = std::process::id() as i32;
        let ino = |fd: &dyn AsRawFd| {
            std::fs::metadata(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap().st_ino() as u32
        };
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("[::1]:0").unwrap();
        let mut state = State::default();
        let pid = state.ns_of(pid).unwrap();
        let unix = state.unix(pid).unwrap();
        assert_eq!((unix[&ino(&a)].peer, unix[&ino(&a)].state), (ino(&b), 1));
        let listen = &state.inet(pid, libc::AF_INET as u8, 6).unwrap()[&ino(&tcp)];
        let port = tcp.local_addr().unwrap().port();
        assert_eq!((listen.state, listen.ports.0, listen.addrs.0[0]), (10, port, 0x0100_007f));
        assert!(state.inet(pid, libc::AF_INET6 as u8, 17).unwrap().contains_key(&ino(&udp)));
    }
}
