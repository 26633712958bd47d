//! Reading descriptor tables ahead: `/proc/PID/fd` and `fdinfo`, by all processors.
//!
//! Each descriptor takes four system calls of several microseconds, which depend on nothing
//! else; so they are made in threads of their own while the tracer waits for its tasks.

use super::error::{Error, Why, call, text};
use super::parse::Fdinfo;
use crate::tree::Tree;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::Mode;
use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use sys::fd::{Kcmp, kcmp};

/// A descriptor as `/proc` shows it.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) num: RawFd,
    /// Text of the link; `None`: the parent has the same description under this number.
    pub(crate) link: Option<Vec<u8>>,
    /// Text of `fdinfo`.
    pub(crate) text: Vec<u8>,
    pub(crate) info: Fdinfo,
}

/// One descriptor table.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) files_id: u32,
    /// First task that has it: pid and virtual pid.
    pub(crate) pid: i32,
    pub(crate) vpid: i32,
    /// The parent of that task and its table, if there is one and it is another.
    parent: Option<(i32, u32)>,
    numbers: Vec<RawFd>,
    links: OwnedFd,
    infos: OwnedFd,
}

impl Table {
    /// `files_id` of the table that [`Shown::link`] means by "the parent".
    pub(crate) fn parent(&self) -> Option<u32> {
        self.parent.map(|(_, id)| id)
    }

    fn show(&self, num: RawFd, buf: &mut Vec<u8>) -> Result<Shown, Error> {
        let pid = self.pid;
        let name = num.to_string();
        let alike = |(parent, _)| kcmp(parent, pid, Kcmp::File, num as u64, num as u64);
        let inherited = self.parent.map(alike).is_some_and(|o| o.is_ok_and(|o| o.is_eq()));
        let link = || -> Result<Vec<u8>, Why> {
            let what = || format!("readlink(/proc/{pid}/fd/{num})");
            Ok(call(what, readlinkat(&self.links, name.as_str()))?.into_vec())
        };
        let failed = |why| {
            let link = link().map_or_else(|_| "?".into(), |l| text(&l));
            Error::Fd { pid, fd: num, link, why }
        };
        let link = if inherited { None } else { Some(link().map_err(failed)?) };
        read_at(&self.infos, &name, buf).map_err(failed)?;
        let info = Fdinfo::parse(buf).ok_or_else(|| failed(Why::field("pos, flags, mnt_id")))?;
        Ok(Shown { num, link, text: buf.clone(), info })
    }
}

/// Descriptors read at a time.
const CHUNK: usize = 32;
/// So many are not worth a thread.
const FEW: usize = 64;

/// A chunk's position and its descriptors.
type Done = (usize, Result<Vec<Shown>, Error>);

#[derive(Debug)]
struct Work {
    tables: Vec<Table>,
    /// Table and first descriptor.
    chunks: Vec<(usize, usize)>,
    next: AtomicUsize,
    done: Mutex<Vec<Done>>,
}

impl Work {
    fn run(&self) {
        let mut buf = Vec::with_capacity(4096);
        while let Some(&(at, first)) = self.chunks.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let table = &self.tables[at];
            let numbers = table.numbers[first..].iter().take(CHUNK);
            let shown = numbers.map(|&num| table.show(num, &mut buf)).collect();
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push((self.chunk_of(at, first), shown));
        }
    }

    fn chunk_of(&self, table: usize, first: usize) -> usize {
        self.chunks.partition_point(|&c| c < (table, first))
    }
}

/// All tables of a tree, being read. Dropping it waits for the readers.
#[derive(Debug)]
pub struct Ahead {
    work: Arc<Work>,
    readers: Vec<JoinHandle<()>>,
}

