//! Unix sockets: everything that is connected with, named like or queued in each other.
//!
//! One process makes a whole unit, so there is no waiting: bind and listen, make pairs,
//! connect the rest, fill queues, and only then what would hinder one of these (options,
//! shutdown). Whoever is bound to a path is connected to through a handle of the node, so it
//! may be unlinked already, or have another socket in its place.

mod name;
mod queue;

use self::name::Node;
use super::open::{Files, Opened, set_flags};
use super::{At, Error, Result, external, inet_sk, sk_opts};
use images::proto::{CriuDumpResp, CriuReqType, CriuResp, UnixSkEntry};
use prost::Message as _;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};

const ESTABLISHED: u32 = 1;
const LISTEN: u32 = 10;
/// Bits of `uflags`.
const EXTERN: u32 = 1;
const SERVICE: u32 = 2;
const CALLBACK: u32 = 4;
const INHERIT: u32 = 8;

/// The sockets of a unit while they are made, by inode.
struct Unit<'f, 'a> {
    files: &'f Files<'a>,
    entries: BTreeMap<u32, &'a UnixSkEntry>,
    made: HashMap<u32, OwnedFd>,
    /// Nodes of those that are bound to a path.
    nodes: HashMap<u32, Node>,
    /// Other ends of connections whose peer is gone.
    far: HashMap<u32, OwnedFd>,
    /// Given by the caller: nothing is changed about them.
    given: Vec<u32>,
}

impl Files<'_> {
    /// Opens all sockets of a unit. `opened` has what is in flight in them and is no socket.
    pub(super) fn open_unix(&mut self, ids: &[u32], opened: &mut Opened) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let set = self.set;
        let entries = ids.iter().filter_map(|id| set.files.get(id)?.usk.as_ref());
        let mut unit = Unit {
            files: self,
            entries: entries.map(|e| (e.ino, e)).collect(),
            made: HashMap::new(),
            nodes: HashMap::new(),
            far: HashMap::new(),
            given: Vec::new(),
        };
        let limit = queue::raise_limit(self, ids)?;
        let done = unit.make(opened);
        if let Some(limit) = limit {
            limit.put_back()?;
        }
        done?;
        let Unit { entries, made, .. } = unit;
        let mut made = made;
        for (ino, entry) in entries {
            opened.extend(made.remove(&ino).map(|fd| (entry.id, fd)));
        }
        Ok(())
    }
}

