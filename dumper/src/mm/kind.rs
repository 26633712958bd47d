//! What a VMA is, judged by what the kernel shows of it. Pure.

use super::smaps::{VmFlags, Vma};

/// A kind of mapping, as a dump has to tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Private, without a file.
    Anon,
    /// Private, without a file: `brk` made it.
    Heap,
    /// `MAP_DROPPABLE`: its contents may vanish at any time.
    Droppable,
    /// A user shadow stack.
    ShadowStack,
    /// A file of a file system, or `/dev/zero` mapped privately.
    File,
    /// A memfd, or shared memory without a name, which is a memfd in the images.
    Memfd,
    /// A System V segment; its id is the inode number.
    SysvShm,
    /// Private huge pages without a file.
    HugetlbAnon,
    /// The vdso.
    Vdso,
    /// Its data; two VMAs since 6.13.
    Vvar,
    /// The vsyscall page, which is in no page table.
    Vsyscall,
    /// Ring of an AIO context.
    AioRing,
    /// Rings of a packet socket.
    Socket,
    /// The area of out-of-line uprobe instructions.
    Uprobes,
}

/// Why a VMA cannot be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Rings of an io_uring.
    IoUring,
    /// A buffer of perf events.
    PerfEvent,
    /// Some other file without a name.
    AnonInode,
    /// `memfd_secret`: only the task itself can read it.
    Secretmem,
    /// Memory of a socket that is not a packet socket, or has no descriptor, or only a part of it.
    Socket,
    /// Memory of a device.
    Device,
    /// Shared memory that a driver made.
    DriverShm,
    /// Registered with a userfaultfd.
    Userfaultfd,
    /// Uprobes without the option.
    Uprobes,
    /// `MAP_SYNC` on a DAX file system.
    MapSync,
    /// A System V segment of a namespace that is not dumped.
    SysvShm,
    /// A file that is neither regular nor `/dev/zero`.
    NotRegular,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::IoUring => "rings of an io_uring cannot be saved; close the ring first",
            Self::PerfEvent => "buffers of perf events cannot be saved; stop the profiler first",
            Self::AnonInode => "mappings of this kernel object cannot be saved",
            Self::Secretmem => "memfd_secret memory can be read by the task itself only",
            Self::Socket => {
                "only all the rings of a packet socket of which the task has a descriptor can be \
                 saved"
            }
            Self::Device => "memory of a device cannot be saved without a plugin for it",
            Self::DriverShm => "memory made by a driver cannot be saved without a plugin for it",
            Self::Userfaultfd => "registered with a userfaultfd, which cannot be saved",
            Self::Uprobes => "a uprobe was hit here; --allow-uprobes leaves this area out",
            Self::MapSync => "not supported yet: MAP_SYNC",
            Self::SysvShm => {
                "segments of System V shared memory are saved with an IPC namespace only; \
                 run the tree in its own"
            }
            Self::NotRegular => "the mapped file is neither a regular file nor /dev/zero",
        })
    }
}

const DELETED: &[u8] = b" (deleted)";

