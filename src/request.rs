//! Options to requests: the only validation there is, whichever way the options came.
//!
//! What is not built yet is listed in [`NOT_BUILT`] and refused by name; nothing is ignored that
//! would change what is saved or restored.

use std::path::{Path, PathBuf};

use crate::options::{CgroupMode, FileValidation, NetworkLock, Raw};

/// CRIU's commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Dump,
    PreDump,
    Restore,
    LazyPages,
    Check,
    PageServer,
    Service,
    Swrk,
    Dedup,
    Compress,
    Decompress,
    Verify,
    CpuinfoDump,
    CpuinfoCheck,
    Exec,
    Show,
}

impl Command {
    /// Those of one word.
    const WORDS: [(&str, Self); 14] = [
        ("dump", Self::Dump),
        ("pre-dump", Self::PreDump),
        ("restore", Self::Restore),
        ("lazy-pages", Self::LazyPages),
        ("check", Self::Check),
        ("page-server", Self::PageServer),
        ("service", Self::Service),
        ("swrk", Self::Swrk),
        ("dedup", Self::Dedup),
        ("compress", Self::Compress),
        ("decompress", Self::Decompress),
        ("verify", Self::Verify),
        ("exec", Self::Exec),
        ("show", Self::Show),
    ];

    /// The command called `name`; `cpuinfo` needs one more word and is not here.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(word, _)| *word == name).map(|(_, command)| *command)
    }

    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CpuinfoDump | Self::CpuinfoCheck => "cpuinfo",
            _ => Self::WORDS.iter().find(|(_, c)| *c == self).map_or("", |(word, _)| word),
        }
    }
}

/// Why options do not make a request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// In CRIU's words.
    #[error("{0}")]
    Says(String),
    /// The same, after the usage text.
    #[error("{0}")]
    Usage(String),
    /// A feature that has not been built.
    #[error("not supported yet: {0}")]
    NotBuilt(&'static str),
}

fn says(text: impl Into<String>) -> Error {
    Error::Says(text.into())
}

