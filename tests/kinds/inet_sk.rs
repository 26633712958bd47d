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

#[test]
fn netlink_and_raw_sockets_stay() {
    Subject::new("sk_options").stock_cannot_dump("needs the raw_diag module").check();
}

#[test]
fn options_stay_that_criu_has_no_room_for() {
    Subject::new("sk_options").args(&["options"]).lost_by_stock("no room in its images").check();
}
