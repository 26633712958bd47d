// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The RPC, from a client's side.
//!
//! Each test starts a subject in a sandbox and then itself in there: the half in
//! [`inside`] is the client, whose pid and descriptors `criu` has to see. What is not about
//! us alone is asked of stock CRIU as well, so that the tests say what clients are used to.

mod client;
mod inside;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Duration;
use support::{Criu, LIMIT, Sandbox, subject, tail};

/// Which test it is the inner half of.
const HALF: &str = "AMBER_RPC_HALF";
/// Where the inner half finds what it works with.
const DIR: &str = "AMBER_RPC_DIR";
const CRIU: &str = "AMBER_RPC_CRIU";
const PID: &str = "AMBER_RPC_PID";
const CONSOLE: &str = "AMBER_RPC_CONSOLE";
const INHERITED: &str = "AMBER_RPC_INHERITED";

/// How a client's half ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    /// Needed by nobody.
    None,
    /// It is to run on, or again, and to be whole.
    Alive,
}

fn run(criu: &Criu, name: &str, what: Subject) {
    let sandbox = Sandbox::new("rpc");
    let dir = sandbox.dir().to_str().expect("utf-8").to_owned();
    let mut pid = String::from("0");
    if name.starts_with("the_service") {
        service(&sandbox, criu);
    }
    if what == Subject::Alive {
        let program = subject("pipe");
        if name.ends_with("a_callers_own") {
            let somebody = ["--reuid=1234", "--regid=1234", "--clear-groups", "--inh-caps=-all"];
            let args = [&somebody[..], &[program.to_str().expect("utf-8"), &dir]].concat();
            sandbox.start(Path::new("/usr/bin/setpriv"), &args);
        } else {
            sandbox.start(&program, &[&dir]);
        }
        let heard = sandbox.hear(&["ready", "bad"], LIMIT).expect("ready");
        heard.strip_prefix("ready ").expect("ready").clone_into(&mut pid);
    }
    if name.contains("page_server") {
        sandbox.shell("ip link set lo up");
    }
    sandbox.shell("mkdir -m 777 images");
    let me = std::env::current_exe().expect("our own path");
    let mut command = sandbox.command(&me, "client.out");
    command
        .args(["--exact", "--nocapture", "--test-threads=1", "the_clients_half"])
        .env(HALF, name)
        .env(DIR, &dir)
        .env(CRIU, &criu.path)
        .env(PID, &pid)
        .env(CONSOLE, subject("console"))
        .env(INHERITED, subject("inherited"))
        .env("RUST_BACKTRACE", "0")
        .env_remove("CRIU_CONFIG_FILE");
    // Those of the fuzz may be many.
    let requests = std::env::var("AMBER_REQUESTS").ok().and_then(|n| n.parse().ok());
    let limit = LIMIT + Duration::from_millis(500) * requests.unwrap_or(0);
    let ended = sandbox.wait(command.spawn().expect("nsenter"), limit);
    let logs = || {
        let log = |name: &str| tail(&sandbox.path(name), 25);
        log("client.out") + &log("images/dump.log") + &log("images/restore.log")
    };
    assert!(ended.success(), "{name} ({}): {ended:?}\n{}", criu.name, logs());
    let ran = std::fs::read_to_string(sandbox.path("client.out")).expect("output");
    assert!(ran.contains("1 passed"), "{name}: {ran}");
    if name.starts_with("the_service") {
        sandbox.shell("kill $(cat service.pid)");
    }
    if what == Subject::Alive {
        // The init adopts it only when criu, its parent, is quite gone.
        let adopted = format!("until grep -q '^PPid:\t1$' /proc/{pid}/status; do sleep 0.01; done");
        sandbox.shell(&format!("timeout 20 sh -c \"{adopted}\""));
        sandbox.go();
        let heard = sandbox.hear(&["ok", "bad"], LIMIT);
        assert_eq!(heard.as_deref(), Some("ok"), "{name} ({}): {}", criu.name, logs());
    }
    sandbox.empty().unwrap_or_else(|left| panic!("{name} ({}): {left}", criu.name));
}

/// Ours and stock, which behave alike.
fn alike(name: &str, subject: Subject) {
    run(&Criu::ours(), name, subject);
    if let Some(stock) = Criu::stock()
        && !Criu::ours_is_stock()
    {
        run(&stock, name, subject);
    }
}

fn ours(name: &str, subject: Subject) {
    run(&Criu::ours(), name, subject);
}

macro_rules! tests {
    ($($who:ident $name:ident $subject:ident;)*) => {
        $(#[test]
        fn $name() {
            $who(stringify!($name), Subject::$subject);
        })*

        /// What they are called.
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        /// Run by the others in their sandboxes; by itself it does nothing.
        #[test]
        fn the_clients_half() {
            let Ok(half) = std::env::var(HALF) else { return };
            match &*half {
                $(stringify!($name) => inside::$name(),)*
                other => panic!("no test is called {other}"),
            }
        }
    };
}

