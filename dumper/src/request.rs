//! What a dump is asked to do: validated, and the same whichever way it came (command line,
//! config file, RPC).

use crate::MountOptions;
use images::pages::Compression;
use std::path::PathBuf;

/// What becomes of the tasks once the images are complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leave {
    /// They are killed (CRIU's default).
    #[default]
    Dead,
    /// They stay stopped (`--leave-stopped`).
    Stopped,
    /// They run on (`--leave-running`).
    Running,
}

/// How the identity of mapped and opened files is recorded (`--file-validation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileValidation {
    /// Size, and the ELF build-id where there is one.
    #[default]
    BuildId,
    /// Size only.
    FileSize,
}

/// How packets of the connections that are dumped are kept away (`--network-lock`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkLock {
    /// By `iptables-restore` (CRIU's default).
    #[default]
    Iptables,
    /// By a table of nftables.
    Nftables,
    /// Not at all: the caller sees to it.
    Skip,
}

/// How a pre-dump gets at contents (`--pre-dump-mode`). Here it makes no difference: pages are
/// read while the tree runs, in whole ranges. The images tell which was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PreDumpMode {
    /// CRIU's default.
    #[default]
    Splice,
    /// By `process_vm_readv`.
    Read,
}

/// Where pages go (`--page-server`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageServer {
    /// By TCP to a host, by default this one, and a port (`--address`, `--port`).
    Address(Option<String>, u16),
    /// By a descriptor of ours that is connected (`--ps-socket`).
    Socket(i32),
}

impl std::fmt::Display for PageServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(host, port) => {
                write!(f, "{}:{port}", host.as_deref().unwrap_or("127.0.0.1"))
            }
            Self::Socket(fd) => write!(f, "at descriptor {fd}"),
        }
    }
}

/// Properties of a controller's groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupProps {
    /// Name of the controller.
    pub controller: String,
    /// They are saved instead of the usual ones of the controller, not besides them.
    pub replace: bool,
    /// Names of the properties.
    pub properties: Vec<String>,
}

/// How contents of memory are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storing {
    /// Pages images are compressed (`--compress`).
    pub compression: Option<Compression>,
    /// Threads that move and compress, 0 for as many as there are processors (`--compress-threads`).
    pub threads: usize,
    /// Bytes that contents on their way, and mapped room for them, may take (`--memory-budget`).
    pub budget: u64,
    /// Images are on disk before the dump counts as one, and before the tasks end (`--fsync`).
    pub sync: bool,
}

impl Default for Storing {
    fn default() -> Self {
        Self { compression: None, threads: 0, budget: 240 << 20, sync: false }
    }
}

