//! `mm`, `pagemap` and shared memory.

use std::collections::{BTreeMap, HashSet};

use crate::checkpoint::loader::{Loader, invalid};
use crate::checkpoint::{Checkpoint, Namespaces, Task, range};
use crate::pages::{PAGE_SIZE, PageSet, PageSource};
use crate::proto::{FdTypes, MemfdInodeEntry, MmEntry, VmaEntry};
use crate::{Error, Image, Result};

const PROT_WRITE: u32 = 2;
const O_RDWR: u32 = 2;

bitflags::bitflags! {
    /// `vma_entry.status`: what kind of mapping it is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct VmaStatus: u32 {
        /// A mapping that restore creates.
        const REGULAR = 0x1;
        /// The stack (old images only).
        const STACK = 0x2;
        /// The vsyscall page: always there.
        const VSYSCALL = 0x4;
        /// Code of the vDSO.
        const VDSO = 0x8;
        /// The heap.
        const HEAP = 0x20;
        /// MAP_PRIVATE of a file; `shmid` is its id.
        const FILE_PRIVATE = 0x40;
        /// MAP_SHARED of a file; `shmid` is its id.
        const FILE_SHARED = 0x80;
        /// Shared anonymous memory; `shmid` is the segment.
        const ANON_SHARED = 0x100;
        /// Private anonymous memory.
        const ANON_PRIVATE = 0x200;
        /// An attached SysV segment; `shmid` is its IPC id.
        const SYSVIPC = 0x400;
        /// Ring of a packet socket; `shmid` is its file id.
        const SOCKET = 0x800;
        /// Data of the vDSO: no contents.
        const VVAR = 0x1000;
        /// Ring of an AIO context.
        const AIORING = 0x2000;
        /// Mapping of a memfd; `shmid` is its file id.
        const MEMFD = 0x4000;
        /// Shadow stack.
        const SHSTK = 0x8000;
        /// Guard pages inside of other mappings.
        const GUARD = 0x1_0000;
        /// The uprobes area.
        const UPROBES = 0x2_0000;
        /// Restored by a plugin.
        const EXT_PLUGIN = 1 << 27;
        /// Only used at run time: cleared when read.
        const RUN_TIME = 0xf000_0000;
        /// What newer writers may add.
        const _ = !0;
    }
}

impl VmaEntry {
    /// What kind of mapping it is.
    #[must_use]
    pub fn kind(&self) -> VmaStatus {
        VmaStatus::from_bits_retain(self.status)
    }
}

/// Reads `mm-PID.img`; gives it the VMAs of `vmas-PID.img` if it has none itself.
pub(super) fn mm(loader: &Loader, pid: u32) -> Result<MmEntry> {
    let image = Image::Mm(pid);
    let mut mm: MmEntry = loader.one(image)?;
    if mm.vmas.is_empty() {
        mm.vmas = loader.all(Image::Vmas(pid))?;
    }
    for vma in &mut mm.vmas {
        let status = vma.kind() - VmaStatus::RUN_TIME;
        vma.status = status.bits();
        let file = VmaStatus::FILE_PRIVATE | VmaStatus::FILE_SHARED;
        if vma.fdflags.is_none() && status.intersects(file) {
            let shared = status.contains(VmaStatus::FILE_SHARED);
            vma.fdflags = Some(if shared && vma.prot & PROT_WRITE != 0 { O_RDWR } else { 0 });
        }
    }
    check_order(image, &mm.vmas)?;
    check_guards(image, &mm.vmas)?;
    range::mm(&mm).or_else(|reason| invalid(image, reason))?;
    Ok(mm)
}

fn is_guard(vma: &VmaEntry) -> bool {
    vma.kind().contains(VmaStatus::GUARD)
}

fn check_order(image: Image, vmas: &[VmaEntry]) -> Result<()> {
    let mut end = 0;
    let mut guards = false;
    for (i, vma) in vmas.iter().enumerate() {
        let at = format_args!("vmas[{i}] ({:#x}-{:#x})", vma.start, vma.end).to_string();
        let aligned = vma.start.is_multiple_of(PAGE_SIZE) && vma.end.is_multiple_of(PAGE_SIZE);
        if !aligned || vma.start >= vma.end {
            return invalid(image, format_args!("{at}: is no range of pages"));
        }
        if is_guard(vma) != guards {
            if guards {
                return invalid(image, format_args!("{at}: a mapping behind guard areas"));
            }
            (guards, end) = (true, 0);
        }
        if vma.start < end {
            return invalid(image, format_args!("{at}: is not behind the one before"));
        }
        end = vma.end;
    }
    Ok(())
}

