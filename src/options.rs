//! Every option there is, once: how it is spelled, what it takes, where its value goes, and
//! what the help says. The parsers of the command line and of config files, the usage text and
//! whatever else needs to know options are all driven by [`OPTIONS`].

use images::pages::{Codec, Compression};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::log::DEFAULT_VERBOSITY;

/// Options as they were given, whichever way they came; nothing is validated yet beyond what a
/// single value can tell. See [`crate::request`] for the rest. Each field is the option of the
/// same name in [`OPTIONS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) tree: Option<i32>,
    pub(crate) detached: bool,
    pub(crate) restore_sibling: bool,
    pub(crate) leave_stopped: bool,
    pub(crate) leave_running: bool,
    pub(crate) images_dir: Option<PathBuf>,
    pub(crate) work_dir: Option<PathBuf>,
    pub(crate) prev_images_dir: Option<PathBuf>,
    pub(crate) pidfile: Option<PathBuf>,
    pub(crate) cpu_cap: Option<CpuCap>,
    pub(crate) exec_cmd: bool,
    pub(crate) freeze_cgroup: Option<PathBuf>,
    pub(crate) weak_sysctls: bool,
    pub(crate) lazy_pages: bool,
    pub(crate) stream: bool,
    pub(crate) mntns_compat_mode: bool,
    pub(crate) network_lock: Option<NetworkLock>,
    pub(crate) unprivileged: bool,
    pub(crate) allow_uprobes: bool,
    pub(crate) external: Vec<String>,
    pub(crate) tcp_established: bool,
    pub(crate) skip_in_flight: bool,
    pub(crate) tcp_close: bool,
    pub(crate) root: Option<PathBuf>,
    pub(crate) evasive_devices: bool,
    pub(crate) link_remap: bool,
    pub(crate) ghost_limit: Option<u64>,
    pub(crate) ghost_fiemap: bool,
    pub(crate) action_scripts: Vec<PathBuf>,
    pub(crate) shell_job: bool,
    pub(crate) file_locks: bool,
    pub(crate) libdir: Option<PathBuf>,
    pub(crate) timeout: Option<u32>,
    pub(crate) force_irmap: bool,
    pub(crate) irmap_scan_path: Vec<PathBuf>,
    pub(crate) manage_cgroups: Option<CgroupMode>,
    pub(crate) cgroup_root: Vec<String>,
    pub(crate) cgroup_props: Option<String>,
    pub(crate) cgroup_props_file: Option<PathBuf>,
    pub(crate) cgroup_dump_controller: Vec<String>,
    pub(crate) cgroup_yard: Option<PathBuf>,
    pub(crate) lsm_profile: Option<String>,
    pub(crate) lsm_mount_context: Option<String>,
    pub(crate) skip_mnt: Vec<String>,
    pub(crate) enable_fs: Vec<String>,
    pub(crate) inherit_fd: Vec<(i32, String)>,
    pub(crate) empty_ns_net: bool,
    pub(crate) join_ns: Vec<String>,
    pub(crate) file_validation: Option<FileValidation>,
    pub(crate) skip_file_rwx_check: bool,
    pub(crate) ext_unix_sk: bool,
    pub(crate) ext_unix_ids: Vec<u32>,
    pub(crate) ext_mount_map: Vec<(String, String)>,
    pub(crate) ext_mount_auto: bool,
    pub(crate) enable_external_sharing: bool,
    pub(crate) enable_external_masters: bool,
    pub(crate) veth_pair: Vec<(String, String)>,
    pub(crate) log_file: Option<PathBuf>,
    pub(crate) log_pid: bool,
    pub(crate) verbosity: u8,
    pub(crate) display_stats: bool,
    pub(crate) compress: Option<Compress>,
    pub(crate) compress_threads: Option<usize>,
    pub(crate) fsync: bool,
    pub(crate) memory_budget: Option<u64>,
    pub(crate) track_mem: bool,
    pub(crate) page_server: bool,
    pub(crate) auto_dedup: bool,
    pub(crate) pre_dump_read: bool,
    pub(crate) address: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) ps_socket: Option<i32>,
    pub(crate) status_fd: Option<i32>,
    pub(crate) close: Vec<i32>,
    pub(crate) tls: bool,
    pub(crate) tls_cacert: Option<PathBuf>,
    pub(crate) tls_cacrl: Option<PathBuf>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) tls_no_cn_verify: bool,
    pub(crate) config: Option<PathBuf>,
    pub(crate) no_default_config: bool,
    pub(crate) deprecated: bool,
    pub(crate) check_extra: bool,
    pub(crate) check_experimental: bool,
    pub(crate) feature: Option<String>,
    pub(crate) help: bool,
    pub(crate) version: bool,
    /// RPC only: the master of a terminal that the tree has only the slave of goes to the client.
    pub(crate) orphan_pts_master: bool,
}

