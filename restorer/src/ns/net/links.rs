//! Links: what is made, in which order, and what is sent to make it. Pure.

use crate::{Error, Request};
use images::checkpoint::Net;
use images::checkpoint::net::PLAIN_KINDS;
use images::proto::{NdType, NetDeviceEntry, SitEntry};
use std::collections::{HashMap, HashSet};
use sys::netlink::{self, Attributes, attribute, attributes};

pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_LINK: u16 = 5;
pub(super) const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_AF_SPEC: u16 = 26;
pub(super) const IFLA_NET_NS_FD: u16 = 28;
const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;
const IFLA_IFALIAS: u16 = 20;
const IFLA_GROUP: u16 = 27;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_INFO_PEER: u16 = 1;

/// One link of one namespace.
#[derive(Debug)]
pub(super) struct Link {
    /// Id of its namespace.
    pub(super) ns: u32,
    pub(super) entry: NetDeviceEntry,
    pub(super) how: How,
}

/// How a link comes to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// The namespace has it.
    Exists,
    /// Made there.
    Here,
    /// Made together with its peer, which is at this place in [`Links::all`].
    Pair(usize),
    /// Made by its peer.
    ByPeer,
    /// Made with a peer of this name outside, which becomes a port of a bridge there.
    PeerOutside { name: String, bridge: Option<String> },
    /// Made upon the link of this name outside.
    Upon(String),
    /// The link of this name outside, moved inside.
    Moved(String),
    /// Made by opening `/dev/net/tun`.
    Tun,
}

/// All links, in the order in which they are made.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) all: Vec<Link>,
}

/// `--external KIND[NAME]:VALUE`.
fn given<'a>(request: &'a Request, kind: &str, name: &str) -> Option<&'a str> {
    request.external.iter().find_map(|e| {
        let rest = e.strip_prefix(kind)?.strip_prefix('[')?;
        rest.strip_prefix(name)?.strip_prefix("]:")
    })
}

impl Links {
    /// Decides. `namespaces`: those that are filled, by id.
    pub(super) fn plan(namespaces: &[(u32, &Net)], request: &Request) -> Result<Self, Error> {
        let entries =
            || namespaces.iter().flat_map(|(id, net)| net.devices.iter().map(|d| (*id, d)));
        let mut place: HashMap<(u32, u32), usize> = HashMap::new();
        for (at, (ns, entry)) in entries().enumerate() {
            check(ns, entry)?;
            if place.insert((ns, entry.ifindex), at).is_some() {
                return Err(wrong(ns, entry, "has the index of another"));
            }
        }
        let all: Vec<&NetDeviceEntry> = entries().map(|(_, e)| e).collect();
        let mut missing = Vec::new();
        let mut paired = HashSet::new();
        let mut links = Vec::new();
        for (at, (ns, entry)) in entries().enumerate() {
            let peer = peer(ns, entry).and_then(|key| place.get(&key).copied());
            let name = &entry.name;
            let mut need = |kind: &str| match given(request, kind, name) {
                Some(value) => value.to_owned(),
                None => {
                    missing.push(format!("--external {kind}[{name}]:OUTSIDE"));
                    String::new()
                }
            };
            let moved = given(request, "netdev", name);
            let how = match entry.r#type() {
                NdType::Loopback => How::Exists,
                _ if moved.is_some() => How::Moved(moved.unwrap_or_default().to_owned()),
                NdType::Tun => How::Tun,
                NdType::Veth => match peer.filter(|p| all[*p].r#type() == NdType::Veth && *p != at)
                {
                    Some(peer) if paired.insert(at.min(peer)) => How::Pair(peer),
                    Some(_) => How::ByPeer,
                    None => {
                        let value = need("veth");
                        let (name, bridge) = match value.split_once('@') {
                            Some((name, bridge)) => (name.to_owned(), Some(bridge.to_owned())),
                            None => (value, None),
                        };
                        How::PeerOutside { name, bridge }
                    }
                },
                NdType::Macvlan => match (given(request, "macvlan", name), peer) {
                    (Some(outside), _) => How::Upon(outside.to_owned()),
                    (None, Some(_)) => How::Here,
                    (None, None) => How::Upon(need("macvlan")),
                },
                NdType::Extlink if plain_kind(entry).is_none() => How::Moved(need("netdev")),
                _ => How::Here,
            };
            links.push(Link { ns, entry: entry.clone(), how });
        }
        if !missing.is_empty() {
            let text = format!("links have their other end outside: need {}", missing.join(", "));
            return Err(Error::NetNs(text));
        }
        Self::ordered(links)
    }

