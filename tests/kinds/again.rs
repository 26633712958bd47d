// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was restored can be dumped again, and comes back again.
use crate::Subject;

fn again(name: &'static str) {
    Subject::new(name).rounds(3).check();
}

#[test]
fn memory_and_environment_three_times() {
    again("env");
    again("maps");
    again("shm");
}

#[test]
fn threads_and_registers_three_times() {
    again("threads");
    again("registers");
}

#[test]
fn signals_timers_and_limits_three_times() {
    again("signals");
    again("timers");
    again("limits");
}

#[test]
fn seccomp_and_sessions_three_times() {
    again("seccomp");
    again("sessions");
    again("zombies");
}

#[test]
fn files_three_times() {
    again("reg_file");
    again("ghost");
    again("pipe");
}

#[test]
fn sockets_three_times() {
    again("unix_pair");
    again("unix_named");
    again("inet");
}

#[test]
fn epoll_and_terminals_three_times() {
    again("epoll");
    again("pty");
}