tests! {
    alike a_version_tells_what_criu_it_is None;
    alike several_requests_on_one_connection None;
    alike a_dump_and_a_restore Alive;
    alike a_tree_left_running Alive;
    alike notifications_come_in_order Alive;
    alike a_refused_pre_dump_harms_nobody Alive;
    ours a_refused_post_dump_harms_nobody Alive;
    ours a_refused_query_of_external_files_harms_nobody Alive;
    ours a_notification_without_an_answer_ends Alive;
    ours a_late_answer_is_one Alive;
    ours every_field_is_refused_in_the_command_lines_words Alive;
    ours a_store_of_pidfds_is_a_socket Alive;
    ours every_type_of_request_is_answered None;
    ours a_refused_post_restore_leaves_nothing Alive;
    alike a_restored_sibling_is_the_clients_child Alive;
    alike nobody_to_dump None;
    ours a_pid_that_cannot_be_dumped None;
    alike a_pid_in_use Alive;
    alike no_images_directory Alive;
    alike a_log_file_with_a_slash Alive;
    alike a_config_file_wins Alive;
    alike a_config_file_that_is_not_there Alive;
    ours a_config_file_compresses Alive;
    ours garbage_is_answered None;
    alike a_stray_answer_is_refused None;
    alike features_are_probed None;
    alike a_check None;
    ours a_client_that_hangs_up_before_the_end_harms_nobody Alive;
    ours a_client_that_hangs_up_while_notified_harms_nobody Alive;
    ours a_client_that_hangs_up_during_a_restore Alive;
    alike cpuinfo_is_written_and_compared None;
    ours what_is_not_built_is_refused_by_name Alive;
    ours restored_tasks_do_not_have_our_descriptors Alive;
    alike a_program_follows_the_restore Alive;
    alike the_service_dumps_and_restores Alive;
    alike the_service_has_clients_at_once None;
    ours the_service_knows_no_descriptors_of_clients Alive;
    ours the_service_does_what_its_caller_may Alive;
    alike a_page_server_outlives_the_one_that_started_it Alive;
    alike a_page_server_is_a_child_that_is_waited_for Alive;
    alike a_page_server_where_nobody_may_listen None;
    alike nobody_to_wait_for None;
    ours pre_dumps_and_a_dump_on_one_connection Alive;
    ours a_single_pre_dump Alive;
    ours mutated_requests_are_answered_and_harm_nobody Alive;
    ours the_service_dumps_and_restores_a_callers_own Alive;
    ours the_service_checks_for_anybody None;
    alike the_service_has_a_client_in_another_pid_namespace Alive;
    alike the_console_of_a_container None;
    alike standard_descriptors_of_an_engine None;
}

/// Starts `criu service` in a sandbox; its socket is DIR/service.
fn service(sandbox: &Sandbox, criu: &Criu) {
    sandbox.shell("ip link set lo up; mount -t tmpfs none /run; mkdir work");
    let dir = sandbox.dir().to_str().expect("utf-8").to_owned();
    let at = format!("{dir}/service");
    let pidfile = format!("{dir}/service.pid");
    let args =
        ["service", "-v4", "-o", "service.log", "-W", "work", "--address", &at, "-d", "--pidfile"];
    let ended = sandbox.run(&criu.path, &[&args[..], &[&pidfile]].concat(), "service.out");
    assert!(ended.success(), "{ended:?} {}", tail(&sandbox.path("work/service.log"), 10));
    sandbox.shell("[ $(stat -c %a service) = 600 ] && chmod 666 service");
}

/// A task that asks the service to be dumped itself is told when it is back.
#[test]
fn a_client_of_the_service_dumps_itself() {
    for (by, to) in support::directions(&Criu::ours(), Criu::stock().as_ref()) {
        let sandbox = Sandbox::new("rpc");
        let dir = sandbox.dir().to_str().expect("utf-8").to_owned();
        let images = sandbox.path("images");
        std::fs::create_dir(&images).expect("images");
        service(&sandbox, &by);
        sandbox.start(&subject("rpc_self"), &[&dir]);
        let heard = sandbox.hear(&["ready", "bad"], LIMIT).expect("ready");
        let pid: u32 = heard.strip_prefix("ready ").expect("ready").parse().expect("pid");
        let dumped = support::wait_for(LIMIT, || (!sandbox.pids().contains(&pid)).then_some(()));
        let logs = || {
            tail(&sandbox.path("work/service.log"), 20)
                + &tail(&images.join("dump.log"), 20)
                + &format!("{:?}", sandbox.said())
        };
        assert!(dumped.is_some(), "{} -> {}: {}", by.name, to.name, logs());
        support::restore(&sandbox, &to, &images, &[]).expect("restore");
        let heard = sandbox.hear(&["ok", "bad"], LIMIT);
        assert_eq!(heard.as_deref(), Some("ok"), "{} -> {}: {}", by.name, to.name, logs());
    }
}

#[test]
fn the_client_half_finds_criu() {
    assert!(Path::new(&Criu::ours().path).exists());
}
