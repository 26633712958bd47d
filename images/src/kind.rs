//! The registry of all images: names, heads, framing, messages.
//!
//! One row per image file. Everything that reads or writes images goes through this table, so a
//! message cannot end up in an image where it does not belong.

/// First word of every image of `img_version` 2 but the inventory, raw and service ones.
pub const COMMON_MAGIC: u32 = 0x5456_4319;
/// First word of service images, which live in the work directory.
pub const SERVICE_MAGIC: u32 = 0x5510_5940;

/// What lies at offset 0 of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Own magic only, whatever the version: the version is inside.
    Inventory,
    /// Common magic (from version 2 on), own magic.
    Normal,
    /// Service magic, own magic.
    Service,
    /// Nothing: not framed at all.
    Raw,
}

/// How many records an image has, and of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Exactly one record.
    One,
    /// Records of one type to the end of the file, each perhaps with a payload.
    Many,
    /// One record of the first type, then records of the second (pagemaps).
    HeadThenMany,
    /// One record of the first type, then its body, or records of the second with payloads.
    OneThenMany,
    /// Records of the first type, each followed by as many of the second as it says.
    Queues,
    /// No records.
    Raw,
}

/// Whether a dump without entries of a kind leaves an image behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// Made as soon as it is opened for writing; may be without entries.
    Always,
    /// Made by the first entry. Without one a stale file of that name is removed.
    Lazy,
}

/// Who still writes and reads a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Written by CRIU 4.2.
    Current,
    /// Only read, from images of old versions.
    Old,
    /// Only read, and only if the user asks for deprecated formats.
    Deprecated,
}

/// One row of the registry.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// File name, with the number as `{}` (decimal) or `{:x}` (hexadecimal).
    pub template: &'static str,
    /// Name of the magic as `crit` spells it.
    pub magic_name: &'static str,
    /// Own magic; 0 for raw images.
    pub magic: u32,
    /// What is at offset 0.
    pub head: Head,
    /// What follows.
    pub framing: Framing,
    /// Messages that are records of this image, in the order of `framing`.
    pub messages: &'static [&'static str],
    /// When the file comes into being.
    pub creation: Creation,
    /// Who writes it.
    pub status: Status,
}

