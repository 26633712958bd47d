//! Collects unix sockets.
//!
//! Peers may be anywhere in the tree, also in queues that have not been read yet: whether each
//! has been found is asked at the end, by [`FileTable::check_peers`].

use super::error::{Error, Why, call, text};
use super::parse::UnixDiag;
use super::sk_queue::Packets;
use super::{FileTable, Open, entry, sk_opts};
use images::proto::{FdTypes, FilePermsEntry, FownEntry, SkOptsEntry, SkShutdown, UnixSkEntry};
use nix::sys::stat::fstat;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

const SIOCUNIXFILE: u64 = 0x89e0;
const ESTABLISHED: u8 = 1;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
/// `uflags`: a name outside the tree, no socket of it.
const USK_EXTERN: u32 = 1;
/// The other end was our service's.
const USK_SERVICE: u32 = 2;
/// A descriptor given at restore: `--inherit-fd fd[N]:socket:[INODE]`.
const USK_INHERIT: u32 = 8;

/// Sockets seen so far.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Descriptions found in queues, not yet collected, and our copies of them.
    pub(crate) in_flight: Vec<(usize, OwnedFd)>,
    /// The socket in whose queue each was found.
    pub(crate) via: HashMap<usize, usize>,
    /// Our copies of those that are.
    pub(crate) keep: Vec<OwnedFd>,
    pub(crate) packets: Packets,
    /// Inodes of sockets in `files`.
    inside: HashSet<u32>,
    /// Sockets whose peer has to be found: holder, descriptor and what diag told.
    waiting: Vec<Waiting>,
    /// Listener by inode of a client in its accept queue.
    icons: HashMap<u32, u32>,
    /// Network namespaces whose clients are in `icons`.
    icons_of: HashSet<u64>,
}

#[derive(Debug)]
struct Waiting {
    desc: usize,
    net: u64,
    diag: UnixDiag,
}

/// Where a socket is bound.
#[derive(Debug, Default)]
struct Place {
    perms: Option<FilePermsEntry>,
    dir: Option<Vec<u8>>,
    deleted: Option<bool>,
    mnt_id: Option<i32>,
}

impl FileTable {
    pub(crate) fn unix_sk(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let ino = open.stat.st_ino as u32;
        let (net, ns_id) = self.net_of(open)?;
        let Some(diag) = self.diag.unix(net)?.get(&ino).cloned() else {
            return Err(Why::Text(
                "sock_diag does not know the socket: is unix_diag there?".into(),
            ));
        };
        let mut opts = sk_opts::collect(open.own, true)?;
        let kind = (libc::AF_UNIX, diag.kind.into(), 0);
        opts.amber_others = self.sk_defaults.differing(open.own, kind);
        let place = self.place(open, &diag)?;
        let peer = self.peer(net, &diag)?;
        let peer_name = self.diag.unix(net)?.get(&peer).map(|p| p.name.clone());
        let listens = diag.state == LISTEN;
        // Both ends stay with whoever is outside: the restore is given this one again.
        let given = self.external.has_unix(ino);
        let service = diag.peer != 0 && self.request.service_socket == Some(diag.peer);
        let lone = given || service;
        // Others than datagram sockets have a queue once they are connected; empty messages are
        // none in a stream.
        let queues = match i32::from(diag.kind) {
            libc::SOCK_DGRAM => true,
            libc::SOCK_STREAM => diag.state == ESTABLISHED && diag.rqueue > 0,
            _ => diag.state == ESTABLISHED,
        };
        if queues && !lone {
            let (kind, bytes) = (diag.kind.into(), diag.rqueue as usize);
            self.queue(open, kind, bytes, peer_name.as_deref())?;
        }
        let mut file = entry(FdTypes::Unixsk, open.id);
        file.usk = Some(UnixSkEntry {
            id: open.id,
            ino,
            r#type: diag.kind.into(),
            state: if service { CLOSE.into() } else { diag.state.into() },
            flags: open.info.flags,
            uflags: if given { USK_INHERIT } else { 0 } | if service { USK_SERVICE } else { 0 },
            backlog: if listens { diag.wqueue } else { 0 },
            peer: if lone { 0 } else { peer },
            fown: open.fown,
            opts,
            name: diag.name.clone(),
            shutdown: shutdown(diag.shutdown),
            file_perms: place.perms,
            name_dir: place.dir,
            deleted: place.deleted,
            ns_id: Some(ns_id),
            mnt_id: place.mnt_id,
        });
        self.files.push(file);
        self.unix.inside.insert(ino);
        if lone {
            return Ok(());
        }
        self.unix.waiting.push(Waiting { desc: open.desc, net, diag });
        Ok(())
    }

