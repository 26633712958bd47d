//! Links: `netdev-N.img`.

use super::sysctl;
use crate::files::tun::Sizes;
use crate::{Error, Request};
use images::checkpoint::net::PLAIN_KINDS;
use images::proto::{MacvlanLinkEntry, NdType, NetDeviceEntry, NetnsId, SitEntry, TunLinkEntry};
use images::{Dir, Image};
use std::collections::HashMap;
use sys::netlink::{self, Attributes, Message, Socket, attribute, attributes, messages};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
/// Length of `struct ifinfomsg`.
const IFINFO: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_LINK_NETNSID: u16 = 37;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const ARPHRD_LOOPBACK: u16 = 772;

/// A link that has an image.
#[derive(Debug)]
pub(super) struct Link {
    kind: NdType,
    index: u32,
    flags: u32,
    name: String,
    mtu: u32,
    address: Vec<u8>,
    /// The link it is about (peer, lower device), and how this namespace calls the one it is in.
    link: Option<(u32, Option<i32>)>,
    master: Option<u32>,
    /// Parameters of the kind.
    data: Vec<u8>,
    /// What CRIU's entry has no room for, as it is sent to make it.
    more: Vec<u8>,
}

/// All links of the namespace that this thread is in.
pub(super) fn collect(route: &mut Socket, request: &Request) -> Result<Vec<Link>, Error> {
    let list = route.dump(&netlink::Request::new("RTM_GETLINK", RTM_GETLINK).body(&[0; IFINFO]))?;
    let mut links = Vec::new();
    for message in messages(&list).filter(|m| m.kind == RTM_NEWLINK) {
        links.extend(parse(&message, request)?);
    }
    Ok(links)
}

/// `None`: the kernel makes it by itself in each namespace.
pub(super) fn parse(message: &Message<'_>, request: &Request) -> Result<Option<Link>, Error> {
    let [_, _, t0, t1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *message.body else {
        let text = "RTM_NEWLINK is too short".into();
        return Err(Error::Failed { text, errno: libc::EIO });
    };
    let all = message.after(IFINFO);
    let get = |kind| attribute(all, kind);
    let info = get(IFLA_LINKINFO).map_or(&[][..], |a| a.value);
    let name = get(IFLA_IFNAME).map_or(&[][..], |a| a.text());
    let name = String::from_utf8_lossy(name).into_owned();
    let kind = attribute(info, INFO_KIND).map_or(&[][..], |a| a.text());
    let kind = String::from_utf8_lossy(kind).into_owned();
    let data = attribute(info, INFO_DATA).map_or(&[][..], |a| a.value);
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let arp = u16::from_ne_bytes([t0, t1]);
    let index = u32::from_ne_bytes([i0, i1, i2, i3]);
    if is_fallback(&name, flags) {
        return Ok(None);
    }
    let Some(nd) = nd_type(arp, &kind, &name, request) else {
        let what = if kind.is_empty() { "a device of the machine".into() } else { kind };
        return Err(Error::Refused(format!(
            "Unsupported link {index} ({name}): {what}, type {arp}; --external net[INODE]:KEY or \
             --empty-ns net leave all links to somebody else"
        )));
    };
    Ok(Some(Link {
        index,
        flags,
        mtu: get(IFLA_MTU).map_or(0, |a| a.u32()),
        address: get(IFLA_ADDRESS).map_or_else(Vec::new, |a| a.value.to_vec()),
        link: get(IFLA_LINK)
            .map(|l| (l.u32(), get(IFLA_LINK_NETNSID).map(|n| n.u32().cast_signed()))),
        master: get(IFLA_MASTER).map(|m| m.u32()),
        data: data.to_vec(),
        more: more(all, info, nd, &kind),
        kind: nd,
        name,
    }))
}

/// Tunnels that catch what no other of their kind takes: made with the first use of the kind, in
/// every namespace.
fn is_fallback(name: &str, flags: u32) -> bool {
    const NAMES: [&str; 9] = [
        "sit0", "tunl0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0",
    ];
    NAMES.contains(&name) && flags & libc::IFF_UP as u32 == 0
}

fn nd_type(arp: u16, kind: &str, name: &str, request: &Request) -> Option<NdType> {
    Some(match kind {
        _ if arp == ARPHRD_LOOPBACK => NdType::Loopback,
        "veth" => NdType::Veth,
        "tun" => NdType::Tun,
        "bridge" => NdType::Bridge,
        "macvlan" => NdType::Macvlan,
        "sit" => NdType::Sit,
        plain if PLAIN_KINDS.contains(&plain) => NdType::Extlink,
        _ if request.external.iter().any(|e| named(e, "netdev", name)) => NdType::Extlink,
        _ => return None,
    })
}

/// Whether `resource` is `KIND[NAME]`, with or without more behind.
fn named(resource: &str, kind: &str, name: &str) -> bool {
    let inner = resource.strip_prefix(kind).and_then(|r| r.strip_prefix('['));
    inner.and_then(|r| r.split_once(']')).is_some_and(|(n, _)| n == name)
}

/// Attributes that CRIU does not save.
fn more(all: &[u8], info: &[u8], nd: NdType, kind: &str) -> Vec<u8> {
    let mut out = Attributes::default();
    for a in attributes(all) {
        let kept = match a.kind {
            IFLA_TXQLEN | IFLA_IFALIAS => true,
            IFLA_GROUP => a.u32() != 0,
            // More than one can only be asked for when the link is made.
            IFLA_NUM_TX_QUEUES | IFLA_NUM_RX_QUEUES => a.u32() != 1 && nd != NdType::Loopback,
            _ => false,
        };
        if kept {
            out = out.attr(a.kind, a.value);
        }
    }
    if let Some(mode) = addr_gen_mode(all) {
        out = out.nested(IFLA_AF_SPEC, |families| {
            families.nested(libc::AF_INET6 as u16, |six| six.u8(INET6_ADDR_GEN_MODE, mode))
        });
    }
    let plain = nd == NdType::Extlink && PLAIN_KINDS.contains(&kind);
    let ours = |a: &netlink::Attribute<'_>| match a.kind {
        INFO_KIND => plain || nd == NdType::Bridge,
        INFO_SLAVE_KIND | INFO_SLAVE_DATA => true,
        _ => false,
    };
    out.nested(IFLA_LINKINFO, |mut to| {
        for a in attributes(info).filter(ours) {
            to = to.attr(a.kind, a.value);
        }
        let data = attribute(info, INFO_DATA).map_or(&[][..], |a| a.value);
        if nd == NdType::Bridge {
            to = to.nested(INFO_DATA, |to| bridge(to, data));
        } else if plain {
            to = to.nested(INFO_DATA, |to| parameters(to, kind, data));
        }
        to
    })
    .bytes()
    .to_vec()
}

