//! Locks the network before connections are looked at.
//!
//! All tasks stand still by then, but their connections go on: what the peer sends is
//! acknowledged and queued. So they are found, locked, and looked at once more.

use super::FileTable;
use super::error::{Error as FilesError, Why};
use super::parse::InetDiag;
use crate::{Error, NetworkLock, Request};
use images::checkpoint::NsKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use sys::net_lock::{Connection, Guard, Method, Place, What};
use sys::tcp::state::{BOUND_INACTIVE, CLOSE, LISTEN};

/// The lock, once there is one.
#[derive(Debug, Default)]
pub(crate) struct State {
    place: String,
    pub(super) guard: Option<Guard>,
}

/// How the network is to be locked.
pub(crate) fn method(request: &Request) -> Method {
    match request.network_lock {
        NetworkLock::Iptables => Method::Iptables,
        NetworkLock::Nftables => Method::Nftables,
        NetworkLock::Skip => Method::Skip,
    }
}

impl FileTable {
    /// Keeps packets of the tree's connections away. `run_id` names the lock.
    pub(crate) fn lock_network(&mut self, run_id: &str) -> Result<(), Error> {
        self.net_lock.place = Place::name(run_id);
        // Others are refused, or closed.
        if !self.request.tcp_established || self.request.tcp_close || self.is_locked() {
            return Ok(());
        }
        let found = self.connections().map_err(|why| Error::Files(FilesError::Tree(why)))?;
        if !found.is_empty() {
            self.lock(found)?;
            self.diag.forget_inet();
        }
        Ok(())
    }

    /// A connection that was not found before: it is in flight inside of another socket.
    pub(super) fn lock_connection(&mut self, diag: &InetDiag) -> Result<(), Why> {
        if self.is_locked() {
            return Ok(());
        }
        let connection = connection(diag);
        match &mut self.net_lock.guard {
            Some(guard) => guard.add(connection)?,
            None => self.lock(vec![connection])?,
        }
        Ok(())
    }

    /// The tree has a net namespace of its own, which is locked as a whole.
    fn is_locked(&self) -> bool {
        self.ns.root(NsKind::Net).is_some()
    }

    fn lock(&mut self, connections: Vec<Connection>) -> Result<(), sys::Error> {
        log::debug!("locking {} connections", connections.len());
        let name = self.net_lock.place.clone();
        let place = Place { ns: None, name, method: method(&self.request) };
        self.net_lock.guard = Some(Guard::new(place, What::Connections(connections))?);
        Ok(())
    }

    /// The connections that descriptors of the tree are open on.
    fn connections(&mut self) -> Result<Vec<Connection>, Why> {
        let mut all = Vec::new();
        let sockets: Vec<(u32, i32)> =
            self.walk.sockets.iter().map(|(i, d)| (*i as u32, self.walk.descs[*d].pid)).collect();
        for family in [libc::AF_INET, libc::AF_INET6] {
            for (ino, pid) in &sockets {
                let net = self.diag.ns_of(*pid)?;
                let table = self.diag.inet(net, family as u8, libc::IPPROTO_TCP as u8)?;
                let diag = table.get(ino).filter(|d| is_alive(d));
                all.extend(diag.map(connection));
            }
        }
        Ok(all)
    }
}

fn is_alive(diag: &InetDiag) -> bool {
    !matches!(diag.state, CLOSE | LISTEN | BOUND_INACTIVE)
}

fn connection(diag: &InetDiag) -> Connection {
    let address = |words: &[u32; 4], port| {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let ip = match i32::from(diag.family) {
            libc::AF_INET => IpAddr::from(Ipv4Addr::from(words[0].to_ne_bytes())),
            _ => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap_or([0; 16]))),
        };
        SocketAddr::new(ip, port)
    };
    Connection::new(address(&diag.addrs.0, diag.ports.0), address(&diag.addrs.1, diag.ports.1))
}
