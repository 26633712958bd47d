//! A `syscall` instruction that is in the task already.

use crate::shelter::pops_before_ret;
use crate::{Error, Result, proc};
use sys::vm;

const SYSCALL: [u8; 2] = [0x0f, 0x05];
const AT_SYSINFO_EHDR: u64 = 33;

/// What was found in a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gadgets {
    /// A `syscall` instruction.
    pub(crate) plain: u64,
    /// One that is followed by `ret`, and how many words are popped before that.
    pub(crate) returning: Option<(u64, u64)>,
}

/// Finds them in process `pid`.
pub(crate) fn find(pid: i32) -> Result<Gadgets> {
    if let Some(vdso) = vdso(pid)? {
        let mut text = [0; 8192];
        let n = vm::read_spans(pid, &[vm::Span { addr: vdso, len: 8192 }], &mut text)
            .unwrap_or_default();
        let text = &text[..n];
        if let Some(at) = position(text) {
            return Ok(Gadgets { plain: vdso + at, returning: returning(text, vdso) });
        }
    }
    let plain = search(pid)?.ok_or(Error::NoGadget { pid })?;
    Ok(Gadgets { plain, returning: None })
}

fn returning(text: &[u8], vdso: u64) -> Option<(u64, u64)> {
    let all = text.windows(2).enumerate().filter(|(_, w)| **w == SYSCALL);
    all.filter_map(|(at, _)| Some((vdso + at as u64, pops_before_ret(&text[at + 2..])?))).next()
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
    let mut text = vec![0; 1 << 20];
    for (mut at, end) in executable_ranges(pid)? {
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

/// All mapped code of a process.
pub(crate) fn executable_ranges(pid: i32) -> Result<Vec<(u64, u64)>> {
    let maps = proc::read(format!("/proc/{pid}/maps"))?;
    Ok(maps.split(|&b| b == b'\n').filter_map(executable).collect())
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
