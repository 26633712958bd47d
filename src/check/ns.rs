//! Probes that need a namespace of their own: each runs in a child.

use super::{Answer, child, file_has, why, yes};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use sys::netlink::{self, Request, Socket};

pub(super) fn userns() -> Answer {
    child::ask(|| unshare(CloneFlags::CLONE_NEWUSER).map_err(why))
}

pub(super) fn cgroupns() -> Answer {
    child::ask(|| unshare(CloneFlags::CLONE_NEWCGROUP).map_err(why))
}

pub(super) fn timens() -> Answer {
    child::ask(|| {
        const CLONE_NEWTIME: i32 = 0x80;
        unshare(CloneFlags::from_bits_retain(CLONE_NEWTIME)).map_err(why)?;
        file_has("/proc/self/timens_offsets", "boottime")
    })
}

/// A restored task is moved into a namespace that somebody else keeps.
pub(super) fn external_net_ns() -> Answer {
    child::ask(|| {
        let outside = net_ns()?;
        unshare(CloneFlags::CLONE_NEWNET).map_err(why)?;
        setns(outside, CloneFlags::CLONE_NEWNET).map_err(why)
    })
}

fn net_ns() -> Result<File, String> {
    File::open("/proc/self/ns/net").map_err(why)
}

/// Length of `struct ifinfomsg`.
const IFINFO: usize = 16;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_NEW_IFINDEX: u16 = 49;

/// Makes two net namespaces with a pair of links `criu0` in between; we are in the second, and
/// get the first.
fn linked_namespaces() -> Result<File, String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(why)?;
    let first = net_ns()?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(why)?;
    let request = Request::new("RTM_NEWLINK", RTM_NEWLINK)
        .flags(netlink::CREATE | netlink::EXCL)
        .body(&[0; IFINFO])
        .text(IFLA_IFNAME, b"criu0")
        .nested(IFLA_LINKINFO, |info| {
            info.text(1, b"veth").nested(2, |data| {
                let ns = first.as_raw_fd().cast_unsigned();
                let peer = netlink::Attributes::default();
                let peer = peer.raw(&[0; IFINFO]).text(IFLA_IFNAME, b"criu0");
                data.attr(1, peer.u32(IFLA_NET_NS_FD, ns).bytes())
            })
        });
    route()?.order(&request).map_err(|e| format!("veth: {e}"))?;
    Ok(first)
}

fn route() -> Result<Socket, String> {
    Socket::open(libc::NETLINK_ROUTE).map_err(why)
}

fn link(name: &[u8]) -> Result<Vec<u8>, String> {
    let request =
        Request::new("RTM_GETLINK", RTM_GETLINK).body(&[0; IFINFO]).text(IFLA_IFNAME, name);
    route()?.ask(&request).map_err(why)
}

fn index_of(link: &[u8]) -> Option<[u8; 4]> {
    // Family, pad, type; then the index.
    netlink::messages(link).next()?.body.get(4..8)?.try_into().ok()
}

/// A link says in which namespace its peer is.
pub(super) fn link_nsid() -> Answer {
    child::ask(|| {
        let _first = linked_namespaces()?;
        let link = link(b"criu0")?;
        let peer = netlink::messages(&link)
            .any(|m| netlink::attribute(m.after(IFINFO), IFLA_LINK_NETNSID).is_some());
        yes(peer, "links do not tell the namespace of their peer")
    })
}

/// A link can get a chosen number when it is moved to another namespace.
pub(super) fn newifindex() -> Answer {
    child::ask(|| {
        const CHOSEN: i32 = 77;
        let first = linked_namespaces()?;
        let index = index_of(&link(b"criu0")?).ok_or("links have no index")?;
        let mut body = [0; IFINFO];
        body[4..8].copy_from_slice(&index);
        // The peer has the name there.
        let request = Request::new("RTM_NEWLINK", RTM_NEWLINK)
            .body(&body)
            .text(IFLA_IFNAME, b"criu1")
            .attr(IFLA_NET_NS_FD, &first.as_raw_fd().to_ne_bytes())
            .attr(IFLA_NEW_IFINDEX, &CHOSEN.to_ne_bytes());
        route()?.order(&request).map_err(why)?;
        setns(first, CloneFlags::CLONE_NEWNET).map_err(why)?;
        let index = index_of(&link(b"criu1")?);
        yes(index == Some(CHOSEN.to_ne_bytes()), "a moved link gets any number")
    })
}

