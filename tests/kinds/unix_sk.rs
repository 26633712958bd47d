// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn socket_pairs_keep_their_queues() {
    Subject::new("unix_pair").check();
}

#[test]
fn descriptors_in_flight_arrive() {
    Subject::new("unix_rights").check();
}

#[test]
fn a_socket_in_its_own_queue_arrives() {
    Subject::new("unix_rights").args(&["itself"]).check();
}

#[test]
fn an_epoll_in_flight_arrives_with_its_targets() {
    Subject::new("unix_rights").args(&["epoll"]).check();
}

#[test]
fn named_sockets_stay_bound_and_connected() {
    Subject::new("unix_named").check();
}

#[test]
fn sockets_keep_a_deleted_name() {
    Subject::new("unix_named").args(&["deleted"]).check();
}

#[test]
fn pending_connections_can_be_accepted() {
    Subject::new("unix_named").args(&["pending"]).check();
}

#[test]
fn pending_connections_keep_what_was_written() {
    Subject::new("unix_named")
        .args(&["pending-data"])
        .refused("not accepted yet")
        .stock_cannot_dump("non-empty write queue on an in-flight socket")
        .check();
}

#[test]
fn queued_datagrams_keep_their_senders() {
    Subject::new("sk_options").args(&["senders"]).lost_by_stock("no room in its images").check();
}

#[test]
fn clients_outside_that_nobody_accepted_are_left_out_if_so_asked() {
    Subject::new("backlog")
        .flavour("host")
        .args(&["unix"])
        .dump_args(&["--skip-in-flight"])
        .check();
}

#[test]
fn clients_outside_that_nobody_accepted_are_refused() {
    let why = "it can be ignored with the --skip-in-flight option";
    Subject::new("backlog").flavour("host").args(&["unix", "waits"]).refused(why).check();
}
