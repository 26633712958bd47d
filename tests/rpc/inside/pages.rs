// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests about memory: page servers, pre-dumps.

use super::{failed, ok};
use crate::client::{Client, Images, alive, bare, dir, pid, request, with};
use images::proto::{CriuPageServerInfo, CriuReq, CriuReqType, CriuResp};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;

/// Starts a page server into DIR/ps.
fn page_server(client: &Client, kind: CriuReqType, keep_open: bool) -> CriuPageServerInfo {
    fs::create_dir_all(dir().join("ps")).expect("directory");
    let at = File::open(dir().join("ps")).expect("directory");
    let opts = with(request(kind, Images::open().opts("ps.log")), |o| {
        o.images_dir_fd = at.as_raw_fd();
    });
    let response = client.ask(&CriuReq { keep_open: Some(keep_open), ..opts });
    // CRIU answers both requests like this.
    ok(&response, CriuReqType::PageServer);
    let server = response.ps.expect("pid and port");
    assert!(server.port() > 0, "{server:?}");
    // Stock does not tell the pid of one that is not its child.
    assert!(server.pid() > 0 || kind == CriuReqType::PageServer && !super::is_ours());
    kill(Pid::from_raw(server.pid()), None).expect("it runs");
    server
}

/// Dumps to a page server; contents come to be there only.
fn dump_to(server: &CriuPageServerInfo) {
    let images = Images::open();
    let dump = with(images.dump(), |o| {
        o.ps = Some(CriuPageServerInfo {
            address: Some("127.0.0.1".into()),
            port: server.port,
            ..CriuPageServerInfo::default()
        });
    });
    ok(&Client::start().ask(&dump), CriuReqType::Dump);
    let pages = |name: &str| {
        let all = fs::read_dir(dir().join(name)).expect("images");
        all.filter(|e| {
            e.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().starts_with("pages-"))
        })
        .count()
    };
    assert_eq!(pages("images"), 0);
    assert!(pages("ps") > 0);
}

/// Puts both halves together and restores.
fn restored() {
    for entry in fs::read_dir(dir().join("ps")).expect("images") {
        let entry = entry.expect("image");
        fs::copy(entry.path(), dir().join("images").join(entry.file_name())).expect("copy");
    }
    super::restored(&Images::open());
}

pub(crate) fn a_page_server_outlives_the_one_that_started_it() {
    let client = Client::start();
    let server = page_server(&client, CriuReqType::PageServer, false);
    assert!(client.end().success());
    dump_to(&server);
    if !super::is_ours() {
        // It says that all is written before it is, and not who it is.
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    while server.pid() > 0 && alive(server.pid()) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    restored();
}

pub(crate) fn a_page_server_is_a_child_that_is_waited_for() {
    let client = Client::start();
    let server = page_server(&client, CriuReqType::PageServerChld, true);
    dump_to(&server);
    let wait = CriuReq { pid: server.pid.map(i32::cast_unsigned), ..bare(CriuReqType::WaitPid) };
    let response: CriuResp = client.ask(&wait);
    ok(&response, CriuReqType::WaitPid);
    assert_eq!(response.status, Some(0), "{response:?}");
    restored();
}

pub(crate) fn a_page_server_where_nobody_may_listen() {
    let client = Client::start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("address").port();
    for kind in [CriuReqType::PageServer, CriuReqType::PageServerChld] {
        let images = Images::open();
        let ask = with(request(kind, images.opts("ps.log")), |o| {
            o.ps = Some(CriuPageServerInfo {
                address: Some("127.0.0.1".into()),
                port: Some(port.into()),
                ..CriuPageServerInfo::default()
            });
        });
        let response = client.ask(&CriuReq { keep_open: Some(true), ..ask });
        failed(&response, CriuReqType::PageServer);
    }
}

pub(crate) fn nobody_to_wait_for() {
    for pid in [None, Some(1), Some(0), Some(u32::MAX)] {
        let client = Client::start();
        let response = client.ask(&CriuReq { pid, ..bare(CriuReqType::WaitPid) });
        failed(&response, CriuReqType::WaitPid);
    }
}

/// As p.haul and go-criu's phaul do it: on one connection, and the dump in the end.
pub(crate) fn pre_dumps_and_a_dump_on_one_connection() {
    let client = Client::start();
    let dirs: Vec<_> = (0..3)
        .map(|n| {
            let path = dir().join(format!("chain{n}"));
            fs::create_dir(&path).expect("directory");
            File::open(path).expect("directory")
        })
        .collect();
    let images = Images::open();
    for (n, at) in dirs.iter().enumerate() {
        let kind = if n < 2 { CriuReqType::PreDump } else { CriuReqType::Dump };
        let ask = with(request(kind, images.opts("dump.log")), |o| {
            o.images_dir_fd = at.as_raw_fd();
            o.pid = Some(pid());
            o.track_mem = Some(true);
            o.parent_img = n.checked_sub(1).map(|parent| format!("../chain{parent}"));
        });
        ok(&client.ask(&ask), kind);
        assert_eq!(alive(pid()), n < 2);
    }
    assert!(client.end().success());
    let restore = with(images.restore(), |o| o.images_dir_fd = dirs[2].as_raw_fd());
    ok(&Client::start().ask(&restore), CriuReqType::Restore);
}

/// As crun does it: one request, one connection.
pub(crate) fn a_single_pre_dump() {
    let images = Images::open();
    let client = Client::start();
    let ask = with(images.dump(), |o| o.track_mem = Some(true));
    let ask = CriuReq { r#type: CriuReqType::SinglePreDump.into(), ..ask };
    ok(&client.ask(&ask), CriuReqType::SinglePreDump);
    assert_eq!(client.receive(), None);
    assert!(alive(pid()));
}
