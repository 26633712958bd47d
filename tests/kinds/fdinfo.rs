// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn descriptors_keep_their_owner() {
    Subject::new("fown").check();
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
        .lost_by_stock("its images name it wrongly")
        .check();
}

#[test]
fn descriptors_stay_shared_between_tasks() {
    Subject::new("shared_fds").check();
}

#[test]
fn a_task_without_descriptors_stays_so() {
    Subject::new("bare").check();
}
