// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn packet_sockets_with_their_rings_stay() {
    Subject::new("packet_sock").check();
}

#[test]
fn packet_sockets_stay_in_namespaces() {
    Subject::new("packet_sock").flavour("ns").check();
}

#[test]
fn packet_sockets_stay_in_a_user_namespace() {
    Subject::new("packet_sock").flavour("uns").check();
}

#[test]
fn double_memberships_and_further_options_stay() {
    let why = "refuses who is in a group twice";
    Subject::new("packet_sock").args(&["more"]).lost_by_stock(why).check();
}
