//! Mounts by descriptor: the calls of Linux 5.2 and later, and the few old ones that are left.
//!
//! A mount that is not attached anywhere lives as long as the descriptor it came with.

use crate::error::check;
use crate::fd::owned;
use crate::{Error, Result};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `MOUNT_ATTR_RDONLY`.
pub const ATTR_RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`.
pub const ATTR_NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub const ATTR_NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`.
pub const ATTR_NOEXEC: u64 = 0x8;
/// `MOUNT_ATTR__ATIME`: the mask of the three ways to keep access times (0: relatime).
pub const ATTR_ATIME: u64 = 0x70;
/// `MOUNT_ATTR_NOATIME`.
pub const ATTR_NOATIME: u64 = 0x10;
/// `MOUNT_ATTR_STRICTATIME`.
pub const ATTR_STRICTATIME: u64 = 0x20;
/// `MOUNT_ATTR_NODIRATIME`.
pub const ATTR_NODIRATIME: u64 = 0x80;
/// `MOUNT_ATTR_NOSYMFOLLOW` (5.14).
pub const ATTR_NOSYMFOLLOW: u64 = 0x20_0000;

const OPEN_TREE_CLONE: u32 = 1;
const F_EMPTY: u32 = 0x4;
const T_EMPTY: u32 = 0x40;
const SET_GROUP: u32 = 0x100;

/// How a mount gets what happens under others, and passes it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// `MS_PRIVATE`.
    Private,
    /// `MS_SLAVE`.
    Slave,
    /// `MS_SHARED`.
    Shared,
    /// `MS_UNBINDABLE`.
    Unbindable,
}

impl Propagation {
    fn bits(self) -> u64 {
        match self {
            Self::Unbindable => libc::MS_UNBINDABLE,
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
        }
    }
}

fn cstr(what: &str, bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::new(format_args!("{what}(text with NUL)"), libc::EINVAL))
}

/// `open_tree(2)` with `OPEN_TREE_CLONE` (5.2): a detached copy of the mount that `at` is in,
/// rooted in `at` itself. `recursive`: with the mounts below.
pub fn clone_tree(at: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    let raw = at.as_raw_fd();
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u32 | libc::AT_EMPTY_PATH as u32;
    if recursive {
        flags |= 0x8000;
    }
    // SAFETY: the path is a NUL-terminated constant; the rest are integers.
    let ret = unsafe { libc::syscall(libc::SYS_open_tree, raw, c"".as_ptr(), flags) };
    check(ret, || format!("open_tree({raw}, \"\", {flags:#x})")).map(owned)
}

/// `move_mount(2)` (5.2): puts the mount of `from` onto `to`, both given by descriptor.
pub fn move_onto(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    move_mount(from, to, F_EMPTY | T_EMPTY)
}

/// `MOVE_MOUNT_SET_GROUP` (5.15): `to`, which is private, joins the peer group of `from` and
/// gets its master. Both are mount roots of one file system, that of `from` is the wider one.
pub fn set_group(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    move_mount(from, to, F_EMPTY | T_EMPTY | SET_GROUP)
}

fn move_mount(from: BorrowedFd<'_>, to: BorrowedFd<'_>, flags: u32) -> Result<()> {
    let (a, b, empty) = (from.as_raw_fd(), to.as_raw_fd(), c"".as_ptr());
    // SAFETY: both paths are the same NUL-terminated constant; the rest are integers.
    let ret = unsafe { libc::syscall(libc::SYS_move_mount, a, empty, b, empty, flags) };
    check(ret, || format!("move_mount({a}, \"\", {b}, \"\", {flags:#x})")).map(|_| ())
}

/// Whether the kernel has [`set_group`]: an unknown flag is refused before the descriptors are
/// looked at, which are none.
pub fn has_set_group() -> bool {
    let (bad, empty, flags) = (-1, c"".as_ptr(), F_EMPTY | T_EMPTY | SET_GROUP);
    // SAFETY: both paths are the same NUL-terminated constant; the rest are integers.
    let ret = unsafe { libc::syscall(libc::SYS_move_mount, bad, empty, bad, empty, flags) };
    ret == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EBADF)
}

/// A file system that is being configured: `fsopen(2)` (5.2).
#[derive(Debug)]
pub struct Fs {
    fd: OwnedFd,
    name: String,
}