/// A table can be made in a net namespace, which is all a lock needs to begin with.
pub(super) fn network_lock_nftables() -> Answer {
    child::ask(|| {
        const BATCH_BEGIN: u16 = 16;
        const BATCH_END: u16 = 17;
        const NFT_NEWTABLE: u16 = 10 << 8;
        const NFPROTO_INET: u8 = 1;
        unshare(CloneFlags::CLONE_NEWNET).map_err(why)?;
        // struct nfgenmsg: family, version, and in batches the subsystem, big endian.
        let mark = |name, kind| Request::new(name, kind).body(&[0, 0, 0, 10]);
        let table = Request::new("NFT_MSG_NEWTABLE", NFT_NEWTABLE)
            .flags(netlink::CREATE)
            .body(&[NFPROTO_INET, 0, 0, 0])
            .text(1, b"criu-check");
        let batch = [
            mark("NFNL_MSG_BATCH_BEGIN", BATCH_BEGIN),
            table,
            mark("NFNL_MSG_BATCH_END", BATCH_END),
        ];
        Socket::open(libc::NETLINK_NETFILTER).and_then(|mut s| s.batch(&batch)).map_err(why)
    })
}

/// A mount namespace with an empty tmpfs in it, which goes away with us.
fn own_tmpfs() -> Result<PathBuf, String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(why)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(why)?;
    let dir = std::env::temp_dir();
    mount(Some("criu"), &dir, Some("tmpfs"), MsFlags::empty(), none).map_err(why)?;
    Ok(dir)
}

/// An autofs mount tells which pipe it talks to.
pub(super) fn autofs() -> Answer {
    child::ask(|| {
        let dir = own_tmpfs()?;
        let (_read, write) = nix::unistd::pipe().map_err(why)?;
        let options = format!(
            "fd={},pgrp={},minproto=5,maxproto=5,direct",
            write.as_raw_fd(),
            nix::unistd::getpgrp()
        );
        mount(Some("criu"), &dir, Some("autofs"), MsFlags::empty(), Some(options.as_str()))
            .map_err(|e| format!("autofs: {e}"))?;
        file_has("/proc/self/mountinfo", "pipe_ino=")
    })
}

/// A mapped file of an overlay is shown with the same device and inode as stat tells.
pub(super) fn overlayfs_maps() -> Answer {
    child::ask(|| {
        let dir = own_tmpfs()?;
        let at = |name: &str| dir.join(name);
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(at(name)).map_err(why)?;
        }
        fs::write(at("lower/file"), [0; 4096]).map_err(why)?;
        let options =
            format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", dir.display());
        mount(Some("criu"), &at("merged"), Some("overlay"), MsFlags::empty(), Some(&options[..]))
            .map_err(|e| format!("overlay: {e}"))?;
        let file = File::open(at("merged/file")).map_err(why)?;
        let mapped = sys::probe::Pages::of_file(&file, 1).map_err(why)?;
        let meta = file.metadata().map_err(why)?;
        let (major, minor) = (libc::major(meta.dev()), libc::minor(meta.dev()));
        let shown = format!(" {major:02x}:{minor:02x} {} ", meta.ino());
        let maps = fs::read_to_string("/proc/self/maps").map_err(why)?;
        let start = format!("{:x}-", mapped.range().0);
        let line = maps.lines().find(|l| l.starts_with(&start)).ok_or("no line of the mapping")?;
        yes(line.contains(&shown), &format!("maps shows `{line}` for a file{shown}"))
    })
}
