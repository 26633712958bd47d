//! The phases of a dump, in their order.

use crate::before::Before;
use crate::files::{Ahead, FileTable, Finished};
use crate::freezer::{self, Freezer};
use crate::hooks::{Action, Hooks, QUERY_EXT_FILES};
use crate::network::Network;
use crate::ns;
use crate::ns::user::Maps;
use crate::pages::dirty::Dirty;
use crate::pages::{Control, Room, Server};
use crate::stop::Stop;
use crate::task::core::{self, Common, Cores};
use crate::task::landlock::Outsiders;
use crate::task::lsm::Lsm;
use crate::task::seccomp::Filters;
use crate::task::{cgroup, ids, inside, sem_undo};
use crate::tree::{self, Task, Tree};
use crate::{Error, Leave, Request, Stats, finish, inventory, mm, pages};
use images::proto::{AmberFileEntry, FdinfoEntry, FsEntry, PstreeEntry};
use images::{Dir, Image, manifest};
use parasite::{Dying, Frozen};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use sys::net_lock::Method;

/// The whole dump, in the worker process.
pub(crate) fn work(request: &Request, hooks: &mut dyn Hooks, stop: Stop) -> Result<Stats, Error> {
    let dir = Dir::open(&request.images_dir)?;
    run_hook(hooks, Action::PreDump, request)?;
    // Its presence is what makes a directory a complete dump.
    dir.remove_file(&Image::Inventory.file_name())?;
    manifest::remove(&dir)?;
    pages::server::forget(&dir)?;
    let known = Mutex::default();
    // Readers of the stats expect these even when there is no shared memory.
    let mut stats = Stats {
        shpages_scanned: Some(0),
        shpages_skipped_parent: Some(0),
        shpages_written: Some(0),
        ..Stats::default()
    };
    let record = request.track_mem && request.leave != Leave::Dead;
    let server = Server::connect(request, record, stop)?;
    let mut dirty = Dirty::prepare(request, &dir, false, server.as_ref())?;
    let mut before = Before::ask(request)?;
    let room = match request.prev_images_dir {
        None if request.storing.compression.is_none() && server.is_none() => {
            Room::make(request.pid, &dir, request.storing.budget, stop)
        }
        _ => Room::default(),
    };
    let dir = dir.look_ahead()?;
    before.collector.ready();
    let begun = Instant::now();
    let (mut frozen, mut freezer) = freezer::hold(request, stop)?;
    let still = Instant::now();
    stats.freezing_time = micros(still - begun);
    let mut network = Network::default();
    let run_id = before.run_id.clone();
    let saved = network
        .lock(request, &before, hooks)
        .and_then(|()| with_ext_files(request, hooks))
        .and_then(|request| {
            let control = Control {
                stop,
                progress: hooks.progress(),
                room: Some(&room),
                server: server.as_ref(),
                storing: request.storing,
                files: Some(&known),
            };
            let around = Around { before, lock: network.method(), freezer: freezer.as_ref() };
            save(&mut frozen, &request, around, &dir, &mut dirty, control, &mut stats)
        })
        .and_then(|saved| run_hook(hooks, Action::PostDump, request).map(|()| saved));
    // A failure drops what is to be undone outside the tasks before they run on.
    let saved = saved.and_then(|files| match request.leave {
        Leave::Dead => files.keep().and_then(|()| network.keep()),
        Leave::Stopped | Leave::Running => {
            files.keep_links();
            Ok(())
        }
    });
    let leave = if saved.is_ok() { request.leave } else { Leave::Running };
    network.unlock(request, leave, hooks);
    match (&mut freezer, leave) {
        (Some(freezer), Leave::Dead) => freezer.forget(),
        (Some(freezer), _) => freezer.put_back(),
        (None, _) => {}
    }
    let dying = finish::finish(frozen, leave);
    stats.frozen_time = micros(dying.as_ref().map_or_else(Instant::now, Dying::since) - still);
    if let Err(e) = saved {
        return Err(failed(e, &dir, stop)?);
    }
    // Beside the dying.
    write_manifest(&dir, known);
    drop(room);
    drop(dying);
    dirty.keep(&run_id);
    dedup_parents(request, &dir);
    Ok(stats)
}

/// Writes down what the images are. They are complete, and the tasks are not held any more: nothing
/// that fails here may fail the dump.
fn write_manifest(dir: &Dir, known: Mutex<Vec<AmberFileEntry>>) {
    let known = known.into_inner().unwrap_or_default();
    if let Err(e) = manifest::write(dir, known, sys::file::boot_id().as_deref()) {
        log::warn!("no manifest: {e}");
        let _ = manifest::remove(dir);
    }
}

