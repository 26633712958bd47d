// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The clients' halves: run by the tests of the same names, in their sandboxes.

use crate::client::{Client, Images, alive, bare, dir, pid, request, with};
use images::proto::{CriuFeatures, CriuOpts, CriuReq, CriuReqType, CriuResp, InheritFd};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::fs;

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

#[test]
#[ignore = "the client's half"]
fn a_version_tells_what_criu_it_is() {
    let client = Client::start();
    let opts = CriuOpts { images_dir_fd: -1, ..CriuOpts::default() };
    let response = client.ask(&request(CriuReqType::Version, opts));
    ok(&response, CriuReqType::Version);
    let version = response.version.expect("version");
    assert_eq!((version.major_number, version.minor_number), (4, 2));
    assert!(client.end().success());
}

#[test]
#[ignore = "the client's half"]
fn several_requests_on_one_connection() {
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

#[test]
#[ignore = "the client's half"]
fn a_dump_and_a_restore() {
    let images = dumped();
    assert!(dir().join("images/inventory.img").exists());
    assert!(dir().join("images/stats-dump").exists());
    restored(&images);
    assert!(dir().join("images/stats-restore").exists());
}

#[test]
#[ignore = "the client's half"]
fn a_tree_left_running() {
    let images = Images::open();
    let client = Client::start();
    let dump = with(images.dump(), |o| o.leave_running = Some(true));
    let response = client.ask(&dump);
    ok(&response, CriuReqType::Dump);
    assert_eq!(response.dump.and_then(|d| d.restored), Some(false));
    assert!(alive(pid()));
}

#[test]
#[ignore = "the client's half"]
fn notifications_come_in_order() {
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

#[test]
#[ignore = "the client's half"]
fn a_refused_pre_dump_harms_nobody() {
    refused("pre-dump");
}

#[test]
#[ignore = "the client's half"]
fn a_refused_post_dump_harms_nobody() {
    let words = refused("post-dump").cr_errmsg.expect("an error");
    assert!(words.contains("post-dump"), "{words}");
}

#[test]
#[ignore = "the client's half"]
fn a_refused_query_of_external_files_harms_nobody() {
    refused("query-ext-files");
}

#[test]
#[ignore = "the client's half"]
fn a_refused_post_restore_leaves_nothing() {
    let images = dumped();
    let client = Client::start();
    let restore = with(images.restore(), |o| o.notify_scripts = Some(true));
    let response = client.call(&restore, |n| n.script() != "post-restore");
    failed(&response, CriuReqType::Restore);
    assert_eq!(response.restore.map(|r| r.pid), Some(-1));
    assert!(!alive(pid()));
    restored(&images);
}

#[test]
#[ignore = "the client's half"]
fn a_restored_sibling_is_the_clients_child() {
    let images = dumped();
    let client = Client::start();
    let restore = with(images.restore(), |o| o.rst_sibling = Some(true));
    ok(&client.ask(&restore), CriuReqType::Restore);
    client.end();
    waitpid(Pid::from_raw(pid()), Some(WaitPidFlag::WNOHANG)).expect("a child of ours");
}

#[test]
#[ignore = "the client's half"]
fn nobody_to_dump() {
    let client = Client::start();
    let images = Images::open();
    let response = client.ask(&with(images.dump(), |o| o.pid = Some(29_999)));
    failed(&response, CriuReqType::Dump);
    assert_eq!(response.cr_errno, Some(Errno::ESRCH as i32));
    assert!(response.cr_errmsg.is_some());
}

#[test]
#[ignore = "the client's half"]
fn a_pid_in_use() {
    let images = Images::open();
    let client = Client::start();
    let dump = with(images.dump(), |o| o.leave_running = Some(true));
    ok(&client.ask(&dump), CriuReqType::Dump);
    let client = Client::start();
    let response = client.ask(&images.restore());
    failed(&response, CriuReqType::Restore);
    assert_eq!(response.cr_errno, Some(Errno::EEXIST as i32));
}

#[test]
#[ignore = "the client's half"]
fn no_images_directory() {
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

#[test]
#[ignore = "the client's half"]
fn a_log_file_with_a_slash() {
    let images = Images::open();
    let client = Client::start();
    let response = client.ask(&with(images.dump(), |o| o.log_file = Some("../x.log".into())));
    failed(&response, CriuReqType::Dump);
    assert_eq!(response.cr_errno, Some(Errno::EBADRQC as i32));
    assert!(!dir().join("x.log").exists());
}

#[test]
#[ignore = "the client's half"]
fn a_config_file_wins() {
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

#[test]
#[ignore = "the client's half"]
fn a_config_file_that_is_not_there() {
    let images = Images::open();
    let client = Client::start();
    let dump = with(images.dump(), |o| {
        o.config_file = Some("/nowhere/at/all.conf".into());
        o.leave_running = Some(true);
    });
    ok(&client.ask(&dump), CriuReqType::Dump);
}

#[test]
#[ignore = "the client's half"]
fn garbage_is_answered() {
    for bytes in [&b"\xff\xff\xff\xff garbage"[..], b"\x08", b"\x12\x7f\x08\x01"] {
        let client = Client::start();
        client.send_bytes(bytes);
        failed(&client.receive().expect("an answer"), CriuReqType::Empty);
        assert!(!client.end().success());
    }
}

#[test]
#[ignore = "the client's half"]
fn a_stray_answer_is_refused() {
    for kind in [CriuReqType::Empty, CriuReqType::Notify] {
        let client = Client::start();
        failed(&client.ask(&bare(kind)), CriuReqType::Empty);
        assert!(!client.end().success());
    }
}

#[test]
#[ignore = "the client's half"]
fn features_are_probed() {
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

#[test]
#[ignore = "the client's half"]
fn a_check() {
    let client = Client::start();
    let images = Images::open();
    let response = client.ask(&request(CriuReqType::Check, images.opts("check.log")));
    ok(&response, CriuReqType::Check);
}

#[test]
#[ignore = "the client's half"]
fn a_client_that_hangs_up_before_the_end_harms_nobody() {
    let images = Images::open();
    let client = Client::start();
    client.send(&images.dump());
    assert_eq!(client.end().code(), Some(1));
    assert!(alive(pid()));
}

#[test]
#[ignore = "the client's half"]
fn a_client_that_hangs_up_while_notified_harms_nobody() {
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

#[test]
#[ignore = "the client's half"]
fn a_client_that_hangs_up_during_a_restore() {
    let images = dumped();
    let client = Client::start();
    client.send(&images.restore());
    assert_eq!(client.end().code(), Some(1));
    assert!(!alive(pid()));
    restored(&images);
}

#[test]
#[ignore = "the client's half"]
fn cpuinfo_is_written_and_compared() {
    let images = Images::open();
    let client = Client::start();
    for kind in [CriuReqType::CpuinfoDump, CriuReqType::CpuinfoCheck] {
        let mut request = request(kind, images.opts("cpu.log"));
        request.keep_open = Some(true);
        ok(&client.ask(&request), kind);
    }
    assert!(dir().join("images/cpuinfo.img").exists());
}

#[test]
#[ignore = "the client's half"]
fn what_is_not_built_is_refused_by_name() {
    let images = Images::open();
    let client = Client::start();
    let dump = with(images.dump(), |o| o.lazy_pages = Some(true));
    let response = client.ask(&dump);
    failed(&response, CriuReqType::Dump);
    let words = response.cr_errmsg.expect("an error");
    assert_eq!(words, "not supported yet: --lazy-pages");
    assert!(alive(pid()));
}

#[test]
#[ignore = "the client's half"]
fn restored_tasks_do_not_have_our_descriptors() {
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

#[test]
#[ignore = "the client's half"]
fn a_program_follows_the_restore() {
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

/// Starts the subject on a terminal whose master stays with us, as an engine does.
fn on_a_terminal(program: &std::path::Path) -> (std::process::Child, std::os::fd::OwnedFd) {
    use std::process::Stdio;
    let pty = nix::pty::openpty(None, None).expect("openpty");
    for end in [&pty.master, &pty.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("F_SETFD");
    }
    let path = nix::unistd::ttyname(&pty.slave).expect("ttyname");
    let open = || fs::File::options().read(true).write(true).open(&path).expect("slave");
    // Nothing else of ours is to be seen in it.
    let line = r#"for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ "$fd" -lt 3 ] || eval "exec $fd>&-"; done
        exec setsid --ctty --wait "$@""#;
    let mut command = std::process::Command::new("bash");
    command.args(["-c", line, "bash"]).arg(program).arg(dir());
    command.stdin(open()).stdout(open()).stderr(Stdio::from(open()));
    (command.spawn().expect("setsid"), pty.master)
}

#[test]
#[ignore = "the client's half"]
fn the_console_of_a_container() {
    use nix::unistd::{read, write};
    let subject = std::path::PathBuf::from(std::env::var_os(crate::CONSOLE).expect("console"));
    let (mut setsid, master) = on_a_terminal(&subject);
    let heard = loop {
        let text = fs::read_to_string(dir().join("state")).unwrap_or_default();
        if text.ends_with('\n') {
            break text;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let pid: i32 = heard.trim().strip_prefix("ready ").expect("ready").parse().expect("pid");
    let images = Images::open();
    let opts =
        CriuOpts { pid: Some(pid), orphan_pts_master: Some(true), ..images.opts("dump.log") };
    let client = Client::start();
    ok(&client.ask(&request(CriuReqType::Dump, opts)), CriuReqType::Dump);
    drop(client);
    setsid.wait().expect("setsid ends");
    // The number of the terminal is free again.
    drop(master);
    let client = Client::start();
    client.send(&with(images.restore(), |o| {
        (o.orphan_pts_master, o.notify_scripts) = (Some(true), Some(true));
    }));
    let mut master = None;
    let response = loop {
        let (response, fd) = client.receive_fd();
        let Some(notify) = &response.notify else { break response };
        if notify.script() == "orphan-pts-master" {
            assert!(fd.is_some(), "no descriptor came");
            master = fd;
        }
        let agreed = CriuReq {
            r#type: CriuReqType::Notify.into(),
            notify_success: Some(true),
            ..CriuReq::default()
        };
        client.send(&agreed);
    };
    ok(&response, CriuReqType::Restore);
    let master = master.expect("a master was handed over");
    write(&master, b"hello\n").expect("write");
    let mut heard = Vec::new();
    let mut buf = [0u8; 256];
    while !contains(&heard, b"got hello\r\n") {
        let n = read(&master, &mut buf).expect("read");
        heard.extend(&buf[..n]);
    }
    // In the foreground of its controlling terminal: the terminal's interrupt reaches it.
    write(&master, b"\x03").expect("write");
    while !contains(&heard, b"interrupted\r\n") {
        let n = read(&master, &mut buf).expect("read");
        heard.extend(&buf[..n]);
    }
}

fn contains(heard: &[u8], words: &[u8]) -> bool {
    heard.windows(words.len()).any(|w| w == words)
}

/// Both ends of what the subject shares with us.
struct Shared {
    to: std::os::fd::OwnedFd,
    from: std::os::fd::OwnedFd,
    both: std::os::unix::net::UnixStream,
}

/// Gives a command its halves as standard descriptors.
fn share(command: &mut std::process::Command) -> Shared {
    let cloexec = nix::fcntl::OFlag::O_CLOEXEC;
    let (input, to) = nix::unistd::pipe2(cloexec).expect("pipe");
    let (from, output) = nix::unistd::pipe2(cloexec).expect("pipe");
    let (both, theirs) = std::os::unix::net::UnixStream::pair().expect("socketpair");
    command.stdin(input).stdout(output).stderr(std::os::fd::OwnedFd::from(theirs));
    Shared { to, from, both }
}

#[test]
#[ignore = "the client's half"]
fn standard_descriptors_of_an_engine() {
    use std::io::{Read, Write};
    let program = std::env::var_os(crate::INHERITED).expect("subject");
    let line = r#"for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ "$fd" -lt 3 ] || eval "exec $fd>&-"; done
        exec setsid --fork "$@""#;
    let mut command = std::process::Command::new("bash");
    command.args(["-c", line, "bash"]).arg(program).arg(dir());
    let old = share(&mut command);
    let mut shell = command.spawn().expect("bash");
    drop(command);
    shell.wait().expect("bash ends");
    let said = loop {
        let text = fs::read_to_string(dir().join("state")).unwrap_or_default();
        if text.lines().count() == 4 {
            break text;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let numbers: Vec<u32> =
        said.lines().map(|l| l.split(' ').nth(1).expect("word").parse().expect("number")).collect();
    let [pid, input, output, both] = numbers[..] else { panic!("{said}") };
    let images = Images::open();
    let opts = CriuOpts {
        pid: Some(pid.cast_signed()),
        external: vec![format!("unix[{both}]")],
        ..images.opts("dump.log")
    };
    let client = Client::start();
    ok(&client.ask(&request(CriuReqType::Dump, opts)), CriuReqType::Dump);
    drop(client);
    drop(old);
    let mut new = None;
    let client = Client::start_with(|command| new = Some(share(command)));
    let restore = with(images.restore(), |o| {
        let keys =
            [format!("pipe:[{input}]"), format!("pipe:[{output}]"), format!("socket:[{both}]")];
        o.inherit_fd = keys.into_iter().zip(0..).map(|(key, fd)| InheritFd { key, fd }).collect();
    });
    ok(&client.ask(&restore), CriuReqType::Restore);
    client.end();
    let Shared { to, from, mut both } = new.expect("started");
    nix::unistd::write(&to, b"hello\n").expect("write");
    let mut buf = [0u8; 6];
    assert_eq!(nix::unistd::read(&from, &mut buf), Ok(6));
    assert_eq!(&buf, b"hello\n");
    both.write_all(b"again\n").expect("write");
    both.read_exact(&mut buf).expect("read");
    assert_eq!(&buf, b"again\n");
}

#[test]
#[ignore = "the client's half"]
fn the_service_dumps_and_restores() {
    let images = Images::open();
    let client = Client::connect();
    ok(&client.ask(&images.dump()), CriuReqType::Dump);
    assert_eq!(client.receive(), None);
    assert!(!alive(pid()));
    let client = Client::connect();
    let response = client.ask(&images.restore());
    ok(&response, CriuReqType::Restore);
    assert_eq!(response.restore.map(|r| r.pid), Some(pid()));
}

#[test]
#[ignore = "the client's half"]
fn the_service_has_clients_at_once() {
    let clients: Vec<_> = (0..5).map(|_| Client::connect()).collect();
    for client in clients.iter().rev() {
        ok(&client.ask(&bare(CriuReqType::Version)), CriuReqType::Version);
    }
    let client = Client::connect();
    client.send_bytes(b"garbage");
    drop(client);
    ok(&Client::connect().ask(&bare(CriuReqType::Version)), CriuReqType::Version);
}

#[test]
#[ignore = "the client's half"]
fn the_service_knows_no_descriptors_of_clients() {
    let images = Images::open();
    let response = Client::connect().ask(&with(images.restore(), |o| o.rst_sibling = Some(true)));
    failed(&response, CriuReqType::Restore);
    let words = response.cr_errmsg.expect("an error");
    assert!(words.contains("rst_sibling: is not allowed in standalone service"), "{words}");
    let inherit = InheritFd { key: "pipe:[1]".into(), fd: 0 };
    let response = Client::connect().ask(&with(images.restore(), |o| o.inherit_fd.push(inherit)));
    failed(&response, CriuReqType::Restore);
}

/// Root's task is not dumped for others, and root's directory not written to.
#[test]
#[ignore = "the client's half"]
fn the_service_does_what_its_caller_may() {
    let images = Images::open();
    // This process is only a client from here on.
    nix::unistd::setgroups(&[]).expect("setgroups");
    nix::unistd::setresgid(1234.into(), 1234.into(), 1234.into()).expect("setresgid");
    nix::unistd::setresuid(1234.into(), 1234.into(), 1234.into()).expect("setresuid");
    let response = Client::connect().ask(&images.dump());
    failed(&response, CriuReqType::Dump);
    assert!(alive(pid()));
    assert!(!dir().join("images/inventory.img").exists());
    ok(&Client::connect().ask(&bare(CriuReqType::Version)), CriuReqType::Version);
}