impl Raw {
    /// What holds when nothing is said.
    pub(crate) fn new() -> Self {
        Self { ghost_fiemap: true, verbosity: DEFAULT_VERBOSITY, ..Self::default() }
    }
}

/// `--manage-cgroups`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CgroupMode {
    /// Membership is neither saved nor restored, and not looked at.
    Ignore,
    /// Tasks are put into groups which exist.
    None,
    /// Also sets the properties of groups.
    Props,
    /// Makes groups that are missing, and sets the properties of those: the default.
    Soft,
    /// Makes groups and sets properties always.
    Full,
    /// As full, and no group may exist beforehand.
    Strict,
}

/// `--network-lock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkLock {
    Iptables,
    Nftables,
    Skip,
}

/// `--file-validation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileValidation {
    FileSize,
    BuildId,
}

/// `--compress`: how pages are compressed, `none` for not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compress(pub(crate) Option<Compression>);

/// `CODEC`, `CODEC:LEVEL`, `:LEVEL` or nothing.
fn compress(raw: &mut Raw, value: Option<&OsStr>) -> Result<(), Bad> {
    let value = value.map_or(Ok(""), |value| text(Some(value)))?;
    let (codec, level) = value.split_once(':').map_or((value, None), |(c, l)| (c, Some(l)));
    let codec = match codec {
        // What holds a tree up least.
        "" if level.is_none() => Codec::Lz4,
        "zstd" | "" => Codec::Zstd,
        "lz4" => Codec::Lz4,
        "none" if level.is_none() => {
            raw.compress = Some(Compress(None));
            return Ok(());
        }
        _ => return Err(Bad::Value),
    };
    let mut how = Compression::of(codec);
    if let Some(level) = level {
        how.level = level.parse().map_err(|_| Bad::Value)?;
    }
    let levels = match codec {
        Codec::Zstd => -7..=22,
        Codec::Lz4 => 1..=2,
    };
    if !levels.contains(&how.level) {
        let (least, most) = (levels.start(), levels.end());
        return Err(Bad::Says(format!(
            "--compress: level {} is not in {least}..{most}",
            how.level
        )));
    }
    raw.compress = Some(Compress(Some(how)));
    Ok(())
}

/// `--cpu-cap`: what of the processor is written and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuCap {
    /// The whole feature set must be the same.
    pub(crate) cpu: bool,
    /// What the FPU state needs must be there.
    pub(crate) fpu: bool,
    /// What programs may execute must be there.
    pub(crate) ins: bool,
}

impl CpuCap {
    /// Nothing is compared.
    pub(crate) const NONE: Self = Self { cpu: false, fpu: false, ins: false };
    /// The option without a value.
    pub(crate) const ALL: Self = Self { cpu: true, fpu: true, ins: true };
    /// The option not given.
    pub(crate) const DEFAULT: Self = Self { cpu: false, fpu: true, ins: true };
}

/// Why the value of an option is not good.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// CRIU's general words: `invalid argument for --X: VALUE`.
    Value,
    /// CRIU has words of its own for this.
    Says(String),
    /// The same, after the usage text.
    Usage(String),
}

type Apply = fn(&mut Raw, Option<&OsStr>) -> Result<(), Bad>;

/// What an option takes, and where that goes.
#[derive(Clone, Copy)]
pub(crate) enum Takes {
    /// Nothing; `--no-X` takes it back.
    Switch(fn(&mut Raw) -> &mut bool),
    /// Nothing, and there is no `--no-X`.
    Nothing(Apply),
    /// A path; the last one counts.
    Path(fn(&mut Raw) -> &mut Option<PathBuf>),
    /// A text; the last one counts.
    Text(fn(&mut Raw) -> &mut Option<String>),
    /// A text; all count.
    Texts(fn(&mut Raw) -> &mut Vec<String>),
    /// A path; all count.
    Paths(fn(&mut Raw) -> &mut Vec<PathBuf>),
    /// A value with its own rules.
    Value(Apply),
    /// A value or none; only `--X=VALUE` and `-xVALUE` give one.
    Maybe(Apply),
}

