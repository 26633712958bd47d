//! `criu check`: asks the kernel, feature by feature, whether it has what a dump or a restore
//! may need.
//!
//! Every probe does the real thing on something of our own; none looks at version numbers.

mod child;
mod files;
mod net;
mod ns;
mod task;

use std::fs::{self, File};
use sys::probe;

/// Which groups of features `criu check` looks at besides the basic ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    /// `--extra`.
    pub(crate) extra: bool,
    /// `--experimental`.
    pub(crate) experimental: bool,
    /// `--unprivileged`: what only root can use is left out.
    pub(crate) unprivileged: bool,
}

type Answer = Result<(), String>;

/// When a feature is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    /// Nothing works without.
    Basic,
    /// Nothing of root's works without; for others the kernel refuses it everywhere.
    Root,
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
    feature("map_files", Group::Basic, task::map_files),
    feature("sock_diag", Group::Basic, net::unix_diag),
    feature("ns_last_pid", Group::Basic, || readable("/proc/sys/kernel/ns_last_pid")),
    feature("so_peek_off", Group::Basic, || {
        net::socket_option(libc::AF_UNIX, libc::SOL_SOCKET, 42)
    }),
    feature("kcmp", Group::Basic, task::kcmp),
    feature("prctl_mm_map", Group::Basic, task::prctl_mm_map),
    feature("getowner_uids", Group::Basic, files::getowner_uids),
    feature("proc_stat", Group::Basic, task::proc_stat),
    feature("tcp_repair", Group::Root, net::tcp_repair),
    feature("fdinfo_ext", Group::Basic, files::fdinfo_ext),
    feature("vmsplice", Group::Basic, files::vmsplice),
    feature("tty_ioctls", Group::Basic, files::tty_ioctls),
    feature("so_get_filter", Group::Basic, net::so_get_filter),
    feature("ipc", Group::Basic, || readable("/proc/sys/kernel/sem_next_id")),
    feature("sigqueueinfo", Group::Basic, task::sigqueueinfo),
    feature("peeksiginfo", Group::Basic, task::peeksiginfo),
    feature("vdso_moves", Group::Basic, || yes(probe::vdso_moves(), "the vDSO cannot be moved")),
    feature("mnt_id", Group::Basic, || files::fdinfo_has(&files::dev_null()?, "mnt_id:")),
    feature("aio_remap", Group::Extra, || {
        yes(probe::aio_ring_moves(), "AIO rings cannot be moved")
    }),
    feature("timerfd", Group::Extra, files::timerfd),
    feature("tun", Group::Extra, || readable("/dev/net/tun")),
    feature("tun_ns", Group::Extra, files::tun_ns),
    feature("userns", Group::Extra, ns::userns),
    feature("fdinfo_lock", Group::Extra, files::fdinfo_lock),
    feature("seccomp_suspend", Group::Extra, task::seccomp_suspend),
    feature("seccomp_filters", Group::Extra, task::seccomp_filters),
    feature("loginuid", Group::Extra, || readable("/proc/self/loginuid")),
    feature("cgroupns", Group::Extra, ns::cgroupns),
    feature("autofs", Group::Extra, ns::autofs),
    feature("tcp_half_closed", Group::Extra, net::tcp_half_closed),
    feature("compat_cr", Group::Named, || Err("32-bit tasks are not supported yet".into())),
    feature("uffd", Group::Extra, || task::uffd(0)),
    feature("uffd-noncoop", Group::Extra, || task::uffd(task::UFFD_NONCOOP)),
    feature("can_map_vdso", Group::Extra, || yes(probe::can_map_vdso(), "no ARCH_MAP_VDSO_64")),
    feature("sk_ns", Group::Extra, net::sk_ns),
    feature("sk_unix_file", Group::Extra, net::sk_unix_file),
    feature("net_diag_raw", Group::Named, net::net_diag_raw),
    feature("nsid", Group::Extra, net::nsid),
    feature("link_nsid", Group::Extra, ns::link_nsid),
    feature("kcmp_epoll", Group::Extra, task::kcmp_epoll),
    feature("timens", Group::Extra, ns::timens),
    feature("external_net_ns", Group::Extra, ns::external_net_ns),
    feature("clone3_set_tid", Group::Extra, || {
        yes(probe::clone3_set_tid(), "no set_tid in clone3")
    }),
    feature("newifindex", Group::Extra, ns::newifindex),
    feature("nftables", Group::Extra, net::nftables),
    feature("has_ipt_legacy", Group::Named, || readable("/proc/net/ip_tables_names")),
    feature("pidfd_store", Group::Extra, task::pidfd_store),
    feature("ns_pid", Group::Extra, || file_has("/proc/self/status", "NSpid:")),
    feature("apparmor_stacking", Group::Named, files::apparmor_stacking),
    feature("network_lock_nftables", Group::Extra, ns::network_lock_nftables),
    feature("sockopt_buf_lock", Group::Extra, || {
        net::socket_option(libc::AF_INET, libc::SOL_SOCKET, 72)
    }),
    feature("memfd_hugetlb", Group::Extra, task::memfd_hugetlb),
    feature("move_mount_set_group", Group::Extra, files::move_mount_set_group),
    feature("openat2", Group::Extra, files::openat2),
    feature("get_rseq_conf", Group::Extra, task::get_rseq_conf),
    feature("ipv6_freebind", Group::Extra, || {
        net::socket_option(libc::AF_INET6, libc::IPPROTO_IPV6, 78)
    }),
    feature("pagemap_scan", Group::Extra, || task::scan_own_page(None)),
    feature("timer_cr_ids", Group::Extra, task::timer_cr_ids),
    feature("overlayfs_maps", Group::Extra, ns::overlayfs_maps),
    feature("breakpoints", Group::Extra, || yes(probe::breakpoints(), "no hardware breakpoints")),
    feature("pagemap_scan_guard_pages", Group::Extra, || {
        task::scan_own_page(Some(task::MADV_GUARD_INSTALL))
    }),
    feature("mem_dirty_track", Group::Extra, mem_dirty_track),
];

