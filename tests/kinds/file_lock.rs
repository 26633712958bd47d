// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

const OPTION: &[&str] = &["--file-locks"];

#[test]
fn locks_of_processes_and_of_descriptions_stay() {
    Subject::new("file_lock").dump_args(OPTION).restore_args(OPTION).rounds(2).check();
}

#[test]
fn a_lock_through_a_shared_description_is_its_owners() {
    Subject::new("file_lock")
        .args(&["inherited"])
        .dump_args(OPTION)
        .restore_args(OPTION)
        .stock_cannot_dump("forgets it")
        .check();
}

#[test]
fn leases_stay_also_while_they_are_broken() {
    Subject::new("file_lock")
        .args(&["leases"])
        .dump_args(OPTION)
        .restore_args(OPTION)
        .stock_cannot_restore("tells the owner once more that its lease is broken")
        .check();
}

#[test]
fn locks_are_refused_without_the_option() {
    Subject::new("file_lock").refused("--file-locks").check();
}

#[test]
fn leases_stay_in_a_user_namespace() {
    Subject::new("lease_user").dump_args(OPTION).restore_args(OPTION).flavour("uns").check();
}
