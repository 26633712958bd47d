//! Files: handles, copying pipe buffers, descriptors that ioctls hand out.

use crate::error::check;
use crate::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the callers pass a descriptor which the kernel has just made for us, so it is
    // open and nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) }
}

/// `tee(2)` with `SPLICE_F_NONBLOCK`: copies what is queued in pipe `from` into pipe `to`
/// without consuming it. Returns the number of bytes; `EAGAIN` when `from` is empty.
pub fn tee(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> Result<usize> {
    let (a, b) = (from.as_raw_fd(), to.as_raw_fd());
    // SAFETY: integers in, integer out; no memory of this process is touched.
    let ret = unsafe { libc::tee(a, b, len, libc::SPLICE_F_NONBLOCK) };
    check(ret as libc::c_long, || format!("tee({a}, {b}, {len})")).map(|n| n as usize)
}

/// `open_by_handle_at(2)`: opens the file with this handle on the file system of `mount`.
/// `ESTALE`: there is no such file any more. Needs CAP_DAC_READ_SEARCH.
pub fn open_by_handle_at(
    mount: BorrowedFd<'_>,
    handle_type: i32,
    handle: &[u8],
    flags: i32,
) -> Result<OwnedFd> {
    let raw = mount.as_raw_fd();
    if handle.len() > 128 {
        return Err(Error::new(format_args!("open_by_handle_at({raw})"), libc::EOVERFLOW));
    }
    // struct file_handle: length, type, bytes. Of u32 so that it is aligned as the struct is.
    let mut words = [0u32; 2 + 32];
    words[0] = handle.len() as u32;
    words[1] = handle_type as u32;
    for (i, byte) in handle.iter().enumerate() {
        words[2 + i / 4] |= u32::from_le_bytes([*byte, 0, 0, 0]) << (8 * (i % 4));
    }
    // SAFETY: `words` is laid out as a struct file_handle, is as long as its first member says,
    // and outlives the call, which only reads it.
    let ret = unsafe { libc::syscall(libc::SYS_open_by_handle_at, raw, words.as_mut_ptr(), flags) };
    check(ret, || {
        format!("open_by_handle_at({raw}, type {handle_type}, {handle:02x?}, {flags:#o})")
    })
    .map(owned)
}

/// `ioctl(2)` whose answer is a new descriptor and whose argument is not used
/// (`SIOCUNIXFILE`, `SIOCGSKNS`, `NS_GET_*`).
pub fn ioctl_fd(fd: BorrowedFd<'_>, request: u64) -> Result<OwnedFd> {
    let raw = fd.as_raw_fd();
    // SAFETY: requests of this kind take no argument (contract of this wrapper).
    let ret = unsafe { libc::ioctl(raw, request as libc::Ioctl, 0usize) };
    check(ret.into(), || format!("ioctl({raw}, {request:#x})")).map(owned)
}

/// `linkat(fd, "", dir, name, AT_EMPTY_PATH)`: gives an open file another name.
/// `ENOENT` when it has no link left (save for `O_TMPFILE`). Needs CAP_DAC_READ_SEARCH.
pub fn link_fd(fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let (raw, at) = (fd.as_raw_fd(), dir.as_raw_fd());
    let c = std::ffi::CString::new(name)
        .map_err(|_| Error::new("linkat(name with NUL)", libc::EINVAL))?;
    // SAFETY: both strings are NUL-terminated and outlive the call.
    let ret = unsafe { libc::linkat(raw, c"".as_ptr(), at, c.as_ptr(), libc::AT_EMPTY_PATH) };
    check(ret.into(), || format!("linkat({raw}, \"\", {at}, {c:?}, AT_EMPTY_PATH)")).map(|_| ())
}

/// The mount that an open file was opened in (`STATX_MNT_ID`, Linux 5.8): the number of
/// `mountinfo` and `fdinfo`. `None` where the kernel does not tell.
pub fn mnt_id(fd: BorrowedFd<'_>) -> Option<i32> {
    let raw = fd.as_raw_fd();
    // SAFETY: all zero is a valid statx.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    let (path, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: `path` is NUL-terminated, `stat` is a struct statx; both outlive the call.
    let ret = unsafe { libc::statx(raw, path, flags, libc::STATX_MNT_ID, &mut stat) };
    (ret == 0 && stat.stx_mask & libc::STATX_MNT_ID != 0).then_some(stat.stx_mnt_id as i32)
}

/// `timerfd_gettime(2)` for its effect only: the kernel counts the periods that have passed.
pub fn timerfd_look(fd: BorrowedFd<'_>) -> Result<()> {
    let raw = fd.as_raw_fd();
    let mut spec = [0i64; 4];
    // SAFETY: a struct itimerspec is four 64-bit words, which the kernel writes.
    let ret = unsafe { libc::syscall(libc::SYS_timerfd_gettime, raw, spec.as_mut_ptr()) };
    check(ret, || format!("timerfd_gettime({raw})")).map(|_| ())
}

/// What the kernel calls this start of the machine (random(4)); `None`: there is no /proc.
#[must_use]
pub fn boot_id() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim_end().to_owned())
}

