//! Probes that need a namespace of their own: each runs in a child.

use super::netlink::{Message, ask, ask_bytes, attribute, find};
use super::{Answer, child, file_has, why, yes};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::SockProtocol::{NetlinkNetFilter, NetlinkRoute};
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

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
    let ns = attribute(IFLA_NET_NS_FD, &first.as_raw_fd().to_ne_bytes());
    let name = attribute(IFLA_IFNAME, b"criu0\0");
    let peer = attribute(1, &[&[0; IFINFO][..], &name, &ns].concat());
    let info = [attribute(1, b"veth"), attribute(2, &peer)].concat();
    const CREATE: u16 = 0x400 | 0x200;
    let request = Message::order(RTM_NEWLINK, CREATE, &[0; IFINFO])
        .attribute(IFLA_IFNAME, b"criu0\0")
        .attribute(IFLA_LINKINFO, &info);
    ask(NetlinkRoute, &request).map_err(|e| format!("veth: {e}"))?;
    Ok(first)
}

fn criu0() -> Result<Vec<u8>, String> {
    let request = Message::new(RTM_GETLINK, &[0; IFINFO]).attribute(IFLA_IFNAME, b"criu0\0");
    ask(NetlinkRoute, &request)
}

fn index_of(link: &[u8]) -> Option<[u8; 4]> {
    // After the header: family, pad, type; then the index.
    link.get(20..24)?.try_into().ok()
}

/// A link says in which namespace its peer is.
pub(super) fn link_nsid() -> Answer {
    child::ask(|| {
        let _first = linked_namespaces()?;
        let peer = find(&criu0()?, IFINFO, IFLA_LINK_NETNSID).is_some();
        yes(peer, "links do not tell the namespace of their peer")
    })
}

/// A link can get a chosen number when it is moved to another namespace.
pub(super) fn newifindex() -> Answer {
    child::ask(|| {
        const CHOSEN: i32 = 77;
        let first = linked_namespaces()?;
        let index = index_of(&criu0()?).ok_or("links have no index")?;
        let mut body = [0; IFINFO];
        body[4..8].copy_from_slice(&index);
        // The peer has the name there.
        let request = Message::order(RTM_NEWLINK, 0, &body)
            .attribute(IFLA_IFNAME, b"criu1\0")
            .attribute(IFLA_NET_NS_FD, &first.as_raw_fd().to_ne_bytes())
            .attribute(IFLA_NEW_IFINDEX, &CHOSEN.to_ne_bytes());
        ask(NetlinkRoute, &request)?;
        setns(first, CloneFlags::CLONE_NEWNET).map_err(why)?;
        let name = Message::new(RTM_GETLINK, &[0; IFINFO]).attribute(IFLA_IFNAME, b"criu1\0");
        let index = index_of(&ask(NetlinkRoute, &name)?);
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
        let batch = [0, 0, 0, 10];
        let table = Message::order(NFT_NEWTABLE, 0x400, &[NFPROTO_INET, 0, 0, 0])
            .attribute(1, b"criu-check\0");
        let request = [
            Message::new(BATCH_BEGIN, &batch).bytes(),
            table.bytes(),
            Message::new(BATCH_END, &batch).bytes(),
        ];
        ask_bytes(NetlinkNetFilter, &request.concat()).map(drop)
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
