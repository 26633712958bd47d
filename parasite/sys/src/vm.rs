//! Memory of other tasks.

use crate::error::check;
use crate::{Error, Result};

/// A span of another task's memory: first address and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u64,
}

/// `process_vm_readv(2)` of several spans (at most 1024) into one buffer, in order.
/// Returns how many bytes came: fewer than asked means that the next page cannot be read.
pub fn read_spans(pid: i32, spans: &[Span], buf: &mut [u8]) -> Result<usize> {
    let local = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let remote: Vec<libc::iovec> = spans
        .iter()
        .map(|s| libc::iovec { iov_base: s.addr as *mut libc::c_void, iov_len: s.len as usize })
        .collect();
    // SAFETY: `local` describes `buf`; the remote addresses belong to another process, and the
    // kernel checks them.
    let ret = unsafe {
        libc::process_vm_readv(pid, &local, 1, remote.as_ptr(), remote.len() as libc::c_ulong, 0)
    };
    check(ret as libc::c_long, || format!("process_vm_readv({pid}, {} spans)", spans.len()))
        .map(|n| n as usize)
}

/// Reads exactly `buf.len()` bytes at `addr` of task `pid`.
pub fn read_exact(pid: i32, addr: u64, buf: &mut [u8]) -> Result<()> {
    let n = read_spans(pid, &[Span { addr, len: buf.len() as u64 }], buf)?;
    if n == buf.len() {
        return Ok(());
    }
    Err(Error::new(format_args!("process_vm_readv({pid}, {addr:#x}): short"), libc::EFAULT))
}

/// Writes parts of memory to spans of task `pid`, one after the other, at most 1024.
pub fn write_spans(pid: i32, parts: &[(&[u8], u64)]) -> Result<()> {
    let iovec =
        |addr: u64, len: usize| libc::iovec { iov_base: addr as *mut libc::c_void, iov_len: len };
    let local: Vec<_> = parts.iter().map(|(b, _)| iovec(b.as_ptr() as u64, b.len())).collect();
    let remote: Vec<_> = parts.iter().map(|(b, addr)| iovec(*addr, b.len())).collect();
    let count = parts.len() as libc::c_ulong;
    // SAFETY: `local` describes the parts, which process_vm_writev only reads; the remote
    // addresses belong to another process, and the kernel checks them.
    let ret =
        unsafe { libc::process_vm_writev(pid, local.as_ptr(), count, remote.as_ptr(), count, 0) };
    let call = || format!("process_vm_writev({pid}, {count} spans)");
    let n = check(ret as libc::c_long, call)?;
    if n as usize == parts.iter().map(|(b, _)| b.len()).sum() {
        return Ok(());
    }
    Err(Error::new(format_args!("{}: short", call()), libc::EFAULT))
}

/// Writes all of `buf` to `addr` of task `pid`.
pub fn write_all(pid: i32, addr: u64, buf: &[u8]) -> Result<()> {
    let local = libc::iovec { iov_base: buf.as_ptr().cast_mut().cast(), iov_len: buf.len() };
    let remote = libc::iovec { iov_base: addr as *mut libc::c_void, iov_len: buf.len() };
    // SAFETY: `local` describes `buf`, which process_vm_writev only reads; the remote address
    // belongs to another process, and the kernel checks it.
    let ret = unsafe { libc::process_vm_writev(pid, &local, 1, &remote, 1, 0) };
    let n = check(ret as libc::c_long, || format!("process_vm_writev({pid}, {addr:#x})"))?;
    if n as usize == buf.len() {
        return Ok(());
    }
    Err(Error::new(format_args!("process_vm_writev({pid}, {addr:#x}): short"), libc::EFAULT))
}

/// Bytes that a mapping may have and still be made present by [`populate_own`].
const POPULATED: usize = 32 << 20;

/// Makes the pages of this program (code, data, heap, stack) present, so that what is done next
/// takes no page faults, each of which costs as much as a system call. Copies made by `fork(2)`
/// become pages of its own. Does nothing on kernels before 5.14.
pub fn populate_own() {
    const MADV_POPULATE_READ: i32 = 22;
    const MADV_POPULATE_WRITE: i32 = 23;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        let name = words.nth(3).unwrap_or("");
        let hex = |t: &str| usize::from_str_radix(t, 16).ok();
        let Some((Some(start), Some(end))) = range.split_once('-').map(|(a, b)| (hex(a), hex(b)))
        else {
            continue;
        };
        let how = match rights.as_bytes() {
            [b'r', b'w', _, b'p'] => MADV_POPULATE_WRITE,
            [b'r', _, _, b'p'] if name.starts_with('/') => MADV_POPULATE_READ,
            _ => continue,
        };
        if end.saturating_sub(start) <= POPULATED {
            let at = start as *mut libc::c_void;
            // SAFETY: populating changes no content: it only does early what a fault does at the
            // first access. A range that is gone meanwhile is an error and nothing else.
            unsafe { libc::madvise(at, end - start, how) };
        }
    }
}
