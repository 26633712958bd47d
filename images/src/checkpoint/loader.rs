//! Reads the images in the order in which they refer to each other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use prost::{Message, Name};

use crate::checkpoint::task::{Forest, Task};
use crate::checkpoint::{Checkpoint, Files, files, memory, ns, seccomp, task};
use crate::kind::Head;
use crate::pages::Chain;
use crate::proto::{FdinfoEntry, InventoryEntry, MemfdInodeEntry, SeccompEntry, TaskKobjIdsEntry};
use crate::{Dir, Error, Image, Reader, Result, Version};

/// What may be in the images.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Reads formats that CRIU reads only with `--deprecated`.
    pub deprecated: bool,
}

/// Opens images of one checkpoint and checks that they are of one version.
#[derive(Debug)]
pub(super) struct Loader {
    pub(super) dir: Dir,
    pub(super) chain: Chain,
    pub(super) options: Options,
    version: Version,
}

impl Loader {
    /// Begins to read an image.
    pub(super) fn reader(&self, image: Image) -> Result<Reader> {
        let reader = self.dir.reader(image)?;
        let normal = image.kind().head == Head::Normal;
        if normal && !reader.is_absent() && reader.version() != self.version {
            let reason = "has the head of another img_version than the inventory tells";
            return Err(Error::invalid(image.file_name(), reason));
        }
        Ok(reader)
    }

    /// The one entry of an image.
    pub(super) fn one<M: Message + Name + Default>(&self, image: Image) -> Result<M> {
        let mut reader = self.reader(image)?;
        let entry = reader.read_one()?;
        reader.expect_end()?;
        Ok(entry)
    }

    /// The one entry of an image that need not be there.
    pub(super) fn opt<M: Message + Name + Default>(&self, image: Image) -> Result<Option<M>> {
        let mut reader = self.reader(image)?;
        let entry = reader.read_opt()?;
        reader.expect_end()?;
        Ok(entry)
    }

    /// All entries of an image.
    pub(super) fn all<M: Message + Name + Default>(&self, image: Image) -> Result<Vec<M>> {
        self.reader(image)?.entries_of().collect()
    }

    /// All entries of an image in a map; two with one key are an error.
    pub(super) fn map<K, M>(&self, image: Image, key: impl Fn(&M) -> K) -> Result<BTreeMap<K, M>>
    where
        K: Ord + Copy + std::fmt::Display,
        M: Message + Name + Default,
    {
        let mut reader = self.reader(image)?;
        let mut map = BTreeMap::new();
        while let Some(entry) = reader.read_opt()? {
            let key = key(&entry);
            if map.insert(key, entry).is_some() {
                return Err(reader.invalid(format_args!("id {key} for the second time")));
            }
        }
        Ok(map)
    }

    /// Refuses what is read only if the user asks for it.
    pub(super) fn deprecated(&self, image: Image, what: &str) -> Result<()> {
        match self.options.deprecated {
            true => Ok(()),
            false => {
                let reason = format!("{what} is deprecated; --deprecated reads it");
                Err(Error::invalid(image.file_name(), reason))
            }
        }
    }
}

/// An error about a field of an image.
pub(super) fn invalid<T>(image: Image, reason: impl std::fmt::Display) -> Result<T> {
    Err(Error::invalid(image.file_name(), reason.to_string()))
}

fn inventory(dir: &Dir) -> Result<(InventoryEntry, TaskKobjIdsEntry, Version)> {
    let image = Image::Inventory;
    let mut inventory: InventoryEntry = dir.read_one(image)?;
    let version = match inventory.img_version {
        1 => Version::V1,
        2 | crate::pages::COMPRESSED_VERSION => Version::V2,
        0 => return invalid(image, "img_version 0: a pre-dump cannot be restored"),
        n => return invalid(image, format_args!("img_version {n} is not known")),
    };
    if inventory.fdinfo_per_id != Some(true) {
        return invalid(image, "no `fdinfo_per_id`: images of before 1.0 are not supported");
    }
    if inventory.root_cg_set == Some(0) {
        return invalid(image, "root_cg_set is 0");
    }
    let Some(root_ids) = inventory.root_ids.take() else {
        return invalid(image, "no `root_ids`");
    };
    inventory.root_ids = Some(root_ids);
    Ok((inventory, root_ids, version))
}

