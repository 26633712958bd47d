//! What the kernel tells about all sockets of a network namespace, one question per kind.

use super::error::{Why, call};
use super::parse::{InetDiag, NetlinkDiag, UnixDiag, inet_diag, netlink_diag, unix_diag};
use nix::sys::stat::stat;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::os::fd::AsFd;
use sys::netlink::{Request, Socket, messages};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// NAME, VFS, PEER, ICONS, RQLEN.
const UDIAG_SHOW: u32 = 0x1f;

/// Answers so far, by inode of the network namespace.
#[derive(Debug, Default)]
pub(crate) struct State {
    ns: HashMap<i32, u64>,
    unix: HashMap<u64, HashMap<u32, UnixDiag>>,
    inet: HashMap<(u64, u8, u8), HashMap<u32, InetDiag>>,
    netlink: HashMap<u64, HashMap<u32, NetlinkDiag>>,
}

impl State {
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

    /// All unix sockets in the namespace of `pid`, by inode.
    pub(crate) fn unix(&mut self, pid: i32) -> Result<&HashMap<u32, UnixDiag>, Why> {
        let ns = self.ns_of(pid)?;
        if !self.unix.contains_key(&ns) {
            let mut body = vec![libc::AF_UNIX as u8, 0, 0, 0];
            body.extend(u32::MAX.to_ne_bytes());
            body.extend(0u32.to_ne_bytes());
            body.extend(UDIAG_SHOW.to_ne_bytes());
            body.extend([0xff; 8]);
            let list = self.ask(pid, &body)?;
            let map =
                messages(&list).filter_map(|m| unix_diag(m.body)).map(|d| (d.ino, d)).collect();
            self.unix.insert(ns, map);
        }
        Ok(&self.unix[&ns])
    }

    /// All sockets of this family and protocol in the namespace of `pid`, by inode.
    pub(crate) fn inet(
        &mut self,
        pid: i32,
        family: u8,
        protocol: u8,
    ) -> Result<&HashMap<u32, InetDiag>, Why> {
        let key = (self.ns_of(pid)?, family, protocol);
        if !self.inet.contains_key(&key) {
            let mut body = vec![family, protocol, 0, 0];
            body.extend(u32::MAX.to_ne_bytes());
            body.extend([0u8; 48]);
            let list = match self.ask(pid, &body) {
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

    /// All netlink sockets in the namespace of `pid`, by inode.
    pub(crate) fn netlink(&mut self, pid: i32) -> Result<&HashMap<u32, NetlinkDiag>, Why> {
        let ns = self.ns_of(pid)?;
        if !self.netlink.contains_key(&ns) {
            // All protocols.
            let mut body = vec![libc::AF_NETLINK as u8, 0xff, 0, 0];
            body.extend(0u32.to_ne_bytes());
            // GROUPS.
            body.extend(2u32.to_ne_bytes());
            body.extend([0xff; 8]);
            let list = self.ask(pid, &body)?;
            let map =
                messages(&list).filter_map(|m| netlink_diag(m.body)).map(|d| (d.ino, d)).collect();
            self.netlink.insert(ns, map);
        }
        Ok(&self.netlink[&ns])
    }

    /// All answers to one request, asked in the network namespace of `pid`.
    fn ask(&mut self, pid: i32, body: &[u8]) -> Result<Vec<u8>, Why> {
        let mut socket = if self.ns_of(pid)? == self.ns_of(std::process::id() as i32)? {
            Socket::open(libc::NETLINK_SOCK_DIAG)?
        } else {
            let path = format!("/proc/{pid}/ns/net");
            let ns = File::open(&path).map_err(|e| sys::Error::io(format!("open({path})"), &e))?;
            Socket::in_net_ns(ns.as_fd(), libc::NETLINK_SOCK_DIAG)?
        };
        let request = Request::new("SOCK_DIAG_BY_FAMILY", SOCK_DIAG_BY_FAMILY);
        Ok(socket.dump(&request.about(format_args!("family {}", body[0])).body(body))?)
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
        let unix = state.unix(pid).unwrap();
        assert_eq!((unix[&ino(&a)].peer, unix[&ino(&a)].state), (ino(&b), 1));
        let listen = &state.inet(pid, libc::AF_INET as u8, 6).unwrap()[&ino(&tcp)];
        let port = tcp.local_addr().unwrap().port();
        assert_eq!((listen.state, listen.ports.0, listen.addrs.0[0]), (10, port, 0x0100_007f));
        assert!(state.inet(pid, libc::AF_INET6 as u8, 17).unwrap().contains_key(&ino(&udp)));
    }
}