    /// Path, owner and mode of the file a socket is bound to.
    fn place(&mut self, open: &Open<'_>, diag: &UnixDiag) -> Result<Place, Why> {
        let name = match diag.name.as_slice() {
            [] | [0, ..] => return Ok(Place::default()),
            name => name.split(|&b| b == 0).next().unwrap_or_default(),
        };
        let file = sys::file::ioctl_fd(open.own, SIOCUNIXFILE)?;
        let stat = call(|| "fstat".into(), fstat(file.as_fd()))?;
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let link = call(|| format!("readlink({link})"), nix::fcntl::readlink(link.as_str()))?;
        let link = link.into_vec();
        let path = link.strip_suffix(b" (deleted)").unwrap_or(&link);
        let deleted = path.len() != link.len() && stat.st_nlink == 0;
        let (_, info) = super::ident::own_texts(file.as_fd())?;
        let info = super::parse::Fdinfo::parse(&info).ok_or_else(|| Why::field("mnt_id"))?;
        let dir = if name.starts_with(b"/") { None } else { Some(directory(path, name)?) };
        Ok(Place {
            perms: Some(FilePermsEntry {
                mode: stat.st_mode,
                uid: self.ns.maps.uid(stat.st_uid),
                gid: self.ns.maps.gid(stat.st_gid),
            }),
            dir,
            deleted: deleted.then_some(true),
            mnt_id: self.mounts.mnt_id(open.pid, info.mnt_id)?,
        })
    }

    /// Inode of the other end: the listener's for a connection that is not accepted yet.
    fn peer(&mut self, net: u64, diag: &UnixDiag) -> Result<u32, Why> {
        if diag.peer != 0 || diag.state != ESTABLISHED || diag.kind as i32 == libc::SOCK_DGRAM {
            return Ok(diag.peer);
        }
        if self.unix.icons_of.insert(net) {
            let all = self.diag.unix(net)?.values();
            let icons = all.flat_map(|d| d.icons.iter().map(|&client| (client, d.ino)));
            self.unix.icons.extend(icons);
        }
        let listener = self.unix.icons.get(&diag.ino).copied();
        if listener.is_some() && diag.wqueue != 0 {
            return Err(Why::refused(
                "Can't dump unix socket with data sent to a connection that is not accepted yet",
            ));
        }
        Ok(listener.unwrap_or(0))
    }

    /// Every peer is in the tree, or is one that may be outside.
    pub(crate) fn check_peers(&mut self) -> Result<(), Error> {
        for waiting in std::mem::take(&mut self.unix.waiting) {
            let done = self.check_peer(&waiting);
            done.map_err(|why| self.walk.descs[waiting.desc].error(why))?;
        }
        Ok(())
    }

