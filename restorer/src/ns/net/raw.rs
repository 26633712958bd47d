//! Addresses, routes, rules, and the names by which namespaces know each other: messages of the
//! kernel's, sent back to it. In a thread that is in the namespace.

use crate::Error;
use images::checkpoint::Net;
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use sys::netlink::{
    APPEND, CREATE, EXCL, HEADER, Message, REPLACE, Request, Socket, attribute, attributes,
    messages, plain_route,
};

const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;

/// Restores the four images.
pub(super) fn restore(net: &Net) -> Result<(), Error> {
    let mut route = Socket::open(libc::NETLINK_ROUTE)?;
    addresses(&mut route, &net.addresses)?;
    routes(&mut route, &net.routes)?;
    neighbours(&mut route, net.netns.as_ref().map_or(&[][..], |n| n.amber_neighbours()))?;
    match &net.rules {
        Some(list) => rules(&mut route, list),
        None => Ok(()),
    }
}

/// Fails with the first error that is not about something that is there already.
fn all(results: Vec<sys::Result<()>>) -> Result<(), Error> {
    let failed = |r: sys::Result<()>| r.err().filter(|e| e.errno() != libc::EEXIST);
    results.into_iter().find_map(failed).map_or(Ok(()), |e| Err(e.into()))
}

const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const IFA_F_DADFAILED: u32 = 8;
const IFA_F_TENTATIVE: u32 = 0x40;
/// Length of `struct ifaddrmsg`, and of `struct rtmsg`.
const IFADDR: usize = 8;
const RTMSG: usize = 12;

/// An address of IPv6 could not be bound to while the kernel looks whether somebody else has it:
/// each is made without that, and then gets its flags.
fn addresses(route: &mut Socket, list: &[u8]) -> Result<(), Error> {
    let new = |m: &Message<'_>, flags: Option<u32>| {
        let mut request = Request::new("RTM_NEWADDR", RTM_NEWADDR).about(address(m)).body(m.body);
        if let Some(flags) = flags {
            request = request.u32(IFA_FLAGS, flags);
        }
        request
    };
    let ours = || messages(list).filter(|m| m.kind == RTM_NEWADDR && m.body.len() >= IFADDR);
    let six = |m: &Message<'_>| i32::from(m.body[0]) == libc::AF_INET6;
    let flags = |m: &Message<'_>| {
        attribute(m.after(IFADDR), IFA_FLAGS).map_or_else(|| u32::from(m.body[2]), |a| a.u32())
    };
    // Nobody is bound to one that the kernel was still looking at.
    let tentative = |m: &Message<'_>| flags(m) & IFA_F_TENTATIVE != 0;
    let first: Vec<Request> = ours()
        .map(|m| new(&m, (six(&m) && !tentative(&m)).then(|| flags(&m) | IFA_F_NODAD)))
        .map(|r| r.flags(CREATE | EXCL))
        .collect();
    let results = route.orders(&first)?;
    // What was there already is as the kernel has it.
    let is_new: Vec<bool> = results.iter().map(Result::is_ok).collect();
    all(results)?;
    let then: Vec<Request> = ours()
        .zip(is_new)
        .filter_map(|(m, is_new)| is_new.then_some(m))
        .filter(|m| six(m) && !tentative(m) && flags(m) & IFA_F_NODAD == 0)
        .map(|m| new(&m, Some(flags(&m) & !IFA_F_DADFAILED)))
        .map(|r| r.flags(REPLACE))
        .collect();
    for failed in route.orders(&then)?.into_iter().filter_map(Result::err) {
        log::warn!("{failed}: the address stays `nodad`");
    }
    Ok(())
}

