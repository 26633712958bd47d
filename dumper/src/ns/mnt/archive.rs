//! Contents of a tmpfs as a gzip'ed tar archive, as CRIU has GNU tar make it.
//!
//! Owners are numbers, hard links and holes are kept, sockets are left out (they come back with
//! whoever listens). Unlike CRIU's, archives have extended attributes (see [`images::xattr`]; GNU tar
//! extracts them with `--xattrs` and passes over them otherwise) and fractions of seconds.

use crate::xattr::{self, Owners};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// Writes everything below `root` to `out`.
pub(crate) fn write(root: BorrowedFd<'_>, out: File, owners: Owners<'_>) -> io::Result<()> {
    let base = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    let gzip = GzEncoder::new(BufWriter::new(out), Compression::fast());
    let mut archive = Archive {
        dev: fs::metadata(base.join("."))?.dev(),
        base,
        owners,
        tar: Builder::new(gzip),
        linked: HashMap::new(),
    };
    archive.entry(Path::new("."))?;
    archive.tar.into_inner()?.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(())
}

struct Archive<'a> {
    dev: u64,
    base: PathBuf,
    owners: Owners<'a>,
    tar: Builder<GzEncoder<BufWriter<File>>>,
    /// First name of files with several, by inode.
    linked: HashMap<u64, PathBuf>,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

impl Archive<'_> {
    fn entry(&mut self, path: &Path) -> io::Result<()> {
        let full = self.base.join(path);
        let meta =
            if path == Path::new(".") { fs::metadata(&full) } else { full.symlink_metadata() };
        let meta = meta.map_err(at(path))?;
        if meta.dev() != self.dev || meta.file_type().is_socket() {
            return Ok(());
        }
        let kind = meta.file_type();
        let mut header = self.header(&meta);
        if !kind.is_dir() && meta.nlink() > 1 {
            if let Some(first) = self.linked.get(&meta.ino()) {
                header.set_entry_type(EntryType::Link);
                header.set_size(0);
                let first = first.clone();
                return self.link(&mut header, path, first.as_os_str());
            }
            self.linked.insert(meta.ino(), path.to_owned());
        }
        self.extensions(path, &full, &meta).map_err(at(path))?;
        if kind.is_file() {
            return self.file(header, path, &full, meta.len()).map_err(at(path));
        }
        header.set_size(0);
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = fs::read_link(&full).map_err(at(path))?;
            return self.link(&mut header, path, target.as_os_str());
        }
        header.set_entry_type(if kind.is_dir() {
            EntryType::Directory
        } else if kind.is_fifo() {
            EntryType::Fifo
        } else if kind.is_char_device() {
            EntryType::Char
        } else {
            EntryType::Block
        });
        if kind.is_char_device() || kind.is_block_device() {
            header.set_device_major(libc::major(meta.rdev()))?;
            header.set_device_minor(libc::minor(meta.rdev()))?;
        }
        self.named(&mut header, path, &mut io::empty()).map_err(at(path))?;
        if kind.is_dir() {
            let mut names: Vec<OsString> = Vec::new();
            for entry in fs::read_dir(&full).map_err(at(path))? {
                names.push(entry?.file_name());
            }
            for name in names {
                self.entry(&path.join(name))?;
            }
        }
        Ok(())
    }

    fn header(&self, meta: &Metadata) -> Header {
        let mut header = Header::new_gnu();
        let (uid, gid) = (self.owners)(meta.uid(), meta.gid());
        header.set_mode(meta.mode() & 0o7777);
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        header.set_mtime(meta.mtime().max(0).cast_unsigned());
        header
    }

    /// What a header has no room for goes in front of it.
    fn extensions(&mut self, path: &Path, full: &Path, meta: &Metadata) -> io::Result<()> {
        let mut all: Vec<(String, Vec<u8>)> = Vec::new();
        let nanos = meta.mtime_nsec();
        if nanos != 0 && meta.mtime() >= 0 {
            all.push(("mtime".to_owned(), format!("{}.{nanos:09}", meta.mtime()).into_bytes()));
        }
        let follow = path == Path::new(".");
        for (name, value) in xattr::all(full.as_os_str().as_bytes(), follow, self.owners)? {
            if let Ok(name) = String::from_utf8(name) {
                all.push(images::xattr::record(&name, &value));
            }
        }
        if all.is_empty() {
            return Ok(());
        }
        self.tar.append_pax_extensions(all.iter().map(|(k, v)| (k.as_str(), v.as_slice())))
    }

    fn link(&mut self, header: &mut Header, path: &Path, target: &OsStr) -> io::Result<()> {
        if target.len() > 100 || path_of(path).len() > 100 {
            return self.tar.append_link(header, path, Path::new(target)).map_err(at(path));
        }
        // As it is: the crate's own setter tidies paths up.
        header.set_link_name_literal(target.as_bytes())?;
        self.named(header, path, &mut io::empty()).map_err(at(path))
    }

    fn named(
        &mut self,
        header: &mut Header,
        path: &Path,
        data: &mut dyn io::Read,
    ) -> io::Result<()> {
        let name = path_of(path);
        let old = header.as_gnu_mut().map(|h| &mut h.name);
        let Some(room) = old.filter(|room| name.len() <= room.len()) else {
            return self.tar.append_data(header, path, data);
        };
        room[..name.len()].copy_from_slice(name);
        header.set_cksum();
        self.tar.append(header, data)
    }

    fn file(&mut self, mut header: Header, path: &Path, full: &Path, len: u64) -> io::Result<()> {
        let file = File::open(full)?;
        header.set_entry_type(EntryType::Regular);
        let holes = sys::file::data_ranges(&file, len)?;
        if holes == [(0, len)] || len == 0 {
            header.set_size(len);
            return self.named(&mut header, path, &mut io::Read::take(file, len));
        }
        self.sparse(header, path, &file, len, &holes)
    }

    /// The sparse format of GNU tar: four ranges in the header, 21 in each block that follows.
    fn sparse(
        &mut self,
        mut header: Header,
        path: &Path,
        file: &File,
        len: u64,
        ranges: &[(u64, u64)],
    ) -> io::Result<()> {
        let mut ranges = ranges.to_vec();
        // A range of nothing at the end tells the length.
        if ranges.last().is_none_or(|(at, n)| at + n < len) {
            ranges.push((len, 0));
        }
        header.set_entry_type(EntryType::GNUSparse);
        let stored: u64 = ranges.iter().map(|(_, n)| n).sum();
        header.set_size(stored);
        let (first, rest) = ranges.split_at(ranges.len().min(4));
        if let Some(gnu) = header.as_gnu_mut() {
            for (slot, (at, n)) in gnu.sparse.iter_mut().zip(first) {
                slot.set_offset(*at);
                slot.set_length(*n);
            }
            gnu.set_is_extended(!rest.is_empty());
            gnu.set_real_size(len);
        }
        let mut more = Vec::new();
        let blocks = rest.chunks(21);
        let count = blocks.len();
        for (i, chunk) in blocks.enumerate() {
            let mut block = tar::GnuExtSparseHeader::new();
            for (slot, (at, n)) in block.sparse.iter_mut().zip(chunk) {
                slot.set_offset(*at);
                slot.set_length(*n);
            }
            block.set_is_extended(i + 1 < count);
            more.extend_from_slice(block.as_bytes());
        }
        // A long name goes in front; what follows the header is not in its size.
        let name = path_of(path);
        if name.len() > 100 {
            let mut long = Header::new_gnu();
            long.set_entry_type(EntryType::GNULongName);
            long.set_size(name.len() as u64 + 1);
            let data = [name, b"\0"].concat();
            self.named(&mut long, Path::new("././@LongLink"), &mut &data[..])?;
        }
        let short = &name[..name.len().min(100)];
        if let Some(gnu) = header.as_gnu_mut() {
            gnu.name[..short.len()].copy_from_slice(short);
        }
        header.set_cksum();
        let out = self.tar.get_mut();
        out.write_all(header.as_bytes())?;
        out.write_all(&more)?;
        for (at, n) in &ranges {
            copy(file, out, *at, *n)?;
        }
        let pad = stored.next_multiple_of(512) - stored;
        out.write_all(&[0; 512][..pad as usize])
    }
}