/// The section of the help an option is shown in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Generic,
    External,
    Special,
    Check,
    Logging,
    Memory,
    Servers,
    Config,
    Other,
    /// Old spellings and what is of no use on the command line: accepted, not shown.
    Hidden,
}

impl Section {
    /// Those shown, in order, with their headings.
    pub(crate) const SHOWN: [(Self, &str); 9] = [
        (Self::Generic, "Dump/Restore options:\n\n* Generic:"),
        (Self::External, "* External resources support:"),
        (Self::Special, "* Special resources support:"),
        (Self::Check, "Check options:"),
        (Self::Logging, "* Logging:"),
        (Self::Memory, "* Memory dumping options:"),
        (Self::Servers, "Page/Service server options:"),
        (Self::Config, "Configuration file options:"),
        (Self::Other, "Other options:"),
    ];
}

/// One option.
pub(crate) struct Opt {
    pub(crate) name: &'static str,
    pub(crate) short: Option<u8>,
    pub(crate) takes: Takes,
    pub(crate) section: Section,
    /// What the help calls the value.
    pub(crate) value: &'static str,
    pub(crate) help: &'static str,
}

impl std::fmt::Debug for Opt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "--{}", self.name)
    }
}

impl Opt {
    /// Whether a value must or may follow.
    pub(crate) fn has_value(&self) -> HasValue {
        match self.takes {
            Takes::Switch(_) | Takes::Nothing(_) => HasValue::Never,
            Takes::Maybe(_) => HasValue::Maybe,
            _ => HasValue::Always,
        }
    }

    /// Whether `--no-X` exists.
    pub(crate) fn is_switch(&self) -> bool {
        matches!(self.takes, Takes::Switch(_))
    }

    /// Puts what was given into `raw`; `on` is false for `--no-X`.
    pub(crate) fn apply(&self, raw: &mut Raw, on: bool, value: Option<&OsStr>) -> Result<(), Bad> {
        let path = || value.map(PathBuf::from).ok_or(Bad::Value);
        match self.takes {
            Takes::Switch(field) => *field(raw) = on,
            Takes::Path(field) => *field(raw) = Some(path()?),
            Takes::Paths(field) => field(raw).push(path()?),
            Takes::Text(field) => *field(raw) = Some(text(value)?.to_owned()),
            Takes::Texts(field) => field(raw).push(text(value)?.to_owned()),
            Takes::Nothing(apply) | Takes::Value(apply) | Takes::Maybe(apply) => {
                return apply(raw, value);
            }
        }
        Ok(())
    }
}

/// Whether an option has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HasValue {
    Never,
    Maybe,
    Always,
}

/// The option of this name, as it is written in full.
pub(crate) fn find(name: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|o| o.name == name)
}

fn text(value: Option<&OsStr>) -> Result<&str, Bad> {
    value.and_then(OsStr::to_str).ok_or(Bad::Value)
}

fn number<T: std::str::FromStr>(value: Option<&OsStr>) -> Result<T, Bad> {
    text(value)?.trim().parse().map_err(|_| Bad::Value)
}

fn pid(value: Option<&OsStr>) -> Result<i32, Bad> {
    number(value).and_then(|pid| if pid > 0 { Ok(pid) } else { Err(Bad::Value) })
}

fn descriptor(value: Option<&OsStr>) -> Result<i32, Bad> {
    number(value).and_then(|fd| if fd >= 0 { Ok(fd) } else { Err(Bad::Value) })
}

/// `N`, `NK`, `NM`, `NG`.
fn size(value: Option<&OsStr>) -> Result<u64, Bad> {
    let text = text(value)?.trim();
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).ok_or(Bad::Value)
}

/// `KEY{separator}VALUE`, both there.
fn pair(value: Option<&OsStr>, separator: char) -> Result<(String, String), Bad> {
    let (key, value) = text(value)?.split_once(separator).ok_or(Bad::Value)?;
    if key.is_empty() || value.is_empty() {
        Err(Bad::Value)
    } else {
        Ok((key.into(), value.into()))
    }
}

