//! Mount namespaces: what is mounted where, and what is in the file systems that go with them.
//!
//! ```text
//! mountinfo (each namespace, ours) ─analyse─> how each mount comes back ─> mountpoints-N.img
//!                                             whose content is saved    ─> tmpfs-dev-N.tar.gz.img
//! ```
//! Files of tasks ask [`Mounts`] which namespace a mount id belongs to.

mod analyse;
mod archive;
mod clean;
mod fstype;
mod mountinfo;
mod options;

pub(super) use mountinfo::parse as parse_mountinfo;

pub use options::MountOptions;

use super::{Cx, Namespace, Namespaces, Role};
use crate::files::parse::Mount;
use crate::xattr::Owners;
use crate::{Error, Request};
use analyse::{Analysis, NsMounts};
use images::Image;
use images::checkpoint::NsKind;
use mountinfo::MountInfo;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// All mounts of the tree's own namespaces.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    all: Vec<NsMounts>,
    /// Inode and root directory of each.
    places: Vec<(u64, OwnedFd)>,
    /// Namespace and position by mount id.
    by_id: HashMap<u32, (usize, usize)>,
    analysis: Analysis,
}

fn short(m: &MountInfo) -> Mount {
    Mount { id: m.id.cast_signed(), dev: m.dev, root: m.root.clone(), point: m.point.clone() }
}

impl Mounts {
    /// Looks at all of them, and refuses what could not be mounted again.
    pub(crate) fn collect(all: &Namespaces, request: &Request) -> Result<Self, Error> {
        let mut options = request.mounts.clone();
        options.add_external(&request.external);
        // Roots of cgroup mounts are told relative to the reader's.
        let cgroup = all.root(NsKind::Cgroup).map(|ns| ns.fd.as_fd());
        let mut out = Self::default();
        for ns in all.foreign(NsKind::Mnt) {
            let (text, root) = look(ns.fd.as_fd(), cgroup)?;
            let mut mounts = mountinfo::parse(&text);
            leave_out(&mut mounts, &options);
            let at = out.all.len();
            for m in &mut mounts {
                m.options = inside(&m.options, &all.maps);
            }
            out.by_id.extend(mounts.iter().enumerate().map(|(i, m)| (m.id, (at, i))));
            out.all.push(NsMounts { ns: ns.id, root: ns.role == Role::Root, mounts });
            out.places.push((ns.ino, root));
        }
        if !out.all.is_empty() {
            let host = crate::proc::read("/proc/thread-self/mountinfo")?;
            let host = mountinfo::parse(&host);
            out.analysis = analyse::analyse(&out.all, &host, &options).map_err(Error::Refused)?;
        }
        Ok(out)
    }

    /// The root directory of a namespace, by its inode. `None` for the dumper's own.
    pub(crate) fn root(&self, ino: u64) -> Option<BorrowedFd<'_>> {
        self.places.iter().find(|(i, _)| *i == ino).map(|(_, fd)| fd.as_fd())
    }

    /// The namespace that a mount is in: its inode and root directory.
    pub(crate) fn home(&self, mnt_id: u32) -> Option<(u64, BorrowedFd<'_>)> {
        let (at, _) = self.by_id.get(&mnt_id)?;
        let (ino, fd) = &self.places[*at];
        Some((*ino, fd.as_fd()))
    }

    /// All mounts of a namespace with this device.
    pub(crate) fn with_dev(&self, ino: u64, dev: u32) -> Vec<Mount> {
        let at = self.places.iter().position(|(i, _)| *i == ino);
        let mounts = at.map_or(&[][..], |at| &self.all[at].mounts);
        mounts.iter().filter(|m| m.dev == dev).map(short).collect()
    }

    /// A mount, by its id.
    pub(crate) fn mount(&self, id: u32) -> Option<Mount> {
        let (ns, at) = self.by_id.get(&id)?;
        Some(short(&self.all[*ns].mounts[*at]))
    }

    /// Inodes of all namespaces.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = u64> {
        self.places.iter().map(|(ino, _)| *ino)
    }

    /// Writes the mounts of a namespace, and the content of its file systems.
    fn write(&self, ns: &Namespace, cx: &Cx<'_>, owners: Owners<'_>) -> Result<(), Error> {
        let dir = cx.dir;
        let user = cx.all.root(NsKind::User).map(|ns| ns.fd.as_fd());
        let Some(at) = self.all.iter().position(|m| m.ns == ns.id) else { return Ok(()) };
        let mut writer = dir.writer(Image::Mountpoints(ns.id))?;
        for entry in &self.analysis.entries[at].1 {
            writer.write(entry)?;
        }
        writer.finish()?;
        let mounts = &self.all[at].mounts;
        let of = |list: &[(usize, usize)]| -> Vec<&MountInfo> {
            list.iter().filter(|c| c.0 == at).map(|c| &mounts[c.1]).collect()
        };
        let (saved, empty) = (of(&self.analysis.contents), of(&self.analysis.empty));
        let all: Vec<&MountInfo> = saved.iter().chain(&empty).copied().collect();
        let roots = clean::open_roots(ns.fd.as_fd(), user, &all)?;
        for (m, root) in saved.iter().zip(&roots) {
            let image = Image::TmpfsDev(m.dev);
            let out = dir.create_raw(image)?;
            archive::write(root.as_fd(), out, owners).map_err(|e| {
                let point = String::from_utf8_lossy(&m.point);
                Error::Refused(format!("{}: content of {point}: {e}", image.file_name()))
            })?;
        }
        for (m, root) in empty.iter().zip(&roots[saved.len()..]) {
            must_be_empty(m, root)?;
        }
        Ok(())
    }
}