fn copy(file: &File, out: &mut dyn Write, mut at: u64, mut left: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buf = vec![0; 1 << 16];
    while left > 0 {
        let n = (buf.len() as u64).min(left) as usize;
        file.read_exact_at(&mut buf[..n], at)?;
        out.write_all(&buf[..n])?;
        at += n as u64;
        left -= n as u64;
    }
    Ok(())
}

fn path_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
    use std::process::Command;

    #[test]
    fn gnu_tar_reads_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let long = "x".repeat(120);
        fs::create_dir_all(from.join("d").join(&long)).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("d/one"), "one").unwrap();
        fs::hard_link(from.join("d/one"), from.join("two")).unwrap();
        symlink("d//../d/one", from.join("link")).unwrap();
        symlink(format!("/{long}"), from.join("longlink")).unwrap();
        for (name, ranges) in [("holes", 3u64), ("many", 60)] {
            let sparse = File::create(from.join("d").join(&long).join(name)).unwrap();
            for i in 0..ranges {
                sparse.write_all_at(format!("data{i}").as_bytes(), i << 20).unwrap();
            }
            sparse.set_len((ranges << 20) + 5).unwrap();
        }
        fs::set_permissions(&from, fs::Permissions::from_mode(0o1777)).unwrap();
        let archive = dir.path().join("a.tar.gz");
        let root = File::open(&from).unwrap();
        write(root.as_fd(), File::create(&archive).unwrap(), &|u, g| (u, g)).unwrap();
        assert!(fs::metadata(&archive).unwrap().len() < 100_000);
        let tar =
            Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&to).output().unwrap();
        assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
        let diff = Command::new("diff")
            .args(["-r", "--no-dereference"])
            .args([&from, &to])
            .output()
            .unwrap();
        assert!(diff.status.success(), "{diff:?}");
        let holes = fs::metadata(to.join("d").join(&long).join("holes")).unwrap();
        assert!(holes.blocks() * 512 < 1 << 20 && holes.len() == (3 << 20) + 5);
        assert_eq!(fs::metadata(to.join("two")).unwrap().nlink(), 2);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("d//../d/one"));
        assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, 0o1777);
    }
}
