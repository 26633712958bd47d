//! The tables, as messages of nf_tables.

use super::{Connection, MARK, What};
use crate::Result;
use crate::netlink::{APPEND, Attributes, CREATE, Request, Socket};
use std::net::{IpAddr, SocketAddr};

/// `NFT_TABLE_F_OWNER`: the table goes with the socket that made it.
pub(super) const OWNER: u32 = 2;

const SUBSYSTEM: u16 = 10;
const BEGIN: u16 = 16;
const END: u16 = 17;
const NEWTABLE: u16 = SUBSYSTEM << 8;
const DELTABLE: u16 = SUBSYSTEM << 8 | 2;
const NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEWRULE: u16 = SUBSYSTEM << 8 | 6;
const NEWSET: u16 = SUBSYSTEM << 8 | 9;
const NEWSETELEM: u16 = SUBSYSTEM << 8 | 12;

/// `struct nfgenmsg` for family inet.
const INET: [u8; 4] = [1, 0, 0, 0];
const DROP: u32 = 0;
const ACCEPT: u32 = 1;
/// Elements in one message: its length has 16 bits.
const ELEMENTS: usize = 400;

/// One of the two sets.
#[derive(Clone, Copy)]
struct Set {
    name: &'static [u8],
    id: u32,
    v4: bool,
}

const SETS: [Set; 2] =
    [Set { name: b"conns4", id: 1, v4: true }, Set { name: b"conns6", id: 2, v4: false }];

fn message(name: &'static str, kind: u16) -> Request {
    Request::new(name, kind).body(&INET)
}

/// A transaction around `requests`.
fn batch(socket: &mut Socket, requests: Vec<Request>) -> Result<()> {
    let edge = |name, kind| Request::new(name, kind).body(&[0, 0, 0, SUBSYSTEM as u8]);
    let mut all = vec![edge("NFNL_MSG_BATCH_BEGIN", BEGIN)];
    all.extend(requests);
    all.push(edge("NFNL_MSG_BATCH_END", END));
    socket.batch(&all)
}

/// Makes the table.
pub(super) fn create(socket: &mut Socket, name: &str, what: &What, flags: u32) -> Result<()> {
    batch(socket, table(name, what, flags))
}

/// Removes the table, if there is one.
pub(super) fn remove(socket: &mut Socket, name: &str) -> Result<()> {
    match batch(socket, vec![delete(name)]) {
        Err(e) if e.errno() == libc::ENOENT => Ok(()),
        done => done,
    }
}

/// Puts table `new` in the place of table `old`, which is ours.
pub(super) fn replace(socket: &mut Socket, old: &str, new: &str, what: &What) -> Result<()> {
    let mut all = table(new, what, 0);
    all.push(delete(old));
    batch(socket, all)
}

/// Adds connections to the table.
pub(super) fn add(socket: &mut Socket, name: &str, more: &[Connection]) -> Result<()> {
    batch(socket, elements(name, more))
}

/// Whether there is a table `ip filter`, where iptables has its rules.
pub(super) fn has_iptables() -> Result<bool> {
    const GETTABLE: u16 = SUBSYSTEM << 8 | 1;
    // NFPROTO_IPV4.
    let get = Request::new("NFT_MSG_GETTABLE", GETTABLE).body(&[2, 0, 0, 0]).text(1, b"filter");
    match Socket::open(libc::NETLINK_NETFILTER)?.ask(&get) {
        Ok(_) => Ok(true),
        Err(e) if e.errno() == libc::ENOENT => Ok(false),
        Err(e) => Err(e),
    }
}

fn delete(name: &str) -> Request {
    message("NFT_MSG_DELTABLE", DELTABLE).about(name).text(1, name.as_bytes())
}

fn table(name: &str, what: &What, flags: u32) -> Vec<Request> {
    let text = name.as_bytes();
    let new = message("NFT_MSG_NEWTABLE", NEWTABLE).about(name).flags(CREATE).text(1, text);
    let mut all = vec![new.attributes(|a| a.be32(2, flags))];
    let policy = match what {
        What::Connections(_) => ACCEPT,
        What::Everything => DROP,
    };
    if matches!(what, What::Connections(_)) {
        all.extend(SETS.map(|s| new_set(name, s)));
    }
    // NF_INET_LOCAL_OUT, NF_INET_LOCAL_IN.
    for (chain, hook) in [(&b"output"[..], 3), (b"input", 1)] {
        let new = message("NFT_MSG_NEWCHAIN", NEWCHAIN).about(name).flags(CREATE);
        let new = new.text(1, text).text(3, chain).attributes(|a| {
            let a = a.nested(4, |h| h.be32(1, hook).be32(2, 0));
            a.be32(5, policy).text(7, b"filter")
        });
        all.push(new);
        let rule = |expressions: Vec<Attributes>| {
            let new = message("NFT_MSG_NEWRULE", NEWRULE).about(name).flags(CREATE | APPEND);
            new.text(1, text).text(2, chain).nested(4, |list| {
                expressions.iter().fold(list, |l, e| l.nested(1, |x| x.raw(e.bytes())))
            })
        };
        all.push(rule(vec![meta(MARK_KEY), equals(&MARK.to_ne_bytes()), verdict(ACCEPT)]));
        if let What::Connections(_) = what {
            all.extend(SETS.map(|s| rule(in_set(s))));
        }
    }
    if let What::Connections(list) = what {
        all.extend(elements(name, list));
    }
    all
}