pub(super) fn load(dir: &Dir, options: Options) -> Result<Checkpoint> {
    let (inventory, root_ids, version) = inventory(dir)?;
    let chain = Chain::open(dir)?;
    let loader = Loader { dir: dir.clone(), chain: chain.clone(), options, version };

    let Forest { mut tasks, by_pid } = task::tree(&loader, &root_ids)?;
    let files = files::load(&loader)?;
    let memfds = loader.map(Image::Memfd, |m: &MemfdInodeEntry| m.inode_id)?;
    let fdinfo = fd_tables(&loader, &files, &mut tasks)?;
    let remaps = files::remaps(&loader, &files)?;
    let ghosts = files::ghosts(&loader, &remaps)?;
    let tty_infos = files::tty_infos(&loader)?;
    let ns = ns::load(&loader, &inventory, &root_ids, &tasks, &files)?;
    let shmem = memory::shmem(&loader, &tasks, &memfds, &ns)?;
    let seccomp: Option<SeccompEntry> = loader.opt(Image::Seccomp)?;

    let checkpoint = Checkpoint {
        pipe_data: files::pipe_data(&loader, Image::PipesData)?,
        fifo_data: files::pipe_data(&loader, Image::FifoData)?,
        sk_queues: files::sk_queues(&loader, &files)?,
        tcp_streams: files::tcp_streams(&loader, &files)?,
        tty_data: loader.all(Image::TtyData)?,
        bpfmap_data: files::bpfmap_data(&loader)?,
        file_locks: loader.all(Image::Filelocks)?,
        seccomp: seccomp.unwrap_or_default().seccomp_filters,
        cgroup: loader.opt(Image::Cgroup)?,
        apparmor: loader.opt(Image::Apparmor)?,
        cpuinfo: loader.opt(Image::Cpuinfo)?,
        dir: dir.clone(),
        chain,
        inventory,
        root_ids,
        tasks,
        fdinfo,
        files,
        remaps,
        ghosts,
        memfds,
        shmem,
        tty_infos,
        ns,
        by_pid,
    };
    files::check(&checkpoint, options)?;
    seccomp::check(&checkpoint)?;
    check_cgroups(&checkpoint)?;
    memory::check(&checkpoint)?;
    Ok(checkpoint)
}

/// Loads each descriptor table once and hangs it on all tasks that have it.
fn fd_tables(
    loader: &Loader,
    files: &Files,
    tasks: &mut [Task],
) -> Result<BTreeMap<u32, Arc<Vec<FdinfoEntry>>>> {
    let mut tables = BTreeMap::new();
    let mut absent = None;
    for task in tasks {
        let Some(files_id) = task.ids.as_ref().map(|ids| ids.files_id) else { continue };
        let Some(live) = &mut task.live else { continue };
        live.fdinfo = match tables.get(&files_id) {
            Some(table) => Arc::clone(table),
            None => {
                let table = fd_table(loader, files, files_id)?;
                if table.is_none() {
                    absent = absent.or(Some(files_id));
                }
                let table = Arc::new(table.unwrap_or_default());
                tables.insert(files_id, Arc::clone(&table));
                table
            }
        };
    }
    // CRIU writes no image of an empty table; but one that nobody has is a sign of a wrong id.
    if let Some(files_id) = absent {
        let stray = |image: &Image| match image {
            Image::Fdinfo(id) => !tables.contains_key(id),
            _ => false,
        };
        if loader.dir.images()?.iter().any(stray) {
            return Err(Error::Absent { file: Image::Fdinfo(files_id).file_name() });
        }
    }
    Ok(tables)
}

/// `None`: there is no such image.
fn fd_table(loader: &Loader, files: &Files, files_id: u32) -> Result<Option<Vec<FdinfoEntry>>> {
    let mut reader = loader.reader(Image::Fdinfo(files_id))?;
    if reader.is_absent() {
        return Ok(None);
    }
    let mut table = Vec::new();
    let mut known = HashSet::new();
    while let Some(entry) = reader.read_opt::<FdinfoEntry>()? {
        let (fd, id) = (entry.fd, entry.id);
        if i32::try_from(fd).is_err() {
            return Err(reader.invalid(format_args!("fd {fd} is no descriptor")));
        }
        if !known.insert(fd) {
            return Err(reader.invalid(format_args!("fd {fd} for the second time")));
        }
        let Some(kind) = files::kind(entry.r#type) else {
            return Err(reader.invalid(format_args!("fd {fd}: type {} is not known", entry.r#type)));
        };
        if files.get(kind, id).is_none() {
            let kind = kind.as_str_name();
            let reason = format_args!("fd {fd}: no file of type {kind} has id {id}");
            return Err(reader.invalid(reason));
        }
        table.push(entry);
    }
    Ok(Some(table))
}

/// Every task has to be in the set of the dumper or in one that the image describes.
fn check_cgroups(checkpoint: &Checkpoint) -> Result<()> {
    let cgroup = checkpoint.cgroup.as_ref();
    let mut sets: HashMap<u32, ()> =
        cgroup.iter().flat_map(|c| &c.sets).map(|s| (s.id, ())).collect();
    sets.extend(checkpoint.inventory.root_cg_set.map(|id| (id, ())));
    // Images from before there was a set of the dumper: sets then are not used at all.
    if checkpoint.inventory.root_cg_set.is_none() && cgroup.is_none() {
        return Ok(());
    }
    for task in checkpoint.tasks.iter().filter(|t| t.live.is_some()) {
        for thread in &task.threads {
            let set = thread.core.thread_core.as_ref().and_then(|t| t.cg_set);
            if let Some(set) = set.filter(|set| *set != 0 && !sets.contains_key(set)) {
                let reason = format_args!("cg_set {set} is neither in cgroup.img nor root_cg_set");
                return invalid(Image::Core(thread.tid), reason);
            }
        }
    }
    Ok(())
}