const INET6_ADDR_GEN_MODE: u16 = 8;

fn addr_gen_mode(all: &[u8]) -> Option<u8> {
    let families = attribute(all, IFLA_AF_SPEC)?;
    let six = attribute(families.value, libc::AF_INET6 as u16)?;
    Some(attribute(six.value, INET6_ADDR_GEN_MODE)?.u8())
}

/// Parameters of a kind, in the form in which they are set.
fn parameters(mut to: Attributes, kind: &str, data: &[u8]) -> Attributes {
    const VXLAN_TTL_INHERIT: u16 = 28;
    const VXLAN_RESERVED_BITS: u16 = 33;
    for a in attributes(data) {
        // Told as a number, and taken as a flag.
        if kind == "vxlan" && a.kind == VXLAN_RESERVED_BITS {
            // Follows from the others, and contradicts them when told.
        } else if (kind, a.kind) == ("vxlan", VXLAN_TTL_INHERIT) {
            if a.u8() != 0 {
                to = to.attr(a.kind, &[]);
            }
        } else {
            to = to.attr(a.kind, a.value);
        }
    }
    to
}

/// Parameters of a bridge that can be set; others are its state.
fn bridge(mut to: Attributes, data: &[u8]) -> Attributes {
    for a in attributes(data) {
        if matches!(a.kind, 1..=9 | 22..=39 | 41..=46 | 49) {
            to = to.attr(a.kind, a.value);
        }
    }
    to
}

/// Writes the image.
pub(super) fn write(
    ns: u32,
    links: &[Link],
    nsids: &[NetnsId],
    tuns: &HashMap<String, Sizes>,
    request: &Request,
    dir: &Dir,
) -> Result<(), Error> {
    let mut writer = dir.writer(Image::Netdev(ns))?;
    for link in links {
        writer.write(&entry(link, ns, nsids, tuns, request)?)?;
    }
    writer.finish()?;
    Ok(())
}

