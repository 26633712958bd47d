//! Network namespaces: made by the root task, filled by the coordinator, which has rights in all
//! of them and outside.
//!
//! ```text
//! links.rs      netdev-N   what is sent to make links (pure), in which order
//! make.rs                  sends it, here and outside
//! raw.rs        ifaddr-N route-N route6-N rule-N
//! filter.rs     nftables-N iptables-N ip6tables-N
//! conntrack.rs  netns-ct-N netns-exp-N
//! sysctl.rs     settings
//! ```
//! Links that are made outside (the other end of a veth) go with those inside; until the restore
//! is sure to succeed, [`Outside`] takes them away when it is dropped.

mod conntrack;
mod filter;
mod links;
mod make;
mod raw;
mod sysctl;
mod tun;

pub(crate) use make::Outside;

use super::{Cx, Made, enter, external, own};
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, Net, NsKind};
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// What will be made.
#[derive(Debug)]
pub(crate) struct NetPlan {
    namespaces: Vec<One>,
    /// Links in all of them.
    links: links::Links,
}

/// A namespace.
#[derive(Clone, Copy, Debug)]
struct One {
    id: u32,
    /// The root task lives in it.
    root: bool,
    from: From,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// New, and filled from images.
    Images,
    /// New, for a hook to fill.
    Empty,
    /// Behind this descriptor of ours.
    Given(RawFd),
}

/// Decides what is made.
pub(crate) fn plan(cp: &Checkpoint, request: &Request) -> Result<Option<NetPlan>, Error> {
    let of_root = own(cp, NsKind::Net);
    let mut namespaces = Vec::new();
    for (&id, net) in &cp.ns.net {
        let root = Some(id) == of_root;
        let key = net.netns.as_ref().and_then(|n| n.ext_key.as_deref());
        let from = match key {
            Some(key) => From::Given(external(request, NsKind::Net, key)?),
            None if root && request.empty_net => From::Empty,
            None => From::Images,
        };
        namespaces.push(One { id, root, from });
    }
    if namespaces.is_empty() {
        return Ok(None);
    }
    check_sockets(cp)?;
    let filled = namespaces.iter().filter(|one| one.from == From::Images);
    let filled: Vec<(u32, &Net)> = filled.map(|one| (one.id, &cp.ns.net[&one.id])).collect();
    for (id, net) in &filled {
        sysctl::check(*id, net)?;
        check_tuns(*id, net, cp)?;
    }
    let links = links::Links::plan(&filled, request)?;
    Ok(Some(NetPlan { namespaces, links }))
}

/// A tun link that ends with its descriptors has to have one.
fn check_tuns(id: u32, net: &Net, cp: &Checkpoint) -> Result<(), Error> {
    let persists = |flags: u32| flags & libc::IFF_PERSIST as u32 != 0;
    let open = |name: &str| {
        let tuns = cp.files.iter().filter_map(|f| f.tunf.as_ref());
        let mut of_ns = tuns.filter(|t| t.ns_id.is_none_or(|ns| ns == id));
        of_ns.any(|t| t.netdev.as_deref() == Some(name))
    };
    for link in &net.devices {
        if link.tun.as_ref().is_some_and(|t| !persists(t.flags)) && !open(&link.name) {
            return Err(Error::NetNs(format!(
                "netdev-{id}.img: tun link {} ends with its descriptor, and there is none",
                link.name
            )));
        }
    }
    Ok(())
}

/// Sockets have to be in a namespace that is made.
fn check_sockets(cp: &Checkpoint) -> Result<(), Error> {
    let outside = own(cp, NsKind::Net).is_none().then(|| NsKind::Net.id(&cp.root_ids));
    for file in cp.files.iter() {
        let ids = [
            file.isk.as_ref().and_then(|s| s.ns_id),
            file.usk.as_ref().and_then(|s| s.ns_id),
            file.psk.as_ref().and_then(|s| s.ns_id),
            file.nlsk.as_ref().and_then(|s| s.ns_id),
            file.tunf.as_ref().and_then(|s| s.ns_id),
        ];
        for id in ids.into_iter().flatten().filter(|id| *id != 0) {
            if !cp.ns.net.contains_key(&id) && Some(id) != outside {
                let text = format!("socket {} is in namespace {id}, which no task is in", file.id);
                return Err(Error::NetNs(text));
            }
        }
    }
    Ok(())
}

