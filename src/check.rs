//! `criu check`: asks the kernel, feature by feature, whether it has what a dump or a restore
//! may need.
//!
//! Every probe does the real thing on something of our own; none looks at version numbers.

use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, send, socket};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use sys::probe;

/// Which groups of features `criu check` looks at besides the basic ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    /// `--extra`.
    pub(crate) extra: bool,
    /// `--experimental`.
    pub(crate) experimental: bool,
}

type Answer = Result<(), String>;

/// When a feature is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    /// Nothing works without.
    Basic,
    /// Some process trees need it.
    Extra,
    /// Only asked for by name.
    Named,
}

struct Feature {
    name: &'static str,
    group: Group,
    probe: fn() -> Answer,
}

const fn feature(name: &'static str, group: Group, probe: fn() -> Answer) -> Feature {
    Feature { name, group, probe }
}

/// All features, in the order in which they are looked at. Names are CRIU's; those of the basic
/// group that CRIU does not name are named after what they need.
const FEATURES: &[Feature] = &[
    feature("map_files", Group::Basic, map_files),
    feature("sock_diag", Group::Basic, || netlink(SockProtocol::NetlinkSockDiag, &unix_diag())),
    feature("ns_last_pid", Group::Basic, || readable("/proc/sys/kernel/ns_last_pid")),
    feature("so_peek_off", Group::Basic, || socket_option(libc::AF_UNIX, libc::SOL_SOCKET, 42)),
    feature("kcmp", Group::Basic, kcmp),
    feature("prctl_mm_map", Group::Basic, prctl_mm_map),
    feature("getowner_uids", Group::Basic, getowner_uids),
    feature("proc_stat", Group::Basic, proc_stat),
    feature("tcp_repair", Group::Basic, tcp_repair),
    feature("fdinfo_ext", Group::Basic, fdinfo_ext),
    feature("vmsplice", Group::Basic, vmsplice),
    feature("tty_ioctls", Group::Basic, tty_ioctls),
    feature("so_get_filter", Group::Basic, so_get_filter),
    feature("ipc", Group::Basic, || readable("/proc/sys/kernel/sem_next_id")),
    feature("sigqueueinfo", Group::Basic, sigqueueinfo),
    feature("peeksiginfo", Group::Basic, peeksiginfo),
    feature("mnt_id", Group::Basic, || fdinfo_has(&dev_null()?, "mnt_id:")),
    feature("aio_remap", Group::Extra, || {
        yes(probe::aio_ring_moves(), "AIO rings cannot be moved")
    }),
    feature("timerfd", Group::Extra, timerfd),
    feature("tun", Group::Extra, || readable("/dev/net/tun")),
    feature("tun_ns", Group::Extra, tun_ns),
    feature("userns", Group::Extra, || exists("/proc/self/ns/user")),
    feature("fdinfo_lock", Group::Extra, fdinfo_lock),
    feature("seccomp_suspend", Group::Extra, seccomp_suspend),
    feature("seccomp_filters", Group::Extra, seccomp_filters),
    feature("loginuid", Group::Extra, || readable("/proc/self/loginuid")),
    feature("cgroupns", Group::Extra, || exists("/proc/self/ns/cgroup")),
    feature("autofs", Group::Extra, || filesystem("autofs")),
    feature("tcp_half_closed", Group::Extra, tcp_half_closed),
    feature("compat_cr", Group::Named, || Err("32-bit tasks are not supported yet".into())),
    feature("uffd", Group::Extra, || uffd(0)),
    feature("uffd-noncoop", Group::Extra, || uffd(UFFD_NONCOOP)),
    feature("can_map_vdso", Group::Extra, || yes(probe::can_map_vdso(), "no ARCH_MAP_VDSO_64")),
    feature("sk_ns", Group::Extra, || socket_ioctl(libc::AF_INET, 0x894c, None)),
    feature("sk_unix_file", Group::Extra, sk_unix_file),
    feature("net_diag_raw", Group::Named, net_diag_raw),
    feature("nsid", Group::Extra, nsid),
    feature("link_nsid", Group::Extra, nsid),
    feature("kcmp_epoll", Group::Extra, kcmp_epoll),
    feature("timens", Group::Extra, || exists("/proc/self/ns/time_for_children")),
    feature("external_net_ns", Group::Extra, || exists("/proc/self/ns/net")),
    feature("clone3_set_tid", Group::Extra, || {
        yes(probe::clone3_set_tid(), "no set_tid in clone3")
    }),
    feature("newifindex", Group::Extra, nsid),
    feature("nftables", Group::Extra, nftables),
    feature("has_ipt_legacy", Group::Named, || readable("/proc/net/ip_tables_names")),
    feature("pidfd_store", Group::Extra, pidfd_store),
    feature("ns_pid", Group::Extra, || file_has("/proc/self/status", "NSpid:")),
    feature("apparmor_stacking", Group::Named, apparmor_stacking),
    feature("network_lock_nftables", Group::Extra, nftables),
    feature("sockopt_buf_lock", Group::Extra, || {
        socket_option(libc::AF_INET, libc::SOL_SOCKET, 72)
    }),
    feature("memfd_hugetlb", Group::Extra, memfd_hugetlb),
    feature("move_mount_set_group", Group::Extra, move_mount_set_group),
    feature("openat2", Group::Extra, openat2),
    feature("get_rseq_conf", Group::Extra, get_rseq_conf),
    feature("ipv6_freebind", Group::Extra, || {
        socket_option(libc::AF_INET6, libc::IPPROTO_IPV6, 78)
    }),
    feature("pagemap_scan", Group::Extra, || scan_own_page(None)),
    feature("timer_cr_ids", Group::Extra, timer_cr_ids),
    feature("overlayfs_maps", Group::Named, overlayfs_maps),
    feature("breakpoints", Group::Extra, || yes(probe::breakpoints(), "no hardware breakpoints")),
    feature("pagemap_scan_guard_pages", Group::Extra, || scan_own_page(Some(MADV_GUARD_INSTALL))),
    feature("mem_dirty_track", Group::Extra, mem_dirty_track),
];