impl<'a> Unit<'_, 'a> {
    fn make(&mut self, opened: &Opened) -> Result<()> {
        let all: Vec<&UnixSkEntry> = self.entries.values().copied().collect();
        for e in &all {
            self.check(e).at(|| describe(e))?;
        }
        // Who has lost the name first: the live ones are bound to it afterwards.
        let mut order = all.clone();
        order.sort_by_key(|e| (!e.deleted(), e.state != LISTEN, e.ino));
        for e in &order {
            if self.is_to_be_bound(e) {
                self.bind_new(e).at(|| describe(e))?;
            }
        }
        for e in &all {
            self.pair(e).at(|| describe(e))?;
        }
        for e in &all {
            self.single(e).at(|| describe(e))?;
        }
        for e in &all {
            self.connect(e).at(|| describe(e))?;
        }
        for e in &all {
            self.fill(e, opened).at(|| format!("queue of {}", describe(e)))?;
        }
        for e in &all {
            self.finish(e).at(|| describe(e))?;
        }
        Ok(())
    }

    fn check(&mut self, e: &'a UnixSkEntry) -> Result<()> {
        if e.uflags & EXTERN != 0 {
            return Ok(());
        }
        if e.uflags & CALLBACK != 0 {
            return Err(Error::NotYet("a socket that a plugin restores".to_owned()));
        }
        if e.uflags & SERVICE != 0 {
            self.made.insert(e.ino, answered(e)?);
            self.given.push(e.ino);
            return Ok(());
        }
        if let Some(fd) = external::take(self.files.set, e.id, self.files.request)? {
            self.made.insert(e.ino, fd);
            self.given.push(e.ino);
        } else if e.uflags & INHERIT != 0 {
            let text = format!("is external: needs --inherit-fd fd[N]:socket:[{}]", e.ino);
            return Err(Error::Refused(text));
        }
        Ok(())
    }

    /// Whether the peer names it back.
    fn mutual(&self, e: &UnixSkEntry) -> Option<&'a UnixSkEntry> {
        let peer = *self.entries.get(&e.peer)?;
        (e.peer != 0 && peer.peer == e.ino && peer.uflags & EXTERN == 0).then_some(peer)
    }

    fn is_stream(e: &UnixSkEntry) -> bool {
        e.r#type as i32 != libc::SOCK_DGRAM
    }

    /// Listeners, and whoever is bound without a partner. Of the others, accepted ends have
    /// their names from listeners, and pairs are bound when they are made.
    fn is_to_be_bound(&self, e: &UnixSkEntry) -> bool {
        let alone = !Self::is_stream(e) || e.state != ESTABLISHED;
        e.uflags & EXTERN == 0
            && !e.name.is_empty()
            && alone
            && self.mutual(e).is_none()
            && !self.made.contains_key(&e.ino)
    }

    fn bind_new(&mut self, e: &UnixSkEntry) -> Result<()> {
        let fd = self.files.socket(e.id, e.ns_id, (libc::AF_UNIX, e.r#type as i32, 0))?;
        self.bind(e, &fd)?;
        if e.state == LISTEN {
            sys::net::listen(fd.as_fd(), e.backlog as i32)?;
        }
        self.made.insert(e.ino, fd);
        Ok(())
    }

    fn bind(&mut self, e: &UnixSkEntry, fd: &OwnedFd) -> Result<()> {
        if e.name.is_empty() {
            return Ok(());
        }
        let node = name::bind(self.files, e, fd.as_fd(), e.deleted())?;
        self.nodes.extend(node.map(|n| (e.ino, n)));
        Ok(())
    }

    /// Makes both ends of a connection.
    fn pair(&mut self, e: &'a UnixSkEntry) -> Result<()> {
        let Some(peer) = self.mutual(e) else { return Ok(()) };
        if self.made.contains_key(&e.ino) || self.made.contains_key(&peer.ino) {
            return Ok(());
        }
        if e.ino == peer.ino {
            // A datagram socket that talks to itself.
            self.bind_new(e)?;
            let address = self.address_of(e)?;
            return self.connect_at(e.ino, &address);
        }
        let named = !e.name.is_empty() || !peer.name.is_empty();
        if Self::is_stream(e) && named {
            let heard = |x: &UnixSkEntry| self.listener(x).is_some();
            let e_accepted =
                !e.name.is_empty() && (heard(e) || peer.name.is_empty() || !heard(peer));
            let (client, server) = if e_accepted { (peer, e) } else { (e, peer) };
            let (c, s) = self.accepted(Some(client), server)?;
            self.made.insert(client.ino, c);
            self.made.insert(server.ino, s);
            return Ok(());
        }
        let (a, b) = self.files.socketpair(e.id, e.ns_id, e.r#type as i32)?;
        self.bind(e, &a)?;
        self.bind(peer, &b)?;
        self.made.insert(e.ino, a);
        self.made.insert(peer.ino, b);
        Ok(())
    }

    /// The listener that has given a socket its name.
    fn listener(&self, e: &UnixSkEntry) -> Option<&'a UnixSkEntry> {
        let same = |l: &&&UnixSkEntry| {
            let reached = l.name == e.name && (l.ns_id == e.ns_id || l.name.first() != Some(&0));
            l.state == LISTEN && l.r#type == e.r#type && l.uflags & EXTERN == 0 && reached
        };
        self.entries.values().find(same).copied()
    }

    /// Connects to a listener of the server's name, which may be one for the moment only:
    /// (client, accepted).
    fn accepted(
        &mut self,
        client: Option<&UnixSkEntry>,
        server: &UnixSkEntry,
    ) -> Result<(OwnedFd, OwnedFd)> {
        let like = client.unwrap_or(server);
        let c = self.files.socket(like.id, like.ns_id, (libc::AF_UNIX, server.r#type as i32, 0))?;
        if let Some(client) = client {
            self.bind(client, &c)?;
        }
        if let Some(l) = self.listener(server)
            && let Some(fd) = self.made.get(&l.ino)
        {
            let address = self.address_of(l)?;
            name::connect(self.files, c.as_fd(), &address)?;
            return Ok((c, sys::net::accept(fd.as_fd())?));
        }
        let fd =
            self.files.socket(server.id, server.ns_id, (libc::AF_UNIX, server.r#type as i32, 0))?;
        let node = name::bind(self.files, server, fd.as_fd(), true)?;
        sys::net::listen(fd.as_fd(), 1)?;
        let address = name::address(server, node.as_ref());
        name::connect(self.files, c.as_fd(), &address)?;
        Ok((c, sys::net::accept(fd.as_fd())?))
    }

    /// Makes those without a living partner.
    fn single(&mut self, e: &'a UnixSkEntry) -> Result<()> {
        if e.uflags & EXTERN != 0 || self.made.contains_key(&e.ino) {
            return Ok(());
        }
        // A datagram socket without name that has something in its queue: from a pair.
        let orphan = e.name.is_empty() && self.files.set.packets.contains_key(&e.id);
        let alone = if Self::is_stream(e) { e.state == ESTABLISHED } else { orphan };
        if e.peer == 0 && alone {
            let (far, fd) = if e.name.is_empty() {
                self.files.socketpair(e.id, e.ns_id, e.r#type as i32)?
            } else {
                self.accepted(None, e)?
            };
            self.far.insert(e.ino, far);
            self.made.insert(e.ino, fd);
            return Ok(());
        }
        // A datagram socket connected to one that has no name comes from a pair, whose other
        // side has turned away.
        if let Some(peer) = self.entries.get(&e.peer).copied()
            && !Self::is_stream(e)
            && peer.name.is_empty()
            && peer.uflags & EXTERN == 0
            && !self.made.contains_key(&peer.ino)
        {
            let (a, b) = self.files.socketpair(e.id, e.ns_id, libc::SOCK_DGRAM)?;
            self.bind(e, &a)?;
            sys::net::connect(b.as_fd(), &(libc::AF_UNSPEC as u16).to_ne_bytes())?;
            self.made.insert(e.ino, a);
            self.made.insert(peer.ino, b);
            return Ok(());
        }
        let fd = self.files.socket(e.id, e.ns_id, (libc::AF_UNIX, e.r#type as i32, 0))?;
        self.bind(e, &fd)?;
        self.made.insert(e.ino, fd);
        Ok(())
    }

    /// Connects those whose peer does not name them back.
    fn connect(&mut self, e: &'a UnixSkEntry) -> Result<()> {
        let lone = e.uflags & EXTERN == 0 && e.peer != 0 && !self.given.contains(&e.ino);
        if !lone || self.mutual(e).is_some() {
            return Ok(());
        }
        let Some(peer) = self.entries.get(&e.peer).copied() else {
            return Err(Error::Refused(format!("its peer {} is not in the images", e.peer)));
        };
        if peer.name.is_empty() {
            // Done by `single`.
            return Ok(());
        }
        let address =
            if peer.uflags & EXTERN != 0 { name::of(&peer.name) } else { self.address_of(peer)? };
        self.connect_at(e.ino, &address).at(|| format!("to {}", describe(peer)))
    }

    fn connect_at(&self, ino: u32, address: &[u8]) -> Result<()> {
        match self.made.get(&ino) {
            Some(fd) => name::connect(self.files, fd.as_fd(), address),
            None => Ok(()),
        }
    }

    fn address_of(&self, e: &UnixSkEntry) -> Result<Vec<u8>> {
        Ok(name::address(e, self.nodes.get(&e.ino)))
    }

    fn finish(&mut self, e: &UnixSkEntry) -> Result<()> {
        if self.given.contains(&e.ino) {
            return Ok(());
        }
        let Some(fd) = self.made.get(&e.ino) else { return Ok(()) };
        if let (Some(perms), Some(node)) = (&e.file_perms, self.nodes.get(&e.ino)) {
            node.set_perms(self.files, perms)?;
        }
        sk_opts::restore((self.files, e.id), fd.as_fd(), &e.opts)?;
        // An end whose peer is gone is shut down by that.
        if let Some(how) = e.shutdown
            && !self.far.contains_key(&e.ino)
        {
            inet_sk::shutdown(fd.as_fd(), how)?;
        }
        set_flags(fd.as_fd(), e.flags)
    }
}

/// What a user would call the socket.
fn describe(e: &UnixSkEntry) -> String {
    let name = match &e.name[..] {
        [] => "unnamed".to_owned(),
        [0, rest @ ..] => format!("@{}", rest.escape_ascii()),
        path => path.escape_ascii().to_string(),
    };
    format!("file {}, unix socket {} ({name})", e.id, e.ino)
}

/// The end of a client that asked the service to be dumped itself: it finds the answer, that it
/// has been restored, in a connection that is over.
fn answered(e: &UnixSkEntry) -> Result<OwnedFd> {
    let (far, near) = sys::net::socketpair(e.r#type as i32)?;
    let answer = CriuResp {
        r#type: CriuReqType::Dump.into(),
        success: true,
        dump: Some(CriuDumpResp { restored: Some(true) }),
        ..CriuResp::default()
    };
    sys::net::send_msg(far.as_fd(), &answer.encode_to_vec(), &[], &[], libc::MSG_NOSIGNAL)?;
    Ok(near)
}
