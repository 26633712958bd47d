//! A way home for the calls that make and remove the arena.
//!
//! A remote call runs with foreign registers, and before the arena exists there is no memory of
//! ours for a signal frame. If the leader is on its main stack, as nearly always, what lies
//! below the red zone there is dead: the frame goes there until the last call is made, and the
//! bytes are put back then. The call itself is made by an instruction of the vdso that is
//! followed by a `ret`, which leads into the program's own `rt_sigreturn` stub. A tracer that is
//! alive takes the thread over right behind the call; a dead one does no harm.
//!
//! Where one of the pieces is missing (another stack, no stub) calls are made without it.

use crate::tracee::Thread;
use crate::{Result, gadget, sigframe};
use std::sync::Mutex;
use sys::vm::{self, Span};

/// What the compiler may use below the stack pointer.
const RED_ZONE: u64 = 128;
/// How far from its start the main stack is looked for.
const MAIN_STACK: u64 = 8 << 20;

/// A frame on the leader's stack.
#[derive(Debug)]
pub(crate) struct Shelter {
    /// A `syscall` that is followed by `ret`.
    pub(crate) gadget: u64,
    /// Stack pointer for the call.
    pub(crate) rsp: u64,
    addr: u64,
    before: Vec<u8>,
}

/// Instructions behind a `syscall` that change nothing but dead registers and the stack pointer,
/// up to a `ret`: how many words they pop, the return address not counted.
pub(crate) fn pops_before_ret(code: &[u8]) -> Option<u64> {
    let mut pops = 0;
    let mut at = 0;
    // A dozen are more than any libc or vdso has there.
    for _ in 0..12 {
        match *code.get(at..)? {
            [0xc3, ..] => return Some(pops),
            // xor r32, r32 (not rsp), with and without REX prefix.
            [0x31, m, ..] if m >= 0xc0 && m & 7 != 4 => at += 2,
            [0x45, 0x31, m, ..] if m >= 0xc0 => at += 3,
            // pop r64 (not rsp).
            [b @ 0x58..=0x5f, ..] if b != 0x5c => (pops, at) = (pops + 1, at + 1),
            [0x41, 0x58..=0x5f, ..] => (pops, at) = (pops + 1, at + 2),
            _ => return None,
        }
    }
    None
}

impl Shelter {
    /// Builds one for `leader`, whose main stack starts at `start_stack`.
    pub(crate) fn build(
        leader: &mut Thread,
        start_stack: u64,
        gadget: (u64, u64),
    ) -> Result<Option<Self>> {
        let tid = leader.tid;
        let saved = leader.saved()?;
        let rsp = saved.regs.rsp;
        if !(1..MAIN_STACK).contains(&start_stack.wrapping_sub(rsp)) {
            log::debug!("{tid}: no shelter: not on its main stack ({rsp:#x})");
            return Ok(None);
        }
        let Some(stub) = find_stub(tid, saved.regs.rip) else {
            log::debug!("{tid}: no shelter: no rt_sigreturn in its code");
            return Ok(None);
        };
        let (gadget, pops) = gadget;
        let addr = (rsp - RED_ZONE - sigframe::size(saved) as u64) & !63;
        let mut bytes = vec![0; (pops * 8) as usize];
        let mut frame = sigframe::build(saved, addr);
        // The first word is where `ret` goes; `rt_sigreturn` then finds the frame below rsp.
        frame[..8].copy_from_slice(&stub.to_ne_bytes());
        bytes.extend_from_slice(&frame);
        let start = addr - pops * 8;
        let mut before = vec![0; bytes.len()];
        // Not mapped so far down: the stack has never been that deep.
        if vm::read_exact(tid, start, &mut before).is_err()
            || vm::write_all(tid, start, &bytes).is_err()
        {
            log::debug!("{tid}: no shelter: its stack ends below {rsp:#x}");
            return Ok(None);
        }
        Ok(Some(Self { gadget, rsp: start, addr: start, before }))
    }

    /// Puts back what was on the stack.
    pub(crate) fn remove(self, tid: i32) -> Result<()> {
        Ok(vm::write_all(tid, self.addr, &self.before)?)
    }
}

