// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn epoll_keeps_targets_and_data() {
    Subject::new("epoll").check();
}

#[test]
fn epoll_watches_a_file_whose_number_was_closed() {
    Subject::new("epoll").args(&["closed"]).check();
}
