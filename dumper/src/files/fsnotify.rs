//! Collects inotifies and fanotifies.
//!
//! The kernel tells the inode and a file handle of what is watched, the image wants a path too:
//! the handle is opened on a mount of that device and asked for its path.

use super::error::{Why, call, text};
use super::parse::{self, Mark, Watch};
use super::{FileTable, Open, entry};
use images::proto::{
    FanotifyFileEntry, FanotifyInodeMarkEntry, FanotifyMarkEntry, FanotifyMountMarkEntry, FdTypes,
    FhEntry, InotifyFileEntry, InotifyWdEntry, MarkType,
};
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;

/// `FAN_OPEN_PERM`, `FAN_ACCESS_PERM`, `FAN_OPEN_EXEC_PERM`, `FAN_PRE_ACCESS`.
const PERMISSION: u32 = 0x17_0000;
/// `handle` has at least this many words.
const HANDLE_WORDS: usize = 16;

/// Where a file handle leads.
enum Target {
    /// To a file with this name, in the mount namespace of another task if with a mount.
    Path(Vec<u8>, Option<i32>),
    /// To a file that has no name any more, and which the tree has open.
    Deleted,
    /// Nowhere.
    Unknown,
}

fn warn_of_events(open: &Open<'_>, what: &str) -> Result<(), Why> {
    let mut pending = [0u8; 4];
    sys::fd::ioctl_bytes(open.own, libc::FIONREAD, &mut pending)?;
    if i32::from_ne_bytes(pending) > 0 {
        log::warn!("task {}: fd {}: unread {what} events will be dropped", open.pid, open.fd);
    }
    Ok(())
}

impl FileTable {
    pub(crate) fn inotify(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let watches = parse::inotify(open.text).ok_or_else(|| Why::field("inotify"))?;
        let mut wd = Vec::with_capacity(watches.len());
        for watch in &watches {
            let f_handle = self.watched(open, watch, &format!("watch {}", watch.wd))?;
            wd.push(InotifyWdEntry {
                id: open.id,
                i_ino: watch.ino,
                mask: watch.mask,
                ignored_mask: watch.ignored_mask,
                s_dev: watch.sdev,
                wd: watch.wd,
                f_handle,
            });
        }
        warn_of_events(open, "inotify")?;
        let mut file = entry(FdTypes::Inotify, open.id);
        file.ify =
            Some(InotifyFileEntry { id: open.id, flags: open.info.flags, fown: open.fown, wd });
        self.files.push(file);
        Ok(())
    }

    pub(crate) fn fanotify(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let found = parse::fanotify(open.text).ok_or_else(|| Why::field("fanotify"))?;
        let mut marks = Vec::with_capacity(found.marks.len());
        for mark in &found.marks {
            if (mark.mask | mark.ignored_mask) & PERMISSION != 0 {
                // Whoever opens the files for the restore would wait for the answer of a task
                // that does not run.
                return Err(Why::yet("fanotify that is asked for permission"));
            }
            marks.push(self.mark(open, mark)?);
        }
        warn_of_events(open, "fanotify")?;
        let mut file = entry(FdTypes::Fanotify, open.id);
        file.ffy = Some(FanotifyFileEntry {
            id: open.id,
            flags: open.info.flags,
            fown: open.fown,
            faflags: found.flags,
            evflags: found.event_flags,
            mark: marks,
        });
        self.files.push(file);
        Ok(())
    }

    fn mark(&mut self, open: &Open<'_>, mark: &Mark) -> Result<FanotifyMarkEntry, Why> {
        let mut out = FanotifyMarkEntry {
            mflags: mark.mflags,
            mask: mark.mask,
            ignored_mask: mark.ignored_mask,
            ..FanotifyMarkEntry::default()
        };
        if let Some(watch) = &mark.watch {
            let f_handle = self.watched(open, watch, "fanotify mark")?;
            out.r#type = MarkType::Inode.into();
            out.s_dev = watch.sdev;
            out.ie = Some(FanotifyInodeMarkEntry { i_ino: watch.ino, f_handle });
            return Ok(out);
        }
        let Some(id) = mark.mnt_id else {
            return Err(Why::yet("fanotify marks of whole file systems"));
        };
        let mount = self.mounts.mount(open.pid, id)?.ok_or_else(|| {
            Why::refused(format!(
                "Can't find mount {id}, which a fanotify watches, in its namespace"
            ))
        })?;
        // In a namespace of the tree's own the id tells the place.
        let own = self.mounts.mnt_id(open.pid, id)?;
        out.r#type = MarkType::Mount.into();
        out.s_dev = mount.dev;
        let path = own.is_none().then_some(mount.point);
        out.me = Some(FanotifyMountMarkEntry { mnt_id: id.cast_unsigned(), path });
        Ok(out)
    }

