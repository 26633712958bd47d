//! The last stage of a restore, inside the task that is being restored.
//!
//! The host's own mappings are in the way of those of the image, so whoever maps the latter
//! must not need the former: this program needs nothing but its arena. It holds no policy: it
//! interprets the [`Step`]s that the host prepared and reports the first one that fails.
//! No thread-local storage, no vdso, no allocation, no panics.
#![no_std]
#![no_main]

mod aio;
mod fill;
mod shared;
mod thread;

use core::panic::PanicInfo;
use parasite_abi::restore::{Header, Op, Stage, flag};
use parasite_abi::{Step, flag as common};
use shared::Shared;
use sys::raw::syscall6;

/// System call numbers of x86-64 that the blob makes on its own account.
mod nr {
    pub(crate) const WRITE: usize = 1;
    pub(crate) const OPEN: usize = 2;
    pub(crate) const CLOSE: usize = 3;
    pub(crate) const PWRITE: usize = 18;
    pub(crate) const MREMAP: usize = 25;
    pub(crate) const MADVISE: usize = 28;
    pub(crate) const NANOSLEEP: usize = 35;
    pub(crate) const CLONE: usize = 56;
    pub(crate) const EXIT: usize = 60;
    pub(crate) const RT_SIGTIMEDWAIT: usize = 128;
    pub(crate) const GETTID: usize = 186;
    pub(crate) const FUTEX: usize = 202;
    pub(crate) const IO_SETUP: usize = 206;
    pub(crate) const IO_GETEVENTS: usize = 208;
    pub(crate) const IO_SUBMIT: usize = 209;
    pub(crate) const SET_TID_ADDRESS: usize = 218;
    pub(crate) const TIMER_CREATE: usize = 222;
    pub(crate) const TIMER_DELETE: usize = 226;
    pub(crate) const CLOCK_GETTIME: usize = 228;
    pub(crate) const PREADV: usize = 295;
    pub(crate) const CLONE3: usize = 435;
}

/// What one thread carries along.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    pub(crate) shared: Shared,
    pub(crate) tid: u32,
    pub(crate) last_pid_fd: i64,
}

// The host jumps to the first byte with rdi = the header and rsp = the top of the stack.
core::arch::global_asm!(
    ".section .head.text,\"ax\",@progbits",
    ".globl restorer_start",
    "restorer_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    ".text",
    main = sym leader,
);

/// # Safety
/// `header` is what the host prepared; the stack is ours.
unsafe extern "C" fn leader(header: *const Header) -> ! {
    // SAFETY: the host wrote a complete header there before it jumped here.
    let h = unsafe { *header };
    let cx = Context { shared: Shared::new(h.shared), tid: h.tid, last_pid_fd: h.last_pid_fd };
    run(&cx, h.steps)
}

/// Interprets steps until one parks or fails.
pub(crate) fn run(cx: &Context, steps: u64) -> ! {
    let mut at = steps as *mut Step;
    loop {
        // SAFETY: the host wrote an array of steps that ends with one that does not return.
        let step = unsafe { &mut *at };
        let result = perform(cx, step);
        step.result = result as i64;
        if !good(step) {
            cx.shared.fail(cx.tid, step);
        }
        at = at.wrapping_add(1);
    }
}

fn good(step: &Step) -> bool {
    if step.flags & common::EXPECT != 0 {
        return step.result == step.expect;
    }
    if step.result >= 0 || step.result < -(sys::raw::MAX_ERRNO as i64) {
        return true;
    }
    step.flags & common::MAY_FAIL != 0
        || step.flags & flag::OK_ERRNO != 0 && step.result == -step.expect
}

