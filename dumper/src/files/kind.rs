//! Which kind of file a description is.

use super::Open;
use super::error::{Why, text};
use images::proto::FdTypes;
use nix::sys::statfs::fstatfs;

/// The kinds a dump knows. Every one is answered in `FileTable::collect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Files, directories, devices and links that are opened by their path.
    RegFile,
    Pipe,
    Fifo,
    UnixSk,
    InetSk,
    NetlinkSk,
    PacketSk,
    Tun,
    Eventfd,
    Eventpoll,
    Signalfd,
    Timerfd,
    Inotify,
    Fanotify,
    Memfd,
    Tty(Tty),
    Pidfd,
    NsFile,
}

/// Terminals, by how they are opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tty {
    Master,
    Slave,
    /// `/dev/tty`: the controlling terminal.
    Current,
    Console,
    Vt,
    Serial,
}

impl Kind {
    /// The type in the images.
    pub(crate) fn fd_type(self) -> FdTypes {
        match self {
            Self::RegFile => FdTypes::Reg,
            Self::Pipe => FdTypes::Pipe,
            Self::Fifo => FdTypes::Fifo,
            Self::UnixSk => FdTypes::Unixsk,
            Self::InetSk => FdTypes::Inetsk,
            Self::NetlinkSk => FdTypes::Netlinksk,
            Self::PacketSk => FdTypes::Packetsk,
            Self::Tun => FdTypes::Tunf,
            Self::Eventfd => FdTypes::Eventfd,
            Self::Eventpoll => FdTypes::Eventpoll,
            Self::Signalfd => FdTypes::Signalfd,
            Self::Timerfd => FdTypes::Timerfd,
            Self::Inotify => FdTypes::Inotify,
            Self::Fanotify => FdTypes::Fanotify,
            Self::Memfd => FdTypes::Memfd,
            Self::Tty(_) => FdTypes::Tty,
            Self::Pidfd => FdTypes::Pidfd,
            Self::NsFile => FdTypes::Ns,
        }
    }

    pub(crate) fn of(open: &Open<'_>) -> Result<Self, Why> {
        if let Some(name) = open.link.strip_prefix(b"anon_inode:") {
            return anonymous(name);
        }
        if open.link.starts_with(b"pidfd:") {
            return Ok(Self::Pidfd);
        }
        // A descriptor that only names a file says nothing about what is in the file.
        if open.info.flags & libc::O_PATH as u32 != 0 {
            return Ok(Self::RegFile);
        }
        match open.stat.st_mode & libc::S_IFMT {
            libc::S_IFSOCK => socket(open),
            libc::S_IFIFO if open.link.starts_with(b"pipe:[") => Ok(Self::Pipe),
            libc::S_IFIFO => Ok(Self::Fifo),
            libc::S_IFCHR => char_device(open.stat.st_rdev),
            libc::S_IFBLK => {
                Err(Why::refused(format!("Can't dump block device {}", device(open.stat.st_rdev))))
            }
            libc::S_IFREG | libc::S_IFDIR => file(open),
            mode => Err(Why::refused(format!("file of unknown type, mode {mode:#o}"))),
        }
    }
}

fn device(rdev: u64) -> String {
    format!("{}:{}", libc::major(rdev), libc::minor(rdev))
}

fn anonymous(name: &[u8]) -> Result<Kind, Why> {
    let what = match name {
        b"[eventfd]" => return Ok(Kind::Eventfd),
        b"[eventpoll]" => return Ok(Kind::Eventpoll),
        b"[signalfd]" => return Ok(Kind::Signalfd),
        b"[timerfd]" => return Ok(Kind::Timerfd),
        b"inotify" | b"[inotify]" => return Ok(Kind::Inotify),
        b"[pidfd]" => return Ok(Kind::Pidfd),
        b"[fanotify]" => return Ok(Kind::Fanotify),
        b"bpf-map" => return Err(Why::yet("BPF maps")),
        b"bpf-prog" | b"bpf_link" | b"bpf_iter" | b"btf" => "BPF object",
        b"[io_uring]" => {
            "io_uring (node and others do without it where sysctl kernel.io_uring_disabled=2 or seccomp denies it)"
        }
        b"[perf_event]" => "perf event",
        b"[userfaultfd]" => "userfaultfd",
        b"seccomp notify" => "seccomp listener",
        b"[landlock-ruleset]" => "landlock ruleset",
        b"[fscontext]" => "file system context",
        n if n.starts_with(b"kvm-") => "virtual machine",
        b"sync_file" => "fence",
        b"[secretmem]" => "secret memory",
        _ => "anonymous file of a kind that cannot be read back",
    };
    Err(Why::refused(format!("Can't dump file of that type: {what} ({})", text(name))))
}