    fn watched(&mut self, open: &Open<'_>, watch: &Watch, what: &str) -> Result<FhEntry, Why> {
        let (kind, bytes) = watch.handle.clone().unwrap_or_default();
        let mut handle = vec![0u64; HANDLE_WORDS];
        for (i, byte) in bytes.iter().enumerate() {
            handle[i / 8] |= u64::from(*byte) << (8 * (i % 8));
        }
        let by_scan = |table: &mut Self| table.irmap(open.pid, watch.sdev, watch.ino);
        let mut path = if self.request.force_irmap { by_scan(self)? } else { None };
        let mut elsewhere = None;
        if let (None, Some((kind, bytes))) = (&path, &watch.handle) {
            path = match self.path_of_handle(open.pid, watch, (*kind, bytes), what)? {
                Target::Path(path, mnt_id) => {
                    elsewhere = mnt_id;
                    Some(path)
                }
                Target::Unknown => None,
                // Its ghost has the same number in the images, by which a restore finds it.
                Target::Deleted => {
                    return Ok(FhEntry {
                        bytes: bytes.len() as u32,
                        r#type: (*kind).cast_unsigned(),
                        handle,
                        path: None,
                        mnt_id: None,
                    });
                }
            };
        }
        if path.is_none() {
            path = self.path_of_inode(open.pid, watch)?;
        }
        if path.is_none() {
            path = by_scan(self)?;
        }
        let path = path.ok_or_else(|| {
            Why::refused(format!(
                "Can't dump {what}: its target (device {:#x}, inode {}) has no path that could \
                 be found; try --irmap-scan-path",
                watch.sdev, watch.ino
            ))
        })?;
        let at = match elsewhere {
            Some(id) => Some(id),
            None => self.mounts.mount_at(open.pid, &path)?,
        };
        let mnt_id = match at {
            Some(id) => self.mounts.mnt_id(open.pid, id)?.map(i32::cast_unsigned),
            None => None,
        };
        Ok(FhEntry {
            bytes: bytes.len() as u32,
            r#type: kind as u32,
            handle,
            path: Some(path),
            mnt_id,
        })
    }

    fn path_of_handle(
        &mut self,
        pid: i32,
        watch: &Watch,
        (kind, bytes): (i32, &[u8]),
        what: &str,
    ) -> Result<Target, Why> {
        let own = self.mounts.with_dev(pid, watch.sdev)?.into_iter().map(|m| (m, None));
        let others = self.mounts.elsewhere(pid, watch.sdev)?;
        let mounts: Vec<_> =
            own.chain(others.into_iter().map(|m| (m.clone(), Some(m.id)))).collect();
        for (mount, other) in mounts {
            let root = match other {
                None => self.mounts.root(pid)?,
                Some(id) => self.mounts.root_of(pid, id)?,
            };
            let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            let Ok(at) = openat(root, super::mounts::below(&mount.point), flags, Mode::empty())
            else {
                continue;
            };
            let flags = libc::O_PATH | libc::O_CLOEXEC;
            let Ok(fd) = sys::file::open_by_handle_at(at.as_fd(), kind, bytes, flags) else {
                continue;
            };
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let path = call(|| format!("readlink({link})"), nix::fcntl::readlink(link.as_str()))?
                .into_vec();
            let stat = call(|| "fstat".into(), fstat(fd.as_fd()))?;
            let name = super::mounts::below(&path);
            let there = fstatat(root, name, AtFlags::AT_SYMLINK_NOFOLLOW);
            if there.is_ok_and(|t| (t.st_dev, t.st_ino) == (stat.st_dev, stat.st_ino)) {
                return Ok(Target::Path(path, other));
            }
            if stat.st_nlink == 0 {
                let same = |&at: &usize| {
                    let desc = &self.walk.descs[at];
                    let path = format!("/proc/{}/fd/{}", desc.pid, desc.fd);
                    nix::sys::stat::stat(path.as_str())
                        .is_ok_and(|held| (held.st_dev, held.st_ino) == (stat.st_dev, stat.st_ino))
                };
                let open = self.walk.by_ino.get(&watch.ino);
                if open.is_some_and(|descs| descs.iter().any(same)) {
                    return Ok(Target::Deleted);
                }
                return Err(Why::refused(format!(
                    "Can't dump {what} of {}: it is deleted, and nobody in the tree has it open",
                    text(&path)
                )));
            }
        }
        Ok(Target::Unknown)
    }

    /// Where handles do not help, the tree itself may have the watched file open.
    fn path_of_inode(&mut self, pid: i32, watch: &Watch) -> Result<Option<Vec<u8>>, Why> {
        let names: Vec<Vec<u8>> = self
            .walk
            .by_ino
            .get(&watch.ino)
            .into_iter()
            .flatten()
            .map(|&at| self.walk.descs[at].link.clone())
            .chain(self.walk.descs.iter().map(|d| super::remap::parent(&d.link).to_vec()))
            .chain(
                ["cwd", "root", "exe"]
                    .iter()
                    .filter_map(|l| nix::fcntl::readlink(format!("/proc/{pid}/{l}").as_str()).ok())
                    .map(OsStringExt::into_vec),
            )
            .filter(|n| n.starts_with(b"/"))
            .collect();
        let root = self.mounts.root(pid)?;
        Ok(names.into_iter().find(|n| {
            fstatat(root, super::mounts::below(n), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|s| {
                s.st_ino == watch.ino && super::ghost::kernel_dev(s.st_dev) == watch.sdev
            })
        }))
    }
}