/// Who lacks what.
type Lacking = (&'static str, fn(&Raw) -> bool);

/// What is not built yet, by option and the commands that would have to obey it. Delete a line
/// when its feature lands.
const NOT_BUILT: &[(&[Command], &[Lacking])] = {
    use Command::{Dump, PageServer, PreDump, Restore};
    &[
        (
            &[Dump, PreDump, Restore],
            &[("--lazy-pages", |r| r.lazy_pages), ("--stream", |r| r.stream), ("--tls", |r| r.tls)],
        ),
        (
            &[PageServer],
            &[
                ("page-server --lazy-pages", |r| r.lazy_pages),
                ("--tls", |r| r.tls),
                ("page-server --compress", |r| r.compress.is_some_and(|c| c.0.is_some())),
            ],
        ),
    ]
};

/// Commands that are not built yet.
const COMMANDS_NOT_BUILT: &[(Command, &str)] = &[(Command::LazyPages, "lazy-pages")];

/// Checks what holds for every command, in the order CRIU does.
pub(crate) fn validate(command: Command, raw: &Raw) -> Result<(), Error> {
    if raw.restore_sibling && !raw.detached {
        return Err(says("--restore-sibling only makes sense with --restore-detached"));
    }
    if raw.empty_ns_net && raw.join_ns.iter().any(|j| j.starts_with("net:")) {
        return Err(says("Conflicting flags: --join-ns and --empty-ns"));
    }
    if raw.stream
        && !matches!(command, Command::Dump | Command::Restore | Command::PreDump)
        && command != Command::CpuinfoDump
    {
        let name = command.name();
        return Err(Error::Usage(format!("--stream cannot be used with the {name} command")));
    }
    if command == Command::PreDump && raw.lazy_pages {
        return Err(says("Cannot pre-dump with --lazy-pages"));
    }
    if command != Command::Restore && raw.mntns_compat_mode {
        return Err(says("Option --mntns-compat-mode is only valid on restore"));
    }
    if command != Command::Restore && !raw.inherit_fd.is_empty() {
        return Err(says("--inherit-fd is restore-only option"));
    }
    if command == Command::Restore && raw.exec_cmd && raw.detached {
        let text = "--restore-detached and --exec-cmd cannot be used together";
        return Err(Error::Usage(text.into()));
    }
    Ok(())
}

/// Refuses what is not built yet. Comes after the log is open, where clients look for why.
pub(crate) fn refuse_unbuilt(command: Command, raw: &Raw) -> Result<(), Error> {
    if let Some((_, name)) = COMMANDS_NOT_BUILT.iter().find(|(c, _)| *c == command) {
        return Err(Error::NotBuilt(name));
    }
    let lists = NOT_BUILT.iter().filter(|(commands, _)| commands.contains(&command));
    match lists.flat_map(|(_, list)| *list).find(|(_, given)| given(raw)) {
        Some((option, _)) => Err(Error::NotBuilt(option)),
        None => Ok(()),
    }
}

/// The directories of a request, absolute: the program changes its own.
#[derive(Clone, Debug)]
pub(crate) struct Dirs {
    /// `--images-dir`.
    pub(crate) images: PathBuf,
    /// `--work-dir`.
    pub(crate) work: PathBuf,
}

/// A dump as `raw` asks for it.
pub(crate) fn dump(raw: &Raw, dirs: &Dirs) -> Result<dumper::Request, Error> {
    let pid = raw.tree.ok_or_else(|| says("pid not specified"))?;
    let mut request = dumper::Request::new(pid, &dirs.images);
    request.work_dir.clone_from(&dirs.work);
    request.leave = match (raw.leave_running, raw.leave_stopped) {
        (_, true) => dumper::Leave::Stopped,
        (true, false) => dumper::Leave::Running,
        (false, false) => dumper::Leave::Dead,
    };
    request.shell_job = raw.shell_job;
    request.ext_unix_sk = raw.ext_unix_sk;
    request.tcp_established = raw.tcp_established;
    request.tcp_close = raw.tcp_close;
    request.skip_in_flight = raw.skip_in_flight;
    request.network_lock = match raw.network_lock {
        Some(NetworkLock::Nftables) => dumper::NetworkLock::Nftables,
        Some(NetworkLock::Skip) => dumper::NetworkLock::Skip,
        Some(NetworkLock::Iptables) | None => dumper::NetworkLock::Iptables,
    };
    request.file_locks = raw.file_locks;
    request.link_remap = raw.link_remap;
    request.force_irmap = raw.force_irmap;
    request.irmap_scan_paths.clone_from(&raw.irmap_scan_path);
    if let Some(limit) = raw.ghost_limit {
        request.ghost_limit = limit;
    }
    request.evasive_devices = raw.evasive_devices;
    request.file_validation = match raw.file_validation {
        Some(FileValidation::FileSize) => dumper::FileValidation::FileSize,
        Some(FileValidation::BuildId) | None => dumper::FileValidation::BuildId,
    };
    request.allow_uprobes = raw.allow_uprobes;
    request.external = external(raw);
    request.mounts = dumper::MountOptions {
        external: raw.ext_mount_map.iter().map(|(k, v)| (k.clone().into(), v.clone())).collect(),
        devices: Vec::new(),
        auto: raw.ext_mount_auto,
        sharing: raw.enable_external_sharing,
        masters: raw.enable_external_masters,
        skip: raw.skip_mnt.iter().map(|path| path.clone().into()).collect(),
        enable_fs: raw.enable_fs.clone(),
    };
    request.empty_net = raw.empty_ns_net;
    if let Some(timeout) = raw.timeout {
        request.timeout_secs = timeout;
    }
    request.freeze_cgroup.clone_from(&raw.freeze_cgroup);
    request.manage_cgroups = raw.manage_cgroups != Some(CgroupMode::Ignore);
    request.cgroup_roots = cgroup_roots(raw)?;
    request.cgroup_props = cgroup_props(raw)?;
    request.cgroup_controllers.clone_from(&raw.cgroup_dump_controller);
    request.cgroup_yard = absolute(raw.cgroup_yard.as_deref());
    request.storing.compression = raw.compress.and_then(|c| c.0);
    let compresses = request.storing.compression.is_some();
    request.storing.threads = raw.compress_threads.filter(|_| compresses).unwrap_or(0);
    if let Some(budget) = raw.memory_budget {
        request.storing.budget = budget;
    }
    request.storing.sync = raw.fsync;
    request.page_server = page_server(raw)?;
    request.track_mem = raw.track_mem;
    request.orphan_pts_master = raw.orphan_pts_master;
    request.prev_images_dir.clone_from(&raw.prev_images_dir);
    request.auto_dedup = raw.auto_dedup;
    request.pre_dump_mode = match raw.pre_dump_read {
        true => dumper::PreDumpMode::Read,
        false => dumper::PreDumpMode::Splice,
    };
    Ok(request)
}

/// Where pages go, if not into images here.
fn page_server(raw: &Raw) -> Result<Option<dumper::PageServer>, Error> {
    let server = match raw.ps_socket {
        Some(fd) => dumper::PageServer::Socket(fd),
        None if !raw.page_server => return Ok(None),
        None => {
            let port = raw.port.filter(|port| *port > 0);
            let port = port.ok_or_else(|| says("--page-server: --port is needed"))?;
            dumper::PageServer::Address(raw.address.clone(), port)
        }
    };
    if raw.compress.is_some_and(|c| c.0.is_some()) {
        return Err(says(
            "--compress: a page server takes pages as they are (use --compress=none)",
        ));
    }
    Ok(Some(server))
}

/// A restore as `raw` asks for it.
pub(crate) fn restore(raw: &Raw, dirs: &Dirs) -> Result<restorer::Request, Error> {
    let mut request = restorer::Request::new(&dirs.images);
    request.work_dir.clone_from(&dirs.work);
    request.detached = raw.detached;
    request.sibling = raw.restore_sibling;
    request.leave_stopped = raw.leave_stopped;
    request.shell_job = raw.shell_job;
    request.ext_unix_sk = raw.ext_unix_sk;
    request.tcp_established = raw.tcp_established;
    request.tcp_close = raw.tcp_close;
    request.file_locks = raw.file_locks;
    request.validate_build_id = raw.file_validation != Some(FileValidation::FileSize);
    request.skip_file_rwx_check = raw.skip_file_rwx_check;
    request.allow_uprobes = raw.allow_uprobes;
    request.root.clone_from(&raw.root);
    request.external = external(raw);
    request.mounts = restorer::MountOptions {
        external: raw.ext_mount_map.clone(),
        devices: Vec::new(),
        auto: raw.ext_mount_auto,
        compat: raw.mntns_compat_mode,
        context: raw.lsm_mount_context.clone(),
    };
    request.empty_net = raw.empty_ns_net;
    request.inherit_fd.clone_from(&raw.inherit_fd);
    request.join_ns.clone_from(&raw.join_ns);
    request.lsm_profile.clone_from(&raw.lsm_profile);
    joined(&raw.join_ns)?;
    for (fd, _) in &request.inherit_fd {
        if let Err(e) = std::fs::metadata(format!("/proc/self/fd/{fd}")) {
            let e = match e.kind() {
                std::io::ErrorKind::NotFound => std::io::Error::from_raw_os_error(libc::EBADF),
                _ => e,
            };
            return Err(says(format!("Can't fstat inherit fd {fd}: {e}")));
        }
    }
    request.manage_cgroups = match raw.manage_cgroups {
        Some(CgroupMode::Ignore) => restorer::CgroupMode::Ignore,
        Some(CgroupMode::None) => restorer::CgroupMode::None,
        Some(CgroupMode::Props) => restorer::CgroupMode::Props,
        Some(CgroupMode::Soft) | None => restorer::CgroupMode::Soft,
        Some(CgroupMode::Full) => restorer::CgroupMode::Full,
        Some(CgroupMode::Strict) => restorer::CgroupMode::Strict,
    };
    request.cgroup_roots = cgroup_roots(raw)?;
    request.cgroup_yard = absolute(raw.cgroup_yard.as_deref());
    request.auto_dedup = raw.auto_dedup;
    request.orphan_pts_master = raw.orphan_pts_master;
    request.log_fd = crate::log::fd();
    Ok(request)
}

/// Namespaces to join are there.
fn joined(all: &[String]) -> Result<(), Error> {
    for text in all {
        let (kind, rest) = text.split_once(':').unwrap_or_default();
        let target = rest.split(',').next().unwrap_or_default();
        let path = match target.parse::<u32>() {
            Ok(pid) => format!("/proc/{pid}/ns/{kind}"),
            Err(_) => target.to_owned(),
        };
        std::fs::metadata(&path)
            .map_err(|e| says(format!("Can't access join-ns file {path}: {e}")))?;
    }
    Ok(())
}

/// `[CONTROLLERS:]/PATH`, each.
fn cgroup_roots(raw: &Raw) -> Result<Vec<(Option<String>, String)>, Error> {
    let one = |text: &String| {
        let (controllers, path) = match text.split_once(":/") {
            Some((controllers, path)) => (Some(controllers.to_owned()), format!("/{path}")),
            None => (None, text.clone()),
        };
        let bad = || says(format!("cgroup root {text}: the path has to begin with a slash"));
        path.starts_with('/').then_some((controllers, path)).ok_or_else(bad)
    };
    raw.cgroup_root.iter().map(one).collect()
}

/// Of the option, then of the file.
fn cgroup_props(raw: &Raw) -> Result<Vec<dumper::CgroupProps>, Error> {
    let mut all = Vec::new();
    if let Some(text) = &raw.cgroup_props {
        all.extend(crate::cgroup_props::parse(text).map_err(says)?);
    }
    if let Some(file) = &raw.cgroup_props_file {
        let text = std::fs::read_to_string(file)
            .map_err(|e| says(format!("Can't read {}: {e}", file.display())))?;
        all.extend(crate::cgroup_props::parse(&text).map_err(says)?);
    }
    Ok(all)
}

/// From where we are now: engines work in processes that change their root.
fn absolute(path: Option<&Path>) -> Option<PathBuf> {
    path.map(|p| std::path::absolute(p).unwrap_or_else(|_| p.to_owned()))
}

/// `--external`, with the old spellings that mean the same. As CRIU, what fits nothing is no
/// mistake: engines name more than there is.
fn external(raw: &Raw) -> Vec<String> {
    const KINDS: [&str; 10] =
        ["mnt", "dev", "file", "tty", "unix", "net", "pid", "veth", "macvlan", "netdev"];
    let known = |text: &&String| {
        let kind = text.split_once('[').filter(|(_, rest)| rest.contains(']'));
        kind.is_some_and(|(kind, _)| KINDS.contains(&kind))
    };
    for text in raw.external.iter().filter(|text| !known(text)) {
        log::warn!("--external {text}: names no kind of resource");
    }
    let unix = raw.ext_unix_ids.iter().map(|ino| format!("unix[{ino}]"));
    let veth = raw.veth_pair.iter().map(|(inner, outer)| format!("veth[{inner}]:{outer}"));
    raw.external.iter().cloned().chain(unix).chain(veth).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs() -> Dirs {
        Dirs { images: "/img".into(), work: "/work".into() }
    }

    fn raw(change: impl FnOnce(&mut Raw)) -> Raw {
        let mut raw = Raw::new();
        change(&mut raw);
        raw
    }

    #[test]
    fn a_dump_needs_a_pid() {
        let error = dump(&Raw::new(), &dirs()).unwrap_err();
        assert_eq!(error.to_string(), "pid not specified");
    }

    #[test]
    fn defaults_are_the_engines() {
        let request = dump(&raw(|r| r.tree = Some(7)), &dirs()).unwrap();
        let mut want = dumper::Request::new(7, "/img");
        want.work_dir = "/work".into();
        assert_eq!(format!("{request:?}"), format!("{want:?}"));
        let request = restore(&Raw::new(), &dirs()).unwrap();
        let mut want = restorer::Request::new("/img");
        want.work_dir = "/work".into();
        assert_eq!(format!("{request:?}"), format!("{want:?}"));
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let lazy = raw(|r| r.lazy_pages = true);
        let error = refuse_unbuilt(Command::Restore, &lazy).unwrap_err();
        assert_eq!(error.to_string(), "not supported yet: --lazy-pages");
        assert_eq!(refuse_unbuilt(Command::Check, &lazy), Ok(()));
    }

    #[test]
    fn a_root_of_cgroups_is_for_controllers_or_for_all() {
        let given = raw(|r| r.cgroup_root = vec!["name=x:/a".into(), "/b".into(), ":/c".into()]);
        let roots = restore(&given, &dirs()).unwrap().cgroup_roots;
        let told: Vec<_> = roots.iter().map(|(c, p)| (c.as_deref(), p.as_str())).collect();
        assert_eq!(told, [(Some("name=x"), "/a"), (None, "/b"), (Some(""), "/c")]);
        let bad = raw(|r| r.cgroup_root = vec!["a/b".into()]);
        assert!(restore(&bad, &dirs()).is_err());
    }

    #[test]
    fn contradictions_are_refused() {
        let sibling = raw(|r| r.restore_sibling = true);
        assert!(validate(Command::Restore, &sibling).is_err());
        let inherit = raw(|r| r.inherit_fd.push((1, "pipe[7]".into())));
        assert!(validate(Command::Dump, &inherit).is_err());
        assert_eq!(validate(Command::Restore, &inherit), Ok(()));
        let exec = raw(|r| (r.exec_cmd, r.detached) = (true, true));
        assert!(validate(Command::Restore, &exec).is_err());
    }

    #[test]
    fn old_spellings_become_external_resources() {
        let old = raw(|r| (r.tree, r.ext_unix_ids) = (Some(1), vec![77]));
        assert_eq!(dump(&old, &dirs()).unwrap().external, ["unix[77]"]);
    }
}
