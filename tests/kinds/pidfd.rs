// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn pidfds_of_self_and_children_stay() {
    Subject::new("pidfd").check();
}

#[test]
fn pidfds_of_the_dead_stay() {
    Subject::new("pidfd").args(&["dead"]).check();
}
