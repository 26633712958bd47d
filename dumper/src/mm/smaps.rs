//! `/proc/PID/smaps`: all VMAs of a task with their flags, in one pass.
//!
//! Pure: text in, VMAs out, whatever the text holds.

use std::io::BufRead;

/// Why a text is no smaps.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Reading failed half-way.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// A line that should begin a VMA does not.
    #[error("line {line} begins no vma: {text:?}")]
    Header {
        /// Its number, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// VMAs do not ascend.
    #[error("line {line}: vma at {start:#x} is not behind the one before")]
    Order {
        /// Its number, from 1.
        line: usize,
        /// First address of the VMA.
        start: u64,
    },
    /// A VMA without `VmFlags` (no such text comes from a kernel since 3.8).
    #[error("vma at {start:#x} has no VmFlags")]
    NoFlags {
        /// First address of the VMA.
        start: u64,
    },
}

/// The two-letter codes of a `VmFlags` line.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct VmFlags(u64);

macro_rules! vm_flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $code:literal;)*) => {
        impl VmFlags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*

            fn of_code(code: &[u8]) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Each code alone.
            pub fn all() -> impl Iterator<Item = Self> {
                [$(Self::$name),*].into_iter()
            }

            /// The codes that are set, as the kernel spells them.
            pub fn codes(self) -> impl Iterator<Item = &'static str> {
                [$((Self::$name, $code)),*]
                    .into_iter()
                    .filter(move |(flag, _)| self.has(*flag))
                    .filter_map(|(_, code)| std::str::from_utf8(code).ok())
            }
        }
    };
}

vm_flags! {
    /// May be read.
    READ = 0, b"rd";
    /// May be written.
    WRITE = 1, b"wr";
    /// May be executed.
    EXEC = 2, b"ex";
    /// Shared and of a file that is open for writing.
    SHARED = 3, b"sh";
    /// May be made readable.
    MAY_READ = 4, b"mr";
    /// May be made writable.
    MAY_WRITE = 5, b"mw";
    /// May be made executable.
    MAY_EXEC = 6, b"me";
    /// Shared.
    MAY_SHARE = 7, b"ms";
    /// Grows when touched below its start.
    GROWSDOWN = 8, b"gd";
    /// Page frames without `struct page`.
    PFNMAP = 9, b"pf";
    /// Locked in memory.
    LOCKED = 10, b"lo";
    /// Pages are locked as they are touched.
    LOCKONFAULT = 11, b"lf";
    /// Device memory.
    IO = 12, b"io";
    /// `MADV_SEQUENTIAL`.
    SEQUENTIAL = 13, b"sr";
    /// `MADV_RANDOM`.
    RANDOM = 14, b"rr";
    /// `MADV_DONTFORK`.
    DONTFORK = 15, b"dc";
    /// mremap may not expand it.
    DONTEXPAND = 16, b"de";
    /// Counted as committed memory.
    ACCOUNT = 17, b"ac";
    /// `MAP_NORESERVE`.
    NORESERVE = 18, b"nr";
    /// Huge pages of hugetlb.
    HUGETLB = 19, b"ht";
    /// `MAP_SYNC`.
    SYNC = 20, b"sf";
    /// `MADV_WIPEONFORK`.
    WIPEONFORK = 21, b"wf";
    /// `MADV_DONTDUMP`.
    DONTDUMP = 22, b"dd";
    /// Soft-dirty.
    SOFTDIRTY = 23, b"sd";
    /// Pages with and without `struct page`.
    MIXEDMAP = 24, b"mm";
    /// `MADV_HUGEPAGE`.
    HUGEPAGE = 25, b"hg";
    /// `MADV_NOHUGEPAGE`.
    NOHUGEPAGE = 26, b"nh";
    /// `MADV_MERGEABLE`.
    MERGEABLE = 27, b"mg";
    /// userfaultfd: missing pages.
    UFFD_MISSING = 28, b"um";
    /// userfaultfd: write-protection.
    UFFD_WP = 29, b"uw";
    /// userfaultfd: minor faults.
    UFFD_MINOR = 30, b"ui";
    /// A user shadow stack.
    SHADOW_STACK = 31, b"ss";
    /// Sealed (`mseal`).
    SEALED = 32, b"sl";
    /// `MAP_DROPPABLE`.
    DROPPABLE = 33, b"dp";
    /// May have guard pages.
    GUARD = 34, b"gu";
    /// Architecture-specific.
    ARCH_1 = 35, b"ar";
    /// Memory tagging.
    MTE = 36, b"mt";
    /// Branch target identification.
    BTI = 37, b"bt";
}

impl VmFlags {
    /// All of `other` are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// One of `other` is set.
    pub fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Those that are in both sets.
    #[must_use]
    pub fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Both sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::fmt::Debug for VmFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.codes()).finish()
    }
}

