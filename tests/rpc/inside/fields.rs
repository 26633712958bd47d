// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every field of `criu_opts` and every type of request, by the schema.

use super::failed;
use crate::client::{Client, Images, alive, bare, dir, pid, request, with};
use images::proto::{
    CgroupRoot, CriuOpts, CriuPageServerInfo, CriuReq, CriuReqType, CriuVethPair, ExtMountMap,
    InheritFd, JoinNamespace,
};
use std::collections::BTreeSet;
use std::process::Command;

const SCHEMA: &str = include_str!("../../../images/proto/rpc.proto");

/// How it is shown that a field is looked at as the command line's option is.
enum Shown {
    /// A dump with this is refused, and so is one with these arguments, in the same words.
    Dump(fn(&mut CriuOpts), &'static str),
    /// The same for a pre-dump.
    PreDump(fn(&mut CriuOpts), &'static str),
    /// The same for a restore.
    Restore(fn(&mut CriuOpts), &'static str),
    /// No value of it is wrong by itself.
    Any,
    /// There is no such option: by a test of this name.
    By(&'static str),
}

use Shown::{Any, By, Dump, PreDump, Restore};

/// What is external is a matter of what there is: names that fit nothing are warned of, by both.
/// `DIR` in arguments is the directory of the test, `FD77` a descriptor that the client has not.
const FIELDS: &[(&str, Shown)] = &[
    ("images_dir_fd", Dump(|o| o.images_dir_fd = 77, "-D FD77")),
    ("images_dir", Dump(|o| (o.images_dir_fd, o.images_dir) = (-1, text("/no")), "-D /no")),
    ("pid", Dump(|o| o.pid = Some(-5), "--tree=-5")),
    ("pid", Dump(|o| o.pid = Some(0), "--tree=0")),
    ("pid", Dump(|o| o.pid = Some(29_999), "-t 29999")),
    ("leave_running", Any),
    ("ext_unix_sk", Any),
    ("tcp_established", Any),
    ("evasive_devices", Any),
    ("shell_job", Any),
    ("file_locks", Any),
    ("log_level", Any),
    ("log_file", By("a_log_file_with_a_slash")),
    ("ps", Dump(|o| o.ps = page_server(|p| p.port = Some(70_000)), "--page-server --port 70000")),
    ("ps", Dump(|o| o.ps = page_server(|p| p.port = Some(-1)), "--page-server --port=-1")),
    ("ps", Dump(|o| o.ps = page_server(|_| ()), "--page-server")),
    (
        "ps",
        Dump(
            |o| o.ps = page_server(|p| (p.address, p.port) = (text("127.0.0.1"), Some(9))),
            "--page-server --address 127.0.0.1 --port 9",
        ),
    ),
    ("ps", Dump(|o| o.ps = page_server(|p| p.fd = Some(-7)), "--ps-socket=-7")),
    ("ps", Dump(|o| o.ps = page_server(|p| p.fd = Some(77)), "--ps-socket 77")),
    ("notify_scripts", Any),
    ("root", Any),
    ("parent_img", Dump(|o| o.parent_img = text("nowhere"), "--prev-images-dir nowhere")),
    ("track_mem", Any),
    ("auto_dedup", Any),
    ("work_dir_fd", Dump(|o| o.work_dir_fd = Some(77), "-W FD77")),
    ("link_remap", Any),
    ("veths", Dump(|o| o.veths.push(veth("", "x")), "--veth-pair =x")),
    ("veths", Dump(|o| o.veths.push(veth("x", "")), "--veth-pair x=")),
    ("cpu_cap", Any),
    ("force_irmap", Any),
    ("exec_cmd", By("a_program_follows_the_restore")),
    ("ext_mnt", Dump(|o| o.ext_mnt.push(mount("", "x")), "--ext-mount-map :x")),
    ("ext_mnt", Restore(|o| o.ext_mnt.push(mount("x", "")), "--ext-mount-map x:")),
    ("manage_cgroups", Any),
    ("cg_root", Dump(|o| o.cg_root.push(cgroup(None, "foo")), "--cgroup-root foo")),
    ("cg_root", Dump(|o| o.cg_root.push(cgroup(Some("cpu"), "foo")), "--cgroup-root cpu:foo")),
    ("cg_root", Restore(|o| o.cg_root.push(cgroup(None, "")), "--cgroup-root=")),
    ("rst_sibling", By("a_restored_sibling_is_the_clients_child")),
    ("inherit_fd", Dump(|o| o.inherit_fd.push(inherit(0, "x")), "--inherit-fd fd[0]:x")),
    ("inherit_fd", Restore(|o| o.inherit_fd.push(inherit(-1, "x")), "--inherit-fd fd[-1]:x")),
    ("inherit_fd", Restore(|o| o.inherit_fd.push(inherit(1, "")), "--inherit-fd fd[1]:")),
    ("inherit_fd", Restore(|o| o.inherit_fd.push(inherit(77, "x")), "--inherit-fd fd[77]:x")),
    ("auto_ext_mnt", Any),
    ("ext_sharing", Any),
    ("ext_masters", Any),
    ("skip_mnt", Any),
    ("enable_fs", Any),
    ("unix_sk_ino", Any),
    ("manage_cgroups_mode", Dump(|o| o.manage_cgroups_mode = Some(17), "--manage-cgroups=17")),
    ("manage_cgroups_mode", Restore(|o| o.manage_cgroups_mode = Some(-1), "--manage-cgroups=-1")),
    ("ghost_limit", Any),
    ("irmap_scan_paths", Any),
    ("external", Any),
    ("empty_ns", Dump(|o| o.empty_ns = Some(0x0400_0000), "--empty-ns 0x4000000")),
    ("empty_ns", Restore(|o| o.empty_ns = Some(1), "--empty-ns 0x1")),
    (
        "empty_ns",
        Restore(
            |o| (o.empty_ns, o.join_ns) = (Some(0x4000_0000), vec![join("net", "/proc/1/ns/net")]),
            "--empty-ns net --join-ns net:/proc/1/ns/net",
        ),
    ),
    ("join_ns", Restore(|o| o.join_ns.push(join("foo", "1")), "--join-ns foo:1")),
    ("join_ns", Restore(|o| o.join_ns.push(join("net", "")), "--join-ns net:")),
    ("join_ns", Restore(|o| o.join_ns.push(join("pid", "1")), "--join-ns pid:1")),
    ("join_ns", Restore(|o| o.join_ns.push(join("net", "/no")), "--join-ns net:/no")),
    ("join_ns", Restore(|o| o.join_ns.push(join("uts", "29999")), "--join-ns uts:29999")),
    ("cgroup_props", Dump(|o| o.cgroup_props = text("{x"), "--cgroup-props {x")),
    ("cgroup_props_file", Dump(|o| o.cgroup_props_file = text("/no"), "--cgroup-props-file /no")),
    ("cgroup_dump_controller", Any),
    ("freeze_cgroup", Dump(|o| o.freeze_cgroup = text("/no"), "--freeze-cgroup /no")),
    ("timeout", Any),
    ("tcp_skip_in_flight", Any),
    ("weak_sysctls", Any),
    ("lazy_pages", Dump(|o| o.lazy_pages = Some(true), "--lazy-pages")),
    ("lazy_pages", PreDump(|o| o.lazy_pages = Some(true), "--lazy-pages")),
    ("lazy_pages", Restore(|o| o.lazy_pages = Some(true), "--lazy-pages")),
    ("status_fd", Any),
    ("orphan_pts_master", Any),
    ("config_file", Dump(|o| o.config_file = path("bad.conf"), "--config DIR/bad.conf")),
    ("tcp_close", Any),
    ("lsm_profile", Restore(|o| o.lsm_profile = text("foo"), "--lsm-profile foo")),
    ("lsm_profile", Dump(|o| o.lsm_profile = text("selinux:"), "--lsm-profile selinux:")),
    ("tls_cacert", Any),
    ("tls_cacrl", Any),
    ("tls_cert", Any),
    ("tls_key", Any),
    ("tls", Dump(|o| o.tls = Some(true), "--tls")),
    ("tls", Restore(|o| o.tls = Some(true), "--tls")),
    ("tls_no_cn_verify", Any),
    ("cgroup_yard", Any),
    ("pre_dump_mode", PreDump(|o| o.pre_dump_mode = Some(9), "--pre-dump-mode 9")),
    ("pidfd_store_sk", By("a_store_of_pidfds_is_a_socket")),
    ("lsm_mount_context", Any),
    ("network_lock", Dump(|o| o.network_lock = Some(9), "--network-lock 9")),
    ("mntns_compat_mode", Dump(|o| o.mntns_compat_mode = Some(true), "--mntns-compat-mode")),
    ("skip_file_rwx_check", Any),
    ("unprivileged", Any),
    ("leave_stopped", Any),
    ("display_stats", Any),
    ("log_to_stderr", Any),
];

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn path(name: &str) -> Option<String> {
    dir().join(name).to_str().map(str::to_owned)
}

#[expect(clippy::unnecessary_wraps, reason = "as the field takes it")]
fn page_server(change: fn(&mut CriuPageServerInfo)) -> Option<CriuPageServerInfo> {
    let mut server = CriuPageServerInfo::default();
    change(&mut server);
    Some(server)
}

fn veth(inner: &str, outer: &str) -> CriuVethPair {
    CriuVethPair { if_in: inner.into(), if_out: outer.into() }
}

fn mount(key: &str, val: &str) -> ExtMountMap {
    ExtMountMap { key: key.into(), val: val.into() }
}

fn cgroup(ctrl: Option<&str>, path: &str) -> CgroupRoot {
    CgroupRoot { ctrl: ctrl.map(str::to_owned), path: path.into() }
}

fn inherit(fd: i32, key: &str) -> InheritFd {
    InheritFd { key: key.into(), fd }
}

fn join(ns: &str, file: &str) -> JoinNamespace {
    JoinNamespace { ns: ns.into(), ns_file: file.into(), extra_opt: None }
}

/// The names between `begin` and the next closing brace, which come before an equals sign.
fn names(begin: &str) -> BTreeSet<&'static str> {
    let (_, body) = SCHEMA.split_once(begin).expect("in the schema");
    let (body, _) = body.split_once('}').expect("an end");
    let name = |line: &'static str| line.split_once(" =")?.0.split_whitespace().next_back();
    body.lines().filter_map(name).collect()
}

/// The first error of a command line.
fn by_command_line(command: &str, arguments: &str) -> String {
    let images = dir().join("images");
    let images = images.to_str().expect("utf-8");
    let fd = format!("/proc/{}/fd/77", std::process::id());
    let arguments = arguments.replace("DIR", dir().to_str().expect("utf-8")).replace("FD77", &fd);
    let tree = pid().to_string();
    let criu = std::env::var_os(crate::CRIU).expect("path of criu");
    let mut criu = Command::new(criu);
    criu.args([command, "-D", images]);
    match command {
        "restore" => criu.arg("-d"),
        _ => criu.args(["-t", &tree, "-R"]),
    };
    let ended = criu.args(arguments.split(' ')).output().expect("criu starts");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success(), "{command} {arguments}");
    let error = said.lines().find(|l| l.contains("Error (")).unwrap_or_else(|| panic!("{said}"));
    error.split_once("): ").map_or(error, |(_, text)| text).to_owned()
}

pub(crate) fn every_field_is_refused_in_the_command_lines_words() {
    std::fs::write(dir().join("bad.conf"), "network-lock foo\n").expect("config");
    let told: BTreeSet<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
    assert_eq!(told, names("message criu_opts {"), "fields without a case");
    let images = Images::open();
    let good = with(images.dump(), |o| o.leave_running = Some(true));
    for (field, shown) in FIELDS {
        let (kind, command, change, arguments) = match shown {
            Dump(change, arguments) => (CriuReqType::Dump, "dump", change, arguments),
            PreDump(change, arguments) => (CriuReqType::PreDump, "pre-dump", change, arguments),
            Restore(change, arguments) => (CriuReqType::Restore, "restore", change, arguments),
            Any => continue,
            By(test) => {
                assert!(crate::NAMES.contains(test), "{field}");
                continue;
            }
        };
        let mut opts = images.opts("fields.log");
        match kind {
            // Dumps that fail do not leave what others have left.
            CriuReqType::Restore => super::ok(&Client::start().ask(&good), CriuReqType::Dump),
            _ => (opts.pid, opts.leave_running) = (Some(pid()), Some(true)),
        }
        change(&mut opts);
        let response = Client::start().ask(&request(kind, opts));
        failed(&response, kind);
        let words = response.cr_errmsg.expect("an error");
        let want = by_command_line(command, arguments);
        let told = words == want || words.ends_with(&format!(": {want}"));
        println!("{field}: {words}");
        assert!(told, "{field}: {words:?}, with {arguments}: {want:?}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid())).expect("status");
        assert!(status.contains("TracerPid:\t0") && !status.contains("State:\tT"), "{field}");
    }
}

pub(crate) fn a_store_of_pidfds_is_a_socket() {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::os::fd::AsRawFd;
    let images = Images::open();
    let ask = |fd| {
        let request = with(images.dump(), |o| {
            (o.pidfd_store_sk, o.track_mem) = (Some(fd), Some(true));
        });
        let request = CriuReq { r#type: CriuReqType::SinglePreDump.into(), ..request };
        Client::start().ask(&request)
    };
    let file = std::fs::File::open("/dev/null").expect("/dev/null");
    let kind = SockType::Datagram;
    let alone = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    for fd in [-1, 77, file.as_raw_fd(), alone.as_raw_fd()] {
        let response = ask(fd);
        failed(&response, CriuReqType::SinglePreDump);
        let words = response.cr_errmsg.expect("an error");
        assert!(words.contains("pidfd_store_sk"), "{words}");
    }
    // As zdtm and go-criu make it: connected to itself by a name that the kernel has found.
    let name = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    nix::sys::socket::bind(name.as_raw_fd(), &UnixAddr::new_unnamed()).expect("bind");
    let at: UnixAddr = nix::sys::socket::getsockname(name.as_raw_fd()).expect("name");
    connect(alone.as_raw_fd(), &at).expect("connect");
    super::ok(&ask(alone.as_raw_fd()), CriuReqType::SinglePreDump);
    assert!(alive(pid()));
}

/// Without options, and types that nobody knows.
pub(crate) fn every_type_of_request_is_answered() {
    let known = names("enum criu_req_type {");
    for number in (0..=known.len() as i32).chain([-1, i32::MAX]) {
        let client = Client::start();
        let kind = CriuReqType::try_from(number).unwrap_or(CriuReqType::Empty);
        client.send(&CriuReq { r#type: number, ..bare(CriuReqType::Empty) });
        let response = client.receive().expect("an answer");
        let answered = match kind {
            CriuReqType::Notify => CriuReqType::Empty,
            CriuReqType::PageServerChld => CriuReqType::PageServer,
            kind => kind,
        };
        assert_eq!(response.r#type(), answered, "{number}: {response:?}");
        let good = matches!(kind, CriuReqType::Check | CriuReqType::Version);
        assert_eq!(response.success, good, "{number}: {response:?}");
        if !good {
            let words = response.cr_errmsg.expect("an error");
            let of_it = kind != CriuReqType::Empty || words.ends_with(&number.to_string());
            assert!(of_it || number == 0, "{number}: {words}");
            assert_ne!(response.cr_errno, Some(0), "{number}: {words}");
        }
        assert_eq!(client.end().success(), good, "{number}");
    }
}
