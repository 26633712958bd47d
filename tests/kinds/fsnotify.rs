// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn inotify_keeps_watch_numbers() {
    Subject::new("inotify").check();
}