fn perform(cx: &Context, step: &Step) -> isize {
    let a = step.args;
    match Op::from_raw(step.op) {
        Some(Op::Syscall) => call(step.nr as usize, a),
        Some(Op::Stage) => {
            cx.shared.report();
            cx.shared.wait(a[0] as u32);
            0
        }
        Some(Op::Park) => {
            cx.shared.report();
            cx.shared.sleep()
        }
        Some(Op::End) => cx.shared.sleep(),
        Some(Op::ReadPages) => fill::read(cx.shared, a[0], a[1], a[2], a[3]),
        Some(Op::ParallelFill) => fill::parallel(cx.shared, step),
        Some(Op::Threads) => thread::create_all(cx, a[0], a[1]),
        Some(Op::DrainSignals) => drain(),
        Some(Op::TimerById) => timer_by_id(a[0], a[1], a[2]),
        Some(Op::AioRing) => aio::rebuild(a),
        Some(Op::Copy) => {
            copy(a[0], a[1], a[2]);
            0
        }
        Some(Op::WriteFile) => write_file(a[0], a[1], a[2]),
        None => -ENOSYS,
    }
}

pub(crate) const EINTR: isize = 4;
pub(crate) const EAGAIN: isize = 11;
pub(crate) const EEXIST: isize = 17;
pub(crate) const EINVAL: isize = 22;
pub(crate) const EBUSY: isize = 16;
pub(crate) const EIO: isize = 5;
const ENOSYS: isize = 38;

/// A system call on behalf of the host, or on the arena's memory.
pub(crate) fn call(nr: usize, args: [u64; 6]) -> isize {
    // SAFETY: every call is one the host planned for this task, or one of this program on
    // memory of the arena; neither touches the blob's code or its running stacks.
    unsafe {
        syscall6(
            nr,
            [
                args[0] as usize,
                args[1] as usize,
                args[2] as usize,
                args[3] as usize,
                args[4] as usize,
                args[5] as usize,
            ],
        )
    }
}

/// Byte copy that the compiler cannot turn into a call of memcpy (there is none).
pub(crate) fn copy(to: u64, from: u64, len: u64) {
    // SAFETY: both ranges are mapped memory of this task, chosen by the host; `rep movsb`
    // touches nothing else, and the direction flag is clear by the ABI.
    unsafe {
        core::arch::asm!(
            "rep movsb",
            inout("rdi") to => _,
            inout("rsi") from => _,
            inout("rcx") len => _,
            options(nostack, preserves_flags)
        );
    }
}

fn write_file(path: u64, text: u64, len: u64) -> isize {
    const O_WRONLY_CLOEXEC: u64 = 0o2_000_001;
    let fd = call(nr::OPEN, [path, O_WRONLY_CLOEXEC, 0, 0, 0, 0]);
    if fd < 0 {
        return fd;
    }
    let ret = call(nr::WRITE, [fd as u64, text, len, 0, 0, 0]);
    call(nr::CLOSE, [fd as u64, 0, 0, 0, 0, 0]);
    ret
}

fn drain() -> isize {
    let all: u64 = !0;
    let zero = [0u64; 2];
    loop {
        let ret =
            call(nr::RT_SIGTIMEDWAIT, [&raw const all as u64, 0, zero.as_ptr() as u64, 8, 0, 0]);
        if ret == -EAGAIN {
            return 0;
        }
        if ret < 0 && ret != -EINTR {
            return ret;
        }
    }
}

/// Before Linux 6.16 ids are handed out in order: create and delete until ours comes.
fn timer_by_id(clock: u64, sigevent: u64, want: u64) -> isize {
    loop {
        let mut id: i32 = -1;
        let ret = call(nr::TIMER_CREATE, [clock, sigevent, &raw mut id as u64, 0, 0, 0]);
        if ret < 0 {
            return ret;
        }
        // SAFETY: the kernel has just written the id; volatile since it did so unseen.
        let got = unsafe { core::ptr::read_volatile(&raw const id) } as u64;
        if got == want {
            return 0;
        }
        call(nr::TIMER_DELETE, [got, 0, 0, 0, 0, 0]);
        if got > want {
            return -EBUSY;
        }
    }
}

/// Keeps the enum of stages part of the contract that this program is built against.
const _: () = assert!(Stage::Complete as u32 == 8);

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