/// A dump, as asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Root of the tree, in our pid namespace (`--tree`).
    pub pid: i32,
    /// Where the images go (`--images-dir`).
    pub images_dir: PathBuf,
    /// Where logs, stats and sockets go (`--work-dir`); the images directory when not given.
    pub work_dir: PathBuf,
    /// What becomes of the tasks.
    pub leave: Leave,
    /// The tree may be a shell's job: session and group leaders outside, terminal inherited.
    pub shell_job: bool,
    /// A terminal whose master is outside of the tree may be the controlling one: its restore
    /// makes a new pair (RPC's `orphan_pts_master`).
    pub orphan_pts_master: bool,
    /// Inode of our end of an RPC client's connection: the client may be dumped with its end,
    /// by which it hears of its restore.
    pub service_socket: Option<u32>,
    /// Unix sockets with a peer outside are allowed (`--ext-unix-sk`).
    pub ext_unix_sk: bool,
    /// Established TCP connections are saved (`--tcp-established`).
    pub tcp_established: bool,
    /// Established TCP connections are closed (`--tcp-close`).
    pub tcp_close: bool,
    /// Connections not yet accepted are left out (`--skip-in-flight`).
    pub skip_in_flight: bool,
    /// How the network is locked.
    pub network_lock: NetworkLock,
    /// File locks are saved (`--file-locks`).
    pub file_locks: bool,
    /// Hard links may be made for files that lost their name (`--link-remap`).
    pub link_remap: bool,
    /// Largest deleted file whose content is saved, in bytes of allocated blocks.
    pub ghost_limit: u64,
    /// Paths of watched files are looked for in directories first (`--force-irmap`).
    pub force_irmap: bool,
    /// Where they are looked for before the usual places (`--irmap-scan-path`).
    pub irmap_scan_paths: Vec<PathBuf>,
    /// Devices are opened by any path with the same number (`--evasive-devices`).
    pub evasive_devices: bool,
    /// Identity of files.
    pub file_validation: FileValidation,
    /// The `[uprobes]` mapping is left out instead of refused.
    pub allow_uprobes: bool,
    /// `--external` resources, as given.
    pub external: Vec<String>,
    /// What was asked about mounts, `--external` apart.
    pub mounts: MountOptions,
    /// Links, addresses and the like of the root task's net namespace are left to somebody else
    /// (`--empty-ns net`).
    pub empty_net: bool,
    /// Seconds for collecting the tree (`--timeout`), 0 for no limit.
    pub timeout_secs: u32,
    /// cgroup whose freezer is used (`--freeze-cgroup`).
    pub freeze_cgroup: Option<PathBuf>,
    /// Control groups are saved (`--manage-cgroups` is not `ignore`).
    pub manage_cgroups: bool,
    /// Roots of the trees of groups that are saved, instead of the tasks' own: controllers (none:
    /// all others) and path (`--cgroup-root`).
    pub cgroup_roots: Vec<(Option<String>, String)>,
    /// Which properties are saved, besides or instead of the usual (`--cgroup-props`).
    pub cgroup_props: Vec<CgroupProps>,
    /// Only these controllers are saved, if any is named (`--cgroup-dump-controller`).
    pub cgroup_controllers: Vec<String>,
    /// Where the hierarchies are mounted, each at the name of its controllers (`--cgroup-yard`).
    pub cgroup_yard: Option<PathBuf>,
    /// How contents of memory are stored.
    pub storing: Storing,
    /// Pages go there, and only the other images into `images_dir`.
    pub page_server: Option<PageServer>,
    /// Dirty tracking is turned on (`--track-mem`).
    pub track_mem: bool,
    /// Directory of the previous dump, relative to `images_dir` (`--prev-images-dir`).
    pub prev_images_dir: Option<PathBuf>,
    /// What newer images have is punched out of the parent images (`--auto-dedup`).
    pub auto_dedup: bool,
    /// How a pre-dump gets at contents.
    pub pre_dump_mode: PreDumpMode,
}

impl Request {
    /// A dump of `pid` into `images_dir` with CRIU's defaults.
    pub fn new(pid: i32, images_dir: impl Into<PathBuf>) -> Self {
        let images_dir = images_dir.into();
        Self {
            pid,
            work_dir: images_dir.clone(),
            images_dir,
            leave: Leave::Dead,
            shell_job: false,
            orphan_pts_master: false,
            service_socket: None,
            ext_unix_sk: false,
            tcp_established: false,
            tcp_close: false,
            skip_in_flight: false,
            network_lock: NetworkLock::Iptables,
            file_locks: false,
            link_remap: false,
            ghost_limit: 1 << 20,
            force_irmap: false,
            irmap_scan_paths: Vec::new(),
            evasive_devices: false,
            file_validation: FileValidation::BuildId,
            allow_uprobes: false,
            external: Vec::new(),
            mounts: MountOptions::default(),
            empty_net: false,
            timeout_secs: 10,
            freeze_cgroup: None,
            manage_cgroups: true,
            cgroup_roots: Vec::new(),
            cgroup_props: Vec::new(),
            cgroup_controllers: Vec::new(),
            cgroup_yard: None,
            storing: Storing::default(),
            page_server: None,
            track_mem: false,
            prev_images_dir: None,
            auto_dedup: false,
            pre_dump_mode: PreDumpMode::Splice,
        }
    }
}
