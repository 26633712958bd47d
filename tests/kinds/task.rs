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

#[test]
fn capabilities_groups_and_securebits_stay_per_thread() {
    Subject::new("creds").other_user().check();
}

#[test]
fn ids_of_another_user_stay() {
    Subject::new("creds").args(&["user"]).other_user().check();
}

#[test]
fn seccomp_filters_stay_chained_and_per_thread() {
    Subject::new("seccomp").check();
}

#[test]
fn timers_of_all_kinds_go_on_ticking() {
    Subject::new("timers").check();
}

#[test]
fn limits_and_settings_stay() {
    Subject::new("limits").check();
}

#[test]
fn rseq_stays_registered() {
    Subject::new("rseq").check();
}

#[test]
fn sessions_and_groups_stay_without_their_leaders() {
    Subject::new("sessions").check();
}

#[test]
fn zombies_keep_their_exit_codes() {
    Subject::new("zombies").check();
}

#[test]
fn stopped_tasks_stay_stopped() {
    Subject::new("stopped").check();
}

#[test]
fn directories_root_and_umask_stay() {
    Subject::new("fs").check();
}

#[test]
fn descriptor_tables_stay_shared() {
    Subject::new("tree").check();
}

const NO_FIELD: &str = "its images have no field for it";

#[test]
fn affinity_stays() {
    Subject::new("settings").args(&["affinity"]).lost_by_stock(NO_FIELD).check();
}

#[test]
fn io_priority_stays() {
    Subject::new("settings").args(&["ioprio"]).lost_by_stock(NO_FIELD).check();
}

#[test]
fn timer_slack_stays() {
    Subject::new("settings").args(&["timerslack"]).lost_by_stock(NO_FIELD).check();
}

#[test]
fn coredump_filter_stays() {
    Subject::new("settings").args(&["coredump_filter"]).lost_by_stock(NO_FIELD).check();
}

#[test]
fn protection_keys_stay() {
    Subject::new("settings").args(&["pkeys"]).lost_by_stock(NO_FIELD).check();
}

#[test]
fn personality_stays() {
    Subject::new("settings")
        .args(&["personality"])
        .stock_cannot_restore("it has the field, but does not set it")
        .check();
}

#[test]
fn tasks_stopped_by_their_terminal_stay_stopped() {
    Subject::new("stopped").args(&["tty"]).stock_cannot_dump("unsupported stop signal 21").check();
}

#[test]
fn zombies_keep_exit_codes_from_128() {
    Subject::new("zombies").args(&["high"]).stock_cannot_restore("exits with 0 instead").check();
}

#[test]
fn directory_and_umask_stay_shared() {
    Subject::new("clone_fs").refused("CLONE_FS").stock_cannot_dump("can't make FS id").check();
}

#[test]
fn orphans_come_back_under_their_subreaper() {
    Subject::new("sessions")
        .args(&["orphan"])
        .stock_cannot_restore("gives them to init: the subreaper is set too late")
        .check();
}

#[test]
fn children_of_vfork_and_exec_stay_children() {
    Subject::new("vfork").check();
}

#[test]
fn blocked_calls_go_on_where_they_were() {
    Subject::new("syscalls").check();
}

#[test]
fn sleeps_and_polls_do_not_end_early() {
    Subject::new("syscalls").args(&["exact"]).lost_by_stock("they end with EINTR").check();
}

/// Each earlier stop leaves them as `restart_syscall`, which tells nobody what it goes on with.
#[test]
fn sleeps_and_polls_that_were_stopped_before_do_not_end_early() {
    let subject = Subject::new("syscalls").args(&["exact"]).chain(3);
    subject.lost_by_stock("they end with EINTR").check();
}
