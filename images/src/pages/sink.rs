//! Where a dump puts memory contents.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::pages::frames::{Codec, Compression};
use crate::pages::{PAGE_SIZE, PageFlags, PageRange, PageSet, PagemapWriter};
use crate::{Dir, Error, Image, Result};

/// Takes the memory of one task or segment, in ascending order of addresses.
pub trait PageSink {
    /// Appends pages with contents. PRESENT is added to `flags`.
    fn write(&mut self, vaddr: u64, flags: PageFlags, contents: &[IoSlice<'_>]) -> Result<()>;

    /// Appends pages whose contents are elsewhere (PARENT, LAZY).
    fn hole(&mut self, vaddr: u64, pages: u64, flags: PageFlags) -> Result<()>;

    /// Says that all of it has come.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Hands out `pages-N` numbers for one dump.
#[derive(Debug)]
pub struct PageImages {
    dir: Dir,
    next: AtomicU32,
    compression: Option<Compression>,
}

impl PageImages {
    /// Numbers of a dump into its own directory: from 1.
    #[must_use]
    pub fn new(dir: Dir) -> Self {
        Self { dir, next: AtomicU32::new(1), compression: None }
    }

    /// Numbers of a page server, which do not clash with those of the dumper: from 0x10001.
    #[must_use]
    pub fn of_server(dir: Dir) -> Self {
        Self { dir, next: AtomicU32::new(0x10001), compression: None }
    }

    /// Compresses contents like this.
    #[must_use]
    pub fn compressed(self, compression: Option<Compression>) -> Self {
        Self { compression, ..self }
    }

    /// How contents are compressed.
    #[must_use]
    pub fn compression(&self) -> Option<Compression> {
        self.compression
    }

    /// The directory in which they are made.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Creates the images for the memory of `set`.
    pub fn create(&self, set: PageSet) -> Result<LocalSink> {
        self.create_in(set, None)
    }

    /// As [`PageImages::create`], contents in `file`, which [`Dir::create_in_memory`] has made.
    pub fn create_in(&self, set: PageSet, file: Option<File>) -> Result<LocalSink> {
        let pages_id = self.next.fetch_add(1, Ordering::Relaxed);
        let pages = Image::Pages(pages_id);
        let plain = pages.file_name();
        let names = [None, Some(Codec::Zstd), Some(Codec::Lz4)];
        let own = self.compression.map(|c| c.codec);
        for other in names.into_iter().filter(|codec| *codec != own) {
            // Contents of an older dump must not be taken for these.
            self.dir.remove_file(&named(&plain, other))?;
        }
        let name = named(&plain, own);
        let file = match file {
            Some(file) => {
                self.dir.name_file(&file, &name)?;
                file
            }
            None => self.dir.create_file(&name)?,
        };
        let file = Arc::new(file);
        let pagemap = PagemapWriter::create(&self.dir, set, pages_id)?;
        Ok(LocalSink { pagemap, name, file, offset: 0 })
    }
}

fn named(plain: &str, codec: Option<Codec>) -> String {
    codec.map_or_else(|| plain.to_owned(), |codec| codec.file_name(plain))
}

/// Writes memory to a pagemap and a pages image.
#[derive(Debug)]
#[must_use = "images are whole only after finish()"]
pub struct LocalSink {
    pagemap: PagemapWriter,
    name: String,
    file: Arc<File>,
    offset: u64,
}

impl LocalSink {
    /// Promises contents for `pages` pages and gives the offset in [`LocalSink::file`] where the
    /// caller has to put them: for workers that write side by side, for `splice`.
    ///
    /// Do not mix with [`PageSink::write`], which writes at the position of the file.
    pub fn reserve(&mut self, vaddr: u64, pages: u64, flags: PageFlags) -> Result<u64> {
        let flags = flags | PageFlags::PRESENT;
        self.pagemap.push(PageRange { vaddr, pages, flags })?;
        let offset = self.offset;
        self.offset += pages * PAGE_SIZE;
        Ok(offset)
    }

    /// The pages image.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Name of the pages image, for messages.
    #[must_use]
    pub fn pages_name(&self) -> &str {
        &self.name
    }

    /// Bytes of contents so far.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.offset
    }

    /// Appends pages whose contents are elsewhere (PARENT, LAZY).
    pub fn push_hole(&mut self, vaddr: u64, pages: u64, flags: PageFlags) -> Result<()> {
        let flags = flags - PageFlags::PRESENT;
        self.pagemap.push(PageRange { vaddr, pages, flags })
    }

    /// Writes out the pagemap. Contents have to be in place.
    pub fn close(self) -> Result<()> {
        self.pagemap.finish()
    }
}

impl PageSink for LocalSink {
    fn write(&mut self, vaddr: u64, flags: PageFlags, contents: &[IoSlice<'_>]) -> Result<()> {
        let len: u64 = contents.iter().map(|c| c.len() as u64).sum();
        if !len.is_multiple_of(PAGE_SIZE) {
            return Err(Error::invalid(&*self.name, format!("{len} bytes are no whole pages")));
        }
        self.reserve(vaddr, len / PAGE_SIZE, flags)?;
        let mut contents = contents.to_vec();
        let mut rest = &mut contents[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            // The kernel takes 1024 pieces at most.
            let batch = rest.len().min(1024);
            match (&*self.file).write_vectored(&rest[..batch]) {
                Ok(0) => return Err(Error::io(&self.name, "writev")(nix::errno::Errno::ENOSPC)),
                Ok(n) => IoSlice::advance_slices(&mut rest, n),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(&self.name, "writev")(e)),
            }
        }
        Ok(())
    }

    fn hole(&mut self, vaddr: u64, pages: u64, flags: PageFlags) -> Result<()> {
        self.push_hole(vaddr, pages, flags)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.close()
    }
}
