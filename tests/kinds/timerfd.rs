// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn timerfd_ticks_on() {
    Subject::new("timerfd").check();
}

#[test]
fn timerfd_counts_what_was_not_read() {
    Subject::new("timerfd")
        .args(&["unread"])
        .stock_cannot_dump("reads 1 tick: the kernel counts the others when asked for them")
        .check();
}