fn new_set(table: &str, set: Set) -> Request {
    // ipv4_addr 7 or ipv6_addr 8, inet_service 13; six bits each.
    let address = if set.v4 { 7 } else { 8 };
    let kind = address << 18 | 13 << 12 | address << 6 | 13;
    let len = if set.v4 { 16 } else { 40 };
    let new = message("NFT_MSG_NEWSET", NEWSET).about(table).flags(CREATE);
    new.text(1, table.as_bytes()).text(2, set.name).attributes(|a| {
        // A hash: no flags.
        a.be32(3, 0).be32(4, kind).be32(5, len).be32(10, set.id)
    })
}

/// Elements of both sets: packets of ours and of the peer's.
fn elements(table: &str, list: &[Connection]) -> Vec<Request> {
    let mut all = Vec::new();
    for set in SETS {
        let of_set: Vec<&Connection> = list.iter().filter(|c| c.is_v4() == set.v4).collect();
        for some in of_set.chunks(ELEMENTS / 2) {
            let keys = some.iter().flat_map(|c| [key(c.own, c.peer), key(c.peer, c.own)]);
            let new = message("NFT_MSG_NEWSETELEM", NEWSETELEM).about(table).flags(CREATE);
            let new = new.text(1, table.as_bytes()).text(2, set.name);
            let new = new.attributes(|a| a.be32(4, set.id)).nested(3, |list| {
                keys.fold(list, |l, key| l.nested(1, |e| e.nested(1, |k| k.attr(1, &key))))
            });
            all.push(new);
        }
    }
    all
}

/// A key of a set: each part is padded to words.
fn key(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut key = Vec::with_capacity(40);
    for side in [from, to] {
        match side.ip() {
            IpAddr::V4(ip) => key.extend(ip.octets()),
            IpAddr::V6(ip) => key.extend(ip.octets()),
        }
        key.extend(side.port().to_be_bytes());
        key.extend([0; 2]);
    }
    key
}

const MARK_KEY: u32 = 3;
const NFPROTO_KEY: u32 = 15;
const L4PROTO_KEY: u32 = 16;
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// Registers: the first of 16 bytes, and those of 4 bytes.
const REG_1: u32 = 1;
const REG32_00: u32 = 8;

fn expression(name: &[u8], data: impl FnOnce(Attributes) -> Attributes) -> Attributes {
    Attributes::default().text(1, name).nested(2, data)
}

fn meta(key: u32) -> Attributes {
    expression(b"meta", |a| a.be32(1, REG_1).be32(2, key))
}

fn equals(value: &[u8]) -> Attributes {
    expression(b"cmp", |a| a.be32(1, REG_1).be32(2, 0).nested(3, |d| d.attr(1, value)))
}

fn payload(register: u32, base: u32, offset: u32, len: u32) -> Attributes {
    expression(b"payload", |a| a.be32(1, register).be32(2, base).be32(3, offset).be32(4, len))
}

fn verdict(code: u32) -> Attributes {
    expression(b"immediate", |a| a.be32(1, 0).nested(2, |d| d.nested(2, |v| v.be32(1, code))))
}

/// Drops packets that are in a set.
fn in_set(set: Set) -> Vec<Attributes> {
    // NFPROTO_IPV4, NFPROTO_IPV6; where addresses are in the header, how long they are.
    let (family, from, to, len) = if set.v4 { (2, 12, 16, 4) } else { (10, 8, 24, 16) };
    let words = len / 4;
    let port = REG32_00 + words;
    vec![
        meta(NFPROTO_KEY),
        equals(&[family]),
        meta(L4PROTO_KEY),
        equals(&[libc::IPPROTO_TCP as u8]),
        payload(REG_1, NETWORK, from, len),
        payload(port, TRANSPORT, 0, 2),
        payload(port + 1, NETWORK, to, len),
        payload(port + 1 + words, TRANSPORT, 2, 2),
        expression(b"lookup", |a| a.text(1, set.name).be32(2, REG_1).be32(4, set.id)),
        verdict(DROP),
    ]
}
