use super::*;
use images::checkpoint::Thread;
use images::proto::CoreEntry;

/// A task: pid, parent, group, session, zombie.
fn task(tasks: &[Task], (pid, ppid, pgid, sid, dead): (u32, u32, u32, u32, bool)) -> Task {
    Task {
        pid,
        ppid,
        pgid,
        sid,
        state: if dead { TaskState::Dead } else { TaskState::Alive },
        threads: vec![Thread { tid: pid, core: CoreEntry::default() }],
        ids: None,
        parent: tasks.iter().position(|t| t.pid == ppid),
        live: None,
    }
}

fn tasks(list: &[(u32, u32, u32, u32)]) -> Vec<Task> {
    let mut all = Vec::new();
    for (pid, ppid, pgid, sid) in list {
        let new = task(&all, (*pid, *ppid, *pgid, *sid, false));
        all.push(new);
    }
    all
}

fn check(list: &[(u32, u32, u32, u32)], want: &str) {
    let tree = plan(&tasks(list), false, &[]).expect("can be planned");
    assert_eq!(tree.to_string(), want);
}

#[test]
fn children_in_the_session_of_their_parent_come_after_setsid() {
    let want = "task 10 setsid\n  task 11 pgid 10\n  task 12 pgid 12\n    task 13 pgid 12\n";
    check(&[(10, 0, 10, 10), (11, 10, 10, 10), (12, 10, 12, 10), (13, 12, 12, 10)], want);
}

#[test]
fn a_child_in_the_former_session_comes_before_setsid() {
    let want = "task 10 setsid\n  task 11 setsid\n    early task 12 pgid 10\n    task 13 pgid 11\n";
    check(&[(10, 0, 10, 10), (11, 10, 11, 11), (12, 11, 10, 10), (13, 11, 11, 11)], want);
}

#[test]
fn a_dead_session_leader_is_a_helper() {
    let want =
        "task 10 setsid adopts\n  helper 20 setsid\n    task 21 pgid 20\n    task 22 pgid 22\n";
    check(&[(10, 0, 10, 10), (21, 10, 20, 20), (22, 10, 22, 20)], want);
}

#[test]
fn a_dead_group_leader_is_a_helper_in_the_same_session() {
    let want = "task 10 setsid\n  task 11 pgid 15\n  task 12 pgid 15\n  helper 15 pgid 15\n";
    check(&[(10, 0, 10, 10), (11, 10, 15, 10), (12, 10, 15, 10)], want);
}

#[test]
fn an_orphan_in_the_session_of_a_living_task_is_born_there() {
    let want = "task 10 setsid adopts\n  task 11 setsid\n    helper 13\n      task 12 pgid 11\n";
    check(&[(10, 0, 10, 10), (11, 10, 11, 11), (12, 10, 11, 11)], want);
}

#[test]
fn the_child_of_a_dead_leader_falls_to_the_adopter() {
    let mut all = tasks(&[(10, 0, 10, 10)]);
    let zombie = task(&all, (11, 10, 11, 11, true));
    all.push(zombie);
    let orphan = task(&all, (12, 10, 11, 11, false));
    all.push(orphan);
    let tree = plan(&all, false, &[]).expect("can be planned");
    let want = "task 10 setsid adopts\n  zombie 11 setsid\n    task 12 pgid 11\n";
    assert_eq!(tree.to_string(), want);
}

#[test]
fn a_root_in_a_foreign_session_stays_in_that_of_the_restorer() {
    let want = "task 10 pgid 7\n  task 11 pgid 7\n  helper 7 pgid 7\n";
    check(&[(10, 0, 7, 5), (11, 10, 7, 5)], want);
}

#[test]
fn a_shell_job_gets_session_and_group_of_the_restorer() {
    let all = tasks(&[(10, 0, 7, 5), (11, 10, 7, 5), (12, 10, 12, 5)]);
    let tree = plan(&all, true, &[]).expect("can be planned");
    assert_eq!(tree.to_string(), "task 10\n  task 11\n  task 12 pgid 12\n");
}

#[test]
fn numbers_of_dead_tasks_are_held_by_helpers() {
    let tree = plan(&tasks(&[(10, 0, 10, 10)]), false, &[33]).expect("can be planned");
    assert_eq!(tree.to_string(), "task 10 setsid\n  helper 33\n");
}

#[test]
fn a_group_in_two_sessions_is_refused() {
    let all = tasks(&[(10, 0, 10, 10), (11, 10, 15, 10), (12, 10, 12, 12), (13, 12, 15, 12)]);
    let want = Error::Group { pgid: 15, a: 10, first: 11, b: 12, second: 13 };
    assert_eq!(plan(&all, false, &[]), Err(want));
}
