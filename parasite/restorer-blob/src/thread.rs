//! Threads with chosen numbers.

use crate::shared::wait_while;
use crate::{Context, EEXIST, call, nr, run};
use core::sync::atomic::{AtomicU32, Ordering};
use parasite_abi::restore::Thread;
use sys::raw::CloneArgs;

const VM: u64 = 0x100;
const FS: u64 = 0x200;
const FILES: u64 = 0x400;
const SIGHAND: u64 = 0x800;
const THREAD: u64 = 0x1_0000;
const SYSVSEM: u64 = 0x4_0000;
const CHILD_CLEARTID: u64 = 0x20_0000;
const GROUP: u64 = VM | FS | FILES | SIGHAND | THREAD | SYSVSEM;

/// How often a thread is made anew because somebody else took its number.
const TRIES: usize = 1000;

/// Makes the threads of an array, each of which runs its own steps.
pub(crate) fn create_all(cx: &Context, first: u64, count: u64) -> isize {
    for i in 0..count {
        let t = first + i * size_of::<Thread>() as u64;
        // SAFETY: the host wrote `count` descriptors at `first`.
        let thread = unsafe { &*(t as *const Thread) };
        let ret = if cx.last_pid_fd >= 0 {
            by_last_pid(cx, thread)
        } else {
            let tid = thread.tid as i32;
            by_number(thread, 0, &raw const tid as u64)
        };
        if ret < 0 {
            return ret;
        }
    }
    0
}

/// Without `set_tid` the next number is chosen by `ns_last_pid`. Somebody outside of the restore may
/// take it in between: then the thread ends at once, and another is made.
fn by_last_pid(cx: &Context, thread: &Thread) -> isize {
    for _ in 0..TRIES {
        cx.shared.choose();
        let mut ret = choose(cx.last_pid_fd as u64, thread.tid);
        if ret >= 0 {
            alive(thread).store(1, Ordering::Relaxed);
            // As `clone3` may be what is missing.
            let flags = GROUP | CHILD_CLEARTID;
            ret = clone(nr::CLONE, flags, thread.stack + thread.stack_len, thread);
        }
        cx.shared.chosen();
        if ret < 0 || ret as u32 == thread.tid {
            return ret;
        }
        wait_while(alive(thread), 1);
        let millisecond = [0u64, 1_000_000];
        call(nr::NANOSLEEP, [millisecond.as_ptr() as u64, 0, 0, 0, 0, 0]);
    }
    -EEXIST
}

fn choose(fd: u64, tid: u32) -> isize {
    let mut text = [0u8; 12];
    let mut at = text.len();
    let mut n = tid - 1;
    loop {
        at -= 1;
        // SAFETY: a u32 has at most ten digits, so `at` stays within the twelve bytes.
        unsafe { *text.as_mut_ptr().add(at) = b'0' + (n % 10) as u8 };
        n /= 10;
        if n == 0 {
            break;
        }
    }
    let digits = text.as_ptr() as u64 + at as u64;
    call(nr::PWRITE, [fd, digits, (text.len() - at) as u64, 0, 0, 0])
}

/// A helper that fills pages and is gone (its descriptor's `alive` word cleared) afterwards.
pub(crate) fn helper(thread: &Thread) -> isize {
    by_number(thread, CHILD_CLEARTID, 0)
}

fn by_number(thread: &Thread, flags: u64, set_tid: u64) -> isize {
    let args = CloneArgs {
        flags: GROUP | flags,
        stack: thread.stack,
        stack_size: thread.stack_len,
        child_tid: &raw const thread.alive as u64,
        set_tid,
        set_tid_size: u64::from(set_tid != 0),
        ..CloneArgs::default()
    };
    clone(nr::CLONE3, &raw const args as u64, size_of::<CloneArgs>() as u64, thread)
}

/// `clone` (flags, top of the stack) or `clone3` (arguments, their length).
fn clone(nr: usize, first: u64, second: u64, thread: &Thread) -> isize {
    let mut ret = nr as isize;
    // SAFETY: the new thread starts on its own stack and leaves this function for `main` at
    // once, without returning through our frame; for us it is an ordinary system call.
    unsafe {
        core::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, rdx",
            "and rsp, -16",
            "call {main}",
            "ud2",
            "2:",
            main = sym main,
            inout("rax") ret,
            in("rdi") first,
            in("rsi") second,
            // Where `clone` would put the number, were it asked to.
            in("rdx") &raw const *thread,
            in("r10") &raw const thread.alive,
            in("r8") 0,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    ret
}

/// # Safety
/// `thread` is the descriptor this thread was made from.
unsafe extern "C" fn main(thread: *const Thread) -> ! {
    // SAFETY: descriptors live in the arena, longer than any thread runs here.
    let t = unsafe { &*thread };
    let shared = crate::Shared::new(t.shared);
    if t.job != 0 {
        crate::fill::help(t);
        loop {
            call(nr::EXIT, [0; 6]);
        }
    }
    if alive(t).load(Ordering::Relaxed) == 1 {
        if call(nr::GETTID, [0; 6]) as u32 != t.tid {
            loop {
                call(nr::EXIT, [0; 6]);
            }
        }
        // The word is for those that end here.
        call(nr::SET_TID_ADDRESS, [0; 6]);
    }
    run(&Context { shared, tid: t.tid, last_pid_fd: -1 }, t.steps)
}

/// The word that the kernel clears when a helper is gone.
pub(crate) fn alive(thread: &Thread) -> &AtomicU32 {
    let p = (&raw const thread.alive).cast::<AtomicU32>();
    // SAFETY: an aligned u32 of the arena that is only changed by the kernel and atomics.
    unsafe { &*p }
}
