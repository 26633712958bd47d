//! Network namespaces: links, addresses, routes, rules, sysctls, filters, tracked connections.
//!
//! ```text
//! links.rs     netdev-N                       rtnetlink, one entry for each link
//! raw.rs       ifaddr-N route-N route6-N rule-N   the kernel's messages, as `ip … save` has them
//! filter.rs    nftables-N iptables-N ip6tables-N  text
//! conntrack.rs netns-ct-N netns-exp-N         the kernel's messages
//! sysctl.rs    netns-N                        and the settings of each link
//! neigh.rs     netns-N                        neighbours that somebody wrote down
//! left_out.rs  what no image holds
//! ```
//! All is asked for by a thread of ours that is in the namespace.

mod conntrack;
mod filter;
mod left_out;
mod links;
mod neigh;
mod raw;
mod sysctl;
mod tun;

use super::{Cx, Namespace, Role};
use crate::Error;
use images::checkpoint::NsKind;
use images::proto::{NetnsEntry, NetnsId};
use images::{Dir, Image};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use sys::netlink::{Request, Socket, attribute, messages};

/// Refuses what cannot be saved, before anything is touched.
pub(crate) fn check(ns: &Namespace, cx: &Cx<'_>) -> Result<(), Error> {
    if ns.external.is_some() || empty(ns, cx) {
        return Ok(());
    }
    let request = cx.request;
    ns.inside(|| {
        let mut route = Socket::open(libc::NETLINK_ROUTE)?;
        links::collect(&mut route, request)?;
        left_out::tell(&mut route, ns.id)?;
        filter::check()
    })
}

/// `--empty-ns net`: somebody else fills it again.
fn empty(ns: &Namespace, cx: &Cx<'_>) -> bool {
    cx.request.empty_net && ns.role == Role::Root
}

/// Writes its images: of an external one only its key and tracked connections.
pub(crate) fn dump(ns: &Namespace, cx: &Cx<'_>) -> Result<(), Error> {
    let (request, dir) = (cx.request, cx.dir);
    ns.inside(|| conntrack::dump(ns.id, dir))?;
    if ns.external.is_some() {
        let entry = NetnsEntry { ext_key: ns.external.clone(), ..NetnsEntry::default() };
        cx.dir.write_one(Image::Netns(ns.id), &entry)?;
        return Ok(());
    }
    if empty(ns, cx) {
        return Ok(());
    }
    let maps = &cx.all.maps;
    let tuns = cx.all.tuns(ns.id);
    let others = cx.all.foreign(NsKind::Net).filter(|o| o.id != ns.id && o.external.is_none());
    let others: Vec<(u32, RawFd)> = others.map(|o| (o.id, o.fd.as_fd().as_raw_fd())).collect();
    ns.inside(|| {
        let mut route = Socket::open(libc::NETLINK_ROUTE)?;
        // The kernel numbers other namespaces while it lists links: only then they can be asked.
        let found = links::collect(&mut route, request)?;
        let nsids = nsids(&mut route, &others)?;
        links::write(ns.id, &found, &nsids, &tuns, request, dir)?;
        raw::dump(&mut route, ns.id, dir)?;
        filter::dump(ns.id, dir)?;
        let mut entry = sysctl::namespace(&|group| maps.known_gid(group).unwrap_or(group))?;
        entry.nsids = nsids;
        entry.amber_neighbours = Some(neigh::collect(&mut route)?).filter(|n| !n.is_empty());
        dir.write_one(Image::Netns(ns.id), &entry)?;
        Ok(())
    })
}

/// How this namespace calls the others of the tree: ids and descriptors.
fn nsids(route: &mut Socket, others: &[(u32, RawFd)]) -> Result<Vec<NetnsId>, Error> {
    const RTM_GETNSID: u16 = 90;
    const NETNSA_NSID: u16 = 1;
    const NETNSA_FD: u16 = 3;
    let mut all = Vec::new();
    for (other, fd) in others {
        let fd = fd.cast_unsigned();
        let request = Request::new("RTM_GETNSID", RTM_GETNSID).body(&[0; 4]).u32(NETNSA_FD, fd);
        let answer = route.ask(&request)?;
        let id = messages(&answer).find_map(|m| attribute(m.after(4), NETNSA_NSID));
        if let Some(id) = id.map(|a| a.u32().cast_signed()).filter(|id| *id >= 0) {
            all.push(NetnsId { target_ns_id: *other, netnsid_value: id });
        }
    }
    Ok(all)
}

/// Takes `bytes` for answers of the kernel, for fuzzing.
pub(super) fn parse(bytes: &[u8], request: &crate::Request) {
    for message in messages(bytes) {
        drop(links::parse(&message, request));
        left_out::set_by_somebody(message.body);
        neigh::is_kept(message.body);
    }
    for family in [libc::AF_INET, libc::AF_INET6] {
        // What is kept is kept again.
        let kept = raw::kept_routes(bytes, family);
        assert_eq!(raw::kept_routes(&kept, family), kept);
    }
    let kept = raw::further_rules(bytes);
    assert_eq!(raw::further_rules(&kept), kept);
}

/// Writes an image without framing.
fn write_raw(dir: &Dir, image: Image, bytes: &[u8]) -> Result<(), Error> {
    let name = image.file_name();
    let mut file = dir.create_raw(image)?;
    file.write_all(bytes).map_err(|e| sys::Error::io(format_args!("write({name})"), &e))?;
    Ok(())
}
