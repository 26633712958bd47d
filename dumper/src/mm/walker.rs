//! All VMAs of a task without a look at its page tables: `/proc/PID/maps` has all but their flags,
//! and those are told by a program of ours that the kernel calls for each VMA (an iterator of
//! BPF). `smaps` has it all in one place, but counts pages for it: 45 ms for each GiB, in which
//! the task stands still.
//!
//! All is made ready while the tree runs: the program, and what the bits mean, which is learned
//! from mappings of our own. Where anything is not as expected, smaps is read.

use super::btf::{self, Btf};
use super::smaps::{self, VmFlags, Vma};
use super::vm_bits::{Meaning, Sample};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use sys::samples::Samples;

/// What the program writes of a VMA: start, end, flags, and whether it ever had pages of its own.
const RECORD: usize = 32;
/// The kernel collects as much at a time.
const BUFFER: usize = 32 << 10;
/// The page that is in no list of VMAs.
const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;

/// Why a task has to be read by smaps.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// A system call.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// A file could not be read.
    #[error("{0}: {1}")]
    Read(&'static str, std::io::Error),
    /// The kernel's types are not as they have to be.
    #[error("the kernel does not tell where its structures have {0}")]
    Types(&'static str),
    /// A line of maps.
    #[error("maps: {0:?}")]
    Line(String),
    /// Not all of a VMA.
    #[error("the list of VMAs comes in pieces of {0} bytes")]
    Torn(usize),
    /// Both lists have to have the same VMAs.
    #[error("maps and the list of VMAs differ at {0:#x}")]
    Differ(u64),
    /// Bits do not mean anything.
    #[error("flags of our own mappings contradict each other")]
    Contradiction,
    /// A bit of unknown meaning.
    #[error("vma {0:#x}: it is not known what its flags {1:#x} mean")]
    Flags(u64, u64),
}

/// The kernel's words about one VMA.
#[derive(Clone, Copy, Debug)]
struct Record {
    start: u64,
    end: u64,
    bits: u64,
    populated: bool,
}

impl From<&[u8; RECORD]> for Record {
    fn from(bytes: &[u8; RECORD]) -> Self {
        let word = |n: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[n * 8 + i]));
        Self { start: word(0), end: word(1), bits: word(2), populated: word(3) != 0 }
    }
}

/// Ready to tell VMAs.
#[derive(Debug)]
pub struct Walker {
    program: OwnedFd,
    meaning: Meaning,
}

impl Walker {
    /// Loads the program and learns. Takes some milliseconds.
    pub fn prepare() -> Result<Self, Unknown> {
        let program = load()?;
        let meaning = Meaning::learn(&samples(&program)?).ok_or(Unknown::Contradiction)?;
        Ok(Self { program, meaning })
    }

    /// All VMAs of `pid`, which stands still, as smaps tells them; but `populated` means that there
    /// may be private pages.
    pub fn vmas(&self, pid: i32) -> Result<Vec<Vma>, Unknown> {
        let mut vmas = maps(pid)?;
        let records = records(&self.program, pid, vmas.len())?;
        let mut records = records.iter();
        for vma in &mut vmas {
            vma.flags = match records.next() {
                None if vma.start == VSYSCALL && vma.name == b"[vsyscall]" => rights(vma),
                Some(record) if (record.start, record.end) == (vma.start, vma.end) => {
                    vma.populated = record.populated;
                    self.flags(vma, record.bits)?
                }
                _ => return Err(Unknown::Differ(vma.start)),
            };
        }
        match records.next() {
            None => Ok(vmas),
            Some(record) => Err(Unknown::Differ(record.start)),
        }
    }

    /// What `bits` mean, if they say the same as maps does. The size of huge pages and protection
    /// keys, whose bits are in no sample, are told by smaps only.
    fn flags(&self, vma: &Vma, bits: u64) -> Result<VmFlags, Unknown> {
        let all = VmFlags::READ.with(VmFlags::WRITE).with(VmFlags::EXEC).with(VmFlags::MAY_SHARE);
        let shared = if vma.shared { VmFlags::MAY_SHARE } else { VmFlags::default() };
        let is_plain = |flags: &VmFlags| {
            flags.common(all) == rights(vma).with(shared) && !flags.has(VmFlags::HUGETLB)
        };
        let flags = self.meaning.codes(bits).filter(is_plain);
        flags.ok_or(Unknown::Flags(vma.start, bits))
    }
}

/// `PROT_*` as flags.
fn rights(vma: &Vma) -> VmFlags {
    let all = [(1, VmFlags::READ), (2, VmFlags::WRITE), (4, VmFlags::EXEC)];
    let set = all.iter().filter(|(prot, _)| vma.prot & prot != 0);
    set.fold(VmFlags::default(), |flags, (_, flag)| flags.with(*flag))
}