macro_rules! images {
    ($(
        $(#[$doc:meta])*
        $variant:ident $(($n:ident: $ty:ty))?, $template:literal, $magic_name:literal, $magic:literal,
        $head:ident, $framing:ident, [$($message:literal),*], $creation:ident, $status:ident;
    )*) => {
        /// One image file of a checkpoint.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Image {
            $($(#[$doc])* $variant $(($ty))?,)*
        }

        impl Image {
            /// The row of the registry for this image.
            #[must_use]
            pub const fn kind(self) -> &'static Kind {
                match self {
                    $(Self::$variant { .. } => &Kind {
                        template: $template,
                        magic_name: $magic_name,
                        magic: $magic,
                        head: Head::$head,
                        framing: Framing::$framing,
                        messages: &[$($message),*],
                        creation: Creation::$creation,
                        status: Status::$status,
                    },)*
                }
            }

            /// Name of the file in the image directory.
            #[must_use]
            pub fn file_name(self) -> String {
                match self {
                    $(Self::$variant $({ 0: $n })? => format!($template $(, $n)?),)*
                }
            }

            /// The image that has this file name.
            #[must_use]
            pub fn from_file_name(name: &str) -> Option<Self> {
                $(if let Some(_number) = number_in($template, name) {
                    return images!(@make $variant _number $($ty)?);
                })*
                None
            }
        }

        /// All rows of the registry.
        pub static KINDS: &[&Kind] = &[$(images!(@sample $variant $($n)?).kind()),*];
    };
    (@make $variant:ident $number:ident $ty:ty) => {
        <$ty>::try_from($number).ok().map(Self::$variant)
    };
    (@make $variant:ident $number:ident) => { Some(Self::$variant) };
    (@sample $variant:ident $n:ident) => { Image::$variant(0) };
    (@sample $variant:ident) => { Image::$variant };
}

images! {
    /// `inventory.img`.
    Inventory, "inventory.img", "INVENTORY", 0x5831_3116, Inventory, One, ["inventory_entry"], Always, Current;
    /// `pstree.img`.
    Pstree, "pstree.img", "PSTREE", 0x5027_3030, Normal, Many, ["pstree_entry"], Always, Current;
    /// `core-N.img`, N = virtual tid (leader tid = pid).
    Core(n: u32), "core-{}.img", "CORE", 0x5505_3847, Normal, One, ["core_entry"], Always, Current;
    /// `ids-N.img`, N = virtual pid.
    Ids(n: u32), "ids-{}.img", "IDS", 0x5443_2030, Normal, One, ["task_kobj_ids_entry"], Always, Current;
    /// `mm-N.img`, N = virtual pid.
    Mm(n: u32), "mm-{}.img", "MM", 0x5749_2820, Normal, One, ["mm_entry"], Always, Current;
    /// `fs-N.img`, N = virtual pid.
    Fs(n: u32), "fs-{}.img", "FS", 0x5140_3912, Normal, One, ["fs_entry"], Always, Current;
    /// `creds-N.img`, N = virtual pid.
    Creds(n: u32), "creds-{}.img", "CREDS", 0x5402_3547, Normal, One, ["creds_entry"], Always, Old;
    /// `pagemap-N.img`, N = virtual pid.
    Pagemap(n: u64), "pagemap-{}.img", "PAGEMAP", 0x5608_4025, Normal, HeadThenMany, ["pagemap_head", "pagemap_entry"], Always, Current;
    /// `pagemap-shmem-N.img`, N = shmid (inode number) or SysV shm id.
    PagemapShmem(n: u64), "pagemap-shmem-{}.img", "SHMEM_PAGEMAP", 0x5608_4025, Normal, HeadThenMany, ["pagemap_head", "pagemap_entry"], Always, Current;
    /// `pages-N.img`, N = pages id from pagemap_head.
    Pages(n: u32), "pages-{}.img", "PAGES", 0, Raw, Raw, [], Always, Current;
    /// `fdinfo-N.img`, N = files_id of task_kobj_ids.
    Fdinfo(n: u32), "fdinfo-{}.img", "FDINFO", 0x5621_3732, Normal, Many, ["fdinfo_entry"], Always, Current;
    /// `files.img`.
    Files, "files.img", "FILES", 0x5630_3138, Normal, Many, ["file_entry"], Lazy, Current;
    /// `remap-fpath.img`.
    RemapFpath, "remap-fpath.img", "REMAP_FPATH", 0x5913_3954, Normal, Many, ["remap_file_path_entry"], Lazy, Current;
    /// `ghost-file-HEX.img`, N = ghost id (hex).
    GhostFile(n: u32), "ghost-file-{:x}.img", "GHOST_FILE", 0x5258_3605, Normal, OneThenMany, ["ghost_file_entry", "ghost_chunk_entry"], Always, Current;
    /// `pipes-data.img`.
    PipesData, "pipes-data.img", "PIPES_DATA", 0x5645_3709, Normal, Many, ["pipe_data_entry"], Lazy, Current;
    /// `fifo-data.img`.
    FifoData, "fifo-data.img", "FIFO_DATA", 0x5933_3054, Normal, Many, ["pipe_data_entry"], Lazy, Current;
    /// `sk-queues.img`.
    SkQueues, "sk-queues.img", "SK_QUEUES", 0x5626_4026, Normal, Many, ["sk_packet_entry"], Lazy, Current;
    /// `tcp-stream-HEX.img`, N = socket inode (hex).
    TcpStream(n: u32), "tcp-stream-{:x}.img", "TCP_STREAM", 0x5146_5506, Normal, One, ["tcp_stream_entry"], Always, Current;
    /// `tty-info.img`.
    TtyInfo, "tty-info.img", "TTY_INFO", 0x5945_3036, Normal, Many, ["tty_info_entry"], Lazy, Current;
    /// `tty-data.img`.
    TtyData, "tty-data.img", "TTY_DATA", 0x5941_3026, Normal, Many, ["tty_data_entry"], Lazy, Current;
    /// `filelocks.img`.
    Filelocks, "filelocks.img", "FILE_LOCKS", 0x5432_3616, Normal, Many, ["file_lock_entry"], Lazy, Current;
    /// `memfd.img`.
    Memfd, "memfd.img", "MEMFD_INODE", 0x4845_3499, Normal, Many, ["memfd_inode_entry"], Lazy, Current;
    /// `bpfmap-file.img`.
    BpfmapFile, "bpfmap-file.img", "BPFMAP_FILE", 0x5750_6142, Normal, Many, ["bpfmap_file_entry"], Always, Old;
    /// `bpfmap-data.img`.
    BpfmapData, "bpfmap-data.img", "BPFMAP_DATA", 0x6432_4033, Normal, Many, ["bpfmap_data_entry"], Lazy, Current;
    /// `cgroup.img`.
    Cgroup, "cgroup.img", "CGROUP", 0x5938_3330, Normal, One, ["cgroup_entry"], Always, Current;
    /// `seccomp.img`.
    Seccomp, "seccomp.img", "SECCOMP", 0x6441_3049, Normal, One, ["seccomp_entry"], Always, Current;
    /// `apparmor.img`.
    Apparmor, "apparmor.img", "APPARMOR", 0x5942_3047, Normal, One, ["apparmor_entry"], Lazy, Current;
    /// `cpuinfo.img`.
    Cpuinfo, "cpuinfo.img", "CPUINFO", 0x6140_4013, Normal, One, ["cpuinfo_entry"], Always, Current;
    /// `pidfd.img`.
    Pidfd, "pidfd.img", "PIDFD", 0x5443_5556, Normal, Many, ["pidfd_entry"], Always, Old;
    /// `utsns-N.img`, N = UTS ns id.
    Utsns(n: u32), "utsns-{}.img", "UTSNS", 0x5447_3203, Normal, One, ["utsns_entry"], Always, Current;
    /// `ipcns-var-N.img`, N = IPC ns id.
    IpcnsVar(n: u32), "ipcns-var-{}.img", "IPC_VAR", 0x5311_5007, Normal, One, ["ipc_var_entry"], Always, Current;
    /// `ipcns-shm-N.img`, N = IPC ns id.
    IpcnsShm(n: u32), "ipcns-shm-{}.img", "IPCNS_SHM", 0x4628_3044, Normal, Many, ["ipc_shm_entry"], Lazy, Current;
    /// `ipcns-msg-N.img`, N = IPC ns id.
    IpcnsMsg(n: u32), "ipcns-msg-{}.img", "IPCNS_MSG", 0x5545_3737, Normal, Queues, ["ipc_msg_entry", "ipc_msg"], Lazy, Current;
    /// `ipcns-sem-N.img`, N = IPC ns id.
    IpcnsSem(n: u32), "ipcns-sem-{}.img", "IPCNS_SEM", 0x5957_3019, Normal, Many, ["ipc_sem_entry"], Lazy, Current;
    /// `mountpoints-N.img`, N = mount ns id.
    Mountpoints(n: u32), "mountpoints-{}.img", "MNTS", 0x5556_3928, Normal, Many, ["mnt_entry"], Always, Current;
    /// `netns-N.img`, N = net ns id.
    Netns(n: u32), "netns-{}.img", "NETNS", 0x5593_3752, Normal, One, ["netns_entry"], Always, Current;
    /// `netdev-N.img`, N = net ns id.
    Netdev(n: u32), "netdev-{}.img", "NETDEV", 0x5737_3951, Normal, Many, ["net_device_entry"], Always, Current;
    /// `ifaddr-N.img`, N = net ns id.
    Ifaddr(n: u32), "ifaddr-{}.img", "IFADDR", 0, Raw, Raw, [], Always, Current;
    /// `route-N.img`, N = net ns id.
    Route(n: u32), "route-{}.img", "ROUTE", 0, Raw, Raw, [], Always, Current;
    /// `route6-N.img`, N = net ns id.
    Route6(n: u32), "route6-{}.img", "ROUTE6", 0, Raw, Raw, [], Always, Current;
    /// `rule-N.img`, N = net ns id.
    Rule(n: u32), "rule-{}.img", "RULE", 0, Raw, Raw, [], Always, Current;
    /// `iptables-N.img`, N = net ns id.
    Iptables(n: u32), "iptables-{}.img", "IPTABLES", 0, Raw, Raw, [], Always, Current;
    /// `ip6tables-N.img`, N = net ns id.
    Ip6tables(n: u32), "ip6tables-{}.img", "IP6TABLES", 0, Raw, Raw, [], Always, Current;
    /// `nftables-N.img`, N = net ns id.
    Nftables(n: u32), "nftables-{}.img", "NFTABLES", 0, Raw, Raw, [], Always, Current;
    /// `netns-ct-N.img`, N = net ns id.
    NetnsCt(n: u32), "netns-ct-{}.img", "NETNF_CT", 0, Raw, Raw, [], Always, Current;
    /// `netns-exp-N.img`, N = net ns id.
    NetnsExp(n: u32), "netns-exp-{}.img", "NETNF_EXP", 0, Raw, Raw, [], Always, Current;
    /// `userns-N.img`, N = user ns id.
    Userns(n: u32), "userns-{}.img", "USERNS", 0x5547_4906, Normal, One, ["userns_entry"], Always, Current;
    /// `pidns-N.img`, N = pid ns id.
    Pidns(n: u32), "pidns-{}.img", "PIDNS", 0x6115_7326, Normal, One, ["pidns_entry"], Always, Current;
    /// `timens-N.img`, N = time ns id, or 0 when the tasks share the time ns of the dumper.
    Timens(n: u32), "timens-{}.img", "TIMENS", 0x4311_4433, Normal, One, ["timens_entry"], Always, Current;
    /// `tmpfs-dev-N.tar.gz.img`, N = device number of the superblock (kernel encoding, decimal).
    TmpfsDev(n: u32), "tmpfs-dev-{}.tar.gz.img", "TMPFS_DEV", 0, Raw, Raw, [], Always, Current;
    /// `tmpfs-N.tar.gz.img`, N = mnt_id.
    TmpfsOld(n: u32), "tmpfs-{}.tar.gz.img", "TMPFS_IMG", 0, Raw, Raw, [], Always, Old;
    /// `autofs-N.img`, N = device number of the superblock.
    Autofs(n: u32), "autofs-{}.img", "AUTOFS", 0x4935_3943, Normal, One, ["autofs_entry"], Always, Current;
    /// `binfmt-misc.img`.
    BinfmtMisc, "binfmt-misc.img", "BINFMT_MISC", 0x6734_3323, Normal, Many, ["binfmt_misc_entry"], Lazy, Current;
    /// `binfmt-misc-N.img`, N = device number.
    BinfmtMiscOld(n: u32), "binfmt-misc-{}.img", "BINFMT_MISC_OLD", 0x6734_3323, Normal, Many, ["binfmt_misc_entry"], Always, Old;
    /// `reg-files.img`.
    RegFiles, "reg-files.img", "REG_FILES", 0x5036_3636, Normal, Many, ["reg_file_entry"], Always, Old;
    /// `ext-files.img`.
    ExtFiles, "ext-files.img", "EXT_FILES", 0x5925_5641, Normal, Many, ["ext_file_entry"], Always, Old;
    /// `ns-files.img`.
    NsFiles, "ns-files.img", "NS_FILES", 0x6139_4011, Normal, Many, ["ns_file_entry"], Always, Old;
    /// `eventfd.img`.
    Eventfd, "eventfd.img", "EVENTFD_FILE", 0x4452_3722, Normal, Many, ["eventfd_file_entry"], Always, Old;
    /// `eventpoll.img`.
    Eventpoll, "eventpoll.img", "EVENTPOLL_FILE", 0x4502_3858, Normal, Many, ["eventpoll_file_entry"], Always, Old;
    /// `signalfd.img`.
    Signalfd, "signalfd.img", "SIGNALFD", 0x5732_3820, Normal, Many, ["signalfd_entry"], Always, Old;
    /// `inotify.img`.
    Inotify, "inotify.img", "INOTIFY_FILE", 0x4842_4431, Normal, Many, ["inotify_file_entry"], Always, Old;
    /// `fanotify.img`.
    Fanotify, "fanotify.img", "FANOTIFY_FILE", 0x5509_6122, Normal, Many, ["fanotify_file_entry"], Always, Old;
    /// `tunfile.img`.
    Tunfile, "tunfile.img", "TUNFILE", 0x5714_3751, Normal, Many, ["tunfile_entry"], Always, Old;
    /// `timerfd.img`.
    Timerfd, "timerfd.img", "TIMERFD", 0x5049_3712, Normal, Many, ["timerfd_entry"], Always, Old;
    /// `unixsk.img`.
    Unixsk, "unixsk.img", "UNIXSK", 0x5437_3943, Normal, Many, ["unix_sk_entry"], Always, Old;
    /// `inetsk.img`.
    Inetsk, "inetsk.img", "INETSK", 0x5644_3851, Normal, Many, ["inet_sk_entry"], Always, Old;
    /// `packetsk.img`.
    Packetsk, "packetsk.img", "PACKETSK", 0x6045_4618, Normal, Many, ["packet_sock_entry"], Always, Old;
    /// `netlinksk.img`.
    Netlinksk, "netlinksk.img", "NETLINK_SK", 0x5800_5614, Normal, Many, ["netlink_sk_entry"], Always, Old;
    /// `pipes.img`.
    Pipes, "pipes.img", "PIPES", 0x5651_3555, Normal, Many, ["pipe_entry"], Always, Old;
    /// `fifo.img`.
    Fifo, "fifo.img", "FIFO", 0x5836_4939, Normal, Many, ["fifo_entry"], Always, Old;
    /// `tty.img`.
    Tty, "tty.img", "TTY_FILES", 0x5943_3025, Normal, Many, ["tty_file_entry"], Always, Old;
    /// `eventpoll-tfd.img`.
    EventpollTfd, "eventpoll-tfd.img", "EVENTPOLL_TFD", 0x4443_3746, Normal, Many, ["eventpoll_tfd_entry"], Always, Deprecated;
    /// `inotify-wd.img`.
    InotifyWd, "inotify-wd.img", "INOTIFY_WD", 0x5456_2009, Normal, Many, ["inotify_wd_entry"], Always, Deprecated;
    /// `fanotify-mark.img`.
    FanotifyMark, "fanotify-mark.img", "FANOTIFY_MARK", 0x5650_6035, Normal, Many, ["fanotify_mark_entry"], Always, Deprecated;
    /// `vmas-N.img`, N = virtual pid.
    Vmas(n: u32), "vmas-{}.img", "VMAS", 0x5412_3737, Normal, Many, ["vma_entry"], Always, Old;
    /// `sigacts-N.img`, N = virtual pid.
    Sigacts(n: u32), "sigacts-{}.img", "SIGACT", 0x5534_4201, Normal, Many, ["sa_entry"], Always, Old;
    /// `signal-s-N.img`, N = virtual pid.
    SignalS(n: u32), "signal-s-{}.img", "SIGNAL", 0x5925_5647, Normal, Many, ["siginfo_entry"], Always, Old;
    /// `signal-p-N.img`, N = virtual tid.
    SignalP(n: u32), "signal-p-{}.img", "PSIGNAL", 0x5925_5647, Normal, Many, ["siginfo_entry"], Always, Old;
    /// `rlimit-N.img`, N = virtual pid.
    Rlimit(n: u32), "rlimit-{}.img", "RLIMIT", 0x5711_3925, Normal, Many, ["rlimit_entry"], Always, Deprecated;
    /// `itimers-N.img`, N = virtual pid.
    Itimers(n: u32), "itimers-{}.img", "ITIMERS", 0x5746_4056, Normal, Many, ["itimer_entry"], Always, Deprecated;
    /// `posix-timers-N.img`, N = virtual pid.
    PosixTimers(n: u32), "posix-timers-{}.img", "POSIX_TIMERS", 0x5260_3957, Normal, Many, ["posix_timer_entry"], Always, Deprecated;
    /// `task-N.amber`, N = virtual pid: what CRIU has no image for. Only written when there is some.
    /// Ours have a suffix of their own: tools that decode all `*.img` do not know them.
    Amber(n: u32), "task-{}.amber", "AMBER", 0x414d_4252, Normal, One, ["amber_task_entry"], Lazy, Current;
    /// `ghost-file-HEX.amber`: what a ghost has that its image has no room for.
    AmberGhost(n: u32), "ghost-file-{:x}.amber", "AMBER_GHOST", 0x414d_4748, Normal, One, ["amber_ghost_entry"], Lazy, Current;
    /// `sent-N.amber`, N = virtual pid: which pages of a task a page server has.
    AmberSent(n: u32), "sent-{}.amber", "AMBER_SENT", 0x414d_5354, Normal, One, ["amber_sent_entry"], Always, Current;
    /// `manifest.amber`: what all files were when the checkpoint was complete.
    Manifest, "manifest.amber", "AMBER_MANIFEST", 0x414d_4d46, Normal, Many, ["amber_file_entry"], Always, Current;
    /// `stats-dump`.
    StatsDump, "stats-dump", "STATS", 0x5709_3306, Service, One, ["stats_entry"], Always, Current;
    /// `stats-restore`.
    StatsRestore, "stats-restore", "STATS", 0x5709_3306, Service, One, ["stats_entry"], Always, Current;
    /// `irmap-cache`.
    IrmapCache, "irmap-cache", "IRMAP_CACHE", 0x5700_4059, Service, Many, ["irmap_cache_entry"], Always, Current;
}

/// The number that stands for `{}` or `{:x}` in `name`; 0 for a template without one.
fn number_in(template: &str, name: &str) -> Option<u64> {
    let Some((prefix, rest)) = template.split_once('{') else {
        return (template == name).then_some(0);
    };
    let (spec, suffix) = rest.split_once('}')?;
    let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
    let radix = if spec == ":x" { 16 } else { 10 };
    // No signs, no leading zeroes: one name for each number.
    let plain =
        digits.bytes().all(|b| b.is_ascii_digit() || (radix == 16 && b.is_ascii_lowercase()));
    if !plain || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

impl Kind {
    /// Whether records of this message belong in the image.
    #[must_use]
    pub fn holds(&self, message: &str) -> bool {
        self.messages.contains(&message)
    }

    /// The first kind with this own magic (pagemap and shmem pagemap share theirs).
    #[must_use]
    pub fn by_magic(magic: u32) -> Option<&'static Self> {
        KINDS.iter().copied().find(|k| k.head != Head::Raw && k.magic == magic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_back() {
        let images = [
            Image::Inventory,
            Image::Core(42),
            Image::Pagemap(1),
            Image::PagemapShmem(u64::MAX),
            Image::GhostFile(0xbeef),
            Image::TmpfsDev(77),
            Image::BinfmtMiscOld(3),
            Image::BinfmtMisc,
            Image::StatsDump,
        ];
        for image in images {
            assert_eq!(Image::from_file_name(&image.file_name()), Some(image));
        }
        assert_eq!(Image::GhostFile(0xbeef).file_name(), "ghost-file-beef.img");
        assert_eq!(Image::TmpfsDev(77).file_name(), "tmpfs-dev-77.tar.gz.img");
    }

    #[test]
    fn other_names_are_no_images() {
        for name in [
            "core-.img",
            "core-01.img",
            "core-+1.img",
            "core-1",
            "pagemap-shmem-x.img",
            "core-99999999999.img",
            "parent",
            "restore.log",
            "ghost-file-BEEF.img",
        ] {
            assert_eq!(Image::from_file_name(name), None, "{name}");
        }
    }
}