/// What can be asked for by name.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    FEATURES.iter().map(|f| f.name)
}

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

/// Whether a feature is there.
pub(crate) fn has(name: &str) -> bool {
    let Some(feature) = FEATURES.iter().find(|f| f.name == name) else { return false };
    match (feature.probe)() {
        Ok(()) => true,
        Err(why) => {
            log::warn!("{name}: {why}");
            false
        }
    }
}

/// `criu check`: exit code 0 when all that was asked for is there.
pub(crate) fn check(groups: Groups) -> i32 {
    let mut worst = Group::Named;
    for feature in FEATURES {
        let asked = match feature.group {
            Group::Basic => true,
            Group::Root => !groups.unprivileged,
            Group::Extra => groups.extra,
            Group::Named => false,
        };
        if !asked {
            continue;
        }
        if let Err(why) = (feature.probe)() {
            log::warn!("{}: {why}", feature.name);
            if !matches!(worst, Group::Basic | Group::Root) {
                worst = feature.group;
            }
        }
    }
    match worst {
        Group::Basic | Group::Root => {
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

fn readable(path: &str) -> Answer {
    File::open(path).map(drop).map_err(|e| format!("{path}: {e}"))
}

fn file_has(path: &str, word: &str) -> Answer {
    let text = fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    yes(text.contains(word), &format!("{path} has no `{word}`"))
}

/// Whether we can tell which memory changed since the last dump, tried on our own.
pub(crate) fn mem_dirty_track() -> Answer {
    let off = "Dirty tracking is OFF. Memory snapshot will not work.";
    dumper::tracking().map(drop).map_err(|why| format!("{off} ({why})"))
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
