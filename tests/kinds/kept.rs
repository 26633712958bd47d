// SPDX-License-Identifier: Apache-2.0 OR MIT
//! State that is easily lost without a word: kept, or refused by name.

use crate::Subject;
use crate::support::{Criu, LIMIT, Sandbox, dump, has_capability, skip};
use std::path::Path;

fn kept(what: &'static str) -> Subject {
    Subject::new("kept").args(&[what])
}

fn socket(what: &'static str) -> Subject {
    Subject::new("sk_kept")
        .args(&[what])
        .dump_args(&["--tcp-established"])
        .restore_args(&["--tcp-established"])
}

const NO_FIELD: &str = "its images have no field for it";

#[test]
fn settings_by_prctl() {
    for what in ["mdwe", "merge", "io_flusher", "speculation", "tsc", "mce_kill"] {
        kept(what).lost_by_stock(NO_FIELD).check();
    }
}

#[test]
fn settings_that_stock_keeps_too() {
    for what in ["membarrier", "cancel_on_set", "pipe_size", "mlocked", "session_ring"] {
        kept(what).check();
    }
}

#[test]
fn names_and_seals_of_memory() {
    for what in ["anon_name", "mseal"] {
        kept(what).lost_by_stock(NO_FIELD).check();
    }
}

#[test]
fn what_is_mapped_later_is_locked_as_before() {
    for what in ["mcl_future", "mcl_onfault"] {
        kept(what).lost_by_stock("forgets it").check();
    }
}

#[test]
fn memory_comes_from_the_same_nodes() {
    kept("mempolicy").lost_by_stock("forgets it").check();
}

#[test]
fn parents_hear_of_ends_by_the_same_signal() {
    kept("exit_signal").lost_by_stock("it is SIGCHLD then").check();
}

#[test]
fn semaphores_get_back_what_is_to_be_undone() {
    kept("undo").flavour("ipc").lost_by_stock("undo lists are lost").check();
}

#[test]
fn what_is_not_saved_is_told() {
    // The subject finds it lost.
    for (what, check) in [
        ("autogroup", "grep -q \"autogroup, 7, is not saved\" images0/dump.log"),
        ("inotify_queue", "grep -q \"unread inotify events will be dropped\" images0/dump.log"),
    ] {
        Subject::new("kept")
            .args(&[what, "lost"])
            .between(check)
            .lost_by_stock("without a word, or with others")
            .check();
    }
}

#[test]
fn undo_lists_of_semaphores_outside_are_refused() {
    kept("undo").flavour("host").refused("to be undone at its end (SEM_UNDO)").check();
}

#[test]
fn tasks_in_a_landlock_domain_are_refused() {
    for flavour in ["host", "ns", "uns"] {
        kept("landlock").flavour(flavour).refused("restricted itself by Landlock").check();
        kept("unrestricted").flavour(flavour).other_user().check();
    }
}

#[test]
fn keys_of_a_process_are_refused() {
    kept("process_key").refused("keys in its process keyring").check();
}

#[test]
fn memberships_of_multicast_groups() {
    for what in ["group4", "group4_source", "group6"] {
        socket(what).lost_by_stock("forgets them").check();
    }
}

#[test]
fn keys_that_sign_segments() {
    socket("md5").lost_by_stock("forgets them").check();
}

#[test]
fn options_of_listeners() {
    for what in ["fastopen", "maxseg", "window_clamp", "incoming_cpu"] {
        socket(what).lost_by_stock(NO_FIELD).check();
    }
}

#[test]
fn options_of_datagram_sockets() {
    for what in ["udp_gro", "txtime"] {
        socket(what).lost_by_stock(NO_FIELD).check();
    }
    socket("device").check();
}

#[test]
fn sockets_bound_to_addresses_of_others() {
    socket("transparent").lost_by_stock("cannot bind").check();
}

#[test]
fn ports_stay_shared() {
    socket("reuseport").check();
}

/// What Go's `net.Listen` makes since 1.24.
#[test]
fn listeners_for_multipath_tcp() {
    for flavour in ["host", "ns"] {
        socket("mptcp").flavour(flavour).lost_by_stock("refuses proto 262").check();
    }
}

#[test]
fn sockets_of_other_protocols_are_refused() {
    socket("mptcp_connected").refused("MPTCP connection").check();
    socket("ulp").refused("upper layer protocol tls").check();
    socket("other_ns").refused("external network namespace").check();
}

#[test]
fn descriptors_of_unsaved_kinds_are_refused_by_name() {
    let all = [
        ("io_uring", "kernel.io_uring_disabled=2 or seccomp"),
        ("userfaultfd", "userfaultfd"),
        ("bpf_map", "BPF maps"),
        ("bpf_prog", "BPF object"),
        ("bpf_filter", "eBPF filter"),
        ("perf_event", "perf event"),
        ("memfd_secret", "secret memory"),
        ("vsock", "vsock"),
        ("netlink_queue", "unread messages"),
        ("seccomp_notify", "seccomp listener"),
        ("fsopen", "file system context"),
        ("corked", "corked"),
    ];
    for (what, words) in all {
        Subject::new("refused").args(&[what]).refused(words).check();
    }
    kept("landlock_fd").refused("landlock ruleset").check();
    kept("dispatch").refused("PR_SET_SYSCALL_USER_DISPATCH").check();
}

#[test]
fn hard_limits_above_ours_are_told() {
    const CAP_SYS_RESOURCE: u32 = 24;
    if has_capability(CAP_SYS_RESOURCE) || Criu::ours_is_stock() {
        return skip("capped limits", "with CAP_SYS_RESOURCE none is");
    }
    let sandbox = Sandbox::new("capped");
    let pid = sandbox.start_subject("", "kept", &["pipe_size"]);
    let images = sandbox.make_images();
    dump(&sandbox, &Criu::ours(), &pid, &images, &[]).expect("dump");
    sandbox.empty().expect("dumped");
    let restore = "ulimit -n 700; exec \"$0\" restore -v4 -o restore.log -D images -d";
    let criu = Criu::ours().path;
    let args = ["-c", restore, criu.to_str().expect("utf-8")];
    let ended = sandbox.run(Path::new("/bin/bash"), &args, "restore.out");
    let log = std::fs::read_to_string(images.join("restore.log")).unwrap_or_default();
    assert!(ended.success(), "{log}");
    assert!(log.contains("the hard limit RLIMIT_NOFILE becomes 700"), "{log}");
    sandbox.go();
    assert_eq!(sandbox.hear(&["ok", "bad"], LIMIT).as_deref(), Some("ok"));
}
