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

const SKIP: [&str; 1] = ["--skip-in-flight"];
const UP: &str = "ip link set lo up";

#[test]
fn connections_that_nobody_accepted_are_left_out_if_so_asked() {
    Subject::new("backlog").flavour("host").prepare(UP).args(&["tcp"]).dump_args(&SKIP).check();
}

#[test]
fn connections_that_nobody_accepted_are_refused() {
    let why = "In-flight connections can be ignored with the --skip-in-flight option";
    Subject::new("backlog")
        .flavour("host")
        .prepare(UP)
        .args(&["tcp", "waits"])
        .refused(why)
        .check();
}
