//! A `syscall` instruction that is in the task already.

use crate::{Error, Result, proc};
use std::sync::atomic::{AtomicU64, Ordering};
use sys::vm;

const SYSCALL: [u8; 2] = [0x0f, 0x05];
const AT_SYSINFO_EHDR: u64 = 33;

/// Where the instruction was in the last vdso looked at: the same in all tasks of a kernel,
/// and checked before each use.
static OFFSET: AtomicU64 = AtomicU64::new(0);

/// Address of a `syscall` instruction in process `pid`.
pub(crate) fn find(pid: i32) -> Result<u64> {
    if let Some(vdso) = vdso(pid)? {
        let guess = vdso + OFFSET.load(Ordering::Relaxed);
        let mut two = [0; 2];
        if guess > vdso && vm::read_exact(pid, guess, &mut two).is_ok() && two == SYSCALL {
            return Ok(guess);
        }
        let mut text = vec![0; 8192];
        let n = vm::read_spans(pid, &[vm::Span { addr: vdso, len: 8192 }], &mut text)
            .unwrap_or_default();
        if let Some(at) = position(&text[..n]) {
            OFFSET.store(at, Ordering::Relaxed);
            return Ok(vdso + at);
        }
    }
    search(pid)?.ok_or(Error::NoGadget { pid })
}

fn position(text: &[u8]) -> Option<u64> {
    text.windows(2).position(|w| w == SYSCALL).map(|at| at as u64)
}

fn vdso(pid: i32) -> Result<Option<u64>> {
    let auxv = proc::read(format!("/proc/{pid}/auxv"))?;
    let mut words =
        auxv.chunks_exact(8).map(|w| u64::from_ne_bytes(w.try_into().unwrap_or([0; 8])));
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        if key == AT_SYSINFO_EHDR && value != 0 {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Without a vdso (or with an unmapped one): looks through all executable mappings.
fn search(pid: i32) -> Result<Option<u64>> {
    let maps = proc::read(format!("/proc/{pid}/maps"))?;
    let mut text = vec![0; 1 << 20];
    for line in maps.split(|&b| b == b'\n') {
        let Some((mut at, end)) = executable(line) else { continue };
        while at < end {
            let len = (end - at).min(text.len() as u64);
            let Ok(n) = vm::read_spans(pid, &[vm::Span { addr: at, len }], &mut text) else {
                break;
            };
            if let Some(found) = position(&text[..n]) {
                return Ok(Some(at + found));
            }
            // One byte again: the instruction may lie across two pieces.
            at += (n as u64).max(2) - 1;
            if n < len as usize || len == 1 {
                break;
            }
        }
    }
    Ok(None)
}

/// Range of a line of `maps` if it can be executed. The vsyscall page cannot be read or jumped
/// into.
fn executable(line: &[u8]) -> Option<(u64, u64)> {
    let line = std::str::from_utf8(line.get(..line.len().min(64))?).ok()?;
    let (range, rest) = line.split_once(' ')?;
    if rest.as_bytes().first() != Some(&b'r') || rest.as_bytes().get(2) != Some(&b'x') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = u64::from_str_radix(start, 16).ok()?;
    (start < 1 << 47).then_some((start, u64::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readable_code_below_the_kernel_counts() {
        let line = b"7f0000001000-7f0000003000 r-xp 00000000 08:01 7 /bin/x";
        assert_eq!(executable(line), Some((0x7f00_0000_1000, 0x7f00_0000_3000)));
        assert_eq!(executable(b"7f0000001000-7f0000003000 rw-p 00000000 08:01 7"), None);
        assert_eq!(
            executable(b"ffffffffff600000-ffffffffff601000 r-xp 0 00:00 0 [vsyscall]"),
            None
        );
        assert_eq!(executable(b""), None);
    }
}
