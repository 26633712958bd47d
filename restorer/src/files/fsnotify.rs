//! Inotify and fanotify: watches with their old numbers. Events that were queued are lost;
//! those which the restore causes are dropped at the end.

use super::open::{Files, set_flags};
use super::path::show;
use super::set::{Ghost, Remap};
use super::{At, Error, Result, failed, failed_io};
use images::proto::{
    FanotifyFileEntry, FanotifyMarkEntry, FhEntry, InotifyFileEntry, InotifyWdEntry, MarkType,
};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `IN_ALL_EVENTS`, `IN_EXCL_UNLINK`, `IN_ONESHOT`.
const MASK: u32 = 0xfff | 0x0400_0000 | 0x8000_0000;
/// Without SETNEXTWD numbers are reached by making watches and taking them away.
const MAX_STEPS: i32 = 1 << 16;

impl Files<'_> {
    /// Opens an inotify with its watches.
    pub(super) fn open_inotify(&self, entry: &InotifyFileEntry) -> Result<OwnedFd> {
        let fd = sys::events::inotify(0)?;
        let mut watches: Vec<&InotifyWdEntry> = entry.wd.iter().collect();
        watches.sort_unstable_by_key(|w| w.wd);
        for watch in watches {
            self.add_watch(fd.as_fd(), watch)
                .at(|| format!("inotify watch {} of inode {}", watch.wd, watch.i_ino))?;
        }
        set_flags(fd.as_fd(), entry.flags)?;
        Ok(fd)
    }

    fn add_watch(&self, fd: BorrowedFd<'_>, watch: &InotifyWdEntry) -> Result<()> {
        let target = self.by_handle(&watch.f_handle, watch.s_dev, watch.i_ino)?;
        let path = Self::self_path(target.as_raw_fd());
        let wanted = watch.wd as i32;
        let direct = sys::events::inotify_set_next(fd, wanted).is_ok();
        let mask = watch.mask & MASK;
        for step in 0.. {
            let add = || Ok(sys::events::inotify_add(fd, path.as_bytes(), mask)?);
            let got = self.in_proc(add)?;
            if got == wanted {
                return Ok(());
            }
            if direct || got > wanted || step > MAX_STEPS {
                return Err(Error::Refused(format!("the kernel gave number {got}")));
            }
            sys::events::inotify_rm(fd, got)?;
        }
        Ok(())
    }

    /// Opens a fanotify with its marks.
    pub(super) fn open_fanotify(&self, entry: &FanotifyFileEntry) -> Result<OwnedFd> {
        let fd = sys::events::fanotify(entry.faflags, entry.evflags)?;
        // The kernel shows the newest first.
        for mark in entry.mark.iter().rev() {
            self.add_mark(fd.as_fd(), mark).at(|| "fanotify mark".to_owned())?;
        }
        set_flags(fd.as_fd(), entry.flags)?;
        Ok(fd)
    }

    fn add_mark(&self, fd: BorrowedFd<'_>, mark: &FanotifyMarkEntry) -> Result<()> {
        let (target, kind) = if mark.r#type == MarkType::Inode as i32 {
            let Some(ie) = &mark.ie else {
                return Err(Error::Refused("an inode mark without inode".to_owned()));
            };
            (self.by_handle(&ie.f_handle, mark.s_dev, ie.i_ino)?, 0)
        } else {
            let id = mark.me.as_ref().map(|m| m.mnt_id);
            let point = id.and_then(|id| self.set.mount_points.get(&id));
            let path = mark.me.as_ref().and_then(|m| m.path.as_ref());
            let fd = match (point, path) {
                (Some(path), _) => {
                    let root = self.root_of(id.map(u32::cast_signed))?;
                    sys::path::open_in_root(root, path, libc::O_PATH)?
                }
                (None, Some(path)) => sys::path::open_in_root(self.root()?, path, libc::O_PATH)?,
                (None, None) => self.mount_of(mark.s_dev)?,
            };
            (fd, libc::FAN_MARK_MOUNT)
        };
        let path = Self::self_path(target.as_raw_fd());
        let add = |mask: u32, flags: u32| {
            let mark = || {
                let flags = flags | kind;
                Ok(sys::events::fanotify_mark(fd, flags, mask.into(), path.as_bytes())?)
            };
            self.in_proc(mark)
        };
        if mark.mask != 0 {
            add(mark.mask, libc::FAN_MARK_ADD)?;
        }
        if mark.ignored_mask != 0 {
            let ignored = libc::FAN_MARK_ADD | libc::FAN_MARK_IGNORED_MASK | mark.mflags;
            add(mark.ignored_mask, ignored)?;
        }
        Ok(())
    }

    /// Opens a watched file: by its path where the image has one, else by its handle.
    fn by_handle(&self, handle: &FhEntry, dev: u32, ino: u64) -> Result<OwnedFd> {
        if let Some(ghost) = self.ghost_of(dev, ino) {
            return ghost.try_clone().map_err(|e| failed_io("dup", &e));
        }
        if let Some(path) = handle.path.as_ref().filter(|p| !p.is_empty()) {
            return sys::path::open_in_root(
                self.root_of(handle.mnt_id.map(u32::cast_signed))?,
                path,
                libc::O_PATH | libc::O_NOFOLLOW,
            )
            .at(|| format!("{:?}", show(path)));
        }
        let bytes: Vec<u8> = handle.handle.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let len = handle.bytes as usize;
        let bytes = bytes.get(..len).ok_or_else(|| {
            Error::Refused(format!("a handle of {len} bytes, of which {} are there", bytes.len()))
        })?;
        let mount = self.mount_of(dev)?;
        let mount = self.reopen(mount.as_raw_fd(), libc::O_RDONLY)?;
        sys::file::open_by_handle_at(mount.as_fd(), handle.r#type as i32, bytes, libc::O_PATH)
            .at(|| format!("inode {ino} on device {}:{}", dev >> 20, dev & 0xf_ffff))
    }

    /// The handle of a file that was unlinked and watched: it is another inode now.
    fn ghost_of(&self, dev: u32, ino: u64) -> Option<&OwnedFd> {
        let same = |g: &Ghost| g.entry.ino == Some(ino) && g.entry.dev == Some(dev);
        let (ghost, _) = self.set.ghosts.iter().find(|(_, g)| same(g))?;
        let of_it = |r: &Remap| matches!(r, Remap::Ghost(id) if id == ghost);
        let (file, _) = self.set.remaps.iter().find(|(_, r)| of_it(r))?;
        self.handle(*file)
    }

    /// Some mount point of the file system with this device (kernel encoding).
    fn mount_of(&self, dev: u32) -> Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let info = nix::fcntl::openat(&self.proc, "self/mountinfo", flags, Mode::empty())
            .map_err(|e| failed("open(/proc/self/mountinfo)", e))?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::fs::File::from(info), &mut text)
            .map_err(|e| failed_io("read(mountinfo)", &e))?;
        let wanted = format!("{}:{}", dev >> 20, dev & 0xf_ffff);
        for line in text.lines() {
            let mut fields = line.split(' ').skip(2);
            if fields.next() != Some(&wanted) {
                continue;
            }
            let Some(point) = fields.nth(1) else { continue };
            let flags = libc::O_PATH;
            if let Ok(fd) = sys::path::open_in_root(self.root()?, &unescape(point), flags) {
                return Ok(fd);
            }
        }
        Err(Error::Refused(format!("no mount of device {wanted}")))
    }
}

/// Octal escapes of `/proc/PID/mountinfo`.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let code = code.and_then(|c| u8::from_str_radix(std::str::from_utf8(c).ok()?, 8).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}
