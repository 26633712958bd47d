//! The parasite: what a target runs for us during a dump.
//!
//! An interpreter of a list of system calls, with no policy of its own. It never trusts its
//! tracer to be there: when the last call is made it *knocks* (sends its own thread a signal
//! that is ignored unless someone traces) and then goes home by `rt_sigreturn` into a frame
//! which the host completed before the first instruction of this program ran. A tracer takes
//! the thread over at the knock; without one, the thread goes on with its own work.
#![no_std]
#![no_main]

use core::panic::PanicInfo;
use parasite_abi::dump::Run;
use parasite_abi::{Op, Step};
use sys::raw::syscall6;

const SYS_RT_SIGRETURN: usize = 15;
const SYS_TGKILL: usize = 234;

/// The host points the thread here, with `rdi` at a [`Run`] and `rsp` at a free stack.
///
/// # Safety
/// Only to be entered by the host, on memory which it prepared.
#[unsafe(naked)]
#[unsafe(no_mangle)]
#[unsafe(link_section = ".head.text")]
unsafe extern "C" fn parasite_start(run: *mut Run) -> ! {
    core::arch::naked_asm!(
        "call {work}",
        "mov rsp, rax",
        // Again, should a tracer have left the call out and died.
        "2: mov eax, {sigreturn}",
        "syscall",
        "jmp 2b",
        work = sym work,
        sigreturn = const SYS_RT_SIGRETURN,
    )
}

/// Makes all calls, knocks, and answers the stack pointer for `rt_sigreturn`.
///
/// # Safety
/// `run` points to a [`Run`] whose addresses are mapped, and stay so.
unsafe extern "C" fn work(run: *mut Run) -> u64 {
    // SAFETY: by contract of this function.
    let head = unsafe { &*run };
    for i in 0..head.count {
        let at = head.steps + i * size_of::<Step>() as u64;
        // SAFETY: the host wrote `count` steps there, which only this thread uses.
        let step = unsafe { &mut *(at as *mut Step) };
        if step.op != Op::Syscall as u32 {
            break;
        }
        // SAFETY: the host chose the call; it touches only the program's state as intended
        // and memory of the host's making.
        step.result = unsafe { syscall6(step.nr as usize, step.args.map(|a| a as usize)) } as i64;
    }
    if head.knock != 0 {
        let args = [head.pid as usize, head.tid as usize, head.knock as usize, 0, 0, 0];
        // SAFETY: a signal to this very thread, chosen to be ignored.
        unsafe { syscall6(SYS_TGKILL, args) };
    }
    head.frame
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