    fn check_peer(&mut self, waiting: &Waiting) -> Result<(), Why> {
        let diag = &waiting.diag;
        for icon in &diag.icons {
            if !self.unix.inside.contains(icon) && !self.request.skip_in_flight {
                let who = if *icon == 0 {
                    "a socket that is closed".into()
                } else {
                    format!("socket {icon} outside the tree")
                };
                return Err(Why::refused(format!(
                    "Can't dump unix listener with a pending connection from {who}; it can be \
                     ignored with the --skip-in-flight option"
                )));
            }
        }
        if diag.peer == 0 || self.unix.inside.contains(&diag.peer) {
            return Ok(());
        }
        let peer = self.diag.unix(waiting.net)?.get(&diag.peer).cloned().unwrap_or_default();
        let allowed = self.request.ext_unix_sk || self.external.has_unix(diag.peer);
        if allowed && i32::from(diag.kind) == libc::SOCK_DGRAM && !peer.name.is_empty() {
            self.outside(&peer);
            return Ok(());
        }
        let names =
            format!("name: {}; peer name: {}", printable(&diag.name), printable(&peer.name));
        Err(if i32::from(diag.kind) == libc::SOCK_DGRAM {
            Why::refused(format!(
                "External socket is used: peer {} is outside the tree ({names}). Consider using \
                 --ext-unix-sk or --external unix[{}]",
                diag.peer, diag.peer
            ))
        } else {
            Why::refused(format!(
                "Can't dump half of stream unix connection: peer {} is outside the tree ({names}). \
                 Consider using --external unix[{}], and --inherit-fd at restore",
                diag.peer, diag.ino
            ))
        })
    }

    /// Stands for a socket outside the tree: no descriptor refers to it, only peers do. CRIU's
    /// restorer wants it before them.
    fn outside(&mut self, peer: &UnixDiag) {
        let id = self.next_id();
        let mut file = entry(FdTypes::Unixsk, id);
        file.usk = Some(UnixSkEntry {
            id,
            ino: peer.ino,
            r#type: libc::SOCK_DGRAM as u32,
            state: LISTEN.into(),
            flags: 0,
            uflags: USK_EXTERN,
            backlog: 0,
            peer: 0,
            fown: FownEntry::default(),
            opts: SkOptsEntry::default(),
            name: peer.name.clone(),
            ..UnixSkEntry::default()
        });
        self.files.insert(0, file);
        self.unix.inside.insert(peer.ino);
    }
}

fn shutdown(bits: u8) -> Option<i32> {
    let kind = match bits & 3 {
        0 => return None,
        1 => SkShutdown::Read,
        2 => SkShutdown::Write,
        _ => SkShutdown::Both,
    };
    Some(kind.into())
}

fn printable(name: &[u8]) -> String {
    match name {
        [] => "(unnamed)".into(),
        [0, rest @ ..] => format!("@{}", text(rest)),
        path => text(path.split(|&b| b == 0).next().unwrap_or_default()),
    }
}

/// Where `name` was relative to when it was bound to what is `path` now.
fn directory(path: &[u8], name: &[u8]) -> Result<Vec<u8>, Why> {
    let mut plain = name;
    while let Some(rest) = plain.strip_prefix(b"./") {
        plain = rest;
    }
    let dir = path.strip_suffix(plain).filter(|d| d.ends_with(b"/"));
    let Some(dir) = dir else {
        return Err(Why::refused(format!(
            "Can't dump socket bound to relative name {} that is {} now",
            text(name),
            text(path)
        )));
    };
    Ok(if dir == b"/" { dir.to_vec() } else { dir[..dir.len() - 1].to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_names_have_a_directory() {
        assert_eq!(directory(b"/tmp/w/s", b"s").unwrap(), b"/tmp/w");
        assert_eq!(directory(b"/tmp/w/s", b"w/s").unwrap(), b"/tmp");
        assert_eq!(directory(b"/tmp/w/s", b"./s").unwrap(), b"/tmp/w");
        assert_eq!(directory(b"/s", b"s").unwrap(), b"/");
        assert!(directory(b"/tmp/renamed", b"s").is_err());
        assert!(directory(b"/tmp/as", b"s").is_err());
    }

    #[test]
    fn shutdown_directions() {
        assert_eq!(shutdown(0), None);
        assert_eq!(shutdown(1), Some(SkShutdown::Read.into()));
        assert_eq!(shutdown(2), Some(SkShutdown::Write.into()));
        assert_eq!(shutdown(3), Some(SkShutdown::Both.into()));
    }
}
