//! Files without a name: their content goes into `ghost-file-HEX.img`.

use super::FileTable;
use super::error::{Why, call, text};
use super::reg_file::Path;
use crate::ns::user::Maps;
use crate::xattr;
use images::proto::{AmberGhostEntry, AmberXattrEntry, GhostChunkEntry, GhostFileEntry, Timeval};
use images::{Dir, Image, Writer};
use nix::fcntl::readlinkat;
use nix::sys::stat::FileStat;
use nix::unistd::{Whence, lseek};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// Files of fewer bytes are written in one piece.
const CHUNKED_FROM: i64 = 3 * 4096;

/// A deleted file that is still in use.
#[derive(Debug)]
pub(crate) struct Ghost {
    id: u32,
    /// Its content, for regular files.
    file: Option<OwnedFd>,
    entry: GhostFileEntry,
    /// What CRIU has no room for.
    more: AmberGhostEntry,
}

/// Kernel form of a device number: `major << 20 | minor`.
pub(crate) fn kernel_dev(dev: u64) -> u32 {
    libc::major(dev) << 20 | libc::minor(dev) & 0xf_ffff
}

/// 32-bit user-space form of a device number.
pub(crate) fn user_dev(dev: u64) -> u32 {
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

fn timeval(sec: i64, nsec: i64) -> Option<Timeval> {
    Some(Timeval { tv_sec: sec as u64, tv_usec: (nsec / 1000) as u64 })
}

fn describe(stat: &FileStat, maps: &Maps) -> GhostFileEntry {
    GhostFileEntry {
        uid: maps.uid(stat.st_uid),
        gid: maps.gid(stat.st_gid),
        mode: stat.st_mode,
        dev: Some(kernel_dev(stat.st_dev)),
        ino: Some(stat.st_ino),
        atim: timeval(stat.st_atime, stat.st_atime_nsec),
        mtim: timeval(stat.st_mtime, stat.st_mtime_nsec),
        ..GhostFileEntry::default()
    }
}

impl FileTable {
    /// Notes a file without a name for the images; returns its ghost id.
    pub(crate) fn ghost(&mut self, path: &Path<'_>) -> Result<u32, Why> {
        let stat = path.stat;
        let mut entry = describe(stat, &self.ns.maps);
        let mut file = None;
        match stat.st_mode & libc::S_IFMT {
            libc::S_IFREG => {
                let size = stat.st_blocks as u64 * 512;
                let limit = self.request.ghost_limit;
                if size > limit {
                    return Err(Why::GhostTooBig { path: text(path.link), size, limit });
                }
                if stat.st_size >= CHUNKED_FROM {
                    entry.chunks = Some(true);
                    entry.size = Some(stat.st_size as u64);
                }
                file = Some(readable(path)?);
            }
            libc::S_IFCHR | libc::S_IFBLK => entry.rdev = Some(user_dev(stat.st_rdev)),
            libc::S_IFLNK => {
                let target = call(|| "readlink".into(), readlinkat(path.own, ""))?;
                entry.symlnk_target = Some(target.into_vec());
            }
            libc::S_IFDIR | libc::S_IFIFO | libc::S_IFSOCK => {}
            mode => return Err(Why::refused(format!("Can't dump ghost file of mode {mode:#o}"))),
        }
        let id = self.remap.ghosts.len() as u32 + 1;
        let more = AmberGhostEntry { xattrs: self.xattrs(path)? };
        self.remap.ghosts.push(Ghost { id, file, entry, more });
        Ok(id)
    }

    fn xattrs(&self, path: &Path<'_>) -> Result<Vec<AmberXattrEntry>, Why> {
        let maps = &self.ns.maps;
        let own = format!("/proc/self/fd/{}", path.own.as_raw_fd());
        let all = xattr::all(own.as_bytes(), true, &|uid, gid| (maps.uid(uid), maps.gid(gid)));
        let all = all.map_err(|e| sys::Error::io(format!("getxattr({})", text(path.link)), &e))?;
        Ok(all.into_iter().map(|(name, value)| AmberXattrEntry { name, value }).collect())
    }
}

/// The program may have it open for writing only, or by name only. Its time of access goes into
/// the image and stays what it is.
fn readable(path: &Path<'_>) -> Result<OwnedFd, Why> {
    let own = format!("/proc/self/fd/{}", path.own.as_raw_fd());
    let open = |flags| OpenOptions::new().read(true).custom_flags(flags).open(&own);
    let file = open(libc::O_NOATIME).or_else(|_| open(0));
    let file = file.map_err(|e| sys::Error::io(format!("open({})", text(path.link)), &e))?;
    Ok(file.into())
}

impl Ghost {
    pub(crate) fn write(&self, dir: &Dir) -> Result<(), Why> {
        let mut out = dir.writer(Image::GhostFile(self.id))?;
        out.write(&self.entry)?;
        if let Some(file) = &self.file {
            let file = File::from(file.try_clone().map_err(|e| sys::Error::io("dup", &e))?);
            if self.entry.chunks == Some(true) {
                chunks(&file, &mut out)?;
            } else {
                copy(&file, 0, u64::MAX, &mut out)?;
            }
        }
        out.finish()?;
        // Removes what an earlier dump has left.
        let mut more = dir.writer(Image::AmberGhost(self.id))?;
        if !self.more.xattrs.is_empty() {
            more.write(&self.more)?;
        }
        more.finish()?;
        Ok(())
    }
}

/// Writes each extent of data; what lies between are holes.
fn chunks(file: &File, out: &mut Writer) -> Result<(), Why> {
    let mut at = 0;
    loop {
        let start = match lseek(file, at, Whence::SeekData) {
            Err(nix::errno::Errno::ENXIO) => return Ok(()),
            found => call(|| format!("lseek({at}, SEEK_DATA)"), found)?,
        };
        at = call(|| format!("lseek({start}, SEEK_HOLE)"), lseek(file, start, Whence::SeekHole))?;
        let len = (at - start) as u64;
        out.write(&GhostChunkEntry { len, off: start as u64 })?;
        if copy(file, start as u64, len, out)? != len {
            return Err(Why::Text("a deleted file shrank while it was copied".into()));
        }
    }
}

/// Copies at most `len` bytes from `at` on, to the end of the file at the latest.
fn copy(file: &File, mut at: u64, len: u64, out: &mut Writer) -> Result<u64, Why> {
    let mut buf = vec![0u8; 256 << 10];
    let mut left = len;
    while left > 0 {
        let want = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = file.read_at(&mut buf[..want], at).map_err(|e| sys::Error::io("pread", &e))?;
        if n == 0 {
            break;
        }
        out.write_payload(&buf[..n])?;
        at += n as u64;
        left -= n as u64;
    }
    Ok(len - left)
}
