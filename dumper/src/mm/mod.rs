//! Address spaces: which VMAs a task has, what they map, and which of their pages are saved.

mod ahead;
mod backing;
pub mod btf;
pub mod kind;
pub mod smaps;
mod vm_bits;
mod walker;

use crate::files::FileTable;
use crate::pages::dirty::Since;
use crate::pages::scan::{Method, Scanner};
use crate::pages::select::{Area, Selection};
use crate::tree::Task;
use crate::{Request, mm};
use ahead::Ahead;
use backing::{Backing, Files};
use images::proto::{AioRingEntry, AmberVmaEntry, MmEntry, VmaEntry};
use kind::{Kind, Refusal, status};
use smaps::{ParseError, VmFlags, Vma};
use std::fs::File;
use std::io::BufReader;

/// Why an address space could not be collected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// smaps is not as expected.
    #[error("/proc/{pid}/smaps: {source}")]
    Smaps {
        /// In our pid namespace.
        pid: i32,
        /// Why.
        source: ParseError,
    },
    /// A file of `/proc`.
    #[error("{path}: {source}")]
    Proc {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A VMA that cannot be saved.
    #[error("pid {pid}: {start:#x}-{end:#x} ({name}): {why}")]
    Refused {
        /// In our pid namespace.
        pid: i32,
        /// First address.
        start: u64,
        /// Address behind the last byte.
        end: u64,
        /// What smaps calls it.
        name: String,
        /// Why.
        why: Refusal,
    },
    /// Its main thread has ended, and took the way to the memory of the others with it.
    #[error("pid {pid}: has no memory to be seen: its main thread has ended")]
    NoMemory {
        /// In our pid namespace.
        pid: i32,
    },
    /// An AIO ring as no kernel makes it.
    #[error("pid {pid}: aio ring at {start:#x} of {len} bytes: {what}")]
    AioRing {
        /// In our pid namespace.
        pid: i32,
        /// Its address.
        start: u64,
        /// Its length.
        len: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// The address space of one task.
#[derive(Clone, Debug, Default)]
pub struct Mm {
    /// In our pid namespace.
    pub pid: i32,
    /// Virtual pid of its task.
    pub vpid: i32,
    /// What goes to `mm-PID.img`.
    pub entry: MmEntry,
    /// What does not fit there: goes to `task-PID.amber`.
    pub extras: Vec<AmberVmaEntry>,
    /// Which pages are saved.
    pub pages: Selection,
}

impl Mm {
    /// Pages of all private mappings, there or not.
    pub fn mapped_pages(&self) -> u64 {
        let private = status::ANON_PRIVATE | status::FILE_PRIVATE;
        let vmas = self.entry.vmas.iter();
        vmas.filter(|v| v.status & private != 0).map(|v| (v.end - v.start) / 4096).sum()
    }
}

/// Collects address spaces, one after the other.
#[derive(Debug)]
pub struct Collector {
    files: Files,
    scanner: Scanner,
    allow_uprobes: bool,
    ahead: Ahead,
}

impl Collector {
    /// For a dump as `request` says; its tree runs.
    pub fn new(request: &Request) -> Result<Self, crate::Error> {
        let new = Self::with(request.allow_uprobes, Method::Best)?;
        Ok(Self { ahead: Ahead::start(request.pid), ..new })
    }

    /// Looks for pages by this method, and reads smaps.
    pub fn with(allow_uprobes: bool, method: Method) -> Result<Self, crate::Error> {
        let (files, scanner) = (Files::new()?, Scanner::new(method));
        Ok(Self { files, scanner, allow_uprobes, ahead: Ahead::default() })
    }

    /// Waits for what was begun: the tree is to be held now.
    pub fn ready(&mut self) {
        self.ahead.join();
    }

    /// The address space of `task`; files that it maps go to `files`.
    pub fn collect(
        &mut self,
        task: &Task,
        files: &mut FileTable,
        since: &Since<'_>,
    ) -> Result<Mm, crate::Error> {
        let mut mm = self.vmas(task.pid, &mut (task, &mut *files), since)?;
        mm.vpid = task.vpid;
        let (stat, inside) = (&task.stat, &task.inside);
        let entry = &mut mm.entry;
        (entry.mm_start_code, entry.mm_end_code) = stat.code;
        (entry.mm_start_data, entry.mm_end_data) = stat.data;
        entry.mm_start_stack = stat.start_stack;
        (entry.mm_start_brk, entry.mm_brk) = (stat.start_brk, inside.brk);
        (entry.mm_arg_start, entry.mm_arg_end) = stat.arg;
        (entry.mm_env_start, entry.mm_env_end) = stat.env;
        entry.exe_file_id = files.exe(task)?;
        entry.mm_saved_auxv = auxv(task.pid)?;
        entry.dumpable = Some(inside.dumpable as i32);
        entry.thp_disabled = Some(inside.thp_disabled);
        Ok(mm)
    }

    /// VMAs and pages of `task`, for a pre-dump: it will run when they are saved.
    pub fn pages(&mut self, task: &Task, since: &Since<'_>) -> Result<Mm, crate::Error> {
        let mut mm = self.vmas(task.pid, &mut backing::Unnamed, since)?;
        mm.vpid = task.vpid;
        Ok(mm)
    }

    /// VMAs and pages of `pid`; the rest of the entry is empty.
    pub fn vmas(
        &mut self,
        pid: i32,
        files: &mut dyn Backing,
        since: &Since<'_>,
    ) -> Result<Mm, crate::Error> {
        let vmas = match self.ahead.vmas(pid) {
            Some(vmas) => vmas,
            None => by_smaps(pid)?,
        };
        if vmas.is_empty() {
            return Err(Error::NoMemory { pid }.into());
        }
        let mut mm = Mm { pid, ..Mm::default() };
        let mut areas = Vec::with_capacity(vmas.len());
        self.files.enter(pid)?;
        for vma in &vmas {
            self.one(&mut mm, vma, &mut areas, files)?;
        }
        if !mm.entry.aios.is_empty() {
            // Requests under way write to memory without anybody noticing.
            areas.iter_mut().for_each(|a| a.trackable = false);
        }
        since.enter(&mut areas);
        mm.pages = self.scanner.scan(pid, &areas, since).map_err(crate::Error::from)?;
        since.arm(pid, &areas).map_err(crate::Error::from)?;
        mm.entry.vmas.extend(mm.pages.guards.iter().map(|&(start, end)| VmaEntry {
            start,
            end,
            status: status::GUARD,
            fd: -1,
            ..VmaEntry::default()
        }));
        Ok(mm)
    }

    fn one(
        &mut self,
        mm: &mut Mm,
        vma: &Vma,
        areas: &mut Vec<Area>,
        files: &mut dyn Backing,
    ) -> Result<(), crate::Error> {
        let pid = mm.pid;
        let refuse =
            |why| Error::Refused { pid, start: vma.start, end: vma.end, name: vma.label(), why };
        let kind = kind::classify(vma, self.files.shm_dev()).map_err(refuse)?;
        let mut shmid = 0;
        match kind {
            Kind::Uprobes if self.allow_uprobes => return Ok(()),
            Kind::Uprobes => return Err(refuse(Refusal::Uprobes).into()),
            Kind::SysvShm if self.files.same_ipc_ns() => {
                return Err(refuse(Refusal::SysvShm).into());
            }
            // The inode number of a segment is its id.
            Kind::SysvShm => shmid = vma.ino,
            Kind::File | Kind::Memfd => match self.files.id(pid, vma, kind, files)? {
                Some(id) => shmid = id.into(),
                None => return Err(refuse(Refusal::NotRegular).into()),
            },
            Kind::Socket => match files.socket(vma.ino)? {
                Some(id) if vma.pgoff == 0 => shmid = id.into(),
                _ => return Err(refuse(Refusal::Socket).into()),
            },
            Kind::AioRing => mm.entry.aios.push(aio_ring(pid, vma)?),
            Kind::Vvar => {
                // [vvar] and [vvar_vclock] are one in the images.
                let last = mm.entry.vmas.last_mut();
                if let Some(last) = last.filter(|l| l.status & status::VVAR != 0)
                    && last.end == vma.start
                {
                    last.end = vma.end;
                    return Ok(());
                }
            }
            _ => {}
        }
        let fdflags = if vma.has_file() { Some(self.files.mode(pid, vma)?) } else { None };
        let madv = kind::madvice(vma.flags);
        mm.entry.vmas.push(VmaEntry {
            start: vma.start,
            end: vma.end,
            pgoff: vma.pgoff,
            shmid,
            prot: vma.prot,
            flags: kind.map_flags(vma),
            status: kind.status(vma.shared),
            fd: -1,
            madv: (madv != 0).then_some(madv),
            fdflags,
        });
        mm.extras.extend(extra(vma));
        if kind != Kind::Vsyscall {
            areas.push(Area {
                start: vma.start,
                end: vma.end,
                content: kind.content(vma),
                file: vma.has_file(),
                readable: vma.flags.has(VmFlags::READ),
                populated: vma.populated || vma.flags.has(VmFlags::HUGETLB),
                trackable: kind.is_trackable(),
                tracked: vma.flags.has(VmFlags::UFFD_WP),
            });
        }
        Ok(())
    }
}

/// All VMAs of `pid`, in one pass over its page tables.
fn by_smaps(pid: i32) -> Result<Vec<Vma>, Error> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = File::open(&path).map_err(|source| Error::Proc { path, source })?;
    // The kernel writes to a page of its own, and makes an entry that does not fit there any
    // more once again for the next read: all page tables of a big area are walked twice. So it
    // is asked for so little that there is room for one more entry.
    smaps::parse(BufReader::with_capacity(2560, smaps))
        .map_err(|source| Error::Smaps { pid, source })
}

/// What `vma` has and its entry cannot say.
fn extra(vma: &Vma) -> Option<AmberVmaEntry> {
    let prefix: &[u8] = if vma.has_file() { b"[anon_shmem:" } else { b"[anon:" };
    let name = vma.name.strip_prefix(prefix).and_then(|n| n.strip_suffix(b"]"));
    let plain = AmberVmaEntry { start: vma.start, end: vma.end, ..AmberVmaEntry::default() };
    let extra = AmberVmaEntry {
        pkey: (vma.pkey != 0).then_some(vma.pkey),
        sealed: vma.flags.has(VmFlags::SEALED).then_some(true),
        lock_on_fault: vma.flags.has(VmFlags::LOCKONFAULT).then_some(true),
        anon_name: name.map(<[u8]>::to_vec),
        ..plain.clone()
    };
    (extra != plain).then_some(extra)
}

/// The context behind an AIO ring.
fn aio_ring(pid: i32, vma: &Vma) -> Result<AioRingEntry, crate::Error> {
    const HEADER: u64 = 32;
    const EVENT: u64 = 32;
    const MAGIC: u32 = 0xa10a_10a1;
    let wrong = |what| mm::Error::AioRing { pid, start: vma.start, len: vma.len(), what };
    let mut header = [0; HEADER as usize];
    sys::vm::read_exact(pid, vma.start, &mut header)?;
    let magic = u32::from_ne_bytes([header[16], header[17], header[18], header[19]]);
    if magic != MAGIC {
        return Err(wrong("no ring header at its start").into());
    }
    let ring_len = u32::try_from(vma.len()).map_err(|_| wrong("too long"))?;
    // io_setup doubles the number, adds 2 and fills whole pages.
    let nr_req = ((vma.len() - HEADER) / EVENT - 2) / 2;
    Ok(AioRingEntry { id: vma.start, nr_req: nr_req as u32, ring_len })
}

/// The auxiliary vector, without the pair of zeroes at its end.
fn auxv(pid: i32) -> Result<Vec<u64>, Error> {
    let path = format!("/proc/{pid}/auxv");
    let bytes = std::fs::read(&path).map_err(|source| Error::Proc { path, source })?;
    Ok(parse_auxv(&bytes))
}

/// Words of an auxiliary vector up to `AT_NULL`.
pub fn parse_auxv(bytes: &[u8]) -> Vec<u64> {
    let pairs = bytes.as_chunks::<16>().0.iter().map(|p| {
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| p[at + i]));
        [word(0), word(8)]
    });
    pairs.take_while(|[key, _]| *key != 0).flatten().collect()
}

#[cfg(test)]
pub mod tests;
