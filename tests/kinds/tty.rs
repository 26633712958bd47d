// SPDX-License-Identifier: Apache-2.0 OR MIT
use crate::Subject;

#[test]
fn pty_pairs_keep_their_settings() {
    Subject::new("pty").check();
}

#[test]
fn pty_stays_controlling_terminal_with_its_foreground() {
    Subject::new("pty").args(&["ctty"]).check();
}

#[test]
fn pty_keeps_locks_and_modes() {
    Subject::new("pty")
        .args(&["modes"])
        .stock_cannot_restore("forgets exclusive mode, of its own images too")
        .check();
}

#[test]
fn pty_keeps_queued_data() {
    Subject::new("pty").args(&["queue"]).check();
}

/// Images know terminals by their number alone.
#[test]
fn one_number_in_two_instances_of_devpts_is_refused() {
    Subject::new("pty_two").refused("pts 0 of two instances of devpts").check();
}