/// Takes back what tells that the images are complete.
fn failed(e: Error, dir: &Dir, stop: Stop) -> Result<Error, Error> {
    // Images of a hook's refusal are complete, and CRIU leaves them too.
    if !matches!(e, Error::Hook { .. }) || stop.requested() {
        dir.remove_file(&Image::Inventory.file_name())?;
    }
    Ok(e)
}

/// Gives back the room of pages in parent images that the new ones have, too (`--auto-dedup`).
pub(crate) fn dedup_parents(request: &Request, dir: &Dir) {
    // A page server does it itself.
    if !request.auto_dedup || request.page_server.is_some() {
        return;
    }
    match images::pages::Chain::open(dir).and_then(|chain| images::pages::dedup(&chain)) {
        Ok(pages) => log::info!("dedup: {pages} pages of parent images given back"),
        // The images are whole.
        Err(e) => log::warn!("dedup: {e}"),
    }
}

fn run_hook(hooks: &mut dyn Hooks, action: Action, request: &Request) -> Result<(), Error> {
    let failed = |code| Error::Hook { action: action.name(), code };
    hooks.run(action, request.pid).map_err(failed)
}

/// The request, with the external resources that an RPC client names now.
fn with_ext_files(request: &Request, hooks: &mut dyn Hooks) -> Result<Request, Error> {
    let failed = |code| Error::Hook { action: QUERY_EXT_FILES, code };
    let mut request = request.clone();
    request.external.extend(hooks.query_ext_files(request.pid).map_err(failed)?);
    Ok(request)
}

pub(crate) fn deadline(request: &Request) -> Option<Instant> {
    let secs = u64::from(request.timeout_secs);
    (secs > 0).then(|| Instant::now() + Duration::from_secs(secs))
}

pub(crate) fn micros(d: Duration) -> u32 {
    d.as_micros() as u32
}

/// What was done before the tree is looked at.
struct Around<'a> {
    before: Before,
    /// How a net namespace of the tree's own is locked.
    lock: Option<Method>,
    freezer: Option<&'a Freezer>,
}

/// Everything that is done while the tree holds still.
fn save(
    frozen: &mut Frozen,
    request: &Request,
    around: Around<'_>,
    dir: &Dir,
    dirty: &mut Dirty,
    control: Control<'_>,
    stats: &mut Stats,
) -> Result<Finished, Error> {
    let stop = control.stop;
    let Before { run_id, namespaces, sets, collector } = around.before;
    let mut tree = tree::describe(frozen)?;
    tree::check_sessions(&tree, request)?;
    ids::assign(&mut tree)?;
    let namespaces = Rc::new(namespaces.collect(&tree, request)?);
    let mut cx = ns::Cx { tree: &tree, request, dir, all: &namespaces, segments: &[] };
    ns::check(&cx)?;
    let segments = ns::ipc::segments(&cx)?;
    let undo = sem_undo::Sets::collect(&cx)?;
    let sets = sets.collect(&tree, &namespaces, request)?;
    let ahead = Ahead::start(&tree).map_err(Error::Files)?;
    ask_inside(&mut tree, frozen, request, (&undo, &namespaces.maps), stop)?;
    dirty.enter(frozen, &tree, deadline(request));
    cx = ns::Cx { tree: &tree, request, dir, all: &namespaces, segments: &segments };
    let files = FileTable::new(request, &tree, ahead, Rc::clone(&namespaces))?;
    let (contents, files) = contents(&cx, files, (&run_id, collector), dirty, control, stats)?;
    ns::dump(&cx)?;
    let cores = cores(&cx, frozen, &sets, stop)?;
    write_tasks(&cx, contents, cores)?;
    if let Some(entry) = sets.entry(request, around.freezer)? {
        dir.write_one(Image::Cgroup, &entry)?;
    }
    stop.check()?;
    let method = around.lock.unwrap_or_else(|| files.lock_method(request));
    // The inventory is the last word: with it, the images count.
    if request.storing.sync {
        dir.sync()?;
    }
    inventory::write(dir, request, &run_id, method)?;
    if request.storing.sync {
        dir.sync()?;
    }
    Ok(files)
}

/// Runs code in each task, one after the other: nothing of ours is left when this returns.
fn ask_inside(
    tree: &mut Tree,
    frozen: &mut Frozen,
    request: &Request,
    (undo, maps): (&sem_undo::Sets, &Maps),
    stop: Stop,
) -> Result<(), Error> {
    let mut outsiders = Outsiders::new(maps.clone());
    for (task, process) in tree.tasks.iter_mut().zip(&mut frozen.processes) {
        if task.is_zombie() {
            continue;
        }
        stop.check()?;
        process.start_stack = task.stat.start_stack;
        let outsider = outsiders.of(task);
        let (of_process, of_threads) =
            inside::ask(process, undo, outsider, deadline(request)).map_err(Error::on(task.pid))?;
        task.inside = of_process;
        for (thread, inside) in task.threads.iter_mut().zip(of_threads) {
            thread.inside = inside;
        }
    }
    Ok(())
}

