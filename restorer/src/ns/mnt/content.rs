//! Contents of a tmpfs, from the tar archive that CRIU or we have made.
//!
//! All is done below the current directory, by relative paths whose directories the archive
//! itself has made: nothing in it leads elsewhere.

use flate2::read::MultiGzDecoder;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Entry, EntryType};

/// Blocks of zeroes of this size stay holes.
const BLOCK: usize = 4096;

/// Fills the current directory.
pub(crate) fn extract(archive: File) -> io::Result<()> {
    let mut out = Extract::default();
    out.dirs.insert(PathBuf::new());
    let mut archive = Archive::new(MultiGzDecoder::new(BufReader::with_capacity(1 << 16, archive)));
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path_bytes().into_owned();
        let shown = String::from_utf8_lossy(&name).into_owned();
        out.entry(&mut entry, &name)
            .map_err(|e| io::Error::new(e.kind(), format!("{shown:?}: {e}")))?;
    }
    out.finish()
}

#[derive(Default)]
struct Extract {
    dirs: HashSet<PathBuf>,
    files: HashSet<PathBuf>,
    /// Times of directories change while they are filled.
    later: Vec<(PathBuf, Meta)>,
}

#[derive(Clone, Copy)]
struct Meta {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
}

fn bad(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// A path of the archive, relative and without `.`.
fn clean(name: &[u8]) -> io::Result<PathBuf> {
    let mut out = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(part) => out.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(bad("a path with ..")),
        }
    }
    Ok(out)
}

fn here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

type Item<'a> = Entry<'a, MultiGzDecoder<BufReader<File>>>;

impl Extract {
    fn entry(&mut self, entry: &mut Item<'_>, name: &[u8]) -> io::Result<()> {
        let path = clean(name)?;
        if path.parent().is_some_and(|p| !self.dirs.contains(p)) {
            return Err(bad("its directory is not in the archive"));
        }
        let header = entry.header();
        let kind = header.entry_type();
        let number = |n: u64| u32::try_from(n).map_err(|_| bad("an owner beyond 32 bits"));
        let mut meta = Meta {
            mode: header.mode()? & 0o7777,
            uid: number(header.uid()?)?,
            gid: number(header.gid()?)?,
            mtime: (header.mtime()?.cast_signed(), 0),
        };
        let xattrs = extensions(entry, &mut meta)?;
        match kind {
            EntryType::Directory => {
                if !path.as_os_str().is_empty() && self.dirs.insert(path.clone()) {
                    fs::create_dir(&path)?;
                }
            }
            EntryType::Regular | EntryType::GNUSparse | EntryType::Continuous => {
                write_file(entry, &path)?;
                self.files.insert(path.clone());
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| bad("a link to nothing"))?;
                let target = clean(&target)?;
                if !self.files.contains(&target) {
                    return Err(bad(format!("a link to {}, not in the archive", target.display())));
                }
                fs::hard_link(&target, &path)?;
                return Ok(());
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| bad("a link to nothing"))?;
                symlink(OsStr::from_bytes(&target), &path)?;
                self.files.insert(path.clone());
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                node(entry, &path)?;
                self.files.insert(path.clone());
            }
            other => return Err(bad(format!("an entry of kind {other:?}"))),
        }
        for (name, value) in &xattrs {
            let done = sys::file::set_xattr(here(&path).as_os_str().as_bytes(), false, name, value);
            if name == b"security.selinux"
                && done.as_ref().is_err_and(|e| e.errno() == libc::EOPNOTSUPP)
            {
                // A mount with a context of its own gives it to all files.
                continue;
            }
            done.map_err(|e| io::Error::other(e.to_string()))?;
        }
        if kind == EntryType::Directory {
            self.later.push((path, meta));
            return Ok(());
        }
        set(&path, meta, kind == EntryType::Symlink)
    }

    fn finish(self) -> io::Result<()> {
        for (path, meta) in self.later.iter().rev() {
            set(here(path), *meta, false)?;
        }
        Ok(())
    }
}

/// Names and values.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Records in front of an entry: extended attributes, times.
fn extensions(entry: &mut Item<'_>, meta: &mut Meta) -> io::Result<Xattrs> {
    let mut xattrs = Vec::new();
    let Some(records) = entry.pax_extensions()? else { return Ok(xattrs) };
    for record in records {
        let record = record?;
        let (key, value) = (record.key_bytes(), record.value_bytes());
        if let Some(xattr) = images::xattr::from_record(key, value) {
            xattrs.push(xattr);
        } else if key == b"mtime" {
            let text = String::from_utf8_lossy(value);
            let (secs, part) = text.split_once('.').unwrap_or((&text, ""));
            let nanos = format!("{part:0<9}");
            if let (Ok(secs), Ok(nanos)) = (secs.parse(), nanos[..9].parse()) {
                meta.mtime = (secs, nanos);
            }
        }
    }
    Ok(xattrs)
}

fn write_file(entry: &mut Item<'_>, path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut buf = vec![0u8; 64 * BLOCK];
    let mut at = 0u64;
    loop {
        let mut len = 0;
        while len < buf.len() {
            match entry.read(&mut buf[len..])? {
                0 => break,
                n => len += n,
            }
        }
        if len == 0 {
            break;
        }
        for (i, block) in buf[..len].chunks(BLOCK).enumerate() {
            if block.iter().any(|b| *b != 0) {
                file.write_all_at(block, at + (i * BLOCK) as u64)?;
            }
        }
        at += len as u64;
    }
    file.set_len(at)
}

fn node(entry: &Item<'_>, path: &Path) -> io::Result<()> {
    let header = entry.header();
    let kind = match header.entry_type() {
        EntryType::Char => SFlag::S_IFCHR,
        EntryType::Block => SFlag::S_IFBLK,
        _ => SFlag::S_IFIFO,
    };
    let number = |n: io::Result<Option<u32>>| n.map(|n| n.unwrap_or(0));
    let dev = if kind == SFlag::S_IFIFO {
        0
    } else {
        libc::makedev(number(header.device_major())?, number(header.device_minor())?)
    };
    Ok(mknod(path, kind, Mode::from_bits_truncate(0o600), dev)?)
}

fn set(path: &Path, meta: Meta, is_link: bool) -> io::Result<()> {
    lchown(path, Some(meta.uid), Some(meta.gid))?;
    if !is_link {
        fs::set_permissions(path, Permissions::from_mode(meta.mode))?;
    }
    let time = TimeSpec::new(meta.mtime.0, meta.mtime.1);
    utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)?;
    Ok(())
}
