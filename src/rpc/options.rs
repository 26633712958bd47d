//! `criu_opts`: each field is an option, and obeyed by the same rules as on a command line.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use images::proto::{CriuCgMode, CriuNetworkLockMethod, CriuOpts, CriuPreDumpMode};

use crate::config;
use crate::options::{Bad, CpuCap, Raw, find};
use crate::rpc::peer::Peer;
use crate::rpc::session::Kind;

/// Where a request logs that does not say where.
const LOG_FILE: &str = "criu.log";

/// The only namespace that can be asked to stay empty.
const CLONE_NEWNET: u32 = 0x4000_0000;

/// Why the options of a request are not usable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A field.
    #[error("{field}: {why}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The config file.
    #[error("{path}: {source}")]
    Config {
        /// Its path.
        path: String,
        /// What is wrong in it.
        #[source]
        source: config::Error,
    },
    /// The config file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// `cr_errno`.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            Self::Unreadable { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            _ => libc::EBADRQC,
        }
    }
}

fn bad(field: &'static str, why: impl Into<String>) -> Error {
    Error::Field { field, why: why.into() }
}

/// Puts the options of a request on top of `raw`, and those of its config file on top of them.
pub(crate) fn apply(raw: &mut Raw, opts: &CriuOpts, peer: &Peer, kind: Kind) -> Result<(), Error> {
    log(raw, opts)?;
    directories(raw, opts, peer)?;
    switches(raw, opts)?;
    values(raw, opts)?;
    lists(raw, opts)?;
    cgroups(raw, opts)?;
    page_server(raw, opts, kind)?;
    from_swrk_only(raw, opts, kind)?;
    if let Some(fd) = opts.pidfd_store_sk {
        pidfd_store(peer, fd)?;
    }
    config_file(raw, opts)
}

fn log(raw: &mut Raw, opts: &CriuOpts) -> Result<(), Error> {
    if let Some(level) = opts.log_level {
        raw.verbosity = u8::try_from(level.max(0)).unwrap_or(u8::MAX);
    }
    if let Some(file) = &opts.log_file {
        if file.contains('/') {
            return Err(bad(
                "log_file",
                format!("{file}: No subdirs are allowed in log_file name"),
            ));
        }
        raw.log_file = Some(file.into());
    }
    if opts.log_to_stderr == Some(true) {
        raw.log_file = None;
    } else if raw.log_file.is_none() {
        raw.log_file = Some(LOG_FILE.into());
    }
    Ok(())
}

fn directories(raw: &mut Raw, opts: &CriuOpts, peer: &Peer) -> Result<(), Error> {
    let of_peer = |fd: i32, field| match peer.pid {
        0 => Err(bad(field, "the client is in a pid namespace that is not seen from here")),
        _ => Ok(peer.dir(fd)),
    };
    if opts.images_dir_fd >= 0 {
        raw.images_dir = Some(of_peer(opts.images_dir_fd, "images_dir_fd")?);
    } else if let Some(dir) = &opts.images_dir {
        raw.images_dir = Some(dir.into());
    }
    if let Some(fd) = opts.work_dir_fd.filter(|fd| *fd >= 0) {
        raw.work_dir = Some(of_peer(fd, "work_dir_fd")?);
    }
    if let Some(parent) = &opts.parent_img {
        raw.prev_images_dir = Some(parent.into());
    }
    Ok(())
}

/// In the command line's words.
fn invalid(field: &'static str, option: &str, value: &str) -> Error {
    bad(field, format!("invalid argument for --{option}: {value}"))
}

/// An option with a value, as on the command line.
fn set(raw: &mut Raw, field: &'static str, option: &str, value: &str) -> Result<(), Error> {
    obey(raw, field, option, true, Some(value))
}