/// `-v` raises the level by one, `-vvv` by three, `-v4` sets it. Other letters count as 0, as
/// atoi(3) has it: clients do write `-verbosity=0` with one dash.
fn verbosity(raw: &mut Raw, value: Option<&OsStr>) -> Result<(), Bad> {
    let value = value.map(OsStr::as_bytes).unwrap_or_default();
    match value.first() {
        None => raw.verbosity = raw.verbosity.saturating_add(1),
        Some(b'v') => {
            let more = 1 + value.iter().take_while(|b| **b == b'v').count();
            raw.verbosity = raw.verbosity.saturating_add(u8::try_from(more).unwrap_or(u8::MAX));
        }
        Some(_) => {
            let digits = value.iter().take_while(|b| b.is_ascii_digit());
            raw.verbosity = digits.fold(0u8, |n, d| n.saturating_mul(10).saturating_add(d - b'0'));
        }
    }
    Ok(())
}

fn manage_cgroups(raw: &mut Raw, value: Option<&OsStr>) -> Result<(), Bad> {
    raw.manage_cgroups = Some(match value.map(|v| text(Some(v))).transpose()? {
        None | Some("soft") => CgroupMode::Soft,
        Some("none") => CgroupMode::None,
        Some("props") => CgroupMode::Props,
        Some("full") => CgroupMode::Full,
        Some("strict") => CgroupMode::Strict,
        Some("ignore") => CgroupMode::Ignore,
        Some(mode) => return Err(Bad::Usage(format!("Unknown cgroups mode `{mode}' selected"))),
    });
    Ok(())
}

fn cpu_cap(raw: &mut Raw, value: Option<&OsStr>) -> Result<(), Bad> {
    let Some(value) = value else {
        raw.cpu_cap = Some(CpuCap::ALL);
        return Ok(());
    };
    let mut cap = CpuCap::NONE;
    for word in text(Some(value))?.split(',') {
        let (word, on) = word.strip_prefix('^').map_or((word, true), |word| (word, false));
        match word {
            "cpu" => cap.cpu = on,
            "fpu" => cap.fpu = on,
            "ins" => cap.ins = on,
            "all" => cap = if on { CpuCap::ALL } else { CpuCap::NONE },
            "none" => cap = if on { CpuCap::NONE } else { CpuCap::ALL },
            _ => return Err(Bad::Usage(format!("Unknown FPU mode `{word}' selected"))),
        }
    }
    raw.cpu_cap = Some(cap);
    Ok(())
}

fn network_lock(raw: &mut Raw, value: Option<&OsStr>) -> Result<(), Bad> {
    raw.network_lock = Some(match text(value)? {
        "iptables" => NetworkLock::Iptables,
        "nftables" => NetworkLock::Nftables,
        "skip" | "none" => NetworkLock::Skip,
        other => return Err(Bad::Says(format!("Invalid value for --network-lock: {other}"))),
    });
    Ok(())
}

fn file_validation(raw: &mut Raw, value: Option<&OsStr>) -> Result<(), Bad> {
    raw.file_validation = Some(match text(value)? {
        "filesize" => FileValidation::FileSize,
        "buildid" => FileValidation::BuildId,
        other => {
            return Err(Bad::Usage(format!("Unknown file validation method `{other}' selected")));
        }
    });
    Ok(())
}

fn pre_dump_mode(raw: &mut Raw, value: Option<&OsStr>) -> Result<(), Bad> {
    raw.pre_dump_read = match text(value)? {
        "splice" => false,
        "read" => true,
        _ => return Err(Bad::Says("Unable to parse value of --pre-dump-mode".into())),
    };
    Ok(())
}

fn empty_ns(raw: &mut Raw, value: Option<&OsStr>) -> Result<(), Bad> {
    match text(value)? {
        "net" => raw.empty_ns_net = true,
        other => return Err(Bad::Says(format!("Unsupported empty namespace: {other}"))),
    }
    Ok(())
}

