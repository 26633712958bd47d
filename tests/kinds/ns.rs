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
fn uts_names_stay() {
    Subject::new("uts").flavour("uts").check();
}

#[test]
fn clocks_of_a_time_namespace_go_on() {
    Subject::new("clocks").flavour("time").check();
}