/// What `mov $15, %rax; syscall` and `mov $15, %eax; syscall` begin with, and both end with:
/// where handlers of glibc, musl and Go return to.
const STUBS: [&[u8]; 2] = [b"\x48\xc7\xc0", b"\xb8"];
const STUB_END: &[u8] = b"\x0f\x00\x00\x00\x0f\x05";

/// Where the stub was last: tasks that were forked have it at the same place.
static LAST: Mutex<u64> = Mutex::new(0);

/// Looks for the stub of a process before it is held: its code may be large, and has to be paged
/// in. What is found is looked at again when it is used.
pub fn look_ahead(pid: i32) {
    let text = crate::proc::read(format!("/proc/{pid}/syscall")).unwrap_or_default();
    // The last word, unless it runs.
    let text = String::from_utf8_lossy(&text);
    let rip = text.trim().rsplit_once(" 0x").and_then(|(_, w)| u64::from_str_radix(w, 16).ok());
    find_stub(pid, rip.unwrap_or(0));
}

/// The program's `rt_sigreturn`: where it was last, else around the instruction pointer (a task
/// that waits in a system call is inside its libc), else in all its code.
fn find_stub(tid: i32, rip: u64) -> Option<u64> {
    const REACH: u64 = 2 << 20;
    let mut last = LAST.lock().ok()?;
    let mut nine = [0; 9];
    if vm::read_exact(tid, *last, &mut nine).is_ok() && stub_in(&nine) == Some(0) {
        return Some(*last);
    }
    let rip = rip & !0xffff;
    let found = scan(tid, rip, rip.saturating_add(REACH))
        .or_else(|| scan(tid, rip.saturating_sub(REACH), rip))
        .or_else(|| {
            let code = gadget::executable_ranges(tid).ok()?;
            code.into_iter().find_map(|(start, end)| scan(tid, start, end))
        });
    *last = found.unwrap_or(*last);
    found
}

fn scan(tid: i32, start: u64, end: u64) -> Option<u64> {
    const PIECE: u64 = 64 << 10;
    let mut bytes = vec![0; PIECE as usize + 16];
    for addr in (start..end).step_by(PIECE as usize) {
        // Less comes where there is a hole; what is behind it is not looked at.
        let Ok(n) = vm::read_spans(tid, &[Span { addr, len: PIECE + 16 }], &mut bytes) else {
            continue;
        };
        if let Some(at) = stub_in(&bytes[..n]) {
            return Some(addr + at as u64);
        }
    }
    None
}

/// Where in `code` the first stub is.
fn stub_in(code: &[u8]) -> Option<usize> {
    memchr::memmem::find_iter(code, STUB_END)
        .find_map(|end| STUBS.iter().find(|s| code[..end].ends_with(s)).map(|s| end - s.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stubs_are_found_where_they_begin() {
        assert_eq!(stub_in(b"\x90\xb8\x0f\x00\x00\x00\x0f\x05\xc3"), Some(1));
        assert_eq!(stub_in(b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"), Some(0));
        let other = b"\xb9\x0f\x00\x00\x00\x0f\x05\xb8\x0f\x00\x00\x00\x0f\x05";
        assert_eq!(stub_in(other), Some(7));
        assert_eq!(stub_in(b"\x0f\x00\x00\x00\x0f\x05"), None);
    }

    #[test]
    fn only_harmless_instructions_may_stand_before_ret() {
        // Linux 6.18, __vdso_clock_getres.
        let code = b"\x31\xd2\x31\xc9\x31\xf6\x31\xff\x45\x31\xdb\xc3";
        assert_eq!(pops_before_ret(code), Some(0));
        assert_eq!(pops_before_ret(b"\x5d\x41\x5e\xc3"), Some(2));
        assert_eq!(pops_before_ret(b"\xc9\xc3"), None);
        assert_eq!(pops_before_ret(b"\x5c\xc3"), None);
        assert_eq!(pops_before_ret(b"\x31\xd2"), None);
    }
}
