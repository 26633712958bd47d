// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

/// The device, where the test's /dev has none.
const DEVICE: &str = "mkdir -p dev/net; [ -e dev/net/tun ] || mknod -m 666 dev/net/tun c 10 200";

#[test]
fn tun_devices_stay_with_their_queues() {
    Subject::new("tun").flavour("ns").prepare(DEVICE).check();
}

#[test]
fn tun_devices_stay_in_a_network_namespace_alone() {
    Subject::new("tun").flavour("pid,net").check();
}

#[test]
fn tun_devices_of_the_host_are_refused() {
    Subject::new("tun")
        .flavour("host")
        .refused("of the host: the tree has no network namespace of its own")
        .check();
}

#[test]
fn send_buffers_of_tun_devices_stay() {
    let why = "sets it before anybody is attached";
    Subject::new("tun").args(&["sndbuf"]).flavour("pid,net").stock_cannot_restore(why).check();
}
