//! Raw system calls without libc, for code that runs inside a target.

/// Largest errno the kernel returns as `-errno`.
pub const MAX_ERRNO: isize = 4095;

/// `struct clone_args` of `clone3(2)`, as of Linux 5.7.
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct CloneArgs {
    /// `CLONE_*`.
    pub flags: u64,
    /// Where the pidfd goes.
    pub pidfd: u64,
    /// Where the child's tid goes in the child, and is cleared at its end.
    pub child_tid: u64,
    /// Where it goes in the parent.
    pub parent_tid: u64,
    /// What the parent is sent when the child ends.
    pub exit_signal: u64,
    /// Lowest byte of the stack.
    pub stack: u64,
    /// Its length.
    pub stack_size: u64,
    /// Thread-local storage.
    pub tls: u64,
    /// Address of the wanted pids, innermost namespace first (5.5).
    pub set_tid: u64,
    /// How many there are.
    pub set_tid_size: u64,
    /// Descriptor of a control group (5.7).
    pub cgroup: u64,
}

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