/// Guard pages have to lie in mappings.
fn check_guards(image: Image, vmas: &[VmaEntry]) -> Result<()> {
    let first = vmas.partition_point(|v| !is_guard(v));
    let (mappings, guards) = vmas.split_at(first);
    for guard in guards {
        let mut at = guard.start;
        let from = mappings.partition_point(|v| v.end <= at);
        for vma in &mappings[from..] {
            if vma.start > at || at >= guard.end {
                break;
            }
            at = vma.end;
        }
        if at < guard.end {
            let reason = format_args!("guard area {:#x}: {at:#x} is in no mapping", guard.start);
            return invalid(image, reason);
        }
    }
    Ok(())
}

/// Reads `pagemap-PID.img`, which a live task has to have.
pub(super) fn pages(loader: &Loader, pid: u32) -> Result<PageSource> {
    let set = PageSet::Task(pid);
    let pages = loader.chain.load(set)?;
    pages.ok_or_else(|| Error::Absent { file: set.image().file_name() })
}

/// A piece of shared memory.
#[derive(Debug)]
pub struct Shmem {
    /// Its size in bytes.
    pub size: u64,
    /// Its contents.
    pub pages: PageSource,
}

/// Reads the contents of all shared memory that something refers to.
pub(super) fn shmem(
    loader: &Loader,
    tasks: &[Task],
    memfds: &BTreeMap<u64, MemfdInodeEntry>,
    ns: &Namespaces,
) -> Result<BTreeMap<u64, Shmem>> {
    let mut sizes: BTreeMap<u64, u64> = BTreeMap::new();
    for memfd in memfds.values() {
        sizes.insert(memfd.shmid.into(), memfd.size);
    }
    for shm in ns.ipc.values().flat_map(|ipc| &ipc.shm).filter(|shm| shm.body.is_none()) {
        sizes.insert(shm.entry.desc.id.into(), shm.entry.size);
    }
    for task in tasks {
        for vma in task.live.iter().flat_map(|live| &live.mm.vmas) {
            let status = vma.kind();
            if !status.contains(VmaStatus::ANON_SHARED) || status.contains(VmaStatus::SYSVIPC) {
                continue;
            }
            let Some(end) = vma.pgoff.checked_add(vma.end - vma.start) else {
                let reason =
                    format_args!("vma {:#x}: pgoff {:#x} is too big", vma.start, vma.pgoff);
                return invalid(Image::Mm(task.pid), reason);
            };
            let size = sizes.entry(vma.shmid).or_default();
            *size = end.max(*size);
        }
    }
    let mut shmem = BTreeMap::new();
    for (id, size) in sizes {
        let set = PageSet::Shmem(id);
        let Some(pages) = loader.chain.load(set)? else {
            if size == 0 {
                continue;
            }
            return Err(Error::Absent { file: set.image().file_name() });
        };
        let end = pages.segments().last().map_or(0, |s| s.end());
        if end > size.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX) {
            let reason = format_args!("pages up to {end:#x} in a segment of {size:#x} bytes");
            return invalid(set.image(), reason);
        }
        shmem.insert(id, Shmem { size, pages });
    }
    Ok(shmem)
}

/// References of VMAs and pages of all tasks.
pub(super) fn check(checkpoint: &Checkpoint) -> Result<()> {
    let segments = checkpoint.ns.ipc.values().flat_map(|ipc| &ipc.shm);
    let sysv = segments.map(|shm| shm.entry.desc.id.into()).collect();
    checkpoint.tasks.iter().try_for_each(|task| check_task(checkpoint, &sysv, task))
}

fn check_task(checkpoint: &Checkpoint, sysv: &HashSet<u64>, task: &Task) -> Result<()> {
    let Some(live) = &task.live else { return Ok(()) };
    let image = Image::Mm(task.pid);
    if checkpoint.files.reg(live.mm.exe_file_id).is_none() {
        let id = live.mm.exe_file_id;
        return invalid(image, format_args!("exe_file_id: no regular file has id {id}"));
    }
    for vma in &live.mm.vmas {
        if let Err(reason) = check_vma(checkpoint, sysv, vma) {
            return invalid(image, format_args!("vma {:#x}: {reason}", vma.start));
        }
    }
    let rings: HashSet<u64> = live
        .mm
        .vmas
        .iter()
        .filter(|v| v.kind().contains(VmaStatus::AIORING))
        .map(|v| v.start)
        .collect();
    for ring in &live.mm.aios {
        if !rings.contains(&ring.id) {
            return invalid(image, format_args!("aios: no ring is mapped at {:#x}", ring.id));
        }
    }
    check_pages(task.pid, &live.mm.vmas, &live.pages)?;
    for thread in &task.threads {
        let rseq = thread.thread_core().rseq_entry.map_or(0, |r| r.rseq_abi_pointer);
        if rseq != 0 && !is_mapped(&live.mm.vmas, rseq) {
            let reason = format_args!("thread_core.rseq_entry: nothing is mapped at {rseq:#x}");
            return invalid(Image::Core(thread.tid), reason);
        }
    }
    Ok(())
}

