// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Clients of `criu service`.

use super::{failed, ok};
use crate::client::{Client, Images, alive, bare, dir, pid, with};
use images::proto::{CriuFeatures, CriuReq, CriuReqType, InheritFd};

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
    become_somebody();
    let response = Client::connect().ask(&images.dump());
    failed(&response, CriuReqType::Dump);
    assert!(alive(pid()));
    assert!(!dir().join("images/inventory.img").exists());
    ok(&Client::connect().ask(&bare(CriuReqType::Version)), CriuReqType::Version);
}

/// What the service may not try for this caller is not held against the machine.
pub(crate) fn the_service_checks_for_anybody() {
    let features = |client: &Client| {
        let asked =
            CriuFeatures { mem_track: Some(true), lazy_pages: Some(true), pidfd_store: Some(true) };
        let response =
            client.ask(&CriuReq { features: Some(asked), ..bare(CriuReqType::FeatureCheck) });
        ok(&response, CriuReqType::FeatureCheck);
        response.features.expect("features")
    };
    ok(&Client::connect().ask(&bare(CriuReqType::Check)), CriuReqType::Check);
    let of_root = features(&Client::connect());
    become_somebody();
    ok(&Client::connect().ask(&bare(CriuReqType::Check)), CriuReqType::Check);
    let mine = features(&Client::connect());
    // Events of others' memory are for who may trace them all.
    assert_eq!(CriuFeatures { lazy_pages: of_root.lazy_pages, ..mine }, of_root);
}

/// This process is only a client from here on.
fn become_somebody() {
    nix::unistd::setgroups(&[]).expect("setgroups");
    nix::unistd::setresgid(1234.into(), 1234.into(), 1234.into()).expect("setresgid");
    nix::unistd::setresuid(1234.into(), 1234.into(), 1234.into()).expect("setresuid");
    // As after an exec: what is ours is open to us.
    sys::task::prctl(nix::libc::PR_SET_DUMPABLE, [1, 0, 0, 0]).expect("prctl");
}

/// A tree of his own is dumped and comes back with no rights but his.
pub(crate) fn the_service_dumps_and_restores_a_callers_own() {
    become_somebody();
    the_service_dumps_and_restores();
}

/// The service knows who asks by the kernel's word, also from another pid namespace: without a
/// pid it is the caller who is dumped, whatever number he has for himself. Numbers that are sent
/// are those of the service.
pub(crate) fn the_service_has_a_client_in_another_pid_namespace() {
    let images = Images::open();
    let ask = with(images.dump(), |o| o.leave_running = Some(true));
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID).expect("unshare");
    let child = sys::worker::fork(|| {
        assert_eq!(std::process::id(), 1);
        let response = Client::connect().ask(&ask);
        ok(&response, CriuReqType::Dump);
        i32::from(!std::path::Path::new(&dir().join("images/inventory.img")).exists())
    });
    assert_eq!(child.and_then(sys::worker::wait).expect("the client"), 0);
    assert!(alive(pid()));
}