/// Tells the kind of a VMA. `shm` is the device of the kernel's own tmpfs, where memfds,
/// shared anonymous memory and System V segments live.
pub fn classify(vma: &Vma, shm: (u32, u32)) -> Result<Kind, Refusal> {
    if !vma.has_file() {
        return without_file(vma);
    }
    if is_handled(vma) {
        return Err(Refusal::Userfaultfd);
    }
    // A file in a file system may have any of these names. What tells them apart is the device
    // (for tmpfs and hugetlbfs) or, for names that do not begin with '/', that no path can be so.
    let bare = vma.name.strip_suffix(DELETED);
    if vma.dev == shm {
        return match bare {
            Some(b"/dev/zero") => Ok(Kind::Memfd),
            Some(name) if name.starts_with(b"/memfd:") => Ok(Kind::Memfd),
            Some(name) if name.starts_with(b"/SYSV") => Ok(Kind::SysvShm),
            // PR_SET_VMA_ANON_NAME hides what the file is called.
            None if vma.name.starts_with(b"[anon_shmem:") => Ok(Kind::Memfd),
            _ => Err(Refusal::DriverShm),
        };
    }
    if vma.flags.has(VmFlags::HUGETLB) {
        match bare {
            Some(b"/anon_hugepage") if vma.shared => return Ok(Kind::Memfd),
            Some(b"/anon_hugepage") => return Ok(Kind::HugetlbAnon),
            Some(name) if name.starts_with(b"/memfd:") => return Ok(Kind::Memfd),
            Some(name) if name.starts_with(b"/SYSV") => return Ok(Kind::SysvShm),
            _ => {}
        }
    }
    let name = &vma.name[..];
    if name.starts_with(b"anon_inode:") {
        return Err(match name {
            b"anon_inode:[io_uring]" => Refusal::IoUring,
            b"anon_inode:[perf_event]" => Refusal::PerfEvent,
            _ => Refusal::AnonInode,
        });
    }
    if name.starts_with(b"socket:") {
        return Ok(Kind::Socket);
    }
    // Device number 0:x: no block device, so no regular file system with such odd mappings.
    if vma.dev.0 == 0 && bare == Some(b"/[aio]") && vma.flags.has(VmFlags::DONTEXPAND) {
        return Ok(Kind::AioRing);
    }
    if vma.dev.0 == 0 && name.starts_with(b"/secretmem") && vma.flags.has(VmFlags::LOCKED) {
        return Err(Refusal::Secretmem);
    }
    if vma.flags.any(VmFlags::PFNMAP.with(VmFlags::IO)) {
        return Err(Refusal::Device);
    }
    if vma.flags.has(VmFlags::SYNC) {
        return Err(Refusal::MapSync);
    }
    Ok(Kind::File)
}

/// Somebody handles its faults. Write-protection alone may be what a dump before this one left to
/// see changes; a tree with a userfaultfd of its own is told by its descriptor.
fn is_handled(vma: &Vma) -> bool {
    vma.flags.any(VmFlags::UFFD_MISSING.with(VmFlags::UFFD_MINOR))
}

fn without_file(vma: &Vma) -> Result<Kind, Refusal> {
    match &vma.name[..] {
        b"[vdso]" => return Ok(Kind::Vdso),
        b"[vvar]" | b"[vvar_vclock]" => return Ok(Kind::Vvar),
        b"[vsyscall]" => return Ok(Kind::Vsyscall),
        b"[uprobes]" => return Ok(Kind::Uprobes),
        _ => {}
    }
    if is_handled(vma) {
        Err(Refusal::Userfaultfd)
    } else if vma.flags.any(VmFlags::PFNMAP.with(VmFlags::IO)) {
        Err(Refusal::Device)
    } else if vma.flags.has(VmFlags::SHADOW_STACK) {
        Ok(Kind::ShadowStack)
    } else if vma.flags.has(VmFlags::DROPPABLE) {
        Ok(Kind::Droppable)
    } else if vma.name == b"[heap]" {
        Ok(Kind::Heap)
    } else {
        Ok(Kind::Anon)
    }
}

/// Which contents of a VMA go to the task's pagemap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// None: they are elsewhere, or nobody's.
    Nothing,
    /// Pages of its own: those that are not the file's, not the zero page.
    Private {
        /// They may be restored on demand.
        lazy: bool,
    },
    /// All of them.
    All,
}

impl Kind {
    /// Whether page tables tell all that changes it.
    pub fn is_trackable(self) -> bool {
        matches!(self, Self::Anon | Self::Heap)
    }

    /// Which contents go to the pagemap.
    pub fn content(self, vma: &Vma) -> Content {
        match self {
            Self::Anon | Self::Heap => Content::Private { lazy: !vma.flags.has(VmFlags::LOCKED) },
            Self::ShadowStack | Self::HugetlbAnon => Content::Private { lazy: false },
            Self::File | Self::Memfd if !vma.shared => Content::Private { lazy: false },
            Self::Vdso | Self::AioRing => Content::All,
            Self::File
            | Self::Memfd
            | Self::SysvShm
            | Self::Socket
            | Self::Droppable
            | Self::Vvar
            | Self::Vsyscall
            | Self::Uprobes => Content::Nothing,
        }
    }
}