    /// Lower links before those upon them.
    fn ordered(links: Vec<Link>) -> Result<Self, Error> {
        let mut order: Vec<usize> = Vec::with_capacity(links.len());
        let mut done: HashSet<(u32, u32)> = HashSet::new();
        let known: HashSet<(u32, u32)> = links.iter().map(|l| (l.ns, l.entry.ifindex)).collect();
        let mut left: Vec<usize> = (0..links.len()).collect();
        while !left.is_empty() {
            let (ready, waiting): (Vec<usize>, Vec<usize>) = left.iter().partition(|at| {
                let link = &links[**at];
                let upon = lower(link).filter(|key| known.contains(key));
                upon.is_none_or(|key| done.contains(&key))
            });
            let Some(first) = ready.first() else {
                let link = &links[waiting[0]];
                return Err(wrong(link.ns, &link.entry, "is upon itself"));
            };
            debug_assert!(*first < links.len());
            done.extend(ready.iter().map(|at| (links[*at].ns, links[*at].entry.ifindex)));
            order.extend(ready);
            left = waiting;
        }
        let mut new_place = vec![0; links.len()];
        for (to, from) in order.iter().enumerate() {
            new_place[*from] = to;
        }
        let mut slots: Vec<Option<Link>> = links.into_iter().map(Some).collect();
        let mut all = Vec::with_capacity(slots.len());
        for from in order {
            let Some(mut link) = slots[from].take() else { continue };
            if let How::Pair(peer) = &mut link.how {
                *peer = new_place[*peer];
            }
            all.push(link);
        }
        Ok(Self { all })
    }

    /// Those of one namespace.
    pub(super) fn of(&self, ns: u32) -> impl Iterator<Item = &Link> {
        self.all.iter().filter(move |l| l.ns == ns)
    }
}

fn wrong(ns: u32, entry: &NetDeviceEntry, what: &str) -> Error {
    Error::NetNs(format!("netdev-{ns}.img: link {} ({}) {what}", entry.ifindex, entry.name))
}

fn check(ns: u32, entry: &NetDeviceEntry) -> Result<(), Error> {
    const IFNAMSIZ: usize = 16;
    let name = entry.name.as_bytes();
    let odd = |b: &u8| *b == b'/' || *b == b':' || b.is_ascii_whitespace() || *b == 0;
    if name.is_empty() || name.len() >= IFNAMSIZ || name.iter().any(odd) || entry.name == ".." {
        return Err(wrong(ns, entry, "has a name that no link can have"));
    }
    if i32::try_from(entry.ifindex).is_err() || entry.ifindex == 0 {
        return Err(wrong(ns, entry, "has an index that no link can have"));
    }
    match NdType::try_from(entry.r#type) {
        Ok(NdType::Venet) => Err(wrong(ns, entry, "is a venet device: not supported")),
        Err(_) => Err(wrong(ns, entry, "is of an unknown type")),
        Ok(NdType::Macvlan) if entry.macvlan.is_none() => Err(wrong(ns, entry, "has no mode")),
        Ok(NdType::Tun) if entry.tun.is_none() => Err(wrong(ns, entry, "has no tun parameters")),
        Ok(_) => Ok(()),
    }
}

/// Namespace and index of the link it is about; `None` if that is outside.
fn peer(ns: u32, entry: &NetDeviceEntry) -> Option<(u32, u32)> {
    // Older images tell only the index, and mean the same namespace.
    let index = entry.peer_ifindex?;
    let peer_ns = entry.peer_nsid?;
    (peer_ns != ns || index != entry.ifindex).then_some((peer_ns, index))
}

/// The link it is made upon.
fn lower(link: &Link) -> Option<(u32, u32)> {
    let stacked = matches!(link.how, How::Here);
    if stacked { peer(link.ns, &link.entry) } else { None }
}

/// Its kind, if it is one that CRIU has no type for.
pub(super) fn plain_kind(entry: &NetDeviceEntry) -> Option<&str> {
    let info = attribute(entry.amber_link(), IFLA_LINKINFO)?;
    let kind = std::str::from_utf8(attribute(info.value, INFO_KIND)?.text()).ok()?;
    PLAIN_KINDS.contains(&kind).then_some(kind)
}

/// `struct ifinfomsg` of a link, with flags to be set.
pub(super) fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&change.to_ne_bytes());
    body
}

/// Name, address, MTU and what else can be told when it is made.
fn common(mut to: Attributes, entry: &NetDeviceEntry) -> Attributes {
    to = to.text(IFLA_IFNAME, entry.name.as_bytes()).u32(IFLA_MTU, entry.mtu);
    if let Some(address) = entry.address.as_ref().filter(|a| !a.is_empty()) {
        to = to.attr(IFLA_ADDRESS, address);
    }
    for a in attributes(entry.amber_link()) {
        if matches!(a.kind, IFLA_TXQLEN | IFLA_GROUP | IFLA_NUM_TX_QUEUES | IFLA_NUM_RX_QUEUES) {
            to = to.attr(a.kind, a.value);
        }
    }
    to
}