fn join_ns(raw: &mut Raw, value: Option<&OsStr>) -> Result<(), Bad> {
    let text = text(value)?;
    let (ns, target) = text.split_once(':').ok_or(Bad::Value)?;
    match ns {
        "net" | "uts" | "time" | "ipc" | "user" | "mnt" if !target.is_empty() => {}
        "pid" => return Err(Bad::Says("join-ns pid namespace not supported".into())),
        _ => return Err(Bad::Value),
    }
    raw.join_ns.push(text.to_owned());
    Ok(())
}

fn inherit_fd(raw: &mut Raw, value: Option<&OsStr>) -> Result<(), Bad> {
    let text = text(value)?;
    let parsed = text.strip_prefix("fd[").and_then(|rest| rest.split_once("]:"));
    match parsed.and_then(|(fd, key)| Some((fd.parse().ok()?, key))) {
        Some((fd, key)) if fd >= 0 && !key.is_empty() => raw.inherit_fd.push((fd, key.to_owned())),
        _ => return Err(Bad::Says(format!("Invalid inherit fd argument: {text}"))),
    }
    Ok(())
}

fn ext_unix_sk(raw: &mut Raw, value: Option<&OsStr>) -> Result<(), Bad> {
    if let Some(value) = value {
        for id in text(Some(value))?.split(',') {
            raw.ext_unix_ids.push(id.trim().parse().map_err(|_| Bad::Value)?);
        }
    }
    raw.ext_unix_sk = true;
    Ok(())
}

fn ext_mount_map(raw: &mut Raw, value: Option<&OsStr>) -> Result<(), Bad> {
    match text(value)? {
        "auto" => raw.ext_mount_auto = true,
        _ => raw.ext_mount_map.push(pair(value, ':')?),
    }
    Ok(())
}

const fn opt(
    name: &'static str,
    short: Option<u8>,
    takes: Takes,
    section: Section,
    value: &'static str,
    help: &'static str,
) -> Opt {
    Opt { name, short, takes, section, value, help }
}

use Section::{Check, Config, External, Generic, Hidden, Logging, Memory, Other, Servers, Special};
use Takes::{Maybe, Nothing, Path, Paths, Switch, Text, Texts, Value};