fn is_mapped(vmas: &[VmaEntry], address: u64) -> bool {
    let mappings = &vmas[..vmas.partition_point(|v| !is_guard(v))];
    let vma = mappings.get(mappings.partition_point(|v| v.end <= address));
    vma.is_some_and(|v| v.start <= address)
}

fn check_vma(checkpoint: &Checkpoint, sysv: &HashSet<u64>, vma: &VmaEntry) -> Result<(), String> {
    let status = vma.kind();
    let files = &checkpoint.files;
    let id = u32::try_from(vma.shmid).map_err(|_| format!("shmid {} is no id", vma.shmid));
    let file = |kind: FdTypes, what: &str| match files.get(kind, id.clone()?) {
        Some(file) => Ok(file),
        None => Err(format!("shmid: no {what} has id {}", vma.shmid)),
    };
    let mapped = VmaStatus::FILE_PRIVATE | VmaStatus::FILE_SHARED;
    if status.contains(VmaStatus::EXT_PLUGIN) {
        return Ok(());
    }
    if status.contains(VmaStatus::MEMFD) {
        if !status.intersects(mapped) {
            return Err(format!("status {:#x}: a memfd, neither private nor shared", vma.status));
        }
        let memfd = file(FdTypes::Memfd, "memfd")?.memfd.as_ref();
        let inode = memfd.map(|m| u64::from(m.inode_id)).and_then(|i| checkpoint.memfds.get(&i));
        return match inode {
            Some(_) => Ok(()),
            None => Err(format!("shmid: memfd {} has no inode", vma.shmid)),
        };
    }
    if status.intersects(mapped) {
        return file(FdTypes::Reg, "regular file").map(drop);
    }
    if status.contains(VmaStatus::SOCKET) {
        return file(FdTypes::Packetsk, "packet socket").map(drop);
    }
    if status.contains(VmaStatus::SYSVIPC) {
        return match sysv.contains(&vma.shmid) {
            true => Ok(()),
            false => Err(format!("shmid: no SysV segment has id {}", vma.shmid)),
        };
    }
    let known = VmaStatus::ANON_SHARED
        | VmaStatus::ANON_PRIVATE
        | VmaStatus::AIORING
        | VmaStatus::VDSO
        | VmaStatus::VVAR;
    if status.contains(VmaStatus::REGULAR) && !status.intersects(known | VmaStatus::GUARD) {
        return Err(format!("status {:#x} tells of no kind of mapping", vma.status));
    }
    Ok(())
}

/// Whether a mapping can have contents in the pagemap of the task.
fn has_pages(vma: &VmaEntry) -> bool {
    let status = vma.kind();
    if status.contains(VmaStatus::AIORING) {
        return true;
    }
    let none = VmaStatus::VSYSCALL
        | VmaStatus::VVAR
        | VmaStatus::GUARD
        | VmaStatus::FILE_SHARED
        | VmaStatus::ANON_SHARED
        | VmaStatus::SYSVIPC
        | VmaStatus::SOCKET;
    !status.intersects(none)
}

/// Every page has to lie in a private mapping; a segment may span several.
fn check_pages(pid: u32, vmas: &[VmaEntry], pages: &PageSource) -> Result<()> {
    let mut vmas = vmas.iter().filter(|v| has_pages(v)).peekable();
    for segment in pages.segments() {
        let mut at = segment.vaddr;
        while at < segment.end() {
            while vmas.next_if(|v| v.end <= at).is_some() {}
            match vmas.peek() {
                Some(vma) if vma.start <= at => at = vma.end,
                _ => {
                    let reason = format_args!("page {at:#x} is in no private VMA of mm-{pid}.img");
                    return invalid(Image::Pagemap(pid.into()), reason);
                }
            }
        }
    }
    Ok(())
}