/// An address in words.
fn address(m: &Message<'_>) -> String {
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    let rest = m.after(IFADDR);
    let value = attribute(rest, IFA_LOCAL).or_else(|| attribute(rest, IFA_ADDRESS));
    let index = m.body.get(4..8).and_then(|b| b.first_chunk().copied());
    let prefix = m.body.get(1).copied().unwrap_or(0);
    let shown = value.map_or_else(String::new, |a| ip(a.value));
    format!("{shown}/{prefix}, link {}", index.map_or(0, u32::from_ne_bytes))
}

fn ip(value: &[u8]) -> String {
    if let Ok(four) = <[u8; 4]>::try_from(value) {
        return std::net::Ipv4Addr::from(four).to_string();
    }
    <[u8; 16]>::try_from(value).map_or_else(
        |_| value.escape_ascii().to_string(),
        |six| std::net::Ipv6Addr::from(six).to_string(),
    )
}

/// Neighbours that somebody wrote down, without what the kernel noted about them.
fn neighbours(route: &mut Socket, list: &[u8]) -> Result<(), Error> {
    const RTM_NEWNEIGH: u16 = 28;
    const NDMSG: usize = 12;
    const NDA_CACHEINFO: u16 = 3;
    const NDA_PROBES: u16 = 4;
    let new = |m: Message<'_>| {
        let kept = attributes(m.after(NDMSG));
        let kept = kept.filter(|a| !matches!(a.kind, NDA_CACHEINFO | NDA_PROBES));
        let request = Request::new("RTM_NEWNEIGH", RTM_NEWNEIGH).body(&m.body[..NDMSG]);
        let request = request.attributes(|to| kept.fold(to, |to, a| to.attr(a.kind, a.value)));
        request.flags(CREATE | REPLACE)
    };
    let ours = messages(list).filter(|m| m.kind == RTM_NEWNEIGH && m.body.len() >= NDMSG);
    let requests: Vec<Request> = ours.map(new).collect();
    if requests.is_empty() {
        return Ok(());
    }
    all(route.orders(&requests)?)
}

/// A route may need another, by which its gateway is reached: those that fail are tried again as
/// long as some succeed.
fn routes(route: &mut Socket, list: &[u8]) -> Result<(), Error> {
    let mut left: Vec<Request> = Vec::new();
    let mut gated: Vec<Request> = Vec::new();
    for m in messages(list).filter(|m| m.kind == RTM_NEWROUTE && m.body.len() >= RTMSG) {
        let (request, gateway) = new_route(&m);
        if gateway { gated.push(request) } else { left.push(request) }
    }
    left.extend(gated);
    loop {
        let before = left.len();
        let mut again = Vec::new();
        let mut error = None;
        for (request, result) in left.iter().zip(route.orders(&left)?) {
            match result {
                Err(e) if e.errno() != libc::EEXIST => {
                    again.push(request.clone());
                    error.get_or_insert(e);
                }
                _ => {}
            }
        }
        match error {
            None => return Ok(()),
            Some(e) if again.len() == before => return Err(e.into()),
            Some(_) => left = again,
        }
    }
}

/// The request for a route, and whether it has a gateway.
fn new_route(m: &Message<'_>) -> (Request, bool) {
    const RTA_DST: u16 = 1;
    const RTA_GATEWAY: u16 = 5;
    const RTA_MULTIPATH: u16 = 9;
    const RTA_CACHEINFO: u16 = 12;
    const RTA_VIA: u16 = 18;
    const RTA_EXPIRES: u16 = 23;
    let plain = plain_route(m.raw);
    let body = plain.get(HEADER..).unwrap_or_default();
    let rest = body.get(RTMSG..).unwrap_or_default();
    let to = attribute(rest, RTA_DST).map_or_else(|| "default".into(), |a| ip(a.value));
    let six = i32::from(body[0]) == libc::AF_INET6;
    // Several routes to one place keep their order; those of IPv6 would become one.
    let flags = if six { CREATE } else { CREATE | APPEND };
    let mut request = Request::new("RTM_NEWROUTE", RTM_NEWROUTE)
        .about(format_args!("{to}/{}", body[1]))
        .flags(flags)
        .body(body);
    // What is left of its life, in hundredths: struct rta_cacheinfo.
    let life = attribute(rest, RTA_CACHEINFO).and_then(|a| a.value.get(8..12)?.first_chunk());
    let life = life.map_or(0, |b| i32::from_ne_bytes(*b));
    if six && life > 0 {
        request = request.u32(RTA_EXPIRES, (life.cast_unsigned() / 100).max(1));
    }
    let hops = [RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA];
    (request, hops.iter().any(|kind| attribute(rest, *kind).is_some()))
}

