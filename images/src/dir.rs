//! A directory of images.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::dir::Dir as Listing;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};
use prost::{Message, Name};

use crate::kind::Image;
use crate::reader::{Extent, Reader};
use crate::writer::Writer;
use crate::{Error, Result};

/// Name of the link to the previous images of an incremental chain.
pub const PARENT: &str = "parent";

/// A directory of images, held open. Cloning it shares the descriptor.
#[derive(Debug, Clone)]
pub struct Dir {
    fd: Arc<OwnedFd>,
    path: PathBuf,
    /// The images that were here, if that was asked for: others need not be removed.
    old: Option<Arc<HashSet<Image>>>,
}

impl Dir {
    /// Opens a directory by its path.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = openat(nix::fcntl::AT_FDCWD, path, flags, Mode::empty())
            .map_err(Error::io(&path.to_string_lossy(), "open"))?;
        Ok(Self::from_fd(fd, path))
    }

    /// Takes a directory that is open already; `path` is only for messages.
    #[must_use]
    pub fn from_fd(fd: OwnedFd, path: impl Into<PathBuf>) -> Self {
        Self { fd: Arc::new(fd), path: path.into(), old: None }
    }

    /// Looks now at what is here, which spares a system call for every image that will not be
    /// written: in a dump, a frozen tree waits for those.
    pub fn look_ahead(mut self) -> Result<Self> {
        self.old = Some(Arc::new(self.images()?.into_iter().collect()));
        Ok(self)
    }

    /// Removes an image of an older dump if there is one.
    pub(crate) fn remove_old(&self, image: Image) -> Result<()> {
        match &self.old {
            Some(old) if !old.contains(&image) => Ok(()),
            _ => self.remove_file(&image.file_name()),
        }
    }

    /// Path by which it was opened, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file for reading; `None` if there is none.
    pub fn open_file(&self, name: &str) -> Result<Option<File>> {
        // O_NONBLOCK: a FIFO planted under an image's name must not stop us for ever.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        match openat(&*self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::io(name, "open")(errno)),
        }
    }

    /// Opens a file for reading and writing, for punching holes; `None` if there is none.
    pub fn open_file_rw(&self, name: &str) -> Result<Option<File>> {
        match openat(&*self.fd, name, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::io(name, "open")(errno)),
        }
    }

    /// Creates or truncates a file, for reading and writing.
    pub fn create_file(&self, name: &str) -> Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
        let fd = openat(&*self.fd, name, flags, Mode::from_bits_truncate(0o644))
            .map_err(Error::io(name, "create"))?;
        Ok(fd.into())
    }

    /// Creates a file without a name, which [`Dir::name_file`] may give it. `None` where the file
    /// system has no such files, or does not keep its files in memory.
    pub fn create_in_memory(&self) -> Option<File> {
        let flags = OFlag::O_RDWR | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        let fd = self
            .is_in_memory()
            .then(|| openat(&*self.fd, ".", flags, Mode::from_bits_truncate(0o644)))?;
        fd.ok().map(File::from)
    }

    /// Whether its file system keeps files in memory.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        fstatfs(&*self.fd).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC)
    }

    /// Bytes that may yet be written here; `None` if there is no limit.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        let fs = fstatfs(&*self.fd).ok().filter(|fs| fs.blocks() > 0)?;
        let size = u64::try_from(fs.block_size()).unwrap_or(0);
        Some(fs.blocks_available().saturating_mul(size))
    }

    /// Names a file of [`Dir::create_in_memory`], in the place of another of that name.
    pub fn name_file(&self, file: &File, name: &str) -> Result<()> {
        self.remove_file(name)?;
        let own = format!("/proc/self/fd/{}", file.as_raw_fd());
        let at = nix::fcntl::AT_FDCWD;
        linkat(at, own.as_str(), &*self.fd, name, AtFlags::AT_SYMLINK_FOLLOW)
            .map_err(Error::io(name, "link"))
    }

    /// Removes a file if there is one.
    pub fn remove_file(&self, name: &str) -> Result<()> {
        match unlinkat(&*self.fd, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(Error::io(name, "unlink")(errno)),
        }
    }

    /// Gives a file another name, in the place of one that has it.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        renameat(&*self.fd, from, &*self.fd, to).map_err(Error::io(to, "rename"))
    }

    /// Names of all files that are here, in order.
    pub fn file_names(&self) -> Result<Vec<String>> {
        let failed = |errno| Error::io(&self.path.to_string_lossy(), "readdir")(errno);
        // Opened anew, as reading moves the position of the descriptor.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = Listing::openat(&*self.fd, ".", flags, Mode::empty()).map_err(failed)?;
        let mut names = Vec::new();
        for entry in listing.iter() {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            names.push(name);
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Begins to write an image.
    pub fn writer(&self, image: Image) -> Result<Writer> {
        Writer::create(self, image)
    }

    /// Writes an image that has exactly one entry.
    pub fn write_one<M: Message + Name>(&self, image: Image, entry: &M) -> Result<()> {
        let mut writer = self.writer(image)?;
        writer.write(entry)?;
        writer.finish().map(drop)
    }

    /// As [`Dir::write_one`], in the place of an image that is there: at no time is there none, or
    /// half of one, and it is on disk when this returns.
    pub fn replace_one<M: Message + Name>(&self, image: Image, entry: &M) -> Result<()> {
        let name = image.file_name();
        let part = format!("{name}.part");
        let written = Writer::create_as(self, image, &part)
            .and_then(|mut writer| writer.write(entry).map(|()| writer))
            .and_then(|writer| writer.finish())
            .and_then(|_| {
                self.open_file(&part)?
                    .map_or(Ok(()), |f| f.sync_all())
                    .map_err(Error::io(&part, "fsync"))
            })
            .and_then(|()| self.rename(&part, &name));
        if written.is_err() {
            self.remove_file(&part)?;
        }
        written
    }

    /// Returns when all that was written to the file system of this directory is on disk.
    pub fn sync(&self) -> Result<()> {
        nix::unistd::syncfs(&*self.fd).map_err(Error::io(&self.path.to_string_lossy(), "syncfs"))
    }

    /// Begins to read an image. One that is absent reads like one without entries.
    pub fn reader(&self, image: Image) -> Result<Reader> {
        let name = image.file_name();
        let file = self.open_file(&name)?;
        if let Some(file) = &file {
            let meta = file.metadata().map_err(Error::io(&name, "stat"))?;
            if !meta.is_file() {
                return Err(Error::invalid(name, "not a regular file"));
            }
            // A file of no bytes has no head: it was torn, and reads like that, not like absence.
        }
        Reader::new(image, file.map(BufReader::new))
    }

    /// Reads the one entry of an image, which has to be there.
    pub fn read_one<M: Message + Name + Default>(&self, image: Image) -> Result<M> {
        let mut reader = self.reader(image)?;
        let entry = reader.read_one()?;
        reader.expect_end()?;
        Ok(entry)
    }

    /// Reads the one entry of an image that need not be there.
    pub fn read_opt<M: Message + Name + Default>(&self, image: Image) -> Result<Option<M>> {
        let mut reader = self.reader(image)?;
        let entry = reader.read_opt()?;
        reader.expect_end()?;
        Ok(entry)
    }

    /// Reads all entries of an image without payloads; none if it is absent.
    pub fn read_all<M: Message + Name + Default>(&self, image: Image) -> Result<Vec<M>> {
        self.reader(image)?.entries_of().collect()
    }

    /// Opens an image without framing, or one for its payloads.
    pub fn open_raw(&self, image: Image) -> Result<Option<File>> {
        self.open_file(&image.file_name())
    }

    /// Length of an image, which has to be a regular file; `None` if there is none.
    pub fn len_bytes(&self, image: Image) -> Result<Option<u64>> {
        let name = image.file_name();
        match fstatat(&*self.fd, name.as_str(), AtFlags::empty()) {
            Ok(stat)
                if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
                    != SFlag::S_IFREG =>
            {
                Err(Error::invalid(name, "not a regular file"))
            }
            Ok(stat) => Ok(Some(u64::try_from(stat.st_size).unwrap_or(0))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::io(&name, "stat")(errno)),
        }
    }

    /// Creates an image without framing.
    pub fn create_raw(&self, image: Image) -> Result<File> {
        self.create_file(&image.file_name())
    }

    /// Reads a payload found by [`Reader::skip_payload`] into memory.
    pub fn read_extent(&self, extent: Extent) -> Result<Vec<u8>> {
        let name = extent.image.file_name();
        let file = self.open_file(&name)?.ok_or_else(|| Error::Absent { file: name.clone() })?;
        let there = file.metadata().map_err(Error::io(&name, "stat"))?.len();
        let got = there.saturating_sub(extent.offset);
        if got < extent.len {
            let (what, index, want) = ("payload at offset", extent.offset, extent.len);
            return Err(Error::Truncated { file: name, what, index, got, want });
        }
        let mut bytes = vec![0; usize::try_from(extent.len).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, extent.offset).map_err(Error::io(&name, "pread"))?;
        Ok(bytes)
    }

    /// The directory that the `parent` link names, if there is one.
    pub fn parent(&self) -> Result<Option<Self>> {
        let target = match readlinkat(&*self.fd, PARENT) {
            Ok(target) => PathBuf::from(target),
            // A real directory does as well as a link to one.
            Err(Errno::EINVAL) => PathBuf::from(PARENT),
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(Error::io(PARENT, "readlink")(errno)),
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let path = self.path.join(target);
        match openat(&*self.fd, PARENT, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self::from_fd(fd, path))),
            // A chain that was moved away matters only if a page is looked for in it.
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(Error::io(&path.to_string_lossy(), "open")(errno)),
        }
    }

    /// Makes `target`, relative to this directory, the parent; replaces an older link.
    pub fn set_parent(&self, target: &Path) -> Result<()> {
        self.remove_file(PARENT)?;
        symlinkat(target, &*self.fd, PARENT).map_err(Error::io(PARENT, "symlink"))
    }

    /// Device and inode: tells whether two paths lead to one directory.
    pub fn identity(&self) -> Result<(u64, u64)> {
        let stat = fstatat(&*self.fd, "", AtFlags::AT_EMPTY_PATH)
            .map_err(Error::io(&self.path.to_string_lossy(), "stat"))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// All images that are here, by name; other files are left out.
    pub fn images(&self) -> Result<Vec<Image>> {
        let names = self.file_names()?;
        Ok(names.iter().filter_map(|name| Image::from_file_name(name)).collect())
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
