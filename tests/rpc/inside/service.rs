// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Clients of `criu service`.

use super::{failed, ok};
use crate::client::{Client, Images, alive, bare, dir, pid, with};
use images::proto::{CriuReqType, InheritFd};

pub(crate) fn the_service_dumps_and_restores() {
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

pub(crate) fn the_service_has_clients_at_once() {
    let clients: Vec<_> = (0..5).map(|_| Client::connect()).collect();
    for client in clients.iter().rev() {
        ok(&client.ask(&bare(CriuReqType::Version)), CriuReqType::Version);
    }
    let client = Client::connect();
    client.send_bytes(b"garbage");
    drop(client);
    ok(&Client::connect().ask(&bare(CriuReqType::Version)), CriuReqType::Version);
}

pub(crate) fn the_service_knows_no_descriptors_of_clients() {
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
pub(crate) fn the_service_does_what_its_caller_may() {
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
