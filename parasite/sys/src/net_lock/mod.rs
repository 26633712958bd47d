//! Keeps packets away from TCP connections while they are taken apart or put together.
//!
//! A lock has CRIU's form, so that either program finds and removes the other's: table
//! `inet CRIU-ID` of nftables, or rules of iptables, in which packets with CRIU's mark pass.
//!
//! While a dump or restore works, it holds a [`Guard`]: a table of its own, which the kernel
//! removes when its owner is gone (5.12), however that came about. Only [`Guard::keep`], when
//! the images are complete, leaves a lock behind that outlives the program.

mod iptables;
mod nft;

use crate::netlink::Socket;
use crate::{Error, Result};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The mark of packets that pass a lock.
pub const MARK: u32 = 0xc114;

/// What locks are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The programs `iptables-restore` and `ip6tables-restore`.
    Iptables,
    /// nftables, natively.
    Nftables,
    /// There is no lock: the caller sees to it.
    Skip,
}

/// A connection: own address, peer's address. Mapped addresses are of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    own: SocketAddr,
    peer: SocketAddr,
}

impl Connection {
    /// A connection between these.
    pub fn new(own: SocketAddr, peer: SocketAddr) -> Self {
        let plain = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
        Self { own: plain(own), peer: plain(peer) }
    }

    fn is_v4(&self) -> bool {
        matches!(self.own.ip(), IpAddr::V4(_))
    }
}

/// What is locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Some connections of a net namespace.
    Connections(Vec<Connection>),
    /// All that goes in and out of a net namespace.
    Everything,
}

/// Where a lock is.
#[derive(Debug)]
pub struct Place {
    /// The net namespace; `None` for the caller's own.
    pub ns: Option<OwnedFd>,
    /// Name of the table.
    pub name: String,
    /// How it is locked.
    pub method: Method,
}

impl Place {
    /// The table's name, from the id of the dump or the pid of the root task.
    pub fn name(id: &str) -> String {
        // CRIU has 31 characters for `inet NAME`.
        const MAX: usize = 26;
        let name = format!("CRIU-{id}");
        name.chars().take(MAX).collect()
    }

    fn socket(&self) -> Result<Socket> {
        match &self.ns {
            Some(ns) => Socket::in_net_ns(ns.as_fd(), libc::NETLINK_NETFILTER),
            None => Socket::open(libc::NETLINK_NETFILTER),
        }
    }

    fn ns(&self) -> Option<BorrowedFd<'_>> {
        self.ns.as_ref().map(AsFd::as_fd)
    }

    /// Lets packets with the mark pass rules of iptables that are there already: the lock of a
    /// whole namespace, in front of them. Whether there were any.
    pub fn pass_rules(&self) -> Result<bool> {
        let any = iptables::installed() && iptables::may_have_rules(self.ns());
        if any {
            iptables::add(self.ns(), &What::Everything)?;
        }
        Ok(any)
    }

    /// Removes what [`Place::pass_rules`] has made.
    pub fn forget_rules(&self) -> Result<()> {
        iptables::remove(self.ns(), &What::Everything)
    }

    /// Removes the lock that a dump has kept. No matter if there is none.
    pub fn unlock(&self, what: &What) -> Result<()> {
        match self.method {
            Method::Skip => Ok(()),
            Method::Nftables => nft::remove(&mut self.socket()?, &self.name),
            Method::Iptables => iptables::remove(self.ns(), what),
        }
    }
}

/// A lock that is gone when this is dropped, or its process is dead.
#[derive(Debug)]
pub struct Guard {
    place: Place,
    what: What,
    form: Form,
}

#[derive(Debug)]
enum Form {
    None,
    /// Table NAME-guard, owned by the socket.
    Table(Socket),
    /// Without nf_tables: as it is kept.
    Iptables,
}

impl Guard {
    /// Locks. Where iptables is wanted and is not there, nftables takes its place.
    pub fn new(mut place: Place, what: What) -> Result<Self> {
        if place.method == Method::Iptables && !iptables::installed() {
            log::warn!("iptables-restore is not installed: the network is locked by nftables");
            place.method = Method::Nftables;
        }
        let form = match place.method {
            Method::Skip => Form::None,
            Method::Nftables => Form::Table(guard_table(&place, &what)?),
            Method::Iptables => match guard_table(&place, &what) {
                Ok(socket) => Form::Table(socket),
                // A kernel without nf_tables.
                Err(_) => {
                    iptables::add(place.ns(), &what)?;
                    Form::Iptables
                }
            },
        };
        Ok(Self { place, what, form })
    }

    /// Locks by a table of our own only, for a restore: whatever a dump has kept stays as it is.
    pub fn own(place: Place, what: What) -> Result<Self> {
        let form = match place.method {
            Method::Skip => Form::None,
            Method::Iptables | Method::Nftables => Form::Table(guard_table(&place, &what)?),
        };
        Ok(Self { place, what, form })
    }

    /// How it is locked.
    pub fn method(&self) -> Method {
        self.place.method
    }

    /// Locks one more connection.
    pub fn add(&mut self, connection: Connection) -> Result<()> {
        let What::Connections(all) = &mut self.what else { return Ok(()) };
        if all.contains(&connection) {
            return Ok(());
        }
        match &mut self.form {
            Form::None => {}
            Form::Table(socket) => {
                nft::add(socket, &guard_name(&self.place.name), &[connection])?;
            }
            Form::Iptables => {
                iptables::add(self.place.ns(), &What::Connections(vec![connection]))?;
            }
        }
        all.push(connection);
        Ok(())
    }

    /// Leaves a lock that stays, in CRIU's form, until somebody unlocks.
    pub fn keep(mut self) -> Result<()> {
        match (&mut self.form, self.place.method) {
            (Form::None | Form::Iptables, _) => {}
            (Form::Table(_), Method::Iptables) => {
                iptables::add(self.place.ns(), &self.what)?;
                // The guard may go.
                return Ok(());
            }
            (Form::Table(socket), _) => {
                nft::replace(socket, &guard_name(&self.place.name), &self.place.name, &self.what)?;
            }
        }
        self.form = Form::None;
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let gone = match &mut self.form {
            Form::None => Ok(()),
            Form::Table(socket) => nft::remove(socket, &guard_name(&self.place.name)),
            Form::Iptables => iptables::remove(self.place.ns(), &self.what),
        };
        if let Err(e) = gone {
            log::error!("the network stays locked: {e}");
        }
    }
}

fn guard_name(name: &str) -> String {
    format!("{name}-guard")
}

fn guard_table(place: &Place, what: &What) -> Result<Socket> {
    let mut socket = place.socket()?;
    let name = guard_name(&place.name);
    match nft::create(&mut socket, &name, what, nft::OWNER) {
        // Before owners of tables.
        Err(e) if e.errno() == libc::EOPNOTSUPP || e.errno() == libc::EINVAL => {
            nft::create(&mut socket, &name, what, 0)?;
        }
        done => done?,
    }
    Ok(socket)
}

fn failed(call: impl std::fmt::Display, e: &std::io::Error) -> Error {
    Error::io(call, e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_as_by_criu() {
        let name = Place::name("7c1c52be-eeda-4b04-a1d3-0123456789ab");
        assert_eq!(name, "CRIU-7c1c52be-eeda-4b04-a1");
        assert_eq!(Place::name("77"), "CRIU-77");
    }
}
