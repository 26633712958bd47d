//! The plan, and opening from hand-made entries in this process.

use super::plan::By;
use super::set::{FileSet, TaskFiles};
use super::*;
use crate::Request;
use images::proto::{
    EventfdFileEntry, FdTypes, FdinfoEntry, FileEntry, FownEntry, PipeEntry, RegFileEntry,
    ScmEntry, SkPacketEntry, UnixSkEntry,
};
use std::sync::Arc;

fn fd(fd: u32, id: u32, kind: FdTypes) -> FdinfoEntry {
    FdinfoEntry { id, fd, r#type: kind as i32, ..FdinfoEntry::default() }
}

fn task(vpid: i32, ppid: i32, files_id: u32) -> TaskFiles {
    TaskFiles { vpid, ppid, files_id, ..TaskFiles::default() }
}

fn eventfd(id: u32) -> FileEntry {
    let efd = EventfdFileEntry { id, ..EventfdFileEntry::default() };
    FileEntry { id, r#type: FdTypes::Eventfd as i32, efd: Some(efd), ..FileEntry::default() }
}

fn pipe(id: u32, pipe_id: u32, flags: u32) -> FileEntry {
    let pipe = PipeEntry { id, pipe_id, flags, fown: FownEntry::default() };
    FileEntry { id, r#type: FdTypes::Pipe as i32, pipe: Some(pipe), ..FileEntry::default() }
}

fn unix(id: u32, ino: u32, peer: u32) -> FileEntry {
    let usk = UnixSkEntry { id, ino, peer, r#type: 1, state: 1, ..UnixSkEntry::default() };
    FileEntry { id, r#type: FdTypes::Unixsk as i32, usk: Some(usk), ..FileEntry::default() }
}

fn set(
    tasks: Vec<TaskFiles>,
    tables: &[(u32, Vec<FdinfoEntry>)],
    files: Vec<FileEntry>,
) -> FileSet {
    FileSet {
        tasks,
        tables: tables.iter().map(|(id, t)| (*id, Arc::new(t.clone()))).collect(),
        files: files.into_iter().map(|f| (f.id, f)).collect(),
        ..FileSet::default()
    }
}

fn plan(set: FileSet) -> Result<FilesPlan> {
    FilesPlan::of(set, &Request::new("/nonexistent"))
}

/// Who opens which ids.
fn units(plan: &FilesPlan) -> Vec<(Vec<u32>, By)> {
    plan.units.iter().map(|u| (u.ids.clone(), u.by)).collect()
}

#[test]
fn what_one_table_has_its_owner_opens() {
    let table = vec![fd(3, 1, FdTypes::Eventfd), fd(4, 1, FdTypes::Eventfd)];
    let plan = plan(set(vec![task(1, 0, 2)], &[(2, table)], vec![eventfd(1)])).unwrap();
    assert_eq!(units(&plan), [(vec![1], By::Owner(1))]);
    assert_eq!(plan.base_fd(), 5);
}

#[test]
fn both_ends_of_a_pipe_are_opened_together() {
    let tables = [
        (2, vec![fd(0, 1, FdTypes::Pipe)]),
        (3, vec![fd(1, 2, FdTypes::Pipe), fd(2, 3, FdTypes::Eventfd)]),
    ];
    let files = vec![pipe(1, 77, 0), pipe(2, 77, 1), eventfd(3)];
    let plan = plan(set(vec![task(1, 0, 2), task(2, 1, 3)], &tables, files)).unwrap();
    assert_eq!(units(&plan), [(vec![1, 2], By::Root), (vec![3], By::Owner(2))]);
}

#[test]
fn what_is_in_flight_goes_with_the_receiver_even_in_a_circle() {
    // Two sockets, each queued in the other.
    let mut all = set(
        vec![task(1, 0, 2)],
        &[(2, vec![fd(3, 1, FdTypes::Unixsk)])],
        vec![unix(1, 10, 20), unix(2, 20, 10), eventfd(3)],
    );
    let scm = |rights| vec![ScmEntry { r#type: 1, rights }];
    let extent = images::Extent { image: images::Image::SkQueues, offset: 0, len: 0 };
    let packet =
        |id_for, rights| SkPacketEntry { id_for, scm: scm(rights), ..SkPacketEntry::default() };
    all.packets.insert(1, vec![(packet(1, vec![2, 3]), extent)]);
    all.packets.insert(2, vec![(packet(2, vec![1]), extent)]);
    let plan = plan(all).unwrap();
    assert_eq!(units(&plan), [(vec![1, 2, 3], By::Owner(1))]);
}

#[test]
fn a_shared_table_is_filled_once() {
    let tables = [(2, vec![fd(9, 1, FdTypes::Eventfd)])];
    let tasks = vec![task(1, 0, 2), task(2, 1, 2), task(3, 2, 2)];
    let plan = plan(set(tasks, &tables, vec![eventfd(1)])).unwrap();
    assert_eq!(units(&plan), [(vec![1], By::Owner(1))]);
    assert_eq!((plan.table_owner(2), plan.table_owner(3)), (1, 1));
}

#[test]
fn files_of_living_tasks_in_proc_are_opened_late() {
    let mut all = set(
        vec![task(7, 0, 2), task(8, 7, 3)],
        &[(2, vec![fd(3, 1, FdTypes::Reg)]), (3, vec![fd(3, 1, FdTypes::Reg)])],
        vec![],
    );
    let reg = RegFileEntry { id: 1, name: b"/proc/8/status".into(), ..RegFileEntry::default() };
    all.regs.insert(1, reg);
    let plan = plan(all).unwrap();
    assert_eq!(units(&plan), [(vec![1], By::Late(7))]);
    assert_eq!((plan.late[&1], plan.marker(), plan.service_fd()), (4, 5, 6));
}

#[test]
fn a_number_that_stands_there_twice_is_refused() {
    let table = vec![fd(3, 1, FdTypes::Eventfd), fd(3, 1, FdTypes::Eventfd)];
    let error = plan(set(vec![task(1, 0, 2)], &[(2, table)], vec![eventfd(1)])).unwrap_err();
    assert_eq!(error.to_string(), "fdinfo-2.img: fd 3 stands there twice");
}

#[test]
fn a_descriptor_without_a_file_is_refused() {
    let table = vec![fd(3, 9, FdTypes::Eventfd)];
    let error = plan(set(vec![task(1, 0, 2)], &[(2, table)], vec![])).unwrap_err();
    assert_eq!(error.to_string(), "fdinfo-2.img: no file for fd 3 id 9 type 6");
}

#[test]
fn very_high_numbers_leave_the_restore_a_gap_below() {
    let table = vec![fd(2, 1, FdTypes::Eventfd), fd(1_000_000, 1, FdTypes::Eventfd)];
    let plan = plan(set(vec![task(1, 0, 2)], &[(2, table)], vec![eventfd(1)])).unwrap();
    assert_eq!((plan.base_fd(), plan.service_end()), (3, 1_000_000));
}
