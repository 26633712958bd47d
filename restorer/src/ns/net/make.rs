//! Makes links, inside and outside.

use super::links::{self, How, IFLA_MASTER, IFLA_NET_NS_FD, Link, Links};
use super::sysctl;
use crate::Error;
use images::checkpoint::Net;
use images::proto::{NdType, NetDeviceEntry};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};
use sys::netlink::{self, Socket, messages};

const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;

/// Links outside that were made for links inside. They are taken away again, unless all is well.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    names: Vec<String>,
}

impl Outside {
    /// The restore has succeeded.
    pub(crate) fn keep(mut self) {
        self.names.clear();
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let Ok(mut route) = Socket::open(libc::NETLINK_ROUTE) else { return };
        for name in self.names.drain(..) {
            let delete = netlink::Request::new("RTM_DELLINK", RTM_DELLINK)
                .about(&name)
                .body(&[0; 16])
                .text(links::IFLA_IFNAME, name.as_bytes());
            match route.order(&delete) {
                Ok(()) => {}
                // It went with its peer.
                Err(e) if e.errno() == libc::ENODEV => {}
                Err(e) => log::error!("a link outside is left over: {e}"),
            }
        }
    }
}

/// Makes the links of all namespaces. In the coordinator, outside of them.
pub(super) fn links(all: &Links, made: &HashMap<u32, OwnedFd>) -> Result<Outside, Error> {
    let mut outside = Outside::default();
    if all.all.iter().all(|l| l.how == How::Exists) {
        return Ok(outside);
    }
    let own = "/proc/self/ns/net";
    let own = File::open(own).map_err(|e| sys::Error::io(format_args!("open({own})"), &e))?;
    let mut host = Socket::open(libc::NETLINK_ROUTE)?;
    let mut sockets: HashMap<u32, Socket> = HashMap::new();
    for link in &all.all {
        let ns = &made[&link.ns];
        let route = match sockets.entry(link.ns) {
            Entry::Occupied(socket) => socket.into_mut(),
            Entry::Vacant(place) => {
                place.insert(Socket::in_net_ns(ns.as_fd(), libc::NETLINK_ROUTE)?)
            }
        };
        match &link.how {
            How::Exists | How::ByPeer => {}
            How::Here => {
                route.order(&links::create(link, None, None))?;
                if link.entry.r#type() == NdType::Bridge {
                    try_all(route, &links::bridge_parameters(&link.entry))?;
                }
            }
            How::Pair(peer) => {
                let peer = &all.all[*peer];
                let other = (peer.ns != link.ns).then(|| made[&peer.ns].as_raw_fd());
                let peer = links::veth_peer(&peer.entry, other);
                route.order(&links::create(link, None, Some(&peer)))?;
            }
            How::PeerOutside { name, bridge } => {
                let peer = links::outer_peer(name, own.as_raw_fd());
                make_when_free(route, name, &links::create(link, None, Some(&peer)))?;
                outside.names.push(name.clone());
                join_bridge(&mut host, name, bridge.as_deref())?;
            }
            How::Upon(name) => {
                if upon(&mut host, link, name, ns, &mut outside)? {
                    route.order(&links::dress(&link.entry))?;
                }
            }
            How::Moved(name) => {
                move_inside(&mut host, name, &link.entry, ns)?;
                route.order(&links::dress(&link.entry))?;
            }
            How::Tun => netlink::in_net_ns(ns.as_fd(), || super::tun::make(&link.entry))??,
        }
    }
    Ok(outside)
}

/// How long a name outside may be taken by a link that is on its way out.
const LEAVING: Duration = Duration::from_secs(5);

/// The links of a namespace go some time after its last task, those outside with them: a name that
/// is taken may be that of the very link that is made anew.
fn make_when_free(route: &mut Socket, name: &str, create: &netlink::Request) -> Result<(), Error> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        match route.order(create) {
            Err(e) if e.errno() == libc::EEXIST && begun.elapsed() < LEAVING => {
                if !told {
                    log::warn!("link {name} is still there: waiting up to {LEAVING:?} for its end");
                    told = true;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            done => return Ok(done?),
        }
    }
}

/// Sends what not every kernel has.
fn try_all(route: &mut Socket, requests: &[netlink::Request]) -> Result<(), Error> {
    for failed in route.orders(requests)?.into_iter().filter_map(Result::err) {
        log::debug!("left out: {failed}");
    }
    Ok(())
}

/// Index of a link.
fn index(route: &mut Socket, name: &str) -> Result<u32, Error> {
    let request = netlink::Request::new("RTM_GETLINK", RTM_GETLINK)
        .about(name)
        .body(&[0; 16])
        .text(links::IFLA_IFNAME, name.as_bytes());
    let answer = route.ask(&request)?;
    let found = messages(&answer).find_map(|m| m.body.get(4..8)?.first_chunk().copied());
    Ok(found.map_or(0, u32::from_ne_bytes))
}