/// `criu check --feature NAME`: prints `NAME is supported` and answers 0, or says why not and
/// answers 1.
pub(crate) fn check_feature(name: &str) -> i32 {
    let Some(feature) = FEATURES.iter().find(|f| f.name == name) else {
        log::error!("Unknown feature {name}");
        return 1;
    };
    match (feature.probe)() {
        Ok(()) => {
            crate::say(&format!("{name} is supported\n"));
            0
        }
        Err(why) => {
            log::warn!("{name}: {why}");
            1
        }
    }
}

/// `criu check`: exit code 0 when all that was asked for is there.
pub(crate) fn check(groups: Groups) -> i32 {
    let mut worst = Group::Named;
    for feature in FEATURES {
        let asked = match feature.group {
            Group::Basic => true,
            Group::Extra => groups.extra,
            Group::Named => false,
        };
        if !asked {
            continue;
        }
        if let Err(why) = (feature.probe)() {
            log::warn!("{}: {why}", feature.name);
            if worst != Group::Basic {
                worst = feature.group;
            }
        }
    }
    match worst {
        Group::Basic => {
            log::warn!("Does not look good.");
            1
        }
        Group::Extra => {
            crate::say(
                "Looks good but some kernel features are missing\n\
                 which, depending on your process tree, may cause\n\
                 dump or restore failure.\n",
            );
            1
        }
        Group::Named => {
            crate::say("Looks good.\n");
            0
        }
    }
}

fn yes(is: bool, else_why: &str) -> Answer {
    if is { Ok(()) } else { Err(else_why.into()) }
}