/// The message that makes a link. `outside`: index of the link outside that it is upon; `peer`:
/// attributes of a veth's other end.
pub(super) fn create(link: &Link, outside: Option<u32>, peer: Option<&[u8]>) -> netlink::Request {
    let entry = &link.entry;
    let kind = match entry.r#type() {
        NdType::Veth => "veth",
        NdType::Bridge => "bridge",
        NdType::Macvlan => "macvlan",
        NdType::Sit => "sit",
        _ => plain_kind(entry).unwrap_or_default(),
    };
    let mut request = netlink::Request::new("RTM_NEWLINK", RTM_NEWLINK)
        .about(format_args!("{kind} {}", entry.name))
        .flags(netlink::CREATE | netlink::EXCL)
        .body(&ifinfo(entry.ifindex, 0, 0))
        .attributes(|to| common(to, entry));
    if let Some(lower) = outside.or_else(|| super::links::lower(link).map(|(_, index)| index)) {
        request = request.u32(IFLA_LINK, lower);
    }
    request.nested(IFLA_LINKINFO, |info| {
        let info = info.text(INFO_KIND, kind.as_bytes());
        info.nested(INFO_DATA, |data| match entry.r#type() {
            NdType::Veth => data.attr(VETH_INFO_PEER, peer.unwrap_or_default()),
            NdType::Macvlan => macvlan(data, entry),
            NdType::Sit => sit(data, entry.sit.as_ref()),
            NdType::Bridge => data,
            _ => data.raw(saved_data(entry)),
        })
    })
}

/// Parameters of its kind that CRIU's entry has no room for.
fn saved_data(entry: &NetDeviceEntry) -> &[u8] {
    let info = attribute(entry.amber_link(), IFLA_LINKINFO);
    info.and_then(|info| attribute(info.value, INFO_DATA)).map_or(&[][..], |data| data.value)
}

/// Messages that set the parameters of a bridge, one each: kernels differ in which they have.
pub(super) fn bridge_parameters(entry: &NetDeviceEntry) -> Vec<netlink::Request> {
    const MULTI_BOOLOPT: u16 = 46;
    let one = |a: netlink::Attribute<'_>| {
        let mut value = a.value.to_vec();
        if a.kind == MULTI_BOOLOPT && value.len() == 8 {
            // Values, then which of them count: those that are not on are off already.
            value.copy_within(0..4, 4);
        }
        netlink::Request::new("RTM_NEWLINK", RTM_NEWLINK)
            .about(format_args!("{}, parameter {} of bridges", entry.name, a.kind))
            .body(&ifinfo(entry.ifindex, 0, 0))
            .nested(IFLA_LINKINFO, |info| {
                info.text(INFO_KIND, b"bridge").nested(INFO_DATA, |to| to.attr(a.kind, &value))
            })
    };
    attributes(saved_data(entry)).map(one).collect()
}

/// Gives a link that exists what it would have been made with.
pub(super) fn dress(entry: &NetDeviceEntry) -> netlink::Request {
    netlink::Request::new("RTM_NEWLINK", RTM_NEWLINK)
        .about(&entry.name)
        .body(&ifinfo(entry.ifindex, 0, 0))
        .attributes(|to| common(to, entry))
}

/// What somebody noted about it, which cannot be told when it is made.
pub(super) fn alias(entry: &NetDeviceEntry) -> Option<netlink::Request> {
    let alias = attribute(entry.amber_link(), IFLA_IFALIAS)?;
    let request = netlink::Request::new("RTM_NEWLINK", RTM_NEWLINK)
        .about(format_args!("{}, alias", entry.name))
        .body(&ifinfo(entry.ifindex, 0, 0));
    Some(request.attr(IFLA_IFALIAS, alias.value))
}

/// The other end of a veth, as an attribute of the first. `ns`: a descriptor.
pub(super) fn veth_peer(entry: &NetDeviceEntry, ns: Option<i32>) -> Vec<u8> {
    let to = Attributes::default().raw(&ifinfo(entry.ifindex, 0, 0));
    in_ns(common(to, entry), ns)
}

/// The same of one outside, of which only the name matters.
pub(super) fn outer_peer(name: &str, ns: i32) -> Vec<u8> {
    let to = Attributes::default().raw(&ifinfo(0, 0, 0)).text(IFLA_IFNAME, name.as_bytes());
    in_ns(to, Some(ns))
}