impl NetPlan {
    /// Whether the root task is forked into a new one.
    pub(crate) fn is_new(&self) -> bool {
        self.namespaces.iter().any(|one| one.root && !matches!(one.from, From::Given(_)))
    }

    /// Makes those of other tasks and enters the root's, in the root task. All of them are kept.
    pub(crate) fn prepare(&self, cx: &mut Cx<'_>) -> Result<(), Error> {
        let here = |cx: &Cx<'_>| super::open_proc(cx.proc, "self/ns/net");
        let own = here(cx)?;
        let mut home = None;
        for one in &self.namespaces {
            let fd = match one.from {
                From::Given(fd) => super::open_proc(cx.proc, &format!("self/fd/{fd}"))?,
                _ if one.root => own
                    .as_fd()
                    .try_clone_to_owned()
                    .map_err(|e| sys::Error::io("dup(/proc/self/ns/net)", &e))?,
                _ => {
                    super::make(NsKind::Net)?;
                    here(cx)?
                }
            };
            cx.made.put(NsKind::Net, one.id, fd.as_fd())?;
            if one.root {
                home = Some(fd);
            }
        }
        enter(NsKind::Net, home.unwrap_or(own))
    }

    /// Fills all of them; in the coordinator, when the root task `root` has made them and waits.
    /// `told`: which descriptors it holds them by ([`Self::numbers`]).
    pub(crate) fn fill(
        &self,
        cp: &Checkpoint,
        root: i32,
        told: impl Fn(usize) -> Option<u32>,
    ) -> Result<Outside, Error> {
        let made = self.find(root, told)?;
        let user = cp.root().ids.as_ref().map(|ids| NsKind::User.id(ids));
        let user = user.and_then(|id| cp.ns.user.get(&id));
        let of_images = || self.namespaces.iter().filter(|one| one.from == From::Images);
        let inside = |id: u32, work: &mut (dyn FnMut() -> Result<(), Error> + Send)| {
            sys::netlink::in_net_ns(made[&id].as_fd(), work)?
        };
        for one in of_images() {
            let net = &cp.ns.net[&one.id];
            inside(one.id, &mut || {
                sysctl::namespace(net, user)?;
                raw::nsids(net, &made)
            })?;
        }
        let outside = make::links(&self.links, &made)?;
        for one in of_images() {
            let net = &cp.ns.net[&one.id];
            inside(one.id, &mut || {
                make::configure(&self.links, one.id, net)?;
                raw::restore(net)?;
                make::finish(&self.links, one.id, net)?;
                filter::restore(net)
            })?;
        }
        for one in self.namespaces.iter().filter(|one| one.from != From::Empty) {
            let net = &cp.ns.net[&one.id];
            inside(one.id, &mut || conntrack::restore(net))?;
        }
        Ok(outside)
    }

    /// Descriptors of the namespaces in the root task, in the order of the plan: told to the
    /// coordinator, which fills them.
    pub(crate) fn numbers(&self, made: &Made) -> Vec<RawFd> {
        let fd = |one: &One| made.get(NsKind::Net, one.id).map_or(-1, |fd| fd.as_raw_fd());
        self.namespaces.iter().map(fd).collect()
    }

    /// The namespaces by their ids, as the root task holds them.
    fn find(
        &self,
        root: i32,
        told: impl Fn(usize) -> Option<u32>,
    ) -> Result<HashMap<u32, OwnedFd>, Error> {
        let open = |(at, one): (usize, &One)| {
            let lost = || Error::NetNs("more of them than the root task can tell of".into());
            let path = format!("/proc/{root}/fd/{}", told(at).ok_or_else(lost)?);
            let file =
                File::open(&path).map_err(|e| sys::Error::io(format!("open({path})"), &e))?;
            Ok((one.id, OwnedFd::from(file)))
        };
        self.namespaces.iter().enumerate().map(open).collect()
    }
}
