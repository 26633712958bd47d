//! Tasks: making them with a chosen pid, and reading what the kernel tells by pid.

use crate::error::check;
use crate::raw::CloneArgs;
use crate::{Error, Result};

/// Who returned from [`fork_with`].
#[derive(Debug)]
pub enum Forked {
    /// In the parent: the child's pid.
    Parent(i32),
    /// In the child.
    Child,
}

/// `clone3(2)` as a fork: own copy of the address space, own stack.
///
/// `flags`: `CLONE_*` (no `CLONE_VM`, no `CLONE_THREAD`); `set_tid`: wanted pids, innermost
/// namespace first (5.5), empty for any. `EEXIST`: the number is in use as a pid, group or
/// session; `EINVAL`: it is not below pid_max. `exit_signal`: what the parent gets at its end.
///
/// # Safety
/// As fork(2): in the child only the calling thread exists, so the caller must be
/// single-threaded or do only async-signal-safe things in the child. libc's cached pid and
/// atfork handlers are not updated.
pub unsafe fn fork_with(flags: u64, set_tid: &[i32], exit_signal: i32) -> Result<Forked> {
    let args = CloneArgs {
        flags,
        // Siblings have the exit signal of the caller, and must not ask for one.
        exit_signal: if flags & libc::CLONE_PARENT as u64 == 0 { exit_signal as u64 } else { 0 },
        set_tid: if set_tid.is_empty() { 0 } else { set_tid.as_ptr() as u64 },
        set_tid_size: set_tid.len() as u64,
        ..CloneArgs::default()
    };
    // SAFETY: `args` and `set_tid` outlive the call; without CLONE_VM the child gets copies of
    // both, and of the stack it returns on.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match check(ret, || format!("clone3({flags:#x}, set_tid={set_tid:?})"))? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid as i32)),
    }
}

/// `clone(2)` as a fork, for kernels without [`fork_with`]: of the flags, `CLONE_NEWTIME` is not
/// known, and a pid cannot be chosen.
///
/// # Safety
/// As [`fork_with`].
pub unsafe fn fork_plain(flags: u64, exit_signal: i32) -> Result<Forked> {
    let signal = if flags & libc::CLONE_PARENT as u64 == 0 { exit_signal as u64 } else { 0 };
    // SAFETY: without a stack and without CLONE_VM the child gets a copy of the one it returns on;
    // no flag asks for a number to be stored anywhere.
    let ret = unsafe { libc::syscall(libc::SYS_clone, flags | signal, 0, 0, 0, 0) };
    match check(ret, || format!("clone({flags:#x})"))? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(pid as i32)),
    }
}

/// `prlimit64(2)` read: (soft, hard). `EPERM` for tasks of other users without
/// CAP_SYS_RESOURCE: read `/proc/PID/limits` then.
pub fn rlimit(pid: i32, resource: u32) -> Result<(u64, u64)> {
    let mut old = [0u64; 2];
    // SAFETY: no new limit is given; the old one is written to two u64.
    let ret =
        unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, 0usize, old.as_mut_ptr()) };
    check(ret, || format!("prlimit64({pid}, {resource})")).map(|_| (old[0], old[1]))
}

/// `prlimit64(2)` write.
pub fn set_rlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> Result<()> {
    let new = [soft, hard];
    // SAFETY: the new limit is read from two u64; the old one is not asked for.
    let ret = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new.as_ptr(), 0usize) };
    check(ret, || format!("prlimit64({pid}, {resource}, {soft}, {hard})")).map(|_| ())
}