/// Extended attributes of a path: names and values. `follow`: of what a link leads to. None
/// where the file system has none.
pub fn xattrs(path: &[u8], follow: bool) -> std::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let c = std::ffi::CString::new(path)?;
    let names = grown(|buf: &mut [u8]| {
        let (list, len) = (buf.as_mut_ptr().cast(), buf.len());
        if follow {
            // SAFETY: the path is NUL-terminated; pointer and length are those of `buf`.
            unsafe { libc::listxattr(c.as_ptr(), list, len) }
        } else {
            // SAFETY: as above.
            unsafe { libc::llistxattr(c.as_ptr(), list, len) }
        }
    });
    let names = match names {
        Err(e) if e.raw_os_error() == Some(libc::ENOTSUP) => return Ok(Vec::new()),
        names => names?,
    };
    let mut all = Vec::new();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let n = std::ffi::CString::new(name)?;
        let value = grown(|buf: &mut [u8]| {
            let (value, len) = (buf.as_mut_ptr().cast(), buf.len());
            if follow {
                // SAFETY: both strings are NUL-terminated; pointer and length are those of `buf`.
                unsafe { libc::getxattr(c.as_ptr(), n.as_ptr(), value, len) }
            } else {
                // SAFETY: as above.
                unsafe { libc::lgetxattr(c.as_ptr(), n.as_ptr(), value, len) }
            }
        })?;
        all.push((name.to_vec(), value));
    }
    Ok(all)
}

/// Calls with a growing buffer until what there is fits.
fn grown(call: impl Fn(&mut [u8]) -> isize) -> std::io::Result<Vec<u8>> {
    let mut buf = vec![0u8; 256];
    loop {
        let n = call(&mut buf);
        if n >= 0 {
            buf.truncate(n.cast_unsigned());
            return Ok(buf);
        }
        let e = std::io::Error::last_os_error();
        if e.raw_os_error() != Some(libc::ERANGE) || buf.len() > 1 << 20 {
            return Err(e);
        }
        buf.resize(buf.len() * 8, 0);
    }
}

/// `setxattr(2)` of what a link leads to, or `lsetxattr(2)`.
pub fn set_xattr(path: &[u8], follow: bool, name: &[u8], value: &[u8]) -> Result<()> {
    let nul = |_| Error::new("setxattr(text with NUL)", libc::EINVAL);
    let c = std::ffi::CString::new(path).map_err(nul)?;
    let n = std::ffi::CString::new(name).map_err(nul)?;
    let (data, len) = (value.as_ptr().cast(), value.len());
    let ret = if follow {
        // SAFETY: both strings are NUL-terminated; pointer and length are those of `value`.
        unsafe { libc::setxattr(c.as_ptr(), n.as_ptr(), data, len, 0) }
    } else {
        // SAFETY: as above.
        unsafe { libc::lsetxattr(c.as_ptr(), n.as_ptr(), data, len, 0) }
    };
    check(ret.into(), || format!("setxattr({c:?}, {n:?})")).map(|_| ())
}

/// Where a file has data, by `SEEK_DATA`: offset and length of each range. All of it where the
/// file system does not tell.
pub fn data_ranges(file: &std::fs::File, len: u64) -> std::io::Result<Vec<(u64, u64)>> {
    let raw = file.as_raw_fd();
    let seek = |from: u64, whence| {
        // SAFETY: integers in, integer out.
        let at = unsafe { libc::lseek64(raw, from.cast_signed(), whence) };
        if at < 0 { Err(std::io::Error::last_os_error()) } else { Ok(at.cast_unsigned()) }
    };
    let mut all = Vec::new();
    let mut at = 0;
    while at < len {
        let data = match seek(at, libc::SEEK_DATA) {
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => break,
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && at == 0 => {
                all.push((0, len));
                break;
            }
            data => data?,
        };
        if data >= len {
            break;
        }
        let hole = seek(data, libc::SEEK_HOLE)?.min(len);
        all.push((data, hole - data));
        at = hole;
    }
    seek(0, libc::SEEK_SET)?;
    Ok(all)
}
