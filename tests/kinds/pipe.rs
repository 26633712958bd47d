// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn pipes_keep_content_size_and_ends() {
    Subject::new("pipe").check();
}

#[test]
fn fifos_keep_content_and_modes() {
    Subject::new("fifo").check();
}

#[test]
fn deleted_fifos_come_back_deleted() {
    Subject::new("fifo").args(&["deleted"]).check();
}