impl Ahead {
    /// Begins to read the tables of `tree`, whose `files_id`s are set.
    pub(crate) fn start(tree: &Tree) -> Result<Self, Error> {
        let ids: HashMap<i32, (i32, u32)> =
            tree.alive().map(|t| (t.vpid, (t.pid, t.files_id))).collect();
        let mut seen = HashSet::new();
        let mut tables = Vec::new();
        let mut chunks = Vec::new();
        for task in tree.alive().filter(|t| seen.insert(t.files_id)) {
            let parent = ids.get(&task.ppid).filter(|(_, id)| *id != task.files_id).copied();
            let table = open_table(task.pid, task.vpid, task.files_id, parent)?;
            let firsts = (0..table.numbers.len()).step_by(CHUNK);
            chunks.extend(firsts.map(|first| (tables.len(), first)));
            tables.push(table);
        }
        let few = tables.iter().map(|t| t.numbers.len()).sum::<usize>() <= FEW;
        let done = Mutex::new(Vec::with_capacity(chunks.len()));
        let work = Arc::new(Work { tables, chunks, next: AtomicUsize::new(0), done });
        let count = if few { 0 } else { sys::worker::cpus() };
        // What cannot be started is not missed: `finish` reads what is left.
        let reader = |_| {
            let work = Arc::clone(&work);
            std::thread::Builder::new().spawn(move || work.run()).ok()
        };
        let readers = (0..count).filter_map(reader).collect();
        Ok(Self { work, readers })
    }

    /// Waits for the readers; each table with its descriptors in ascending order.
    pub(crate) fn finish(mut self) -> Result<Vec<(Table, Vec<Shown>)>, Error> {
        self.work.run();
        self.join();
        let nobody = Work {
            tables: Vec::new(),
            chunks: Vec::new(),
            next: AtomicUsize::new(0),
            done: Mutex::default(),
        };
        let work = std::mem::replace(&mut self.work, Arc::new(nobody));
        let Ok(work) = Arc::try_unwrap(work) else { return Ok(Vec::new()) };
        let mut done = work.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        done.sort_unstable_by_key(|(chunk, _)| *chunk);
        let mut all: Vec<(Table, Vec<Shown>)> =
            work.tables.into_iter().map(|t| (t, Vec::new())).collect();
        for (chunk, shown) in done {
            all[work.chunks[chunk].0].1.extend(shown?);
        }
        Ok(all)
    }

    fn join(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Nobody wants the rest.
        self.work.next.store(usize::MAX / 2, Ordering::Relaxed);
        self.join();
    }
}

fn open_table(
    pid: i32,
    vpid: i32,
    files_id: u32,
    parent: Option<(i32, u32)>,
) -> Result<Table, Error> {
    let failed = |why| Error::Task { pid, why };
    let proc_error = |e: crate::proc::Error| failed(Why::Text(e.to_string()));
    let mut numbers = crate::proc::numbers(&format!("/proc/{pid}/fd")).map_err(proc_error)?;
    numbers.sort_unstable();
    let links = open_dir(&format!("/proc/{pid}/fd")).map_err(failed)?;
    let infos = open_dir(&format!("/proc/{pid}/fdinfo")).map_err(failed)?;
    Ok(Table { files_id, pid, vpid, parent, numbers, links, infos })
}

fn open_dir(path: &str) -> Result<OwnedFd, Why> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    call(|| format!("open({path})"), nix::fcntl::open(path, flags, Mode::empty()))
}

fn read_at(dir: &OwnedFd, name: &str, buf: &mut Vec<u8>) -> Result<(), Why> {
    let fd = call(
        || format!("open(fdinfo/{name})"),
        openat(dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()),
    )?;
    buf.clear();
    let mut file = std::fs::File::from(fd);
    // One read for all but epolls and inotifies with many targets.
    buf.resize(4096, 0);
    let mut len = 0;
    loop {
        if len == buf.len() {
            buf.resize(len * 2, 0);
        }
        match file.read(&mut buf[len..]) {
            Ok(n) => {
                len += n;
                // The kernel gives all there is, if it fits.
                if len < buf.len() {
                    break;
                }
            }
            Err(e) => return Err(sys::Error::io(format!("read(fdinfo/{name})"), &e).into()),
        }
    }
    buf.truncate(len);
    Ok(())
}
