// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn inotify_keeps_watch_numbers() {
    Subject::new("inotify").check();
}

#[test]
fn a_watch_goes_on_with_the_ghost_of_its_file() {
    let why = "what it does with the ghost itself is told as events";
    Subject::new("inotify_deleted").stock_cannot_restore(why).check();
}

#[test]
fn watched_files_are_found_by_looking_for_them() {
    let scan = &["--force-irmap", "--irmap-scan-path", crate::support::tmp()];
    Subject::new("inotify").dump_args(scan).check();
}

#[test]
fn a_watch_in_another_mount_namespace_goes_on() {
    Subject::new("inotify_mnt").flavour("pid,mnt").check();
}

#[test]
fn fanotify_keeps_its_marks() {
    Subject::new("fanotify").flavour("host").check();
}

#[test]
fn fanotify_keeps_its_marks_in_mounts_of_its_own() {
    Subject::new("fanotify").flavour("pid,mnt").check();
}

#[test]
fn fanotify_hears_nothing_of_the_restore() {
    let why = "what it opens is told as events";
    let opens = Subject::new("fanotify").args(&["opens"]).flavour("host");
    opens.stock_cannot_restore(why).check();
}

#[test]
fn fanotify_that_is_asked_for_permission_is_refused() {
    Subject::new("fanotify").args(&["permission"]).refused("asked for permission").check();
}