/// A mount of a hierarchy of control groups, attached nowhere: of cgroup2 for an empty name, else
/// of `name=…` or the controllers with commas between. To be called only for hierarchies that
/// are there, as asking for another would make it.
pub fn cgroup(hierarchy: &str) -> Result<OwnedFd> {
    if hierarchy.is_empty() {
        return Fs::open("cgroup2")?.mount(0);
    }
    let fs = Fs::open("cgroup")?;
    match hierarchy.strip_prefix("name=") {
        Some(name) => {
            fs.set_flag(b"none")?;
            fs.set(b"name", name.as_bytes())?;
        }
        None => {
            for controller in hierarchy.split(',') {
                fs.set_flag(controller.as_bytes())?;
            }
        }
    }
    fs.mount(0)
}

impl Fs {
    /// Opens a kind of file system by name. `ENODEV`: the kernel has none of this name.
    pub fn open(name: &str) -> Result<Self> {
        let c = cstr("fsopen", name.as_bytes())?;
        // SAFETY: a NUL-terminated string and an integer.
        let ret = unsafe {
            libc::syscall(libc::SYS_fsopen, c.as_ptr(), 1 /* CLOEXEC */)
        };
        let fd = check(ret, || format!("fsopen({name:?})"))?;
        Ok(Self { fd: owned(fd), name: name.to_owned() })
    }

    /// `fspick(2)`: the file system of a mount, to be configured anew.
    pub fn pick(mount: BorrowedFd<'_>) -> Result<Self> {
        let raw = mount.as_raw_fd();
        let flags = 1 | 8; // FSPICK_CLOEXEC | FSPICK_EMPTY_PATH
        // SAFETY: a NUL-terminated constant and integers.
        let ret = unsafe { libc::syscall(libc::SYS_fspick, raw, c"".as_ptr(), flags) };
        let fd = check(ret, || format!("fspick({raw}, \"\", {flags:#x})"))?;
        Ok(Self { fd: owned(fd), name: "fspick".to_owned() })
    }

    /// `FSCONFIG_SET_STRING`.
    pub fn set(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.config(1, Some(&cstr("fsconfig", key)?), Some(&cstr("fsconfig", value)?))
    }

    /// `FSCONFIG_SET_FLAG`.
    pub fn set_flag(&self, key: &[u8]) -> Result<()> {
        self.config(0, Some(&cstr("fsconfig", key)?), None)
    }

    /// `FSCONFIG_CMD_CREATE`, then `fsmount(2)`: a detached mount.
    pub fn mount(&self, attr: u64) -> Result<OwnedFd> {
        self.config(6, None, None)?;
        let raw = self.fd.as_raw_fd();
        // SAFETY: integers only.
        let ret = unsafe {
            libc::syscall(libc::SYS_fsmount, raw, 1 /* CLOEXEC */, attr)
        };
        check(ret, || format!("fsmount({}, {attr:#x})", self.name)).map(owned)
    }

    /// `FSCONFIG_CMD_RECONFIGURE`.
    pub fn reconfigure(&self) -> Result<()> {
        self.config(7, None, None)
    }

    fn config(&self, cmd: u32, key: Option<&CStr>, value: Option<&CStr>) -> Result<()> {
        let raw = self.fd.as_raw_fd();
        let ptr = |c: Option<&CStr>| c.map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: NUL-terminated strings that outlive the call, or null where the command takes
        // none.
        let ret = unsafe { libc::syscall(libc::SYS_fsconfig, raw, cmd, ptr(key), ptr(value), 0) };
        if ret != -1 {
            return Ok(());
        }
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        let said = self.said();
        let call = format_args!("fsconfig({}, {cmd}, {key:?}, {value:?}){said}", self.name);
        Err(Error::new(call, errno))
    }

    /// What the file system has to say of its own failure.
    fn said(&self) -> String {
        let mut text = String::new();
        let mut line = [0u8; 256];
        while let Ok(n @ 1..) = nix_read(self.fd.as_fd(), &mut line) {
            let more = String::from_utf8_lossy(&line[..n]);
            text.push_str(": ");
            text.push_str(more.trim_start_matches(['e', 'w', 'i', ' ']).trim_end());
        }
        text
    }
}

