// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn threads_run_on_and_can_be_joined() {
    Subject::new("threads").check();
}

#[test]
fn registers_survive_in_a_spinning_loop() {
    Subject::new("registers").check();
}

#[test]
fn signals_stay_queued_in_order_with_payload() {
    Subject::new("signals").check();
}