fn socket(open: &Open<'_>) -> Result<Kind, Why> {
    let family = super::sk_opts::get_u32(open.own, libc::SOL_SOCKET, libc::SO_DOMAIN)? as i32;
    let name = match family {
        libc::AF_UNIX => return Ok(Kind::UnixSk),
        libc::AF_INET | libc::AF_INET6 => return Ok(Kind::InetSk),
        libc::AF_NETLINK => return Ok(Kind::NetlinkSk),
        libc::AF_PACKET => return Ok(Kind::PacketSk),
        libc::AF_VSOCK => "vsock",
        libc::AF_ALG => "kernel crypto",
        libc::AF_CAN => "CAN",
        libc::AF_TIPC => "TIPC",
        libc::AF_BLUETOOTH => "bluetooth",
        44 => "XDP",
        43 => "SMC",
        _ => "unknown",
    };
    Err(Why::refused(format!("Can't dump socket of family {family} ({name})")))
}

fn char_device(rdev: u64) -> Result<Kind, Why> {
    match (libc::major(rdev), libc::minor(rdev)) {
        // null, zero, full, random, urandom, kmsg.
        (1, 3 | 5 | 7 | 8 | 9 | 11) => Ok(Kind::RegFile),
        (5, 2) | (128..=135, _) => Ok(Kind::Tty(Tty::Master)),
        (136..=143, _) => Ok(Kind::Tty(Tty::Slave)),
        (5, 0) => Ok(Kind::Tty(Tty::Current)),
        (5, 1) => Ok(Kind::Tty(Tty::Console)),
        (4, 0..=63) => Ok(Kind::Tty(Tty::Vt)),
        (4, _) => Ok(Kind::Tty(Tty::Serial)),
        (229, _) => Ok(Kind::Tty(Tty::Vt)), // hvc
        (10, 200) => Ok(Kind::Tun),
        _ => Err(Why::refused(format!("Can't dump character device {}", device(rdev)))),
    }
}

/// Magic numbers of file systems (`statfs.f_type`).
pub(crate) mod magic {
    pub(crate) const TMPFS: i64 = 0x0102_1994;
    pub(crate) const HUGETLBFS: i64 = 0x9584_58f6;
    pub(crate) const PROC: i64 = 0x9fa0;
    pub(crate) const NFS: i64 = 0x6969;
    pub(crate) const NSFS: i64 = 0x6e73_6673;
    pub(crate) const MQUEUE: i64 = 0x1980_0202;
    pub(crate) const SECRETMEM: i64 = 0x5345_434d;
    pub(crate) const DMA_BUF: i64 = 0x444d_4142;
    pub(crate) const PIDFS: i64 = 0x5049_4446;
}

/// `statfs.f_type` of an open file.
pub(crate) fn fs_magic(open: &Open<'_>) -> Result<i64, Why> {
    let fs = super::error::call(|| "fstatfs".into(), fstatfs(open.own))?;
    Ok(fs.filesystem_type().0)
}

/// Memory that tasks share, by a name that only the kernel gives: of a memfd, or of a shared
/// anonymous mapping that was opened through `/proc/PID/map_files`.
fn is_shared_memory(link: &[u8]) -> bool {
    link.starts_with(b"/memfd:")
        || link == b"/dev/zero (deleted)"
        || link == b"/anon_hugepage (deleted)"
}

/// Device of the kernel's own tmpfs, where such memory is.
fn shm_dev() -> Result<u64, Why> {
    static KNOWN: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    if let Some(dev) = KNOWN.get() {
        return Ok(*dev);
    }
    let memfd = sys::fd::memfd_create(b"criu", libc::MFD_CLOEXEC)?;
    let dev = super::error::call(|| "fstat(memfd)".into(), nix::sys::stat::fstat(&memfd))?.st_dev;
    Ok(*KNOWN.get_or_init(|| dev))
}

fn file(open: &Open<'_>) -> Result<Kind, Why> {
    // All that needs a second look lacks a name in a directory, or has a link without a path.
    if open.stat.st_nlink != 0 && open.link.starts_with(b"/") && !open.link.ends_with(b" (deleted)")
    {
        // Its directory is one like others: what is in it is empty or refused.
        let is_dir = open.stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        return if !is_dir && fs_magic(open)? == magic::MQUEUE {
            Err(Why::refused("Can't dump POSIX message queue"))
        } else {
            Ok(Kind::RegFile)
        };
    }
    match fs_magic(open)? {
        magic::TMPFS if is_shared_memory(open.link) && open.stat.st_dev == shm_dev()? => {
            Ok(Kind::Memfd)
        }
        magic::HUGETLBFS if is_shared_memory(open.link) => Ok(Kind::Memfd),
        magic::NSFS => Ok(Kind::NsFile),
        magic::MQUEUE => Err(Why::refused("Can't dump POSIX message queue")),
        magic::SECRETMEM => Err(Why::refused("Can't dump secret memory")),
        magic::DMA_BUF => Err(Why::refused("Can't dump DMA buffer")),
        magic::PIDFS => Ok(Kind::Pidfd),
        _ => Ok(Kind::RegFile),
    }
}
