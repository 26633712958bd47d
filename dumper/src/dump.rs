//! The phases of a dump, in their order.

use crate::files::{FileTable, Finished};
use crate::stop::Stop;
use crate::tree::Tree;
use crate::{Error, Request, Stats, mm, pages};
use images::Dir;
use std::collections::HashSet;

/// Everything between "the tree is frozen, its inside state known" and "only small images are
/// left to write". What comes back undoes what the images need outside themselves, unless it is
/// told to keep it.
pub(crate) fn contents(
    tree: &Tree,
    request: &Request,
    dir: &Dir,
    stop: Stop,
    stats: &mut Stats,
) -> Result<Finished, Error> {
    let mut files = FileTable::new(request, tree)?;
    let mut tables = HashSet::new();
    for task in tree.alive() {
        stop.check()?;
        if tables.insert(task.files_id) {
            let _fdinfo = files.collect_fds(task)?;
        }
        let _fs = files.collect_fs(task)?;
    }
    let mut collector = mm::Collector::new(request)?;
    let mut mms = Vec::new();
    for task in tree.alive() {
        stop.check()?;
        mms.push(collector.collect(task, &mut files)?);
    }
    pages::dump(&mms, &files.shmems(), dir, stop, stats)?;
    files.finish(dir)
}