/// All rules of IPv4 are those of the image; those of IPv6 are added.
fn rules(route: &mut Socket, list: &[u8]) -> Result<(), Error> {
    let mut four = vec![0; RTMSG];
    four[0] = libc::AF_INET as u8;
    let present = route.dump(&Request::new("RTM_GETRULE", RTM_GETRULE).body(&four))?;
    let ours = |list| messages(list).filter(|m| m.kind == RTM_NEWRULE && m.body.len() >= RTMSG);
    let same = |m: &Message<'_>| ours(list).any(|o| o.body == m.body);
    if ours(&present).count() != ours(list).count() || !ours(&present).all(|m| same(&m)) {
        let delete = |m: Message<'_>| {
            Request::new("RTM_DELRULE", RTM_DELRULE).about("a default rule").body(m.body)
        };
        let delete: Vec<Request> = ours(&present).map(delete).collect();
        all(route.orders(&delete)?)?;
        let new = |m: Message<'_>| {
            Request::new("RTM_NEWRULE", RTM_NEWRULE).flags(CREATE | EXCL).body(m.body)
        };
        let new: Vec<Request> = ours(list).map(new).collect();
        all(route.orders(&new)?)?;
    }
    Ok(())
}

/// Gives the other namespaces the numbers that they had in this one. Before there are links,
/// which would make the kernel choose.
pub(super) fn nsids(net: &Net, made: &HashMap<u32, OwnedFd>) -> Result<(), Error> {
    const RTM_NEWNSID: u16 = 88;
    const NETNSA_NSID: u16 = 1;
    const NETNSA_FD: u16 = 3;
    let ids = net.netns.iter().flat_map(|n| &n.nsids);
    let mut route = None;
    for id in ids {
        let Some(fd) = made.get(&id.target_ns_id) else { continue };
        let route = match &mut route {
            Some(route) => route,
            none => none.insert(Socket::open(libc::NETLINK_ROUTE)?),
        };
        let request = Request::new("RTM_NEWNSID", RTM_NEWNSID)
            .about(format_args!("namespace {}, {}", id.target_ns_id, id.netnsid_value))
            .body(&[0; 4])
            .u32(NETNSA_NSID, id.netnsid_value.cast_unsigned())
            .u32(NETNSA_FD, fd.as_raw_fd().cast_unsigned());
        match route.order(&request) {
            Err(e) if e.errno() != libc::EEXIST => return Err(e.into()),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut out = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend([0; 10]);
        out.extend(body);
        out
    }

    #[test]
    fn addresses_and_routes_are_told_in_words() {
        let mut body = vec![2, 24, 0, 0, 3, 0, 0, 0];
        body.extend([8, 0, 2, 0, 10, 1, 0, 1]);
        let list = message(RTM_NEWADDR, &body);
        let m = messages(&list).next().unwrap();
        assert_eq!(address(&m), "10.1.0.1/24, link 3");
        assert_eq!(ip(&[0; 16]), "::");
        let mut body = vec![2, 8, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        body.extend([8, 0, 5, 0, 10, 1, 0, 1]);
        let list = message(RTM_NEWROUTE, &body);
        let (request, gateway) = new_route(&messages(&list).next().unwrap());
        assert!(gateway);
        assert!(format!("{request:?}").starts_with("RTM_NEWROUTE(default/8)"), "{request:?}");
    }
}