/// Files and memory of the living tasks, in the order of [`Tree::alive`].
struct Contents {
    fdinfos: Vec<(u32, Vec<FdinfoEntry>)>,
    fs: Vec<FsEntry>,
    mms: Vec<mm::Mm>,
}

/// Collects files and address spaces, and writes files and pages.
fn contents(
    cx: &ns::Cx<'_>,
    mut files: FileTable,
    (run_id, mut collector): (&str, mm::Collector),
    dirty: &Dirty,
    control: Control<'_>,
    stats: &mut Stats,
) -> Result<(Contents, Finished), Error> {
    let stop = control.stop;
    let (tree, dir) = (cx.tree, cx.dir);
    files.lock_network(run_id)?;
    let mut tables = HashSet::new();
    let mut all = Contents { fdinfos: Vec::new(), fs: Vec::new(), mms: Vec::new() };
    for task in tree.alive() {
        stop.check()?;
        if tables.insert(task.files_id) {
            all.fdinfos.push((task.files_id, files.collect_fds(task)?));
        }
        all.fs.push(files.collect_fs(task)?);
    }
    for task in tree.alive() {
        stop.check()?;
        all.mms.push(collector.collect(task, &mut files, &dirty.since(task))?);
    }
    let begun = Instant::now();
    for mm in &all.mms {
        ns::ipc::check_mapped(mm.pid, &mm.entry.vmas, cx.segments)?;
    }
    let mut shmems = files.shmems();
    shmems.extend(cx.segments.iter().map(ns::ipc::Segment::shmem));
    pages::dump(&all.mms, &shmems, dir, control, stats)?;
    stats.memdump_time = micros(begun.elapsed());
    stats.irmap_resolve = Some(micros(files.irmap_time()));
    let files = files.finish(dir)?;
    Ok((all, files))
}

/// Core images of all tasks; writes `seccomp.img`, which belongs to all of them.
struct AllCores {
    of_task: Vec<Cores>,
    filters: Filters,
}

fn cores(
    cx: &ns::Cx<'_>,
    frozen: &mut Frozen,
    sets: &cgroup::Sets,
    stop: Stop,
) -> Result<AllCores, Error> {
    let mut common = Common {
        filters: Filters::default(),
        lsm: Lsm::detect(),
        // Our own is no measure: it may be restricted. CPUs that exist are.
        all_cpus: core::all_cpus()?,
        maps: cx.all.maps.clone(),
    };
    let tree = cx.tree;
    let mut of_task = Vec::with_capacity(tree.tasks.len());
    for (task, process) in tree.tasks.iter().zip(&mut frozen.processes) {
        stop.check()?;
        of_task.push(core::collect(task, process, sets, &mut common).map_err(Error::on(task.pid))?);
    }
    Ok(AllCores { of_task, filters: common.filters })
}

fn write_tasks(cx: &ns::Cx<'_>, contents: Contents, cores: AllCores) -> Result<(), Error> {
    let (dir, tree) = (cx.dir, cx.tree);
    for (files_id, entries) in &contents.fdinfos {
        let mut writer = dir.writer(Image::Fdinfo(*files_id))?;
        for entry in entries {
            writer.write(entry)?;
        }
        writer.finish()?;
    }
    let mut alive = contents.fs.iter().zip(&contents.mms);
    let mut pstree = dir.writer(Image::Pstree)?;
    for (i, (task, mut cores)) in tree.tasks.iter().zip(cores.of_task).enumerate() {
        pstree.write(&pstree_entry(task))?;
        let vpid = task.vpid as u32;
        if !task.is_zombie() {
            let (fs, mm) =
                alive.next().ok_or_else(|| Error::NotYet("task without memory".into()))?;
            dir.write_one(Image::Ids(vpid), &cx.all.ids(task, ids::id(task, i)))?;
            dir.write_one(Image::Fs(vpid), fs)?;
            dir.write_one(Image::Mm(vpid), &mm.entry)?;
            cores.amber.vmas = mm.extras.clone();
        }
        for (vtid, core) in &cores.threads {
            dir.write_one(Image::Core(*vtid as u32), core)?;
        }
        if cores.amber != Default::default() {
            dir.write_one(Image::Amber(vpid), &cores.amber)?;
        }
    }
    pstree.finish()?;
    dir.write_one(Image::Seccomp, cores.filters.entry())?;
    Ok(())
}

fn pstree_entry(task: &Task) -> PstreeEntry {
    PstreeEntry {
        pid: task.vpid as u32,
        ppid: task.ppid as u32,
        pgid: task.pgid as u32,
        sid: task.sid as u32,
        threads: task.threads.iter().map(|t| t.vtid as u32).collect(),
    }
}
