//! `bpf(2)`, as far as it takes to have the kernel walk through one of its lists: an iterator
//! (5.8), told which task it is about (6.1); and the kernel's types (BTF), which it needs.

use crate::Result;
use crate::error::check;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Where the kernel shows its types.
const TYPES: &str = "/sys/kernel/btf/vmlinux";

const PROG_LOAD: i32 = 5;
const LINK_CREATE: i32 = 28;
const ITER_CREATE: i32 = 33;
const PROG_TYPE_TRACING: u32 = 26;
const TRACE_ITER: u32 = 28;

/// `union bpf_attr` of [`PROG_LOAD`], up to the last field that is used here.
#[repr(C)]
#[derive(Debug, Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log: [u64; 2],
    kern_version: u32,
    prog_flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
    btf: [u64; 4],
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// Loads a program, one word an instruction, that is called for each element of a list:
/// `attach_btf_id` is that of the list's `bpf_iter_*` function. `name` has up to 15 characters.
pub fn load_iterator(insns: &[u64], attach_btf_id: u32, name: &[u8]) -> Result<OwnedFd> {
    // Some helpers are for such programs only. The instructions are under this repository's
    // licenses, and MIT is one of them.
    let license = c"Dual MIT/GPL";
    let mut load = Load {
        prog_type: PROG_TYPE_TRACING,
        insn_cnt: insns.len() as u32,
        insns: insns.as_ptr() as u64,
        license: license.as_ptr() as u64,
        expected_attach_type: TRACE_ITER,
        attach_btf_id,
        ..Load::default()
    };
    let len = name.len().min(load.name.len() - 1);
    load.name[..len].copy_from_slice(&name[..len]);
    // SAFETY: `load` is a bpf_attr of the length given; `insns` and `license` outlive the call.
    // What the program may do is for the kernel's verifier to say.
    let ret =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    check(ret, || format!("bpf(BPF_PROG_LOAD, iterator {attach_btf_id})")).map(crate::fd::owned)
}

/// A descriptor to read what `program` writes about the task `tid`, a number of our pid namespace.
/// Kernels that know no filter by task go through all of them.
pub fn iterate(program: BorrowedFd<'_>, tid: i32) -> Result<OwnedFd> {
    let raw = program.as_raw_fd();
    // The union of what an iterator may be about: here task.tid, task.pid, task.pid_fd.
    let about = [tid as u32, 0, 0];
    let len = size_of_val(&about) as u32;
    let ptr = about.as_ptr() as u64;
    let link = [raw as u32, 0, TRACE_ITER, 0, ptr as u32, (ptr >> 32) as u32, len, 0];
    // SAFETY: `link` is a bpf_attr of the length given, which points to `about` and its length.
    let ret =
        unsafe { libc::syscall(libc::SYS_bpf, LINK_CREATE, link.as_ptr(), size_of_val(&link)) };
    let link = check(ret, || format!("bpf(BPF_LINK_CREATE, {raw}, tid {tid})"))?;
    let link = crate::fd::owned(link);
    let iter = [link.as_raw_fd() as u32, 0];
    // SAFETY: `iter` is a bpf_attr of the length given, without pointers.
    let ret =
        unsafe { libc::syscall(libc::SYS_bpf, ITER_CREATE, iter.as_ptr(), size_of_val(&iter)) };
    check(ret, || format!("bpf(BPF_ITER_CREATE, {})", iter[0])).map(crate::fd::owned)
}

/// The types of the kernel, as BTF.
#[derive(Debug)]
pub enum Types {
    /// In the kernel's own memory (6.16).
    Mapped(Mapped),
    /// Read, a page at a time.
    Read(Vec<u8>),
}

impl Types {
    /// Those of this kernel.
    pub fn of_kernel() -> std::io::Result<Self> {
        let file = File::open(TYPES)?;
        match Mapped::new(&file, file.metadata()?.len() as usize) {
            Some(mapped) => Ok(Self::Mapped(mapped)),
            None => std::fs::read(TYPES).map(Self::Read),
        }
    }

    /// All of them.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(mapped) => mapped.bytes(),
            Self::Read(bytes) => bytes,
        }
    }
}

/// Memory of the kernel's that never changes.
#[derive(Debug)]
pub struct Mapped {
    ptr: *mut libc::c_void,
    len: usize,
}

impl Mapped {
    /// Only of what is the kernel's: no other file.
    fn new(file: &File, len: usize) -> Option<Self> {
        let (null, fd) = (std::ptr::null_mut(), file.as_raw_fd());
        // SAFETY: all zero is a valid statfs.
        let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: `stat` outlives the call.
        if unsafe { libc::fstatfs(fd, &mut stat) } != 0 || stat.f_type != libc::SYSFS_MAGIC {
            return None;
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let ptr = unsafe { libc::mmap(null, len, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0) };
        (ptr != libc::MAP_FAILED).then_some(Self { ptr, len })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping made in `new`, of as many bytes as the kernel says that there are; in
        // sysfs they are a part of the kernel, and are never written.
        unsafe { std::slice::from_raw_parts(self.ptr.cast(), self.len) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; what refers to it borrows `self`.
        unsafe { libc::munmap(self.ptr, self.len) };
    }
}
