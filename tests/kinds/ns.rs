// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Trees in namespaces of their own.

use crate::Subject;

#[test]
fn the_init_of_a_pid_namespace_comes_back_with_its_tree() {
    Subject::new("sessions").flavour("pid").check();
}

#[test]
fn threads_live_in_a_pid_namespace() {
    Subject::new("threads").flavour("pid").check();
}

#[test]
fn any_thread_of_an_init_may_be_the_last_to_die() {
    // Its one thread of SCHED_IDLE shares a processor with this, and is late for everything.
    let mut hog = std::process::Command::new("taskset")
        .args(["-c", "0", "sh", "-c", "while :; do :; done"])
        .spawn()
        .unwrap();
    let done = std::panic::catch_unwind(|| Subject::new("last_thread").flavour("pid,init").check());
    hog.kill().unwrap();
    hog.wait().unwrap();
    if let Err(why) = done {
        std::panic::resume_unwind(why);
    }
}

#[test]
fn uts_names_stay() {
    Subject::new("uts").flavour("uts").check();
}

#[test]
fn clocks_of_a_time_namespace_go_on() {
    Subject::new("clocks").flavour("time").check();
}

#[test]
fn system_v_objects_stay() {
    Subject::new("sysv").args(&["plain"]).flavour("ipc").check();
}

#[test]
fn removed_segments_live_as_long_as_they_are_attached() {
    let why = "restores them as not removed";
    Subject::new("sysv").flavour("ipc").stock_cannot_restore(why).check();
}

const ALL_OR_NONE: &str = "with a user namespace it wants all the others too";

#[test]
fn ids_are_those_inside_a_user_namespace() {
    Subject::new("creds").flavour("user,pid").lost_by_stock(ALL_OR_NONE).check();
}

#[test]
fn threads_live_in_user_and_pid_namespaces() {
    Subject::new("threads").flavour("user,pid,uts,ipc").lost_by_stock(ALL_OR_NONE).check();
}

#[test]
fn numbers_outside_of_a_user_namespace_are_refused() {
    let why = "in the pid namespace of criu";
    Subject::new("threads").flavour("user").refused(why).check();
}

/// Makes a namespace that is there without a process: `/mnt/uts`, where the host is "joined".
const UTS: &str =
    "mount -t tmpfs none /mnt; touch /mnt/uts; unshare --uts=/mnt/uts hostname joined";

#[test]
fn a_namespace_is_joined_instead_of_the_trees_own() {
    Subject::new("uts")
        .args(&["joined"])
        .prepare(UTS)
        .flavour("uts")
        .stock_cannot_restore("writes what the images have into the one it joins")
        .restore_args(&["--join-ns", "uts:/mnt/uts"])
        .check();
}

#[test]
fn a_namespace_is_joined_instead_of_the_restorers() {
    Subject::new("uts")
        .args(&["joined"])
        .prepare(UTS)
        .flavour("host")
        .restore_args(&["--join-ns", "uts:/mnt/uts"])
        .check();
}

#[test]
fn the_init_of_a_pid_namespace_comes_back_as_a_sibling() {
    Subject::new("sessions").flavour("pid,uts").restore_args(&["--restore-sibling"]).check();
}
