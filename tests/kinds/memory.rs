// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn memory_environment_and_auxv_stay() {
    Subject::new("env").check();
}

#[test]
fn private_areas_keep_content_protection_and_flags() {
    Subject::new("maps").check();
}

#[test]
fn flags_of_areas_of_a_big_task_stay() {
    Subject::new("maps").args(&["big"]).check();
    Subject::new("maps").args(&["big"]).chain(3).check();
}

#[test]
fn pages_shared_since_fork_stay_one_page() {
    Subject::new("cow").check();
}

#[test]
fn vdso_works_through_old_pointers() {
    Subject::new("vdso").check();
}

#[test]
fn stacks_grow_on() {
    Subject::new("stack").check();
}

#[test]
fn aio_rings_keep_their_events() {
    Subject::new("aio").check();
}

#[test]
fn huge_pages_stay() {
    Subject::new("hugetlb").check();
}

#[test]
fn a_hundred_megabytes_come_back() {
    Subject::new("bulk").check();
}

#[test]
fn guard_regions_inside_areas_stay() {
    Subject::new("guard").check();
}
