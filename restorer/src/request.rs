//! What a restore is asked to do: validated, and the same whichever way it came.

use crate::MountOptions;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// What is done about control groups (`--manage-cgroups`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupMode {
    /// Tasks stay in the groups of the caller.
    Ignore,
    /// Tasks are put into groups, which have to be there.
    None,
    /// The same, and properties are set.
    Props,
    /// Groups that are missing are made, and their properties set (CRIU's default).
    #[default]
    Soft,
    /// Groups that are missing are made, and the properties of all set.
    Full,
    /// All groups are made, none of which may be there.
    Strict,
}

/// A restore, as asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the images are (`--images-dir`).
    pub images_dir: PathBuf,
    /// Where logs, stats, pidfiles and sockets go (`--work-dir`).
    pub work_dir: PathBuf,
    /// Return as soon as the tree runs (`--restore-detached`); else the caller waits for it.
    pub detached: bool,
    /// The root becomes our sibling instead of our child (`--restore-sibling`).
    pub sibling: bool,
    /// Tasks are left stopped (`--leave-stopped`).
    pub leave_stopped: bool,
    /// Session, group and terminal are those of the caller (`--shell-job`).
    pub shell_job: bool,
    /// A terminal whose master was outside of the tree becomes a new pair, whose master goes to
    /// [`Hooks::orphan_pts_master`](crate::Hooks::orphan_pts_master).
    pub orphan_pts_master: bool,
    /// `--ext-unix-sk`.
    pub ext_unix_sk: bool,
    /// `--tcp-established`.
    pub tcp_established: bool,
    /// `--tcp-close`.
    pub tcp_close: bool,
    /// `--file-locks`.
    pub file_locks: bool,
    /// Size and build-id of files are compared (`--file-validation`): `true` for build-id.
    pub validate_build_id: bool,
    /// Permission bits of files are not compared (`--skip-file-rwx-check`).
    pub skip_file_rwx_check: bool,
    /// The dump left `[uprobes]` out, and that is fine.
    pub allow_uprobes: bool,
    /// New root of the mount namespace (`--root`).
    pub root: Option<PathBuf>,
    /// `--external` resources, as given.
    pub external: Vec<String>,
    /// What was asked about mounts, `--external` apart.
    pub mounts: MountOptions,
    /// The root task's net namespace stays empty (`--empty-ns net`): a hook fills it.
    pub empty_net: bool,
    /// `--inherit-fd fd[N]:KEY`: descriptor of ours and the key it stands for.
    pub inherit_fd: Vec<(RawFd, String)>,
    /// `--join-ns`, as given.
    pub join_ns: Vec<String>,
    /// Label of all tasks instead of their own, `apparmor:NAME` or `selinux:CONTEXT`
    /// (`--lsm-profile`).
    pub lsm_profile: Option<String>,
    /// Hole-punch pages after use (`--auto-dedup`).
    pub auto_dedup: bool,
    /// What is done about control groups.
    pub manage_cgroups: CgroupMode,
    /// Roots for the groups instead of those of the images: controllers (none: all others) and
    /// path (`--cgroup-root`).
    pub cgroup_roots: Vec<(Option<String>, String)>,
    /// Where the hierarchies are mounted, each at the name of its controllers (`--cgroup-yard`).
    pub cgroup_yard: Option<PathBuf>,
    /// The descriptor our log goes to. Tasks under construction log there too, so they keep it
    /// until they run; its number is high, out of the way of theirs.
    pub log_fd: Option<RawFd>,
}

impl Request {
    /// A restore from `images_dir` with CRIU's defaults.
    pub fn new(images_dir: impl Into<PathBuf>) -> Self {
        let images_dir = images_dir.into();
        Self {
            work_dir: images_dir.clone(),
            images_dir,
            detached: false,
            sibling: false,
            leave_stopped: false,
            shell_job: false,
            orphan_pts_master: false,
            ext_unix_sk: false,
            tcp_established: false,
            tcp_close: false,
            file_locks: false,
            validate_build_id: true,
            skip_file_rwx_check: false,
            allow_uprobes: false,
            root: None,
            external: Vec::new(),
            mounts: MountOptions::default(),
            empty_net: false,
            inherit_fd: Vec::new(),
            join_ns: Vec::new(),
            lsm_profile: None,
            auto_dedup: false,
            manage_cgroups: CgroupMode::Soft,
            cgroup_roots: Vec::new(),
            cgroup_yard: None,
            log_fd: None,
        }
    }
}