/// Lines of `/proc/PID/maps`.
fn maps(pid: i32) -> Result<Vec<Vma>, Unknown> {
    let mut text = Vec::with_capacity(BUFFER);
    File::open(format!("/proc/{pid}/maps"))
        .and_then(|mut file| file.read_to_end(&mut text))
        .map_err(|e| Unknown::Read("maps", e))?;
    let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    let unknown = |line| Unknown::Line(String::from_utf8_lossy(line).into_owned());
    lines.map(|line| smaps::header(line).ok_or_else(|| unknown(line))).collect()
}

/// What the program writes about `pid`: of `most` VMAs, or one more, or all of them.
fn records(program: &OwnedFd, pid: i32, most: usize) -> Result<Vec<Record>, Unknown> {
    let mut file = File::from(sys::bpf::iterate(program.as_fd(), pid)?);
    let mut records: Vec<Record> = Vec::with_capacity(most + 1);
    let mut buffer = vec![0; BUFFER];
    while records.len() <= most {
        let n = file.read(&mut buffer).map_err(|e| Unknown::Read("list of VMAs", e))?;
        let (words, torn) = buffer[..n].as_chunks();
        if !torn.is_empty() {
            return Err(Unknown::Torn(n));
        }
        let known = records.len();
        for record in words.iter().map(Record::from) {
            // The list of one task has no end (seen in 6.18): asked for more when all was told, the
            // kernel begins again where it had been asked for more before.
            if records.last().is_some_and(|last| record.start < last.end) {
                return Ok(records);
            }
            records.push(record);
        }
        if records.len() == known {
            break;
        }
    }
    Ok(records)
}

/// The program, made for this kernel's structures.
fn load() -> Result<OwnedFd, Unknown> {
    let types = sys::bpf::Types::of_kernel().map_err(|e| Unknown::Read("BTF", e))?;
    let btf = Btf::parse(types.bytes()).ok_or(Unknown::Types("anything"))?;
    let [context, meta, vma, function] = btf.find([
        (btf::Kind::Struct, "bpf_iter__task_vma"),
        (btf::Kind::Struct, "bpf_iter_meta"),
        (btf::Kind::Struct, "vm_area_struct"),
        (btf::Kind::Func, "bpf_iter_task_vma"),
    ]);
    if function == 0 {
        return Err(Unknown::Types("bpf_iter_task_vma"));
    }
    let at = |id, name| btf.word(id, name).ok_or(Unknown::Types(name));
    let places = Places {
        meta: at(context, "meta")?,
        vma: at(context, "vma")?,
        seq: at(meta, "seq")?,
        start: at(vma, "vm_start")?,
        end: at(vma, "vm_end")?,
        flags: at(vma, "vm_flags")?,
        anon_vma: at(vma, "anon_vma")?,
    };
    Ok(sys::bpf::load_iterator(&places.program(), function, b"criu_vmas")?)
}

/// Offsets of members.
struct Places {
    meta: i16,
    vma: i16,
    seq: i16,
    start: i16,
    end: i16,
    flags: i16,
    anon_vma: i16,
}

impl Places {
    /// Writes a [`Record`] for the VMA in its context.
    fn program(&self) -> Vec<u64> {
        const SEQ_WRITE: i32 = 127;
        const TO: i16 = -(RECORD as i16);
        let op = |code: u64, to: u64, from: u64, off: i16, imm: i32| {
            code | to << 8 | from << 12 | u64::from(off as u16) << 16 | u64::from(imm as u32) << 32
        };
        let load = |to, from, off| op(0x79, to, from, off, 0);
        let store = |to, off, from| op(0x7b, to, from, off, 0);
        let set = |to, imm| op(0xb7, to, 0, 0, imm);
        let copy = |to, from| op(0xbf, to, from, 0, 0);
        let skip_if_zero = |reg, skipped| op(0x15, reg, 0, skipped, 0);
        let (context, vma, stack) = (6, 7, 10);
        vec![
            copy(context, 1),
            load(vma, context, self.vma),
            skip_if_zero(vma, 16),
            load(1, vma, self.start),
            store(stack, TO, 1),
            load(1, vma, self.end),
            store(stack, TO + 8, 1),
            load(1, vma, self.flags),
            store(stack, TO + 16, 1),
            load(1, vma, self.anon_vma),
            // An address of the kernel's is nobody's business.
            skip_if_zero(1, 1),
            set(1, 1),
            store(stack, TO + 24, 1),
            load(1, context, self.meta),
            load(1, 1, self.seq),
            copy(2, stack),
            op(0x07, 2, 0, 0, TO.into()),
            set(3, RECORD as i32),
            op(0x85, 0, 0, 0, SEQ_WRITE),
            set(0, 0),
            op(0x95, 0, 0, 0, 0),
        ]
    }
}

