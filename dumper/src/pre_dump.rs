//! The phases of a pre-dump: the tree is held only while the kernel is told to watch its memory;
//! pages are read while it runs. What it writes meanwhile is written again by the next dump.

use crate::dump::{deadline, dedup_parents, micros};
use crate::freezer;
use crate::hooks::Hooks;
use crate::pages::dirty::Dirty;
use crate::pages::{Control, Lost, Server};
use crate::stop::Stop;
use crate::tree::{self, Tree};
use crate::{Error, Request, Stats, inventory, mm, pages};
use images::{Dir, Image};
use parasite::Frozen;
use std::time::Instant;

/// The whole pre-dump, in the worker process.
pub(crate) fn work(request: &Request, hooks: &mut dyn Hooks, stop: Stop) -> Result<Stats, Error> {
    let dir = Dir::open(&request.images_dir)?;
    dir.remove_file(&Image::Inventory.file_name())?;
    images::manifest::remove(&dir)?;
    pages::server::forget(&dir)?;
    let mut stats = Stats { irmap_resolve: Some(0), ..Stats::default() };
    let server = Server::connect(request, true, stop)?;
    let mut dirty = Dirty::prepare(request, &dir, true, server.as_ref())?;
    let mut collector = mm::Collector::new(request)?;
    collector.ready();
    let begun = Instant::now();
    let (mut frozen, mut freezer) = freezer::hold(request, stop)?;
    let still = Instant::now();
    stats.freezing_time = micros(still - begun);
    let tree = tree::describe(&frozen)?;
    let mms = watch(&tree, &mut frozen, &mut dirty, &mut collector, request, stop)?;
    if let Some(freezer) = &mut freezer {
        freezer.put_back();
    }
    drop(frozen);
    stats.frozen_time = micros(still.elapsed());
    let control = Control {
        stop,
        progress: hooks.progress(),
        room: None,
        server: server.as_ref(),
        storing: request.storing,
        files: None,
    };
    let begun = Instant::now();
    let lost = Lost::default();
    pages::dump_live(&mms, &lost, &dir, control, &mut stats)?;
    dirty.written(&lost.ranges());
    stats.memdump_time = micros(begun.elapsed());
    stop.check()?;
    let run_id = inventory::write_pre_dump(&dir, request)?;
    dirty.keep(&run_id);
    dedup_parents(request, &dir);
    Ok(stats)
}

/// Finds what is to be saved, and has all later writes noticed.
fn watch(
    tree: &Tree,
    frozen: &mut Frozen,
    dirty: &mut Dirty,
    collector: &mut mm::Collector,
    request: &Request,
    stop: Stop,
) -> Result<Vec<mm::Mm>, Error> {
    dirty.enter(frozen, tree, deadline(request));
    let mut mms = Vec::new();
    for task in tree.alive() {
        stop.check()?;
        mms.push(collector.pages(task, &dirty.since(task)).map_err(Error::on(task.pid))?);
    }
    Ok(mms)
}