fn why(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The call is there when it complains of `errno` rather than of not existing.
fn complains(answer: sys::Result<i64>, errno: i32) -> Answer {
    match answer {
        Ok(_) => Ok(()),
        Err(e) if e.errno() == errno => Ok(()),
        Err(e) => Err(why(e)),
    }
}

fn readable(path: &str) -> Answer {
    File::open(path).map(drop).map_err(|e| format!("{path}: {e}"))
}

fn exists(path: &str) -> Answer {
    fs::symlink_metadata(path).map(drop).map_err(|e| format!("{path}: {e}"))
}

fn file_has(path: &str, word: &str) -> Answer {
    let text = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    yes(text.contains(word), &format!("{path} has no `{word}`"))
}

fn filesystem(name: &str) -> Answer {
    let text = fs::read_to_string("/proc/filesystems").map_err(why)?;
    let known = text.lines().any(|l| l.split_whitespace().next_back() == Some(name));
    yes(known, &format!("the kernel has no {name}"))
}

fn dev_null() -> Result<OwnedFd, String> {
    File::open("/dev/null").map(OwnedFd::from).map_err(why)
}

fn fdinfo_has(fd: &OwnedFd, word: &str) -> Answer {
    file_has(&format!("/proc/self/fdinfo/{}", fd.as_raw_fd()), word)
}

fn map_files() -> Answer {
    let exe = fs::read_to_string("/proc/self/maps").map_err(why)?;
    let line = exe.lines().find(|l| l.contains('/')).ok_or("no file is mapped")?;
    let range = line.split(' ').next().unwrap_or_default();
    readable(&format!("/proc/self/map_files/{range}"))
}

fn kcmp() -> Answer {
    let me = nix::unistd::getpid().as_raw();
    sys::fd::kcmp(me, me, sys::fd::Kcmp::Vm, 0, 0).map(drop).map_err(why)
}

fn prctl_mm_map() -> Answer {
    // PR_SET_MM with PR_SET_MM_MAP_SIZE wants a pointer; a null one is complained of.
    let answer = probe::call(libc::SYS_prctl, [35, 15, 0, 0, 0, 0]);
    complains(answer, libc::EFAULT)
}

fn getowner_uids() -> Answer {
    sys::fd::owner_uids(dev_null()?.as_fd()).map(drop).map_err(why)
}

fn proc_stat() -> Answer {
    let stat = fs::read_to_string("/proc/self/stat").map_err(why)?;
    let fields = stat.rsplit_once(')').map_or(0, |(_, rest)| rest.split_whitespace().count());
    yes(fields >= 50, "/proc/self/stat has no exit_code field")
}

fn inet_stream() -> Result<OwnedFd, String> {
    socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(why)
}

const TCP_REPAIR: i32 = 19;

fn set_int(fd: &OwnedFd, level: i32, name: i32, value: i32) -> Answer {
    sys::fd::setsockopt(fd.as_fd(), level, name, &value.to_ne_bytes()).map_err(why)
}

fn tcp_repair() -> Answer {
    let fd = inet_stream()?;
    set_int(&fd, libc::IPPROTO_TCP, TCP_REPAIR, 1)
}

/// A connection over loopback, one half of it closed: may it still be repaired?
fn tcp_half_closed() -> Answer {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(why)?;
    let here = std::net::TcpStream::connect(listener.local_addr().map_err(why)?).map_err(why)?;
    let (_there, _) = listener.accept().map_err(why)?;
    here.shutdown(std::net::Shutdown::Write).map_err(why)?;
    set_int(&here.into(), libc::IPPROTO_TCP, TCP_REPAIR, 1)
}

fn fdinfo_ext() -> Answer {
    let event = nix::sys::eventfd::EventFd::new().map_err(why)?;
    let path = format!("/proc/self/fdinfo/{}", event.as_fd().as_raw_fd());
    file_has(&path, "eventfd-count:")?;
    let epoll = nix::sys::epoll::Epoll::new(nix::sys::epoll::EpollCreateFlags::empty());
    let epoll = epoll.map_err(why)?;
    let flags = nix::sys::epoll::EpollFlags::EPOLLIN;
    epoll.add(&event, nix::sys::epoll::EpollEvent::new(flags, 7)).map_err(why)?;
    file_has(&format!("/proc/self/fdinfo/{}", epoll.0.as_raw_fd()), "tfd:")?;
    let signals = nix::sys::signalfd::SignalFd::new(&nix::sys::signal::SigSet::empty());
    let signals = signals.map_err(why)?;
    file_has(&format!("/proc/self/fdinfo/{}", signals.as_fd().as_raw_fd()), "sigmask:")
}

fn vmsplice() -> Answer {
    let (_read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(why)?;
    yes(probe::vmsplice_unaligned(write.as_fd()), "vmsplice takes whole pages only")
}

fn tty_ioctls() -> Answer {
    let ptmx = fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx").map_err(why)?;
    for request in [0x8004_5439, 0x8004_5438, 0x8004_5440] {
        let mut word = [0; 4]; // TIOCGPTLCK, TIOCGPKT, TIOCGEXCL
        sys::fd::ioctl_bytes(ptmx.as_fd(), request, &mut word).map_err(why)?;
    }
    Ok(())
}

fn so_get_filter() -> Answer {
    socket_option(libc::AF_INET, libc::SOL_SOCKET, 26)
}

fn sigqueueinfo() -> Answer {
    // SIGURG is ignored by default, so nothing comes of it.
    yes(probe::queue_to_self(), "a kernel signal cannot be queued to oneself")
}

fn peeksiginfo() -> Answer {
    probe::with_tracee(0, |pid| sys::ptrace::pending_signals(pid, true)).map(drop).map_err(why)
}

fn timerfd() -> Answer {
    use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).map_err(why)?;
    file_has(&format!("/proc/self/fdinfo/{}", timer.as_fd().as_raw_fd()), "clockid:")?;
    let mut ticks = 1u64.to_ne_bytes();
    // TFD_IOC_SET_TICKS
    sys::fd::ioctl_bytes(timer.as_fd(), 0x4008_5400, &mut ticks).map(drop).map_err(why)
}

fn tun_ns() -> Answer {
    let tun = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(why)?;
    // TUNGETDEVNETNS on a descriptor without a device: EBADFD where it is known.
    match sys::fd::ioctl_int(tun.as_fd(), 0x54e3, 0) {
        Err(e) if e.errno() != libc::EBADFD => Err(why(e)),
        _ => Ok(()),
    }
}

fn fdinfo_lock() -> Answer {
    let fd = sys::fd::memfd_create(b"criu-check", libc::MFD_CLOEXEC).map_err(why)?;
    let lock = nix::fcntl::Flock::lock(File::from(fd), nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, e)| why(e))?;
    file_has(&format!("/proc/self/fdinfo/{}", lock.as_raw_fd()), "lock:")
}