fn nix_read(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize> {
    let raw = fd.as_raw_fd();
    // SAFETY: pointer and length are those of `buf`.
    let ret = unsafe { libc::read(raw, buf.as_mut_ptr().cast(), buf.len()) };
    check(ret as libc::c_long, || format!("read({raw})")).map(|n| n as usize)
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

fn setattr(mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<()> {
    let raw = mount.as_raw_fd();
    let flags = libc::AT_EMPTY_PATH | if recursive { 0x8000 } else { 0 };
    let size = size_of::<MountAttr>();
    // SAFETY: a NUL-terminated constant; `attr` is `size` bytes long and outlives the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            raw,
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size,
        )
    };
    let MountAttr { set, clear, propagation, .. } = attr;
    check(ret, || format!("mount_setattr({raw}, +{set:#x}, -{clear:#x}, {propagation:#x})"))
        .map(|_| ())
}

/// `mount_setattr(2)` (5.12): sets and clears `ATTR_*` of one mount, by its root.
/// Before 5.12: `mount(2)` of the same, for a mount that is attached in our namespace.
pub fn set_attr(mount: BorrowedFd<'_>, set: u64, clear: u64) -> Result<()> {
    let attr = MountAttr { set, clear, propagation: 0, userns: 0 };
    match setattr(mount, false, &attr) {
        Err(e) if e.errno() == libc::ENOSYS => {
            let all = [
                (ATTR_RDONLY, libc::MS_RDONLY),
                (ATTR_NOSUID, libc::MS_NOSUID),
                (ATTR_NODEV, libc::MS_NODEV),
                (ATTR_NOEXEC, libc::MS_NOEXEC),
                (ATTR_NOATIME, libc::MS_NOATIME),
                (ATTR_STRICTATIME, libc::MS_STRICTATIME),
                (ATTR_NODIRATIME, libc::MS_NODIRATIME),
            ];
            let mut flags = libc::MS_REMOUNT | libc::MS_BIND;
            flags |= all.iter().filter(|(a, _)| set & a != 0).fold(0, |f, (_, m)| f | m);
            if set & ATTR_ATIME == 0 {
                flags |= libc::MS_RELATIME;
            }
            at_mount(mount, flags)
        }
        done => done,
    }
}

/// Sets the propagation of a mount (`mount_setattr(2)`, or `mount(2)` before 5.12).
pub fn set_propagation(mount: BorrowedFd<'_>, to: Propagation, recursive: bool) -> Result<()> {
    let attr = MountAttr { set: 0, clear: 0, propagation: to.bits(), userns: 0 };
    match setattr(mount, recursive, &attr) {
        Err(e) if e.errno() == libc::ENOSYS => {
            at_mount(mount, to.bits() | if recursive { libc::MS_REC } else { 0 })
        }
        done => done,
    }
}

/// `mount(2)` that changes the mount of a descriptor: from its root as cwd.
fn at_mount(mount: BorrowedFd<'_>, flags: u64) -> Result<()> {
    let raw = mount.as_raw_fd();
    // SAFETY: an integer.
    let ret = unsafe { libc::fchdir(raw) };
    check(ret.into(), || format!("fchdir({raw})"))?;
    let null = std::ptr::null();
    // SAFETY: a NUL-terminated target; source, type and data are not used with these flags.
    let ret = unsafe { libc::mount(null, c".".as_ptr(), null, flags, null.cast()) };
    check(ret.into(), || format!("mount(NULL, \".\", NULL, {flags:#x}, NULL)")).map(|_| ())
}

/// `pivot_root(".", ".")` and the end of what was the root: the current directory, root of a
/// mount, becomes the root of the mount namespace. Where the old root cannot move (it is the
/// kernel's `rootfs`), the mount is moved over it and becomes the root of the caller.
/// `layers`: how many mounts lie on the old root's place, itself included.
pub fn enter_root(root: BorrowedFd<'_>, layers: usize) -> Result<()> {
    let old = crate::path::open_at("/", libc::O_PATH)?;
    let raw = root.as_raw_fd();
    let dot = c".".as_ptr();
    // SAFETY: an integer.
    let ret = unsafe { libc::fchdir(raw) };
    check(ret.into(), || format!("fchdir({raw})"))?;
    // SAFETY: two NUL-terminated constants.
    let ret = unsafe { libc::syscall(libc::SYS_pivot_root, dot, dot) };
    if let Err(e) = check(ret, || "pivot_root(\".\", \".\")".to_owned()) {
        if e.errno() != libc::EINVAL {
            return Err(e);
        }
        move_onto(root, old.as_fd()).map_err(|_| e)?;
        // SAFETY: a NUL-terminated constant.
        let ret = unsafe { libc::chroot(dot) };
        return check(ret.into(), || "chroot(\".\")".to_owned()).map(|_| ());
    }
    // What goes takes nothing with it from peers elsewhere.
    set_propagation(old.as_fd(), Propagation::Private, true)?;
    // SAFETY: an integer.
    let ret = unsafe { libc::fchdir(raw) };
    check(ret.into(), || format!("fchdir({raw})"))?;
    // The old root is on top of the new one now, and the cwd is still the new one below it.
    for _ in 0..layers {
        // SAFETY: a NUL-terminated constant and an integer.
        let ret = unsafe { libc::umount2(dot, libc::MNT_DETACH) };
        check(ret.into(), || "umount2(\".\", MNT_DETACH)".to_owned())?;
    }
    // SAFETY: a NUL-terminated constant.
    let ret = unsafe { libc::chdir(c"/".as_ptr()) };
    check(ret.into(), || "chdir(\"/\")".to_owned()).map(|_| ())
}

/// `umount2(".", MNT_DETACH)` from the root of `mount`.
pub fn detach(mount: BorrowedFd<'_>) -> Result<()> {
    let raw = mount.as_raw_fd();
    // SAFETY: an integer.
    let ret = unsafe { libc::fchdir(raw) };
    check(ret.into(), || format!("fchdir({raw})"))?;
    // SAFETY: a NUL-terminated constant and an integer.
    let ret = unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) };
    check(ret.into(), || "umount2(\".\", MNT_DETACH)".to_owned()).map(|_| ())
}

