//! Kinds of file systems, by the numbers that images have for them.

use crate::ns::mnt::options::MountOptions;

/// A kind in the images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum FsType {
    /// Nothing that a restore could mount.
    Unsupported = 0,
    Proc = 1,
    Sysfs = 2,
    Devtmpfs = 3,
    BinfmtMisc = 4,
    Tmpfs = 5,
    Devpts = 6,
    Pstore = 8,
    Securityfs = 9,
    Fusectl = 10,
    Debugfs = 11,
    Cgroup = 12,
    Mqueue = 14,
    Fuse = 15,
    /// By name (`--enable-fs`).
    Auto = 16,
    Overlayfs = 17,
    Autofs = 18,
    Tracefs = 19,
    Cgroup2 = 23,
}

impl FsType {
    /// The kind that the kernel calls `name`.
    pub(crate) fn named(name: &[u8], options: &MountOptions) -> Self {
        match name {
            b"proc" => Self::Proc,
            b"sysfs" => Self::Sysfs,
            b"devtmpfs" => Self::Devtmpfs,
            b"binfmt_misc" => Self::BinfmtMisc,
            b"tmpfs" => Self::Tmpfs,
            b"devpts" => Self::Devpts,
            b"pstore" => Self::Pstore,
            b"securityfs" => Self::Securityfs,
            b"fusectl" => Self::Fusectl,
            b"debugfs" => Self::Debugfs,
            b"cgroup" => Self::Cgroup,
            b"cgroup2" => Self::Cgroup2,
            b"mqueue" => Self::Mqueue,
            b"overlay" => Self::Overlayfs,
            b"autofs" => Self::Autofs,
            b"tracefs" => Self::Tracefs,
            _ if name.starts_with(b"fuse.") || name == b"fuse" || name == b"fuseblk" => Self::Fuse,
            _ if options.enables(name) => Self::Auto,
            _ => Self::Unsupported,
        }
    }

    /// A restore can mount the whole of it anew.
    pub(crate) fn is_mountable(self) -> bool {
        !matches!(self, Self::Unsupported | Self::Fuse | Self::Autofs)
    }

    /// Each part of it can be mounted by itself, as nothing in it is the tree's.
    pub(crate) fn is_kernels(self) -> bool {
        matches!(self, Self::Cgroup | Self::Cgroup2)
    }

    /// It must hold nothing of the tree's.
    pub(crate) fn must_be_empty(self) -> bool {
        matches!(self, Self::Mqueue)
    }
}
