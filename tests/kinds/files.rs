// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn signalfd_keeps_its_mask() {
    Subject::new("signalfd").check();
}

#[test]
fn timerfd_ticks_on() {
    Subject::new("timerfd").check();
}

#[test]
fn inotify_keeps_watch_numbers() {
    Subject::new("inotify").check();
}

#[test]
fn descriptors_keep_their_owner() {
    Subject::new("fown").check();
}

#[test]
fn pty_pairs_keep_their_settings() {
    Subject::new("pty").check();
}

#[test]
fn pty_stays_controlling_terminal_with_its_foreground() {
    Subject::new("pty").args(&["ctty"]).check();
}

#[test]
fn pty_keeps_queued_data() {
    Subject::new("pty").args(&["queue"]).check();
}

#[test]
fn proc_files_of_living_tasks_stay() {
    Subject::new("proc_files").check();
}

#[test]
fn proc_files_of_dead_tasks_stay() {
    Subject::new("proc_files").args(&["dead"]).check();
}

#[test]
fn proc_directories_stay() {
    Subject::new("proc_files")
        .args(&["directory"])
        .stock_cannot_restore("does not find its own /proc/PID in time")
        .check();
}

#[test]
fn timerfd_counts_what_was_not_read() {
    Subject::new("timerfd")
        .args(&["unread"])
        .stock_cannot_dump("reads 1 tick: the kernel counts the others when asked for them")
        .check();
}

#[test]
fn descriptors_stay_shared_between_tasks() {
    Subject::new("shared_fds").check();
}
