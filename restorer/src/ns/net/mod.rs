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

use super::{Cx, enter, external, own};
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, Net, NsKind};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

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
    }
    let links = links::Links::plan(&filled, request)?;
    Ok(Some(NetPlan { namespaces, links }))
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

    /// Makes those of other tasks and enters the root's, in the root task. All of them are kept,
    /// in the order of the plan, which is that of their numbers.
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
    /// `least`: where its descriptors of them begin.
    pub(crate) fn fill(&self, cp: &Checkpoint, root: i32, least: RawFd) -> Result<Outside, Error> {
        let made = self.find(root, least)?;
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

    /// The namespaces by their ids: given ones are ours, the root task is in its own, and it
    /// holds the others in the order of the plan.
    fn find(&self, root: i32, least: RawFd) -> Result<HashMap<u32, OwnedFd>, Error> {
        let open = |path: String| {
            let file = File::open(&path).and_then(|f| Ok((f.metadata()?.ino(), OwnedFd::from(f))));
            file.map_err(|e| Error::from(sys::Error::io(format_args!("open({path})"), &e)))
        };
        // Ours is inherited by the root task, as may be what we were given besides.
        let (own, own_fd) = open("/proc/self/ns/net".into())?;
        let mut seen = HashSet::from([own]);
        let mut found = HashMap::new();
        for one in &self.namespaces {
            let path = match one.from {
                From::Given(fd) => format!("/proc/self/fd/{fd}"),
                _ if one.root => format!("/proc/{root}/ns/net"),
                _ => continue,
            };
            let (ino, fd) = open(path)?;
            seen.insert(ino);
            found.insert(one.id, fd);
        }
        let mut held = self.held(root, least, own_fd.as_fd(), seen)?.into_iter();
        for one in &self.namespaces {
            if let Entry::Vacant(place) = found.entry(one.id) {
                let lost = || Error::NetNs("the root task has lost track of them".into());
                place.insert(held.next().ok_or_else(lost)?);
            }
        }
        Ok(found)
    }

    /// Namespaces that the root task holds at `least` and above, none of which is `seen`.
    fn held(
        &self,
        root: i32,
        least: RawFd,
        own: BorrowedFd<'_>,
        mut seen: HashSet<u64>,
    ) -> Result<Vec<OwnedFd>, Error> {
        let dir = format!("/proc/{root}/fd");
        let failed = |what: &str, e: &std::io::Error| sys::Error::io(what, e);
        let nsfs = nix::sys::stat::fstat(own)
            .map_err(|e| sys::Error::new("fstat(/proc/self/ns/net)", e as i32))?
            .st_dev;
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(&dir).map_err(|e| failed(&dir, &e))? {
            let name = entry.map_err(|e| failed(&dir, &e))?.file_name();
            numbers.extend(name.to_str().and_then(|n| n.parse::<RawFd>().ok()));
        }
        numbers.retain(|n| *n >= least);
        numbers.sort_unstable();
        let mut held = Vec::new();
        for number in numbers {
            let path = format!("{dir}/{number}");
            // By what it is, not by its link: that names the place where one is mounted.
            let Ok(meta) = std::fs::metadata(&path) else { continue };
            if meta.dev() != nsfs || seen.contains(&meta.ino()) {
                continue;
            }
            let file = File::open(&path).map_err(|e| failed(&path, &e))?;
            if is_net(file.as_fd()) && seen.insert(meta.ino()) {
                held.push(file.into());
            }
        }
        Ok(held)
    }
}

/// Whether it is a network namespace (`ioctl_nsfs(2)`).
fn is_net(fd: BorrowedFd<'_>) -> bool {
    const NS_GET_NSTYPE: u64 = 0xb703;
    sys::fd::ioctl_int(fd, NS_GET_NSTYPE, 0).is_ok_and(|kind| kind == libc::CLONE_NEWNET)
}