/// All options, in the order of the help.
#[rustfmt::skip] // a table
pub(crate) static OPTIONS: &[Opt] = &[
    opt("tree", Some(b't'), Value(|r, v| { r.tree = Some(pid(v)?); Ok(()) }), Generic, "PID",
        "the process tree to checkpoint, by the pid of its root"),
    opt("restore-detached", Some(b'd'), Switch(|r| &mut r.detached), Generic, "",
        "return as soon as the restored tree runs"),
    opt("restore-sibling", Some(b'S'), Switch(|r| &mut r.restore_sibling), Generic, "",
        "the restored root task becomes a child of our parent"),
    opt("leave-stopped", Some(b's'), Switch(|r| &mut r.leave_stopped), Generic, "",
        "leave tasks stopped afterwards"),
    opt("leave-running", Some(b'R'), Switch(|r| &mut r.leave_running), Generic, "",
        "leave tasks running after the checkpoint"),
    opt("images-dir", Some(b'D'), Path(|r| &mut r.images_dir), Generic, "DIR",
        "where the image files are"),
    opt("pidfile", None, Path(|r| &mut r.pidfile), Generic, "FILE",
        "write the pid of the root task, service or page-server to FILE"),
    opt("work-dir", Some(b'W'), Path(|r| &mut r.work_dir), Generic, "DIR",
        "where to change to, and where logs, pidfiles and stats go (default: the images directory)"),
    opt("cpu-cap", None, Maybe(cpu_cap), Generic, "CAP",
        "write what the CPU can do with a dump, and compare it on restore: a comma-separated list \
         of cpu, fpu, ins, all, none; ^CAP takes one away, no list means all"),
    opt("exec-cmd", None, Switch(|r| &mut r.exec_cmd), Generic, "",
        "after a restore execute the command that follows '--' as the parent of the root task"),
    opt("freeze-cgroup", None, Path(|r| &mut r.freeze_cgroup), Generic, "PATH",
        "stop the tasks with this cgroup's freezer"),
    opt("weak-sysctls", None, Switch(|r| &mut r.weak_sysctls), Generic, "",
        "leave out sysctls which this kernel does not have"),
    opt("lazy-pages", None, Switch(|r| &mut r.lazy_pages), Generic, "",
        "restore pages on demand; needs 'criu lazy-pages -D DIR' to run, and userfaultfd"),
    opt("stream", None, Switch(|r| &mut r.stream), Generic, "",
        "dump to or restore from criu-image-streamer"),
    opt("mntns-compat-mode", None, Switch(|r| &mut r.mntns_compat_mode), Generic, "",
        "restore mounts without MOVE_MOUNT_SET_GROUP"),
    opt("network-lock", None, Value(network_lock), Generic, "METHOD",
        "how to lock the network: 'iptables' (default), 'nftables' or 'skip'"),
    opt("unprivileged", None, Switch(|r| &mut r.unprivileged), Generic, "",
        "accept the limits of running without root"),
    opt("allow-uprobes", None, Switch(|r| &mut r.allow_uprobes), Generic, "",
        "allow tasks with uprobes; the probes are not saved"),

    opt("external", None, Texts(|r| &mut r.external), External, "RES",
        "a resource from outside the tree. On dump: tty[RDEV:DEV], file[MNT_ID:INODE], \
         dev[MAJOR/MINOR]:NAME, unix[INODE], net[INODE]:NAME, pid[INODE]:NAME, mnt[PATH]:COOKIE, \
         mnt[]{:OPTIONS}. On restore: dev[NAME]:PATH, veth[IFNAME]:OUTNAME{@BRIDGE}, \
         macvlan[IFNAME]:OUTNAME, mnt[COOKIE]:PATH, netdev[IFNAME]:NAME"),

    opt("tcp-established", None, Switch(|r| &mut r.tcp_established), Special, "",
        "save and restore established TCP connections"),
    opt("skip-in-flight", None, Switch(|r| &mut r.skip_in_flight), Special, "",
        "leave out TCP connections that are not accepted yet"),
    opt("tcp-close", None, Switch(|r| &mut r.tcp_close), Special, "",
        "restore established TCP connections as closed ones"),
    opt("root", Some(b'r'), Path(|r| &mut r.root), Special, "PATH",
        "the new root of a mount namespace"),
    opt("evasive-devices", None, Switch(|r| &mut r.evasive_devices), Special, "",
        "any path to the same device will do if the original one is gone"),
    opt("link-remap", None, Switch(|r| &mut r.link_remap), Special, "",
        "give files without a name a temporary one"),
    opt("ghost-limit", None, Value(|r, v| { r.ghost_limit = Some(size(v)?); Ok(()) }), Special,
        "SIZE", "the largest deleted file to save, in bytes or with K, M, G (default: 1M)"),
    opt("ghost-fiemap", None, Switch(|r| &mut r.ghost_fiemap), Special, "",
        "find the holes of deleted files with fiemap"),
    opt("action-script", None, Paths(|r| &mut r.action_scripts), Special, "FILE",
        "run this program at the moments named by CRTOOLS_SCRIPT_ACTION"),
    opt("shell-job", Some(b'j'), Switch(|r| &mut r.shell_job), Special, "",
        "the tree is a shell's job: session, group and terminal are not its own"),
    opt("file-locks", Some(b'l'), Switch(|r| &mut r.file_locks), Special, "",
        "save and restore file locks"),
    opt("libdir", Some(b'L'), Path(|r| &mut r.libdir), Special, "DIR",
        "where plugins are"),
    opt("timeout", None, Value(|r, v| { r.timeout = Some(number(v)?); Ok(()) }), Special, "NUM",
        "seconds for stopping the tasks, and six times that for a page server that stands still (or, if given, an RPC client); 0: no limit (default: 10)"),
    opt("force-irmap", None, Switch(|r| &mut r.force_irmap), Special, "",
        "look up the names of watched files by their inodes"),
    opt("irmap-scan-path", None, Paths(|r| &mut r.irmap_scan_path), Special, "PATH",
        "where to look for them too"),
    opt("manage-cgroups", None, Maybe(manage_cgroups), Special, "MODE",
        "what to do about cgroups: 'none', 'props', 'soft' (default), 'full', 'strict' or 'ignore'"),
    opt("cgroup-root", None, Texts(|r| &mut r.cgroup_root), Special, "[CONTROLLER:]/PATH",
        "the root of the cgroups to save, or where to restore them"),
    opt("cgroup-props", None, Text(|r| &mut r.cgroup_props), Special, "STRING",
        "cgroup properties to save, as YAML"),
    opt("cgroup-props-file", None, Path(|r| &mut r.cgroup_props_file), Special, "FILE",
        "the same, from a file"),
    opt("cgroup-dump-controller", None, Texts(|r| &mut r.cgroup_dump_controller), Special, "NAME",
        "save only this cgroup controller"),
    opt("cgroup-yard", None, Path(|r| &mut r.cgroup_yard), Special, "PATH",
        "a directory where the cgroups are mounted already"),
    opt("lsm-profile", None, Value(lsm_profile), Special, "TYPE:NAME",
        "the security profile for the restored tasks; TYPE is 'apparmor' or 'selinux'"),
    opt("lsm-mount-context", None, Text(|r| &mut r.lsm_mount_context), Special, "CTX",
        "the mount context for restored mounts that had one"),
    opt("skip-mnt", None, Texts(|r| &mut r.skip_mnt), Special, "PATH",
        "leave out this mount"),
    opt("enable-fs", None, Texts(|r| &mut r.enable_fs), Special, "NAMES",
        "filesystems, or 'all', whose mounts to save even if they are not known"),
    opt("inherit-fd", None, Value(inherit_fd), Special, "fd[NUM]:RES",
        "our descriptor NUM takes the place of RES: tty[RDEV:DEV], pipe[INODE], socket[INODE], \
         file[MNT_ID:INODE], /memfd:NAME or a path"),
    opt("empty-ns", None, Value(empty_ns), Special, "net",
        "make the namespace, and leave its contents to action scripts"),
    opt("join-ns", Some(b'J'), Value(join_ns), Special, "NS:{PID|FILE}[,OPTIONS]",
        "restore into an existing namespace; for user namespaces: user:PID,UID,GID"),
    opt("file-validation", None, Value(file_validation), Special, "METHOD",
        "how files are recognized: 'filesize' or 'buildid' (default)"),
    opt("skip-file-rwx-check", None, Switch(|r| &mut r.skip_file_rwx_check), Special, "",
        "do not compare the permissions of files on restore"),

    opt("extra", None, Switch(|r| &mut r.check_extra), Check, "",
        "check the kernel features that some process trees need, too"),
    opt("experimental", None, Switch(|r| &mut r.check_experimental), Check, "",
        "check experimental features, too"),
    opt("all", None, Nothing(|r, _| { r.check_extra = true; r.check_experimental = true; Ok(()) }),
        Check, "", "both"),
    opt("feature", None, Text(|r| &mut r.feature), Check, "FEAT",
        "check only this one of:"),

    opt("log-file", Some(b'o'), Path(|r| &mut r.log_file), Logging, "FILE",
        "where to log, '-' for standard output"),
    opt("log-pid", None, Switch(|r| &mut r.log_pid), Logging, "",
        "one log per process, named FILE.PID"),
    opt("verbosity", Some(b'v'), Maybe(verbosity), Logging, "NUM",
        "log more: -v1 errors, -v2 and warnings (default), -v3 and information with times, \
         -v4 and debug; each further v adds one"),
    opt("display-stats", None, Switch(|r| &mut r.display_stats), Logging, "",
        "show what was measured"),

    opt("track-mem", None, Switch(|r| &mut r.track_mem), Memory, "",
        "have the kernel tell which memory changes"),
    opt("prev-images-dir", None, Path(|r| &mut r.prev_images_dir), Memory, "DIR",
        "the previous dump of the same tree, relative to the images directory"),
    opt("page-server", None, Switch(|r| &mut r.page_server), Memory, "",
        "send pages to a page server"),
    opt("auto-dedup", None, Switch(|r| &mut r.auto_dedup), Memory, "",
        "free what is not needed any more: on dump from the previous images, on restore from these"),
    opt("pre-dump-mode", None, Value(pre_dump_mode), Memory, "MODE",
        "'splice' (default) or 'read'"),
    opt("compress", None, Maybe(compress), Memory, "CODEC",
        "compress pages: lz4[:LEVEL] (the default), zstd[:LEVEL], none; CRIU cannot read them"),
    opt("compress-threads", None,
        Value(|r, v| { r.compress_threads = Some(number(v)?); Ok(()) }), Memory, "N",
        "threads that compress (default: one for each processor)"),
    opt("fsync", None, Switch(|r| &mut r.fsync), Memory, "",
        "dump: images are on disk before the tree ends (default: as the kernel likes)"),
    opt("memory-budget", None, Value(|r, v| { r.memory_budget = Some(size(v)?); Ok(()) }), Memory,
        "SIZE", "what pages of images may take in memory of its own (default: 240M)"),

    opt("address", None, Text(|r| &mut r.address), Servers, "ADDR",
        "address of the server or service"),
    opt("port", None, Value(|r, v| { r.port = Some(number(v)?); Ok(()) }), Servers, "PORT",
        "port of the page server"),
    opt("ps-socket", None, Value(|r, v| { r.ps_socket = Some(descriptor(v)?); Ok(()) }), Servers, "FD",
        "a descriptor of ours that is connected to the page server"),
    opt("daemon", None, Switch(|r| &mut r.detached), Servers, "",
        "run in the background once the socket is there (also -d)"),
    opt("status-fd", None, Value(|r, v| { r.status_fd = Some(descriptor(v)?); Ok(()) }), Servers, "FD",
        "write \\0 to this descriptor and close it, once ready"),
    opt("tls-cacert", None, Path(|r| &mut r.tls_cacert), Servers, "FILE",
        "certificate of the only authority to trust"),
    opt("tls-cacrl", None, Path(|r| &mut r.tls_cacrl), Servers, "FILE",
        "its revocation list"),
    opt("tls-cert", None, Path(|r| &mut r.tls_cert), Servers, "FILE",
        "our certificate"),
    opt("tls-key", None, Path(|r| &mut r.tls_key), Servers, "FILE",
        "our private key"),
    opt("tls", None, Switch(|r| &mut r.tls), Servers, "",
        "encrypt the connection"),
    opt("tls-no-cn-verify", None, Switch(|r| &mut r.tls_no_cn_verify), Servers, "",
        "do not compare the name in the server's certificate"),

    opt("config", None, Path(|r| &mut r.config), Config, "FILE",
        "read options from FILE, and not from the default files"),
    opt("no-default-config", None, Nothing(|r, _| { r.no_default_config = true; Ok(()) }), Config,
        "", "do not read the default files"),

    opt("help", Some(b'h'), Nothing(|r, _| { r.help = true; Ok(()) }), Other, "",
        "show this text"),
    opt("version", Some(b'V'), Nothing(|r, _| { r.version = true; Ok(()) }), Other, "",
        "show the version"),

    opt("ext-unix-sk", Some(b'x'), Maybe(ext_unix_sk), Hidden, "INODES",
        "allow unix sockets with a peer outside (old spelling of --external unix[INODE])"),
    opt("ext-mount-map", Some(b'M'), Value(ext_mount_map), Hidden, "KEY:VALUE",
        "old spelling of --external mnt[KEY]:VALUE"),
    opt("enable-external-sharing", None, Switch(|r| &mut r.enable_external_sharing), Hidden, "",
        "with -M auto: mounts shared with the outside"),
    opt("enable-external-masters", None, Switch(|r| &mut r.enable_external_masters), Hidden, "",
        "with -M auto: mounts that get propagation from the outside"),
    opt("veth-pair", None, Value(|r, v| { r.veth_pair.push(pair(v, '=')?); Ok(()) }), Hidden,
        "IN=OUT", "old spelling of --external veth[IN]:OUT"),
    opt("close", None, Value(|r, v| { r.close.push(number(v)?); Ok(()) }), Hidden, "FD",
        "close this descriptor first"),
    opt("deprecated", None, Switch(|r| &mut r.deprecated), Hidden, "",
        "allow deprecated functionality"),
    opt("ms", None, Nothing(|_, _| Err(Bad::Says(
            "--ms is deprecated; see \"Check options\" of criu --help".into()))), Hidden, "", ""),
];

fn lsm_profile(raw: &mut Raw, value: Option<&OsStr>) -> Result<(), Bad> {
    let text = text(value)?;
    match text.split_once(':') {
        Some(("apparmor" | "selinux", name)) if !name.is_empty() => {
            raw.lsm_profile = Some(text.to_owned());
            Ok(())
        }
        _ => Err(Bad::Says(format!("invalid argument {text} for --lsm-profile"))),
    }
}