/// Refuses what cannot be saved: done when the mounts were collected.
pub(crate) fn check(_ns: &Namespace, _cx: &Cx<'_>) -> Result<(), Error> {
    Ok(())
}

/// Writes its images.
pub(crate) fn dump(ns: &Namespace, cx: &Cx<'_>) -> Result<(), Error> {
    let maps = &cx.all.maps;
    cx.all.mounts.write(ns, cx, &|uid, gid| (maps.uid(uid), maps.gid(gid)))
}

/// POSIX message queues and the like have no image.
fn must_be_empty(m: &MountInfo, root: &OwnedFd) -> Result<(), Error> {
    use std::os::fd::AsRawFd;
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}", root.as_raw_fd()));
    let first = entries.and_then(|mut all| all.next().transpose());
    let point = String::from_utf8_lossy(&m.point);
    match first {
        Ok(None) => Ok(()),
        Ok(Some(entry)) => Err(Error::Refused(format!(
            "the {} file system at {point} is not empty: Can't dump {}",
            String::from_utf8_lossy(&m.fstype),
            entry.file_name().to_string_lossy()
        ))),
        Err(e) => Err(sys::Error::io(format_args!("read({point})"), &e).into()),
    }
}

/// `mountinfo` of a namespace, seen from its root and a cgroup namespace, and that root.
fn look(ns: BorrowedFd<'_>, cgroup: Option<BorrowedFd<'_>>) -> Result<(Vec<u8>, OwnedFd), Error> {
    let dir = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let failed = |call: &str, e: nix::Error| Error::from(sys::Error::new(call, e as i32));
    let proc = open("/proc", dir, Mode::empty()).map_err(|e| failed("open(/proc)", e))?;
    clean::inside(ns, || {
        if let Some(cgroup) = cgroup {
            nix::sched::setns(cgroup, nix::sched::CloneFlags::CLONE_NEWCGROUP)
                .map_err(|e| failed("setns(cgroup)", e))?;
        }
        let root = open("/", dir, Mode::empty()).map_err(|e| failed("open(/)", e))?;
        Ok((read_mountinfo(proc.as_fd())?, root))
    })
}

/// `mountinfo` of this thread.
fn read_mountinfo(proc: BorrowedFd<'_>) -> Result<Vec<u8>, Error> {
    let name = "thread-self/mountinfo";
    let failed = |e: &std::io::Error| sys::Error::io("read(/proc/thread-self/mountinfo)", e);
    let fd = openat(proc, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
    let mut text = Vec::new();
    File::from(fd.map_err(|e| failed(&e.into()))?)
        .read_to_end(&mut text)
        .map_err(|e| failed(&e))?;
    Ok(text)
}

/// Options with the owners that a user namespace has for those outside.
fn inside(options: &[u8], maps: &super::user::Maps) -> Vec<u8> {
    let one = |option: &[u8]| -> Vec<u8> {
        let number = |key: &str| {
            let value = option.strip_prefix(key.as_bytes())?;
            std::str::from_utf8(value).ok()?.parse::<u32>().ok()
        };
        if let Some(uid) = number("uid=") {
            return format!("uid={}", maps.uid(uid)).into_bytes();
        }
        if let Some(gid) = number("gid=") {
            return format!("gid={}", maps.gid(gid)).into_bytes();
        }
        option.to_vec()
    };
    options.split(|b| *b == b',').map(one).collect::<Vec<_>>().join(&b',')
}

/// Takes mounts that are not wanted out, with all that is on them.
fn leave_out(mounts: &mut Vec<MountInfo>, options: &MountOptions) {
    let mut out: Vec<u32> =
        mounts.iter().filter(|m| options.skips(&m.point)).map(|m| m.id).collect();
    let mut at = 0;
    while let Some(&id) = out.get(at) {
        out.extend(mounts.iter().filter(|m| m.parent == id && m.id != id).map(|m| m.id));
        at += 1;
    }
    mounts.retain(|m| !out.contains(&m.id));
}