fn in_ns(to: Attributes, ns: Option<i32>) -> Vec<u8> {
    match ns {
        Some(ns) => to.u32(IFLA_NET_NS_FD, ns.cast_unsigned()),
        None => to,
    }
    .bytes()
    .to_vec()
}

fn macvlan(data: Attributes, entry: &NetDeviceEntry) -> Attributes {
    const MODE: u16 = 1;
    const FLAGS: u16 = 2;
    let Some(macvlan) = &entry.macvlan else { return data };
    let data = data.u32(MODE, macvlan.mode);
    match macvlan.flags {
        Some(flags) => data.attr(FLAGS, &(flags as u16).to_ne_bytes()),
        None => data,
    }
}

fn sit(mut data: Attributes, sit: Option<&SitEntry>) -> Attributes {
    let Some(sit) = sit else { return data };
    let words = |all: &[u32]| all.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<u8>>();
    let addresses =
        [(2, &sit.local), (3, &sit.remote), (11, &sit.rd_prefix), (12, &sit.relay_prefix)];
    for (kind, address) in addresses.iter().filter(|(_, a)| !a.is_empty()) {
        data = data.attr(*kind, &words(address));
    }
    if let Some(link) = sit.link {
        data = data.u32(1, link);
    }
    let bytes = [(4, sit.ttl), (5, sit.tos), (9, sit.proto), (10, sit.pmtudisc.map(u32::from))];
    for (kind, value) in bytes {
        if let Some(value) = value {
            data = data.u8(kind, value as u8);
        }
    }
    let halves = [
        (8, sit.flags),
        (13, sit.rd_prefixlen),
        (14, sit.relay_prefixlen),
        (15, sit.encap_type),
        (16, sit.encap_flags),
        (17, sit.encap_sport),
        (18, sit.encap_dport),
    ];
    for (kind, value) in halves {
        if let Some(value) = value {
            data = data.attr(kind, &(value as u16).to_ne_bytes());
        }
    }
    data
}

/// The message that makes a link a port of its master.
pub(super) fn enslave(entry: &NetDeviceEntry, master: u32) -> netlink::Request {
    netlink::Request::new("RTM_NEWLINK", RTM_NEWLINK)
        .about(format_args!("{}, master {master}", entry.name))
        .body(&ifinfo(entry.ifindex, 0, 0))
        .u32(IFLA_MASTER, master)
}

/// Messages that set the parameters of a bridge's port, one each; others are its state.
pub(super) fn port_parameters(entry: &NetDeviceEntry) -> Vec<netlink::Request> {
    let info = attribute(entry.amber_link(), IFLA_LINKINFO).map_or(&[][..], |a| a.value);
    let is_bridge = attribute(info, INFO_SLAVE_KIND).is_some_and(|k| k.text() == b"bridge");
    let data = attribute(info, INFO_SLAVE_DATA).filter(|_| is_bridge);
    let one = |a: netlink::Attribute<'_>| {
        netlink::Request::new("RTM_NEWLINK", RTM_NEWLINK)
            .about(format_args!("{}, parameter {} of ports", entry.name, a.kind))
            .body(&ifinfo(entry.ifindex, 0, 0))
            .nested(IFLA_LINKINFO, |info| {
                let info = info.text(INFO_SLAVE_KIND, b"bridge");
                info.nested(INFO_SLAVE_DATA, |to| to.attr(a.kind, a.value))
            })
    };
    let settable =
        |a: &netlink::Attribute<'_>| matches!(a.kind, 2..=11 | 25 | 27..=30 | 32..=35 | 37..=38);
    attributes(data.map_or(&[][..], |d| d.value)).filter(settable).map(one).collect()
}

/// How addresses of IPv6 are made up when the link comes up; 1 is "not at all".
pub(super) fn addr_gen_mode(entry: &NetDeviceEntry, mode: u8) -> netlink::Request {
    const MODE: u16 = 8;
    netlink::Request::new("RTM_NEWLINK", RTM_NEWLINK)
        .about(format_args!("{}, addr_gen_mode {mode}", entry.name))
        .body(&ifinfo(entry.ifindex, 0, 0))
        .nested(IFLA_AF_SPEC, |families| {
            families.nested(libc::AF_INET6 as u16, |six| six.u8(MODE, mode))
        })
}

/// The mode that a link had.
pub(super) fn saved_gen_mode(entry: &NetDeviceEntry) -> u8 {
    const MODE: u16 = 8;
    let find = || {
        let families = attribute(entry.amber_link(), IFLA_AF_SPEC)?;
        let six = attribute(families.value, libc::AF_INET6 as u16)?;
        Some(attribute(six.value, MODE)?.u8())
    };
    find().unwrap_or(0)
}
