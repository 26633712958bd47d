//! Raw system calls without libc, for code that runs inside a target.

/// Largest errno the kernel returns as `-errno`.
pub const MAX_ERRNO: isize = 4095;

/// Makes a system call with six arguments and returns the kernel's raw answer
/// (`-errno` on failure).
///
/// # Safety
/// The call does whatever `nr` does with the memory and descriptors named in `args`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub unsafe fn syscall6(nr: usize, args: [usize; 6]) -> isize {
    let ret: isize;
    // SAFETY: the caller answers for the call; the asm names all registers the kernel clobbers.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") nr as isize => ret,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    ret
}