/// `vma_entry.status`.
pub mod status {
    #![allow(missing_docs, reason = "names of the format, see constants.md")]
    pub const REGULAR: u32 = 1;
    pub const VSYSCALL: u32 = 1 << 2;
    pub const VDSO: u32 = 1 << 3;
    pub const HEAP: u32 = 1 << 5;
    pub const FILE_PRIVATE: u32 = 1 << 6;
    pub const FILE_SHARED: u32 = 1 << 7;
    pub const ANON_SHARED: u32 = 1 << 8;
    pub const ANON_PRIVATE: u32 = 1 << 9;
    pub const SYSVIPC: u32 = 1 << 10;
    pub const SOCKET: u32 = 1 << 11;
    pub const VVAR: u32 = 1 << 12;
    pub const AIORING: u32 = 1 << 13;
    pub const MEMFD: u32 = 1 << 14;
    pub const SHSTK: u32 = 1 << 15;
    pub const GUARD: u32 = 1 << 16;
}

impl Kind {
    /// `vma_entry.status` of a mapping of this kind.
    pub fn status(self, shared: bool) -> u32 {
        use status::*;
        let file = if shared { FILE_SHARED } else { FILE_PRIVATE };
        match self {
            Self::Anon | Self::Droppable | Self::HugetlbAnon => REGULAR | ANON_PRIVATE,
            Self::Heap => REGULAR | ANON_PRIVATE | HEAP,
            Self::ShadowStack => REGULAR | ANON_PRIVATE | SHSTK,
            Self::File => REGULAR | file,
            Self::Memfd => REGULAR | MEMFD | file,
            Self::SysvShm => REGULAR | ANON_SHARED | SYSVIPC,
            Self::Vdso => REGULAR | ANON_PRIVATE | VDSO,
            Self::Vvar => REGULAR | ANON_PRIVATE | VVAR,
            // No REGULAR: restore does not map these.
            Self::Vsyscall => ANON_PRIVATE | VSYSCALL,
            Self::AioRing => AIORING,
            Self::Socket => REGULAR | SOCKET,
            Self::Uprobes => 0,
        }
    }

    /// `vma_entry.flags`.
    pub fn map_flags(self, vma: &Vma) -> u32 {
        let flag = |vm: VmFlags, map: i32| if vma.flags.has(vm) { map as u32 } else { 0 };
        let sharing = match (self, vma.shared) {
            (Self::Droppable, _) => MAP_DROPPABLE,
            (_, true) => libc::MAP_SHARED as u32,
            (_, false) => libc::MAP_PRIVATE as u32,
        };
        let anonymous = match self {
            Self::File | Self::Memfd | Self::SysvShm | Self::AioRing | Self::Socket => 0,
            _ => libc::MAP_ANONYMOUS as u32,
        };
        let hugetlb = if matches!(self, Self::Memfd | Self::HugetlbAnon | Self::SysvShm)
            && vma.flags.has(VmFlags::HUGETLB)
        {
            let shift = (u64::from(vma.page_kib) * 1024).checked_ilog2().unwrap_or(21);
            libc::MAP_HUGETLB as u32 | shift << 26
        } else {
            0
        };
        sharing
            | anonymous
            | hugetlb
            | flag(VmFlags::GROWSDOWN, libc::MAP_GROWSDOWN)
            | flag(VmFlags::LOCKED, libc::MAP_LOCKED)
            | flag(VmFlags::NORESERVE, libc::MAP_NORESERVE)
    }
}

const MAP_DROPPABLE: u32 = 8;

/// `vma_entry.madv`: bit n for `MADV_n`.
pub fn madvice(flags: VmFlags) -> u64 {
    [
        (VmFlags::RANDOM, libc::MADV_RANDOM),
        (VmFlags::SEQUENTIAL, libc::MADV_SEQUENTIAL),
        (VmFlags::DONTFORK, libc::MADV_DONTFORK),
        (VmFlags::MERGEABLE, libc::MADV_MERGEABLE),
        (VmFlags::HUGEPAGE, libc::MADV_HUGEPAGE),
        (VmFlags::NOHUGEPAGE, libc::MADV_NOHUGEPAGE),
        (VmFlags::DONTDUMP, libc::MADV_DONTDUMP),
        (VmFlags::WIPEONFORK, libc::MADV_WIPEONFORK),
    ]
    .into_iter()
    .filter(|(flag, _)| flags.has(*flag))
    .map(|(_, advice)| 1 << advice)
    .sum()
}