/// Makes a link in `ns` upon one that is out here. True: it is there but not dressed.
fn upon(
    host: &mut Socket,
    link: &Link,
    lower: &str,
    ns: &OwnedFd,
    outside: &mut Outside,
) -> Result<bool, Error> {
    let lower = index(host, lower)?;
    let there = ns.as_raw_fd().cast_unsigned();
    match host.order(&links::create(link, Some(lower), None).u32(IFLA_NET_NS_FD, there)) {
        Err(e) if e.errno() == libc::EEXIST => {}
        other => return other.map(|()| false).map_err(Into::into),
    }
    // Older kernels (6.1) look for its number among the links out here. So it is made with
    // any number and a name of its own, and gets both when it goes inside.
    let name = format!("amber{}-{}", std::process::id(), outside.names.len());
    let entry = NetDeviceEntry { name: name.clone(), ifindex: 0, ..link.entry.clone() };
    let aside = Link { ns: link.ns, entry, how: link.how.clone() };
    host.order(&links::create(&aside, Some(lower), None))?;
    outside.names.push(name.clone());
    move_inside(host, &name, &link.entry, ns)?;
    Ok(true)
}

/// Brings an outer end up, as a port of a bridge if there is one.
fn join_bridge(host: &mut Socket, name: &str, bridge: Option<&str>) -> Result<(), Error> {
    let up = libc::IFF_UP as u32;
    let peer = index(host, name)?;
    let mut request = netlink::Request::new("RTM_NEWLINK", links::RTM_NEWLINK)
        .about(format_args!("{name}, up"))
        .body(&links::ifinfo(peer, up, up));
    if let Some(bridge) = bridge {
        request = request.u32(IFLA_MASTER, index(host, bridge)?);
    }
    Ok(host.order(&request)?)
}

/// Moves a link that waits outside to its place.
fn move_inside(
    host: &mut Socket,
    name: &str,
    entry: &NetDeviceEntry,
    ns: &OwnedFd,
) -> Result<(), Error> {
    const IFLA_NEW_IFINDEX: u16 = 49;
    let request = netlink::Request::new("RTM_NEWLINK", links::RTM_NEWLINK)
        .about(format_args!("{name}, to a namespace as {}", entry.name))
        .body(&links::ifinfo(index(host, name)?, 0, 0))
        .text(links::IFLA_IFNAME, entry.name.as_bytes())
        .u32(IFLA_NET_NS_FD, ns.as_raw_fd().cast_unsigned())
        .u32(IFLA_NEW_IFINDEX, entry.ifindex);
    Ok(host.order(&request)?)
}

/// Flags of a link that can be set.
const FLAGS: u32 = (libc::IFF_UP
    | libc::IFF_DEBUG
    | libc::IFF_NOARP
    | libc::IFF_PROMISC
    | libc::IFF_ALLMULTI
    | libc::IFF_MULTICAST) as u32;

/// Masters, settings, and up. In a thread that is in the namespace.
pub(super) fn configure(all: &Links, id: u32, net: &Net) -> Result<(), Error> {
    let mut route = Socket::open(libc::NETLINK_ROUTE)?;
    for link in all.of(id) {
        if let Some(master) = link.entry.master {
            route.order(&links::enslave(&link.entry, master))?;
            try_all(&mut route, &links::port_parameters(&link.entry))?;
        }
    }
    let devices = &net.devices;
    let aliases: Vec<_> = devices.iter().filter_map(links::alias).collect();
    try_all(&mut route, &aliases)?;
    for entry in devices {
        sysctl::link(entry)?;
    }
    // What comes up makes addresses of its own, unless told otherwise.
    let quiet: Vec<_> = devices.iter().map(|d| links::addr_gen_mode(d, 1)).collect();
    if devices.iter().any(|d| !d.conf6.is_empty()) {
        try_all(&mut route, &quiet)?;
    }
    // Lower before upper, ports before bridges get carrier: by the order in which they were made.
    for link in all.of(id) {
        route.order(&flags(link))?;
        // Coming up has taken that of the link.
        sysctl::link_mtu(&link.entry)?;
    }
    Ok(())
}

fn flags(link: &Link) -> netlink::Request {
    let entry = &link.entry;
    let mut request = netlink::Request::new("RTM_NEWLINK", links::RTM_NEWLINK)
        .about(format_args!("{}, flags {:#x}", entry.name, entry.flags))
        .body(&links::ifinfo(entry.ifindex, entry.flags & FLAGS, FLAGS));
    if entry.r#type() == NdType::Loopback {
        const IFLA_MTU: u16 = 4;
        request = request.u32(IFLA_MTU, entry.mtu);
    }
    request
}

/// What has to wait for addresses.
pub(super) fn finish(all: &Links, id: u32, net: &Net) -> Result<(), Error> {
    if net.devices.iter().all(|d| d.conf6.is_empty()) {
        return Ok(());
    }
    let mut route = Socket::open(libc::NETLINK_ROUTE)?;
    let mode = |l: &Link| links::addr_gen_mode(&l.entry, links::saved_gen_mode(&l.entry));
    let modes: Vec<_> = all.of(id).map(mode).collect();
    try_all(&mut route, &modes)
}

/// Address, MTU and the like of a link that was made without netlink.
pub(super) fn dress(entry: &NetDeviceEntry) -> Result<(), Error> {
    Ok(Socket::open(libc::NETLINK_ROUTE)?.order(&links::dress(entry))?)
}