/// A VMA as the kernel shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vma {
    /// First address.
    pub start: u64,
    /// Address behind the last byte.
    pub end: u64,
    /// `PROT_*`.
    pub prot: u32,
    /// `MAP_SHARED`.
    pub shared: bool,
    /// Offset in the file, in bytes.
    pub pgoff: u64,
    /// Device of the file, major and minor; 0:0 without a file.
    pub dev: (u32, u32),
    /// Inode number of the file, 0 without a file.
    pub ino: u64,
    /// Path, or what stands for one; newlines are escaped as `\012`.
    pub name: Vec<u8>,
    /// `VmFlags`.
    pub flags: VmFlags,
    /// Size of its pages in KiB: 4 but for hugetlb.
    pub page_kib: u32,
    /// Protection key.
    pub pkey: u32,
    /// Has pages in memory or in swap (hugetlb is not counted here).
    pub populated: bool,
}

impl Vma {
    /// It has a file, be it one without a name in any file system.
    pub fn has_file(&self) -> bool {
        self.ino != 0 || self.dev != (0, 0)
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// The name for messages.
    pub fn label(&self) -> String {
        if self.name.is_empty() {
            "anonymous".to_owned()
        } else {
            String::from_utf8_lossy(&self.name).into_owned()
        }
    }
}

/// Parses a whole smaps.
pub fn parse(mut text: impl BufRead) -> Result<Vec<Vma>, ParseError> {
    let mut out: Vec<Vma> = Vec::new();
    let mut line = Vec::with_capacity(512);
    let mut number = 0;
    let mut open = false;
    loop {
        line.clear();
        if text.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        number += 1;
        let content = line.strip_suffix(b"\n").unwrap_or(&line);
        // Fields begin with a capital letter, VMAs with a hexadecimal number in small letters.
        match (content.first(), out.last_mut()) {
            (Some(b'A'..=b'Z'), Some(vma)) if open => {
                if field(content, vma) {
                    open = false;
                }
            }
            (Some(b'A'..=b'Z'), Some(_)) => {}
            (Some(_), last) => {
                if let Some(vma) = last.filter(|_| open) {
                    return Err(ParseError::NoFlags { start: vma.start });
                }
                let vma = header(content).ok_or_else(|| ParseError::Header {
                    line: number,
                    text: String::from_utf8_lossy(content).into_owned(),
                })?;
                if out.last().is_some_and(|last| vma.start < last.end) {
                    return Err(ParseError::Order { line: number, start: vma.start });
                }
                out.push(vma);
                open = true;
            }
            (None, _) => {}
        }
    }
    match out.last() {
        Some(vma) if open => Err(ParseError::NoFlags { start: vma.start }),
        _ => Ok(out),
    }
}

/// Takes a `Key: value` line; true when it was the last one of the VMA.
fn field(line: &[u8], vma: &mut Vma) -> bool {
    let Some(colon) = line.iter().position(|&b| b == b':') else { return false };
    let (key, value) = (&line[..colon], &line[colon + 1..]);
    match key {
        b"Rss" | b"Swap" => vma.populated |= kib(value) != 0,
        b"KernelPageSize" => vma.page_kib = kib(value),
        b"ProtectionKey" => vma.pkey = kib(value),
        b"VmFlags" => {
            for code in value.split(|&b| b == b' ').filter(|c| !c.is_empty()) {
                match VmFlags::of_code(code) {
                    Some(flag) => vma.flags = vma.flags.with(flag),
                    None => log::debug!(
                        "vma {:#x}: unknown flag {}",
                        vma.start,
                        String::from_utf8_lossy(code)
                    ),
                }
            }
            return true;
        }
        _ => {}
    }
    false
}

/// The first number of a value, without its unit.
fn kib(value: &[u8]) -> u32 {
    let digits = value.iter().skip_while(|b| **b == b' ').take_while(|b| b.is_ascii_digit());
    digits.fold(0u32, |n, d| n.saturating_mul(10).saturating_add(u32::from(d - b'0')))
}

/// `start-end perms offset major:minor inode   name`: the line of `/proc/PID/maps`.
pub fn header(line: &[u8]) -> Option<Vma> {
    let (start, rest) = hex(line, b'-')?;
    let (end, rest) = hex(rest, b' ')?;
    let (&[r, w, x, p, space], rest) = rest.split_first_chunk::<5>()?;
    let (pgoff, rest) = hex(rest, b' ')?;
    let (major, rest) = hex(rest, b':')?;
    let (minor, rest) = hex(rest, b' ')?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let ino = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    let name = rest[digits..].trim_ascii_start();
    let aligned = (start | end) % 4096 == 0;
    if start >= end || !aligned || !matches!(p, b's' | b'p') || space != b' ' {
        return None;
    }
    let prot = [(r, b'r', 1), (w, b'w', 2), (x, b'x', 4)];
    Some(Vma {
        start,
        end,
        prot: prot.iter().filter(|(got, want, _)| got == want).map(|(_, _, bit)| bit).sum(),
        shared: p == b's',
        pgoff,
        dev: (major.try_into().ok()?, minor.try_into().ok()?),
        ino,
        name: name.to_vec(),
        page_kib: 4,
        ..Vma::default()
    })
}

/// A hexadecimal number that ends at `end`, and what follows.
fn hex(text: &[u8], end: u8) -> Option<(u64, &[u8])> {
    let len = text.iter().position(|&b| b == end)?;
    if len == 0 || len > 16 {
        return None;
    }
    let mut n = 0u64;
    for &b in &text[..len] {
        n = n << 4 | u64::from(char::from(b).to_digit(16)?);
    }
    Some((n, &text[len + 1..]))
}

#[cfg(test)]
mod tests;