/// `capset(2)` of this thread, inheritable ones none.
pub fn set_capabilities(effective: u64, permitted: u64) -> Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3`, of this thread.
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    let half = |set: u64, i: usize| (set >> (32 * i)) as u32;
    let data = [0, 1].map(|i| [half(effective, i), half(permitted, i), 0]);
    let mut header = HEADER;
    // SAFETY: both are structs of the sizes that this version has, and outlive the call.
    let ret = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), data.as_ptr()) };
    check(ret, || format!("capset({effective:#x}, {permitted:#x})")).map(|_| ())
}

/// Makes files as this user and group from now on, with the capabilities that this thread has.
/// Where ids are mapped, a user namespace's file systems take no others.
pub fn set_fs_ids(uid: u32, gid: u32) -> Result<()> {
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    for (nr, id, name) in
        [(libc::SYS_setfsgid, gid, "setfsgid"), (libc::SYS_setfsuid, uid, "setfsuid")]
    {
        // SAFETY: takes a number.
        unsafe { libc::syscall(nr, id) };
        // SAFETY: an id that nobody can have changes nothing; the answer is the present one.
        let now = unsafe { libc::syscall(nr, u32::MAX) };
        if now != i64::from(id) {
            return Err(Error::new(format_args!("{name}({id})"), libc::EPERM));
        }
    }
    // Leaving id 0 takes the capabilities for files out of the effective ones.
    let (mut header, mut data) = (HEADER, [0u32; 6]);
    // SAFETY: both are structs of the sizes that this version has, and outlive the call.
    let ret = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) };
    check(ret, || "capget".to_owned())?;
    (data[0], data[3]) = (data[1], data[4]);
    let mut header = HEADER;
    // SAFETY: as above.
    let ret = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), data.as_ptr()) };
    check(ret, || "capset".to_owned()).map(|_| ())
}

/// `struct sched_attr` up to the fields of Linux 5.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SchedAttr {
    /// Size of the struct.
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Realtime priority.
    pub priority: u32,
    /// Deadline runtime (ns), or the slice of fair tasks.
    pub runtime: u64,
    /// Deadline (ns).
    pub deadline: u64,
    /// Period (ns).
    pub period: u64,
    /// Utilisation clamp.
    pub util_min: u32,
    /// Utilisation clamp.
    pub util_max: u32,
}

/// `sched_getattr(2)`.
pub fn sched_attr(tid: i32) -> Result<SchedAttr> {
    let mut a = SchedAttr::default();
    // SAFETY: the kernel writes at most the given size.
    let ret = unsafe {
        libc::syscall(libc::SYS_sched_getattr, tid, &raw mut a, size_of::<SchedAttr>(), 0)
    };
    check(ret, || format!("sched_getattr({tid})")).map(|_| a)
}

/// `sched_getaffinity(2)`: the mask as bytes, as long as the kernel's.
pub fn affinity(tid: i32) -> Result<Vec<u8>> {
    let mut mask = vec![0u8; 1024];
    // SAFETY: the kernel writes at most the given length.
    let ret =
        unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, mask.len(), mask.as_mut_ptr()) };
    let n = check(ret, || format!("sched_getaffinity({tid})"))?;
    mask.truncate(n as usize);
    Ok(mask)
}

/// `ioprio_get(2)` of one thread.
pub fn ioprio(tid: i32) -> Result<i32> {
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::syscall(libc::SYS_ioprio_get, 1, tid) };
    check(ret, || format!("ioprio_get({tid})")).map(|r| r as i32)
}

/// `get_robust_list(2)`: head address and length.
pub fn robust_list(tid: i32) -> Result<(u64, u64)> {
    let (mut head, mut len) = (0u64, 0u64);
    // SAFETY: the kernel writes one word to each pointer.
    let ret = unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) };
    check(ret, || format!("get_robust_list({tid})")).map(|_| (head, len))
}

/// `kill(2)`.
pub fn kill(pid: i32, signo: i32) -> Result<()> {
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::kill(pid, signo) };
    check(ret.into(), || format!("kill({pid}, {signo})")).map(|_| ())
}

/// `tgkill(2)`.
pub fn tgkill(pid: i32, tid: i32, signo: i32) -> Result<()> {
    // SAFETY: integers in, integer out.
    let ret = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signo) };
    check(ret, || format!("tgkill({pid}, {tid}, {signo})")).map(|_| ())
}

/// `prctl(2)` with integer arguments.
pub fn prctl(option: i32, args: [u64; 4]) -> Result<i32> {
    // SAFETY: callers use options whose arguments are integers (contract of this wrapper).
    let ret = unsafe { libc::prctl(option, args[0], args[1], args[2], args[3]) };
    check(ret.into(), || format!("prctl({option}, {args:x?})")).map(|r| r as i32)
}

/// `setdomainname(2)`.
pub fn set_domain_name(name: &[u8]) -> Result<()> {
    // SAFETY: the kernel reads `len` bytes of `name`.
    let ret = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    check(ret.into(), || format!("setdomainname({:?})", String::from_utf8_lossy(name))).map(|_| ())
}