/// Mappings of our own, as the kernel has them and as it shows them.
fn samples(program: &OwnedFd) -> Result<Vec<Sample>, Unknown> {
    const OTHERS: [&[u8]; 4] = [b"[vdso]", b"[vvar]", b"[vvar_vclock]", b"[stack]"];
    let (made, _watch) = make()?;
    let (first, behind) = made.range();
    let text = std::fs::read("/proc/self/smaps").map_err(|e| Unknown::Read("smaps", e))?;
    // Our other threads make and change mappings all the while: VMAs are looked at one by one.
    let shown: Vec<Vma> = entries(&text).filter_map(|e| smaps::parse(e).ok()?.pop()).collect();
    // There may be more of them by and by.
    let records = records(program, std::process::id() as i32, shown.len() * 2 + 64)?;
    // Those of which nobody but us could change anything meanwhile.
    let counts = |v: &Vma| (first..behind).contains(&v.start) || OTHERS.contains(&&v.name[..]);
    let mut samples = Vec::new();
    for vma in shown.iter().filter(|v| counts(v) && v.pkey == 0) {
        let same = |r: &&Record| (r.start, r.end) == (vma.start, vma.end);
        if let Some(record) = records.iter().find(same) {
            samples.push(Sample { bits: record.bits, codes: vma.flags });
        }
    }
    Ok(samples)
}

/// A smaps, cut where VMAs begin: with a small letter or a digit.
fn entries(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let begins = |pair: &[u8]| pair[0] == b'\n' && !pair[1].is_ascii_uppercase();
        let end = rest.windows(2).position(begins).map_or(rest.len(), |at| at + 1);
        let (entry, behind) = rest.split_at(end);
        rest = behind;
        (!entry.is_empty()).then_some(entry)
    })
}

/// One of each kind. What this kernel does not know, or does not let us do, will be in no sample.
fn make() -> Result<(Samples, Option<OwnedFd>), Unknown> {
    const MAP_DROPPABLE: i32 = 8;
    const MADV_GUARD_INSTALL: i32 = 102;
    const MLOCK_ONFAULT: u32 = 1;
    const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
    const PRIVATE: i32 = libc::MAP_PRIVATE;
    let advices = [
        libc::MADV_DONTFORK,
        libc::MADV_WIPEONFORK,
        libc::MADV_DONTDUMP,
        libc::MADV_HUGEPAGE,
        libc::MADV_NOHUGEPAGE,
        libc::MADV_MERGEABLE,
        libc::MADV_SEQUENTIAL,
        libc::MADV_RANDOM,
        MADV_GUARD_INSTALL,
    ];
    let mut made = Samples::new(advices.len() + 16)?;
    for (prot, flags) in [
        (RW, PRIVATE),
        (libc::PROT_NONE, PRIVATE),
        (libc::PROT_READ, PRIVATE),
        (libc::PROT_WRITE, PRIVATE),
        (RW, PRIVATE | libc::MAP_NORESERVE),
        (RW, PRIVATE | libc::MAP_GROWSDOWN),
    ] {
        made.map(prot, flags, None)?;
    }
    // Fails where it is not known.
    let _ = made.map(RW, MAP_DROPPABLE, None);
    for advice in advices {
        let sample = made.map(RW, PRIVATE, None)?;
        let _ = made.advise(sample, advice);
    }
    for flags in [0, MLOCK_ONFAULT] {
        let sample = made.map(RW, PRIVATE, None)?;
        let _ = made.lock(sample, flags);
    }
    let memfd = sys::fd::memfd_create(b"criu", libc::MFD_CLOEXEC)?;
    made.map(RW, libc::MAP_SHARED, Some(memfd.as_fd()))?;
    made.map(RW, PRIVATE, Some(memfd.as_fd()))?;
    if let Ok(read_only) = File::open(format!("/proc/self/fd/{}", memfd.as_raw_fd())) {
        made.map(libc::PROT_READ, libc::MAP_SHARED, Some(read_only.as_fd()))?;
    }
    let watched = made.map(RW, PRIVATE, None)?;
    let (start, end) = Samples::range_of(watched);
    let watch = sys::uffd::create(sys::uffd::USER_MODE_ONLY).ok().filter(|fd| {
        let enabled =
            sys::uffd::enable(fd.as_fd(), sys::uffd::WP_ASYNC | sys::uffd::WP_UNPOPULATED);
        enabled.and_then(|()| sys::uffd::register(fd.as_fd(), start, end)).is_ok()
    });
    let last = made.map(RW, PRIVATE, None)?;
    let _ = made.seal(last);
    Ok((made, watch))
}

#[cfg(test)]
mod tests;
