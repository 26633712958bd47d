// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn inotify_keeps_watch_numbers() {
    Subject::new("inotify").check();
}

#[test]
fn a_watch_goes_on_with_the_ghost_of_its_file() {
    Subject::new("inotify_deleted").check();
}

#[test]
fn watched_files_are_found_by_looking_for_them() {
    let scan = &["--force-irmap", "--irmap-scan-path", "/tmp"];
    Subject::new("inotify").dump_args(scan).check();
}
