//! The jump from which there is no way back.
#![expect(unsafe_code, reason = "leaves Rust's world for the blob's")]

use crate::execute::arena::Ready;

/// Leaves this program: the blob takes over on its own stack.
pub(crate) fn enter(ready: &Ready) -> ! {
    // SAFETY: a `Ready` arena holds the blob's code at `entry`, a complete header and an unused
    // stack. Nothing of this program runs or is needed afterwards, so nothing has to be kept.
    unsafe {
        std::arch::asm!(
            "mov rsp, {stack}",
            "jmp {entry}",
            stack = in(reg) ready.stack_top,
            entry = in(reg) ready.entry,
            in("rdi") ready.header,
            options(noreturn)
        );
    }
}
