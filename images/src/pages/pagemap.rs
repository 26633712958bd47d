//! Reads and writes pagemaps.

use crate::pages::{PAGE_SIZE, PageFlags, PageSet};
use crate::proto::{PagemapEntry, PagemapHead};
use crate::{Dir, Error, Reader, Result, Writer};

/// Pages that lie side by side and have the same flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRange {
    /// Address of the first page, or its offset in a shared segment.
    pub vaddr: u64,
    /// Number of pages; not 0.
    pub pages: u64,
    /// Where the contents are.
    pub flags: PageFlags,
}

impl PageRange {
    /// Address behind the last page.
    #[must_use]
    pub fn end(self) -> u64 {
        self.vaddr + self.pages * PAGE_SIZE
    }

    /// Number of bytes.
    #[must_use]
    pub fn len_bytes(self) -> u64 {
        self.pages * PAGE_SIZE
    }
}

/// Reads one pagemap: entries of any version come out alike, sorted, without overlap.
#[derive(Debug)]
pub struct PagemapReader {
    reader: Reader,
    pages_id: u32,
    end: u64,
}

impl PagemapReader {
    /// Opens the pagemap of `set`; `None` if there is none.
    pub fn open(dir: &Dir, set: PageSet) -> Result<Option<Self>> {
        let mut reader = dir.reader(set.image())?;
        if reader.is_absent() {
            return Ok(None);
        }
        let pages_id = reader.read_one::<PagemapHead>()?.pages_id;
        Ok(Some(Self { reader, pages_id, end: 0 }))
    }

    /// Number of the pages image.
    #[must_use]
    pub fn pages_id(&self) -> u32 {
        self.pages_id
    }

    /// The next range, or `None` at the end.
    pub fn read(&mut self) -> Result<Option<PageRange>> {
        while let Some(entry) = self.reader.read_opt::<PagemapEntry>()? {
            let range = self.range(&entry)?;
            // Counts of 4.2 read by nobody but an older reader: nothing is there.
            if range.pages > 0 {
                self.end = range.end();
                return Ok(Some(range));
            }
        }
        Ok(None)
    }

    fn range(&self, entry: &PagemapEntry) -> Result<PageRange> {
        let vaddr = entry.vaddr;
        let pages = entry.nr_pages.unwrap_or_else(|| entry.compat_nr_pages.into());
        let flags = match (entry.flags, entry.in_parent) {
            (Some(flags), _) => PageFlags::from_bits_retain(flags),
            (None, Some(true)) => PageFlags::PARENT,
            (None, _) => PageFlags::PRESENT,
        };
        let end = pages.checked_mul(PAGE_SIZE).and_then(|len| vaddr.checked_add(len));
        let wrong = if !vaddr.is_multiple_of(PAGE_SIZE) {
            "is not at a page boundary"
        } else if end.is_none() {
            "goes beyond the end of memory"
        } else if vaddr < self.end {
            "is not behind the one before"
        } else if flags.contains(PageFlags::PRESENT | PageFlags::PARENT) {
            "is both here and in the parent"
        } else {
            return Ok(PageRange { vaddr, pages, flags });
        };
        Err(self.reader.invalid(format_args!("vaddr {vaddr:#x}, nr_pages {pages}: {wrong}")))
    }

    /// Name of the file, for messages.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.reader.file_name()
    }

    /// An error about the range that was read last.
    pub fn invalid(&self, reason: impl std::fmt::Display) -> Error {
        self.reader.invalid(reason)
    }
}

impl Iterator for PagemapReader {
    type Item = Result<PageRange>;

    /// Callers stop at the first error.
    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Writes one pagemap. Ranges that continue the one before become one entry.
#[derive(Debug)]
#[must_use = "a pagemap is whole only after finish()"]
pub struct PagemapWriter {
    writer: Writer,
    last: Option<PageRange>,
}

impl PagemapWriter {
    /// Creates the pagemap of `set`, whose contents are in `pages-<pages_id>.img`.
    pub fn create(dir: &Dir, set: PageSet, pages_id: u32) -> Result<Self> {
        let mut writer = dir.writer(set.image())?;
        writer.write(&PagemapHead { pages_id })?;
        Ok(Self { writer, last: None })
    }

    /// Appends a range. It has to lie behind the one before.
    pub fn push(&mut self, range: PageRange) -> Result<()> {
        let bytes = range.pages.checked_mul(PAGE_SIZE);
        let inside = bytes.and_then(|bytes| range.vaddr.checked_add(bytes)).is_some();
        let behind = self.last.is_none_or(|last| last.end() <= range.vaddr);
        if !inside || !behind || !range.vaddr.is_multiple_of(PAGE_SIZE) {
            let reason = format!("range at {:#x} is out of order", range.vaddr);
            return Err(Error::invalid(self.writer.file_name(), reason));
        }
        if range.pages == 0 {
            return Ok(());
        }
        match &mut self.last {
            Some(last)
                if last.end() == range.vaddr
                    && last.flags == range.flags
                    // Readers before 4.2 have 32 bits for the count.
                    && u32::try_from(last.pages + range.pages).is_ok() =>
            {
                last.pages += range.pages;
            }
            _ => {
                self.flush()?;
                self.last = Some(range);
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let Some(PageRange { vaddr, pages, flags }) = self.last.take() else { return Ok(()) };
        // Readers before 4.2 know only `compat_nr_pages`; 4.2 prefers `nr_pages`.
        self.writer.write(&PagemapEntry {
            vaddr,
            compat_nr_pages: u32::try_from(pages).unwrap_or(0),
            in_parent: None,
            flags: Some(flags.bits()),
            nr_pages: Some(pages),
        })
    }

    /// Writes out what is buffered.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.writer.finish().map(drop)
    }
}