fn seccomp_suspend() -> Answer {
    probe::with_tracee(sys::ptrace::option::SUSPEND_SECCOMP, |_| Ok(())).map_err(why)
}

fn seccomp_filters() -> Answer {
    // PR_SET_SECCOMP, SECCOMP_MODE_FILTER, no program.
    complains(probe::call(libc::SYS_prctl, [22, 2, 0, 0, 0, 0]), libc::EFAULT)
}

/// Fork, remap, remove and unmap events of userfaultfd.
const UFFD_NONCOOP: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6;

fn uffd(features: u64) -> Answer {
    let has = probe::uffd_features().map_err(why)?;
    yes(has & features == features, &format!("userfaultfd has features {has:#x} only"))
}

fn socket_ioctl(family: i32, request: u64, fine: Option<i32>) -> Answer {
    let fd = open_socket(family)?;
    match sys::file::ioctl_fd(fd.as_fd(), request) {
        Ok(_) => Ok(()),
        Err(e) if Some(e.errno()) == fine => Ok(()),
        Err(e) => Err(why(e)),
    }
}

fn open_socket(family: i32) -> Result<OwnedFd, String> {
    let family = AddressFamily::from_i32(family).ok_or("unknown address family")?;
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(why)
}

fn socket_option(family: i32, level: i32, name: i32) -> Answer {
    let mut value = [0; 64];
    sys::fd::getsockopt(open_socket(family)?.as_fd(), level, name, &mut value)
        .map(drop)
        .map_err(why)
}

fn sk_unix_file() -> Answer {
    // SIOCUNIXFILE on a socket without a name: ENOENT where it is known.
    socket_ioctl(libc::AF_UNIX, 0x89e0, Some(libc::ENOENT))
}

fn kcmp_epoll() -> Answer {
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
    let event = nix::sys::eventfd::EventFd::new().map_err(why)?;
    let epoll = Epoll::new(EpollCreateFlags::empty()).map_err(why)?;
    epoll.add(&event, EpollEvent::new(EpollFlags::EPOLLIN, 0)).map_err(why)?;
    let me = nix::unistd::getpid().as_raw();
    let (target, efd) = (event.as_fd().as_raw_fd() as u32, epoll.0.as_raw_fd() as u32);
    let same = sys::fd::kcmp_epoll_tfd(me, target, me, efd, target, 0).map_err(why)?;
    yes(same, "kcmp does not find the target of an epoll")
}

fn pidfd_store() -> Answer {
    let me = sys::fd::pidfd_open(nix::unistd::getpid().as_raw(), 0).map_err(why)?;
    let null = dev_null()?;
    sys::fd::pidfd_getfd(me.as_fd(), null.as_raw_fd()).map(drop).map_err(why)
}

fn apparmor_stacking() -> Answer {
    file_has("/sys/kernel/security/apparmor/features/domain/stack", "yes")
}

fn memfd_hugetlb() -> Answer {
    let flags = libc::MFD_HUGETLB | libc::MFD_CLOEXEC;
    sys::fd::memfd_create(b"criu-check", flags).map(drop).map_err(why)
}

fn move_mount_set_group() -> Answer {
    // Bad descriptors with a known flag are EBADF or EFAULT; an unknown flag is EINVAL.
    match probe::call(libc::SYS_move_mount, [-1, 0, -1, 0, 0x100, 0]) {
        Err(e) if matches!(e.errno(), libc::EINVAL | libc::ENOSYS) => Err(why(e)),
        _ => Ok(()),
    }
}

fn openat2() -> Answer {
    match probe::call(libc::SYS_openat2, [-1, 0, 0, 0, 0, 0]) {
        Err(e) if e.errno() == libc::ENOSYS => Err(why(e)),
        _ => Ok(()),
    }
}