/// `unshare(CLONE_NEWNS)`: the caller gets a copy of its mount namespace.
pub fn unshare_mounts() -> Result<()> {
    // SAFETY: an integer.
    let ret = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    check(ret.into(), || "unshare(CLONE_NEWNS)".to_owned()).map(|_| ())
}

/// `unshare(CLONE_FS)`: root and cwd of this thread are its own from now on.
pub fn unshare_fs() -> Result<()> {
    // SAFETY: an integer.
    let ret = unsafe { libc::unshare(libc::CLONE_FS) };
    check(ret.into(), || "unshare(CLONE_FS)".to_owned()).map(|_| ())
}

/// `setns(CLONE_NEWNS)`: root and cwd become the root of that namespace.
pub fn enter_ns(ns: BorrowedFd<'_>) -> Result<()> {
    let raw = ns.as_raw_fd();
    // SAFETY: integers.
    let ret = unsafe { libc::setns(raw, libc::CLONE_NEWNS) };
    check(ret.into(), || format!("setns({raw}, CLONE_NEWNS)")).map(|_| ())
}

/// Id of the mount that a descriptor is in, as in `mountinfo` (`STATX_MNT_ID`, 5.8). `None`
/// where the kernel does not tell.
pub fn id_of(at: BorrowedFd<'_>, path: &CStr) -> Result<Option<u64>> {
    let raw = at.as_raw_fd();
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    let mut out = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: a NUL-terminated path; the kernel fills at most one struct statx.
    let ret =
        unsafe { libc::statx(raw, path.as_ptr(), flags, libc::STATX_MNT_ID, out.as_mut_ptr()) };
    check(ret.into(), || format!("statx({raw}, {path:?}, STATX_MNT_ID)"))?;
    // SAFETY: zeroed, so every field has a value.
    let out = unsafe { out.assume_init() };
    Ok((out.stx_mask & libc::STATX_MNT_ID != 0).then_some(out.stx_mnt_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detached_file_system_can_be_used_without_a_place() {
        let made = Fs::open("tmpfs").and_then(|fs| {
            fs.set(b"mode", b"700")?;
            fs.mount(ATTR_NOSUID)
        });
        let root = match made {
            Ok(root) => root,
            // Not as root, or an old kernel.
            Err(e) if matches!(e.errno(), libc::EPERM | libc::ENOSYS) => return,
            Err(e) => panic!("{e}"),
        };
        set_propagation(root.as_fd(), Propagation::Private, false).unwrap();
        set_attr(root.as_fd(), ATTR_NODEV, 0).unwrap();
        assert!(id_of(root.as_fd(), c"").unwrap().is_some());
        let e = Fs::open("tmpfs").unwrap().set(b"no_such_option", b"1").unwrap_err();
        assert_eq!(e.errno(), libc::EINVAL);
        assert!(has_set_group() || !e.to_string().is_empty());
    }
}
