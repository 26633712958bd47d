// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn tcp_listeners_and_udp_sockets_stay() {
    Subject::new("inet").check();
}

#[test]
fn udp_sockets_keep_their_ttl() {
    Subject::new("inet").args(&["ttl"]).check();
}
