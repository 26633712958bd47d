// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The clients' halves: run by the tests of the same names, in their sandboxes.

use crate::client::{Client, Images, alive, bare, dir, pid, request, with};
use images::proto::{CriuFeatures, CriuOpts, CriuReq, CriuReqType, CriuResp, InheritFd};
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::fs;

mod engine;
mod fields;
mod fuzz;
mod pages;
mod service;

pub(crate) use engine::*;
pub(crate) use fields::*;
pub(crate) use fuzz::*;
pub(crate) use pages::*;
pub(crate) use service::*;

fn ok(response: &CriuResp, kind: CriuReqType) {
    assert_eq!(response.r#type(), kind, "{response:?}");
    assert!(response.success, "{response:?}");
}

fn failed(response: &CriuResp, kind: CriuReqType) {
    assert_eq!(response.r#type(), kind, "{response:?}");
    assert!(!response.success, "{response:?}");
}

fn dumped() -> Images {
    let images = Images::open();
    let client = Client::start();
    let response = client.ask(&images.dump());
    ok(&response, CriuReqType::Dump);
    assert!(client.end().success());
    assert!(!alive(pid()));
    images
}

fn restored(images: &Images) {
    let client = Client::start();
    let response = client.ask(&images.restore());
    ok(&response, CriuReqType::Restore);
    assert_eq!(response.restore.map(|r| r.pid), Some(pid()));
    assert!(client.end().success());
}

fn is_ours() -> bool {
    let client = Client::start();
    let response = client.ask(&bare(CriuReqType::Version));
    response.version.expect("version").name.is_some_and(|name| name.starts_with("Amber"))
}

pub(crate) fn a_version_tells_what_criu_it_is() {
    let client = Client::start();
    let opts = CriuOpts { images_dir_fd: -1, ..CriuOpts::default() };
    let response = client.ask(&request(CriuReqType::Version, opts));
    ok(&response, CriuReqType::Version);
    let version = response.version.expect("version");
    assert_eq!((version.major_number, version.minor_number), (4, 2));
    assert!(client.end().success());
}

pub(crate) fn several_requests_on_one_connection() {
    let client = Client::start();
    let version = CriuReq { keep_open: Some(true), ..bare(CriuReqType::Version) };
    for _ in 0..3 {
        ok(&client.ask(&version), CriuReqType::Version);
    }
    let features = CriuReq {
        features: Some(CriuFeatures { lazy_pages: Some(true), ..CriuFeatures::default() }),
        keep_open: Some(true),
        ..bare(CriuReqType::FeatureCheck)
    };
    ok(&client.ask(&features), CriuReqType::FeatureCheck);
    ok(&client.ask(&bare(CriuReqType::Version)), CriuReqType::Version);
    assert_eq!(client.receive(), None);
}

pub(crate) fn a_dump_and_a_restore() {
    let images = dumped();
    assert!(dir().join("images/inventory.img").exists());
    assert!(dir().join("images/stats-dump").exists());
    restored(&images);
    assert!(dir().join("images/stats-restore").exists());
}

pub(crate) fn a_tree_left_running() {
    let images = Images::open();
    let client = Client::start();
    let dump = with(images.dump(), |o| o.leave_running = Some(true));
    let response = client.ask(&dump);
    ok(&response, CriuReqType::Dump);
    assert_eq!(response.dump.and_then(|d| d.restored), Some(false));
    assert!(alive(pid()));
}

pub(crate) fn notifications_come_in_order() {
    let images = Images::open();
    let mut seen = Vec::new();
    let mut note = |n: &images::proto::CriuNotify| {
        seen.push((n.script().to_owned(), n.pid));
        true
    };
    let client = Client::start();
    let dump = with(images.dump(), |o| o.notify_scripts = Some(true));
    ok(&client.call(&dump, &mut note), CriuReqType::Dump);
    let client = Client::start();
    let restore = with(images.restore(), |o| o.notify_scripts = Some(true));
    ok(&client.call(&restore, &mut note), CriuReqType::Restore);
    let want = [
        ("pre-dump", None),
        ("query-ext-files", None),
        ("post-dump", None),
        ("pre-restore", None),
        ("post-restore", Some(pid())),
        ("pre-resume", None),
        ("post-resume", None),
    ];
    let want: Vec<_> = want.into_iter().map(|(name, pid)| (name.to_owned(), pid)).collect();
    // It tells this also when there is no network of the tree's own to be unlocked.
    seen.retain(|(name, _)| name != "network-unlock");
    assert_eq!(seen, want);
}

fn refused(at: &str) -> CriuResp {
    let images = Images::open();
    let client = Client::start();
    let dump = with(images.dump(), |o| o.notify_scripts = Some(true));
    let response = client.call(&dump, |n| n.script() != at);
    failed(&response, CriuReqType::Dump);
    assert_eq!(client.end().code(), Some(1));
    assert!(alive(pid()));
    response
}

pub(crate) fn a_refused_pre_dump_harms_nobody() {
    refused("pre-dump");
}

pub(crate) fn a_refused_post_dump_harms_nobody() {
    let words = refused("post-dump").cr_errmsg.expect("an error");
    assert!(words.contains("post-dump"), "{words}");
}

pub(crate) fn a_refused_query_of_external_files_harms_nobody() {
    refused("query-ext-files");
}

/// Whoever has told how long a dump may take is not waited for without an end; who has not, is.
pub(crate) fn a_notification_without_an_answer_ends() {
    let images = Images::open();
    for at in ["query-ext-files", "post-dump"] {
        let client = Client::start();
        let begun = std::time::Instant::now();
        client.send(&with(images.dump(), |o| {
            (o.notify_scripts, o.timeout) = (Some(true), Some(1));
        }));
        let response = loop {
            let response = client.receive().expect("an answer");
            match response.notify.as_ref().map(|n| n.script().to_owned()) {
                Some(script) if script == at => {}
                Some(_) => client
                    .send(&CriuReq { notify_success: Some(true), ..bare(CriuReqType::Notify) }),
                None => break response,
            }
        };
        failed(&response, CriuReqType::Dump);
        let words = response.cr_errmsg.expect("an error");
        assert!(words.contains(at) && words.contains("no answer for 6 s"), "{words}");
        assert!(begun.elapsed() < std::time::Duration::from_secs(15));
        assert_eq!(client.end().code(), Some(1));
        assert!(alive(pid()));
    }
}

/// Before anything is frozen it may take its time.
pub(crate) fn a_late_answer_is_one() {
    let images = Images::open();
    let client = Client::start();
    let dump = with(images.dump(), |o| (o.notify_scripts, o.timeout) = (Some(true), Some(1)));
    let response = client.call(&dump, |n| {
        let seconds = if n.script() == "pre-dump" { 7 } else { 2 };
        std::thread::sleep(std::time::Duration::from_secs(seconds));
        true
    });
    ok(&response, CriuReqType::Dump);
    restored(&images);
}

pub(crate) fn a_refused_post_restore_leaves_nothing() {
    let images = dumped();
    let client = Client::start();
    let restore = with(images.restore(), |o| o.notify_scripts = Some(true));
    let response = client.call(&restore, |n| n.script() != "post-restore");
    failed(&response, CriuReqType::Restore);
    assert_eq!(response.restore.map(|r| r.pid), Some(-1));
    assert!(!alive(pid()));
    restored(&images);
}

pub(crate) fn a_restored_sibling_is_the_clients_child() {
    let images = dumped();
    let client = Client::start();
    let restore = with(images.restore(), |o| o.rst_sibling = Some(true));
    ok(&client.ask(&restore), CriuReqType::Restore);
    client.end();
    waitpid(Pid::from_raw(pid()), Some(WaitPidFlag::WNOHANG)).expect("a child of ours");
}

pub(crate) fn nobody_to_dump() {
    let client = Client::start();
    let images = Images::open();
    let response = client.ask(&with(images.dump(), |o| o.pid = Some(29_999)));
    failed(&response, CriuReqType::Dump);
    assert_eq!(response.cr_errno, Some(Errno::ESRCH as i32));
    assert!(response.cr_errmsg.is_some());
}

/// Each is told what is wrong with it, and nobody is harmed.
pub(crate) fn a_pid_that_cannot_be_dumped() {
    let images = Images::open();
    let ended = std::process::Command::new("true").spawn().expect("true");
    let zombie = ended.id().cast_signed();
    ends(zombie);
    let me = std::process::id().cast_signed();
    let thread = nix::unistd::gettid().as_raw();
    assert_ne!(thread, me, "tests run in threads");
    for (pid, words) in [
        (Some(zombie), "is a zombie"),
        (Some(thread), "is a thread of process"),
        (Some(me), "The criu itself is within dumped tree"),
        // Whoever gives no pid wants to be dumped itself: not while it has criu for a child.
        (None, "The criu itself is within dumped tree"),
    ] {
        let client = Client::start();
        let response = client.ask(&with(images.dump(), |o| o.pid = pid));
        failed(&response, CriuReqType::Dump);
        let told = response.cr_errmsg.expect("an error");
        assert!(told.contains(words), "{pid:?}: {told}");
        assert_eq!(client.end().code(), Some(1));
    }
    drop(ended);
}

fn ends(pid: i32) {
    while alive(pid) {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

pub(crate) fn a_pid_in_use() {
    let images = Images::open();
    let client = Client::start();
    let dump = with(images.dump(), |o| o.leave_running = Some(true));
    ok(&client.ask(&dump), CriuReqType::Dump);
    let client = Client::start();
    let response = client.ask(&images.restore());
    failed(&response, CriuReqType::Restore);
    assert_eq!(response.cr_errno, Some(Errno::EEXIST as i32));
}

pub(crate) fn no_images_directory() {
    let images = Images::open();
    for fd in [-1, 77] {
        let client = Client::start();
        let response = client.ask(&with(images.dump(), |o| o.images_dir_fd = fd));
        failed(&response, CriuReqType::Dump);
        if is_ours() {
            let words = response.cr_errmsg.expect("an error");
            assert!(words.contains("images_dir") || words.contains("/fd/77"), "{words}");
        }
    }
}

pub(crate) fn a_log_file_with_a_slash() {
    let images = Images::open();
    let client = Client::start();
    let response = client.ask(&with(images.dump(), |o| o.log_file = Some("../x.log".into())));
    failed(&response, CriuReqType::Dump);
    assert_eq!(response.cr_errno, Some(Errno::EBADRQC as i32));
    assert!(!dir().join("x.log").exists());
}

pub(crate) fn a_config_file_wins() {
    let images = Images::open();
    let client = Client::start();
    let config = dir().join("my.conf");
    fs::write(&config, "leave-running\nlog-file other.log\n").expect("config");
    let config = config.to_str().expect("utf-8").to_owned();
    let dump = with(images.dump(), |o| {
        o.config_file = Some(config);
        o.leave_running = Some(false);
    });
    ok(&client.ask(&dump), CriuReqType::Dump);
    assert!(alive(pid()));
    assert!(dir().join("images/other.log").exists());
    assert!(!dir().join("images/dump.log").exists());
}

/// Engines have no field for it: this is how a dump of theirs is compressed.
pub(crate) fn a_config_file_compresses() {
    for (line, image) in [("compress zstd:3", "pages-1.img.zst"), ("compress", "pages-1.img.lz4")] {
        let images = Images::open();
        let config = dir().join("compress.conf");
        fs::write(&config, format!("{line}\ncompress-threads 2\n")).expect("config");
        let config = config.to_str().expect("utf-8").to_owned();
        let dump = with(images.dump(), |o| o.config_file = Some(config));
        ok(&Client::start().ask(&dump), CriuReqType::Dump);
        assert!(!alive(pid()));
        assert!(dir().join("images").join(image).exists(), "{line}");
        assert!(!dir().join("images/pages-1.img").exists(), "{line}");
        restored(&images);
        fs::remove_dir_all(dir().join("images")).expect("images");
        fs::create_dir(dir().join("images")).expect("images");
    }
}

pub(crate) fn a_config_file_that_is_not_there() {
    let images = Images::open();
    let client = Client::start();
    let dump = with(images.dump(), |o| {
        o.config_file = Some("/nowhere/at/all.conf".into());
        o.leave_running = Some(true);
    });
    ok(&client.ask(&dump), CriuReqType::Dump);
}

pub(crate) fn garbage_is_answered() {
    for bytes in [&b"\xff\xff\xff\xff garbage"[..], b"\x08", b"\x12\x7f\x08\x01"] {
        let client = Client::start();
        client.send_bytes(bytes);
        failed(&client.receive().expect("an answer"), CriuReqType::Empty);
        assert!(!client.end().success());
    }
}

pub(crate) fn a_stray_answer_is_refused() {
    for kind in [CriuReqType::Empty, CriuReqType::Notify] {
        let client = Client::start();
        failed(&client.ask(&bare(kind)), CriuReqType::Empty);
        assert!(!client.end().success());
    }
}

pub(crate) fn features_are_probed() {
    let client = Client::start();
    let features =
        CriuFeatures { lazy_pages: Some(true), pidfd_store: Some(true), mem_track: None };
    let asked = CriuReq { features: Some(features), ..bare(CriuReqType::FeatureCheck) };
    let response = client.ask(&asked);
    ok(&response, CriuReqType::FeatureCheck);
    let features = response.features.expect("features");
    assert_eq!(features.lazy_pages, Some(true));
    assert_eq!(features.pidfd_store, Some(true));
}

pub(crate) fn a_check() {
    let client = Client::start();
    let images = Images::open();
    let response = client.ask(&request(CriuReqType::Check, images.opts("check.log")));
    ok(&response, CriuReqType::Check);
}

pub(crate) fn a_client_that_hangs_up_before_the_end_harms_nobody() {
    let images = Images::open();
    let client = Client::start();
    client.send(&images.dump());
    assert_eq!(client.end().code(), Some(1));
    assert!(alive(pid()));
}

pub(crate) fn a_client_that_hangs_up_while_notified_harms_nobody() {
    for at in ["pre-dump", "query-ext-files", "post-dump"] {
        let images = Images::open();
        let client = Client::start();
        client.send(&with(images.dump(), |o| o.notify_scripts = Some(true)));
        loop {
            let notify = client.receive().expect("a notification").notify.expect("a notification");
            if notify.script() == at {
                break;
            }
            let answer = CriuReq { notify_success: Some(true), ..bare(CriuReqType::Notify) };
            client.send(&answer);
        }
        assert_eq!(client.end().code(), Some(1), "{at}");
        assert!(alive(pid()), "{at}");
    }
}

pub(crate) fn a_client_that_hangs_up_during_a_restore() {
    let images = dumped();
    let client = Client::start();
    client.send(&images.restore());
    assert_eq!(client.end().code(), Some(1));
    assert!(!alive(pid()));
    restored(&images);
}

pub(crate) fn cpuinfo_is_written_and_compared() {
    let images = Images::open();
    let client = Client::start();
    for kind in [CriuReqType::CpuinfoDump, CriuReqType::CpuinfoCheck] {
        let mut request = request(kind, images.opts("cpu.log"));
        request.keep_open = Some(true);
        ok(&client.ask(&request), kind);
    }
    assert!(dir().join("images/cpuinfo.img").exists());
}

pub(crate) fn what_is_not_built_is_refused_by_name() {
    let images = Images::open();
    let client = Client::start();
    let dump = with(images.dump(), |o| o.lazy_pages = Some(true));
    let response = client.ask(&dump);
    failed(&response, CriuReqType::Dump);
    let words = response.cr_errmsg.expect("an error");
    assert_eq!(words, "not supported yet: --lazy-pages");
    assert!(alive(pid()));
}

pub(crate) fn restored_tasks_do_not_have_our_descriptors() {
    let fds = || {
        let entries = fs::read_dir(format!("/proc/{}/fd", pid())).expect("fds");
        let mut all: Vec<_> = entries
            .map(|e| {
                let e = e.expect("fd");
                (e.file_name(), fs::read_link(e.path()).expect("link"))
            })
            .collect();
        all.sort();
        all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let before = fds();
    let images = dumped();
    let client = Client::start();
    let spare = fs::File::open("/dev/null").expect("/dev/null");
    let restore = with(images.restore(), |o| {
        o.rst_sibling = Some(true);
        o.inherit_fd.push(InheritFd { key: "pipe:[1]".into(), fd: 0 });
    });
    ok(&client.ask(&restore), CriuReqType::Restore);
    client.end();
    drop(spare);
    assert_eq!(fds(), before);
}

pub(crate) fn a_program_follows_the_restore() {
    let images = dumped();
    let client = Client::start();
    let restore = with(images.restore(), |o| {
        o.exec_cmd = vec!["/bin/sh".into(), "-c".into(), "echo it runs; exit 7".into()];
    });
    ok(&client.ask(&restore), CriuReqType::Restore);
    assert_eq!(client.end().code(), Some(7));
    let log = fs::read_to_string(dir().join("images/restore.log")).expect("log");
    assert!(log.lines().any(|line| line == "it runs"), "{log}");
}