fn entry(
    link: &Link,
    own: u32,
    nsids: &[NetnsId],
    tuns: &HashMap<String, Sizes>,
    request: &Request,
) -> Result<NetDeviceEntry, Error> {
    // Without a namespace id it is here; with one that is not the tree's, outside.
    let peer_nsid = match link.link {
        Some((_, Some(id))) => nsids.iter().find(|n| n.netnsid_value == id).map(|n| n.target_ns_id),
        _ => Some(own),
    };
    let given = || {
        let all = &request.external;
        all.iter().any(|e| named(e, "veth", &link.name))
    };
    if link.kind == NdType::Veth && peer_nsid.is_none() && !given() {
        log::warn!(
            "the peer of veth {} is outside: the restore will need --external veth[{0}]:OUTER",
            link.name
        );
    }
    let loopback = link.kind == NdType::Loopback;
    Ok(NetDeviceEntry {
        r#type: link.kind.into(),
        ifindex: link.index,
        mtu: link.mtu,
        flags: link.flags,
        name: link.name.clone(),
        tun: match link.kind {
            NdType::Tun => Some(tun(&link.data, &link.name, tuns)?),
            _ => None,
        },
        address: (!loopback && !link.address.is_empty()).then(|| link.address.clone()),
        conf4: sysctl::conf(4, &link.name)?,
        conf6: sysctl::conf(6, &link.name)?,
        macvlan: (link.kind == NdType::Macvlan).then(|| macvlan(&link.data)),
        peer_ifindex: Some(link.link.map_or(link.index, |(peer, _)| peer)),
        peer_nsid,
        master: link.master,
        sit: (link.kind == NdType::Sit).then(|| sit(&link.data)),
        amber_link: (!link.more.is_empty()).then(|| link.more.clone()),
        ..NetDeviceEntry::default()
    })
}

fn macvlan(data: &[u8]) -> MacvlanLinkEntry {
    const MODE: u16 = 1;
    const FLAGS: u16 = 2;
    MacvlanLinkEntry {
        mode: attribute(data, MODE).map_or(0, |a| a.u32()),
        flags: attribute(data, FLAGS).map(|a| a.u16().into()).filter(|f| *f != 0),
    }
}

fn tun(data: &[u8], name: &str, open: &HashMap<String, Sizes>) -> Result<TunLinkEntry, Error> {
    const OWNER: u16 = 1;
    const GROUP: u16 = 2;
    const TYPE: u16 = 3;
    const PI: u16 = 4;
    const VNET_HDR: u16 = 5;
    const PERSIST: u16 = 6;
    const MULTI_QUEUE: u16 = 7;
    let number = |kind| attribute(data, kind).map_or(-1, |a| a.u32().cast_signed());
    let set = |kind| attribute(data, kind).is_some_and(|a| a.u8() != 0);
    let mut flags = attribute(data, TYPE).map_or(0, |a| a.u8().into());
    let bits = [
        (!set(PI), libc::IFF_NO_PI),
        (set(VNET_HDR), libc::IFF_VNET_HDR),
        (set(PERSIST), libc::IFF_PERSIST),
        (set(MULTI_QUEUE), libc::IFF_MULTI_QUEUE),
    ];
    for (_, bit) in bits.iter().filter(|(set, _)| *set) {
        flags |= *bit as u32;
    }
    let (vnethdr, sndbuf) = match open.get(name) {
        Some(sizes) => *sizes,
        None if set(PERSIST) => super::tun::sizes(name, flags),
        None => {
            return Err(Error::Refused(format!(
                "Can't dump tun link {name}: it ends with its descriptor, which no task of the \
                 tree has"
            )));
        }
    };
    Ok(TunLinkEntry { flags, owner: number(OWNER), group: number(GROUP), vnethdr, sndbuf })
}

fn sit(data: &[u8]) -> SitEntry {
    let number = |kind: u16| attribute(data, kind);
    let address = |kind: u16| -> Vec<u32> {
        let words = attribute(data, kind).map_or(&[][..], |a| a.value).chunks_exact(4);
        let all: Vec<u32> = words.map(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]])).collect();
        if all.iter().all(|w| *w == 0) { Vec::new() } else { all }
    };
    let word = |kind| number(kind).map(|a| a.u32()).filter(|n| *n != 0);
    let half = |kind| number(kind).map(|a| a.u16().into()).filter(|n| *n != 0);
    let byte = |kind| number(kind).map(|a| a.u8().into()).filter(|n| *n != 0);
    SitEntry {
        link: word(1),
        local: address(2),
        remote: address(3),
        ttl: byte(4),
        tos: byte(5),
        pmtudisc: number(10).map(|a| a.u8() != 0),
        proto: byte(9),
        flags: half(8),
        encap_type: half(15),
        encap_flags: half(16),
        encap_sport: half(17),
        encap_dport: half(18),
        rd_prefixlen: half(13),
        rd_prefix: address(11),
        relay_prefixlen: half(14),
        relay_prefix: address(12),
    }
}