fn obey(
    raw: &mut Raw,
    field: &'static str,
    option: &str,
    on: bool,
    value: Option<&str>,
) -> Result<(), Error> {
    let found = find(option).ok_or_else(|| bad(field, "no such option"))?;
    found.apply(raw, on, value.map(OsStr::new)).map_err(|e| match e {
        Bad::Says(why) | Bad::Usage(why) => bad(field, why),
        Bad::Value => invalid(field, option, value.unwrap_or_default()),
    })
}

fn switches(raw: &mut Raw, opts: &CriuOpts) -> Result<(), Error> {
    let all: &[(&'static str, &str, Option<bool>)] = &[
        ("leave_running", "leave-running", opts.leave_running),
        ("leave_stopped", "leave-stopped", opts.leave_stopped),
        ("tcp_established", "tcp-established", opts.tcp_established),
        ("tcp_close", "tcp-close", opts.tcp_close),
        ("tcp_skip_in_flight", "skip-in-flight", opts.tcp_skip_in_flight),
        ("evasive_devices", "evasive-devices", opts.evasive_devices),
        ("shell_job", "shell-job", opts.shell_job),
        ("file_locks", "file-locks", opts.file_locks),
        ("track_mem", "track-mem", opts.track_mem),
        ("auto_dedup", "auto-dedup", opts.auto_dedup),
        ("link_remap", "link-remap", opts.link_remap),
        ("force_irmap", "force-irmap", opts.force_irmap),
        ("ext_sharing", "enable-external-sharing", opts.ext_sharing),
        ("ext_masters", "enable-external-masters", opts.ext_masters),
        ("weak_sysctls", "weak-sysctls", opts.weak_sysctls),
        ("lazy_pages", "lazy-pages", opts.lazy_pages),
        ("tls", "tls", opts.tls),
        ("tls_no_cn_verify", "tls-no-cn-verify", opts.tls_no_cn_verify),
        ("mntns_compat_mode", "mntns-compat-mode", opts.mntns_compat_mode),
        ("skip_file_rwx_check", "skip-file-rwx-check", opts.skip_file_rwx_check),
        ("unprivileged", "unprivileged", opts.unprivileged),
        ("display_stats", "display-stats", opts.display_stats),
    ];
    for (field, option, given) in all {
        if let Some(on) = given {
            obey(raw, field, option, *on, None)?;
        }
    }
    if let Some(on) = opts.ext_unix_sk {
        raw.ext_unix_sk = on;
    }
    if opts.auto_ext_mnt == Some(true) {
        set(raw, "auto_ext_mnt", "ext-mount-map", "auto")?;
    }
    if let Some(on) = opts.orphan_pts_master {
        raw.orphan_pts_master = on;
    }
    Ok(())
}

fn values(raw: &mut Raw, opts: &CriuOpts) -> Result<(), Error> {
    let texts: &[(&'static str, &str, &Option<String>)] = &[
        ("root", "root", &opts.root),
        ("cgroup_props", "cgroup-props", &opts.cgroup_props),
        ("cgroup_props_file", "cgroup-props-file", &opts.cgroup_props_file),
        ("freeze_cgroup", "freeze-cgroup", &opts.freeze_cgroup),
        ("cgroup_yard", "cgroup-yard", &opts.cgroup_yard),
        ("lsm_profile", "lsm-profile", &opts.lsm_profile),
        ("lsm_mount_context", "lsm-mount-context", &opts.lsm_mount_context),
        ("tls_cacert", "tls-cacert", &opts.tls_cacert),
        ("tls_cacrl", "tls-cacrl", &opts.tls_cacrl),
        ("tls_cert", "tls-cert", &opts.tls_cert),
        ("tls_key", "tls-key", &opts.tls_key),
    ];
    for (field, option, text) in texts {
        if let Some(text) = text {
            set(raw, field, option, text)?;
        }
    }
    if let Some(pid) = opts.pid {
        set(raw, "pid", "tree", &pid.to_string())?;
    }
    if let Some(limit) = opts.ghost_limit {
        raw.ghost_limit = Some(limit.into());
    }
    if let Some(timeout) = opts.timeout {
        raw.timeout = Some(timeout);
    }
    if let Some(bits) = opts.cpu_cap {
        raw.cpu_cap = Some(cpu_cap(bits));
    }
    if let Some(number) = opts.network_lock {
        let method = named(number, |method| match method {
            CriuNetworkLockMethod::Iptables => "iptables",
            CriuNetworkLockMethod::Nftables => "nftables",
            CriuNetworkLockMethod::Skip => "skip",
        });
        set(raw, "network_lock", "network-lock", &method)?;
    }
    if let Some(number) = opts.pre_dump_mode {
        let mode = named(number, |mode| match mode {
            CriuPreDumpMode::Splice => "splice",
            CriuPreDumpMode::VmRead => "read",
        });
        set(raw, "pre_dump_mode", "pre-dump-mode", &mode)?;
    }
    match opts.empty_ns {
        None | Some(0) => {}
        Some(CLONE_NEWNET) => set(raw, "empty_ns", "empty-ns", "net")?,
        Some(other) => set(raw, "empty_ns", "empty-ns", &format!("{other:#x}"))?,
    }
    if opts.status_fd.is_some() {
        log::warn!("status_fd is obsolete: ask for notify_scripts and wait for status-ready");
    }
    Ok(())
}

/// What the command line calls a value of an enumeration. Numbers that it does not have are left
/// to be refused there.
fn named<T: TryFrom<i32>>(number: i32, name: impl Fn(T) -> &'static str) -> String {
    T::try_from(number).map_or_else(|_| number.to_string(), |value| name(value).to_owned())
}

/// `CPU_CAP_FPU`, `CPU_CAP_CPU`, `CPU_CAP_INS`; others (`CPU_CAP_IMAGE`) change nothing.
fn cpu_cap(bits: u32) -> CpuCap {
    CpuCap { fpu: bits & 1 != 0, cpu: bits & 2 != 0, ins: bits & 4 != 0 }
}

fn lists(raw: &mut Raw, opts: &CriuOpts) -> Result<(), Error> {
    for veth in &opts.veths {
        set(raw, "veths", "veth-pair", &format!("{}={}", veth.if_in, veth.if_out))?;
    }
    for mount in &opts.ext_mnt {
        let (key, value) = (&mount.key, &mount.val);
        if key.is_empty() || value.is_empty() {
            return Err(invalid("ext_mnt", "ext-mount-map", &format!("{key}:{value}")));
        }
        // As they are: here a key may have a colon.
        raw.ext_mount_map.push((mount.key.clone(), mount.val.clone()));
    }
    let texts: &[(&'static str, &str, &[String])] = &[
        ("skip_mnt", "skip-mnt", &opts.skip_mnt),
        ("enable_fs", "enable-fs", &opts.enable_fs),
        ("irmap_scan_paths", "irmap-scan-path", &opts.irmap_scan_paths),
        ("external", "external", &opts.external),
        ("cgroup_dump_controller", "cgroup-dump-controller", &opts.cgroup_dump_controller),
    ];
    for (field, option, texts) in texts {
        for text in *texts {
            set(raw, field, option, text)?;
        }
    }
    for socket in &opts.unix_sk_ino {
        raw.ext_unix_ids.push(socket.inode);
    }
    for join in &opts.join_ns {
        let extra = join.extra_opt.as_ref().map(|o| format!(",{o}")).unwrap_or_default();
        set(raw, "join_ns", "join-ns", &format!("{}:{}{extra}", join.ns, join.ns_file))?;
    }
    Ok(())
}

fn cgroups(raw: &mut Raw, opts: &CriuOpts) -> Result<(), Error> {
    let mode = match opts.manage_cgroups_mode {
        Some(number) => named(number, |mode| match mode {
            CriuCgMode::Ignore => "ignore",
            CriuCgMode::CgNone => "none",
            CriuCgMode::Props => "props",
            CriuCgMode::Soft => "soft",
            CriuCgMode::Full => "full",
            CriuCgMode::Strict => "strict",
            CriuCgMode::Default => "",
        }),
        None => opts.manage_cgroups.map_or("", |on| if on { "soft" } else { "ignore" }).to_owned(),
    };
    if !mode.is_empty() {
        set(raw, "manage_cgroups_mode", "manage-cgroups", &mode)?;
    }
    for root in &opts.cg_root {
        let text = match root.ctrl.as_deref() {
            Some(controller) => format!("{controller}:{}", root.path),
            None => root.path.clone(),
        };
        set(raw, "cg_root", "cgroup-root", &text)?;
    }
    Ok(())
}

fn page_server(raw: &mut Raw, opts: &CriuOpts, kind: Kind) -> Result<(), Error> {
    let Some(ps) = &opts.ps else { return Ok(()) };
    if let Some(address) = &ps.address {
        set(raw, "ps.address", "address", address)?;
    }
    if let Some(port) = ps.port {
        set(raw, "ps.port", "port", &port.to_string())?;
    }
    // As CRIU: none.
    if let Some(fd) = ps.fd.filter(|fd| *fd != -1) {
        refuse_in_service("ps.fd", kind)?;
        set(raw, "ps.fd", "ps-socket", &fd.to_string())?;
    }
    raw.page_server = !raw.lazy_pages;
    Ok(())
}

/// CRIU keeps pidfds there between pre-dumps, to tell a task from another of the same number. We
/// do so by the times they were started; what CRIU would refuse is refused all the same.
fn pidfd_store(peer: &Peer, fd: i32) -> Result<(), Error> {
    let no = |why: &dyn std::fmt::Display| bad("pidfd_store_sk", format!("descriptor {fd} {why}"));
    match peer.is_pidfd_store(fd) {
        Ok(true) => Ok(()),
        Ok(false) => Err(no(&"is not a connected unix datagram socket without a name")),
        Err(e) if e.errno() == libc::EBADF => Err(no(&"is not open in the client")),
        // It is not needed.
        Err(e) => {
            log::debug!("pidfd_store_sk is not looked at: {e}");
            Ok(())
        }
    }
}

/// Descriptors and children are those of the client only if it started us.
fn from_swrk_only(raw: &mut Raw, opts: &CriuOpts, kind: Kind) -> Result<(), Error> {
    if opts.rst_sibling == Some(true) {
        refuse_in_service("rst_sibling", kind)?;
        raw.restore_sibling = true;
    }
    for inherit in &opts.inherit_fd {
        refuse_in_service("inherit_fd", kind)?;
        let text = format!("fd[{}]:{}", inherit.fd, inherit.key);
        set(raw, "inherit_fd", "inherit-fd", &text)?;
    }
    Ok(())
}

fn refuse_in_service(field: &'static str, kind: Kind) -> Result<(), Error> {
    match kind {
        Kind::Swrk => Ok(()),
        Kind::Service => Err(bad(field, "is not allowed in standalone service")),
    }
}

fn config_file(raw: &mut Raw, opts: &CriuOpts) -> Result<(), Error> {
    let Some(path) = &opts.config_file else { return Ok(()) };
    let wrap = |source| Error::Config { path: path.clone(), source };
    match config::apply_file(raw, Path::new(path)).map_err(wrap)? {
        // Engines name a file that need not be there.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Unreadable { path: path.clone(), source }),
        Ok(()) => Ok(()),
    }
}

/// The images directory that a request needs.
pub(crate) fn images_dir(raw: &Raw) -> Result<PathBuf, Error> {
    let missing = || bad("images_dir_fd", "neither images_dir_fd nor images_dir was given");
    raw.images_dir.clone().ok_or_else(missing)
}