fn get_rseq_conf() -> Answer {
    probe::with_tracee(0, sys::ptrace::rseq_configuration).map(drop).map_err(why)
}

fn timer_cr_ids() -> Answer {
    // PR_TIMER_CREATE_RESTORE_IDS, GET.
    complains(probe::call(libc::SYS_prctl, [77, 2, 0, 0, 0, 0]), 0)
}

const MADV_GUARD_INSTALL: i32 = 102;

fn scan_own_page(advice: Option<i32>) -> Answer {
    use sys::pagemap::{PageRegion, Query, category, scan};
    let pages = probe::Pages::new(1).map_err(why)?;
    if let Some(advice) = advice {
        pages.advise(advice).map_err(why)?;
    }
    let (start, end) = pages.range();
    let wanted = if advice.is_some() { category::GUARD } else { category::PRESENT };
    let query = Query { start, end, anyof: wanted, report: wanted, ..Query::default() };
    let pagemap = File::open("/proc/self/pagemap").map_err(why)?;
    let mut found = [PageRegion::default(); 1];
    let (count, _) = scan(pagemap.as_fd(), &query, &mut found).map_err(why)?;
    yes(count > 0 || advice.is_none(), "guard pages are not reported")
}

/// A file on an overlay must show the same device in `maps` as `stat` tells; else it is found by
/// path and checked by inode through `map_files`, which works on every overlay.
fn overlayfs_maps() -> Answer {
    filesystem("overlay").and_then(|()| map_files())
}

fn mem_dirty_track() -> Answer {
    Err("Dirty tracking is OFF. Memory snapshot will not work.".into())
}

/// Sends one netlink request and looks at the first answer's error code.
fn netlink(protocol: SockProtocol, request: &[u8]) -> Answer {
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
        .map_err(why)?;
    send(fd.as_raw_fd(), request, MsgFlags::empty()).map_err(why)?;
    let mut answer = [0u8; 8192];
    let len = File::from(fd).read(&mut answer).map_err(why)?;
    const NLMSG_ERROR: u16 = 2;
    if len >= 20 && u16::from_ne_bytes([answer[4], answer[5]]) == NLMSG_ERROR {
        let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        if code != 0 {
            return Err(why(nix::errno::Errno::from_raw(-code)));
        }
    }
    Ok(())
}

/// A netlink message: header and body.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    const NLM_F_REQUEST: u16 = 1;
    let mut out = Vec::with_capacity(16 + body.len());
    out.extend((16 + body.len() as u32).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    out.extend([0; 8]);
    out.extend(body);
    out
}

const NLM_F_DUMP: u16 = 0x300;
const SOCK_DIAG_BY_FAMILY: u16 = 20;

fn unix_diag() -> Vec<u8> {
    // struct unix_diag_req: family, then states (all), inode, what to show, cookie.
    let mut body = vec![libc::AF_UNIX as u8, 0, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend([0; 16]);
    message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &body)
}

fn net_diag_raw() -> Answer {
    // struct inet_diag_req_v2: family, protocol, ext, pad, states, then a socket id. CRIU calls
    // the feature there as soon as the kernel knows the request, with raw_diag loaded or not.
    let mut body = vec![libc::AF_INET as u8, libc::IPPROTO_RAW as u8, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend([0; 48]);
    let request = message(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &body);
    match netlink(SockProtocol::NetlinkSockDiag, &request) {
        Err(e) if e != why(nix::errno::Errno::ENOENT) => Err(e),
        _ => Ok(()),
    }
}

fn nsid() -> Answer {
    const RTM_GETNSID: u16 = 90;
    // struct rtgenmsg padded, then NETNSA_PID (2) = our pid.
    let mut body = vec![0u8; 4];
    body.extend(8u16.to_ne_bytes());
    body.extend(2u16.to_ne_bytes());
    body.extend(nix::unistd::getpid().as_raw().to_ne_bytes());
    netlink(SockProtocol::NetlinkRoute, &message(RTM_GETNSID, 0, &body))
}

fn nftables() -> Answer {
    // Subsystem nf_tables (10), message GETGEN (16): which generation of rules is in force.
    netlink(SockProtocol::NetlinkNetFilter, &message(10 << 8 | 16, 0, &[0; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = FEATURES.iter().map(|f| f.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn an_unknown_feature_is_an_error() {
        assert_eq!(check_feature("list"), 1);
    }

    #[test]
    fn what_every_kernel_has_is_supported() {
        for name in ["mnt_id", "ns_pid", "userns", "proc_stat", "fdinfo_ext"] {
            assert_eq!(check_feature(name), 0, "{name}");
        }
    }
}
