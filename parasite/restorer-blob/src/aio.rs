//! AIO contexts: rings that the kernel makes and that must end up where they were.

use crate::{EINVAL, EIO, call, copy, nr};

/// The head of `struct aio_ring`.
#[repr(C)]
struct Ring {
    id: u32,
    nr: u32,
    head: u32,
    tail: u32,
}

const RING_HEAD: u64 = 32;
const MREMAP_MAYMOVE: u64 = 1;
const MREMAP_FIXED: u64 = 2;
const IOCB_CMD_PWRITE: u16 = 1;
const BATCH: u32 = 64;

/// `struct iocb`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    prio: u16,
    fd: u32,
    buf: u64,
    nbytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    resfd: u32,
}

/// `a`: final address, length, requests, address of the saved ring, descriptor of /dev/null,
/// scratch page.
pub(crate) fn rebuild(a: [u64; 6]) -> isize {
    let [to, len, requests, saved, null, scratch] = a;
    let mut ctx: u64 = 0;
    let ret = call(nr::IO_SETUP, [requests, &raw mut ctx as u64, 0, 0, 0, 0]);
    if ret < 0 {
        return ret;
    }
    // SAFETY: the kernel has just written the context's address; volatile as it did so unseen.
    let ring = unsafe { core::ptr::read_volatile(&raw const ctx) };
    // SAFETY: the host gave the address of the whole saved ring.
    let old = unsafe { &*(saved as *const Ring) };
    // SAFETY: a context's number is the address of its ring, mapped into this task.
    let new = unsafe { &mut *(ring as *mut Ring) };
    if old.head >= new.nr || old.tail >= new.nr || old.nr != new.nr {
        return -EINVAL;
    }
    // The kernel's own tail moves by completions only.
    let ret = advance(ring, old.tail, null, scratch);
    if ret < 0 {
        return ret;
    }
    new.head = old.head;
    copy(ring + RING_HEAD, saved + RING_HEAD, len - RING_HEAD);
    let ret = call(nr::MREMAP, [ring, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to, 0]);
    if ret < 0 { ret } else { 0 }
}

fn advance(ring: u64, tail: u32, null: u64, scratch: u64) -> isize {
    let cb = scratch as *mut Iocb;
    // SAFETY: the host gave a page of the arena for this.
    unsafe {
        *cb = Iocb {
            data: 0,
            key: 0,
            rw_flags: 0,
            opcode: IOCB_CMD_PWRITE,
            prio: 0,
            fd: null as u32,
            buf: scratch,
            nbytes: 1,
            offset: 0,
            reserved: 0,
            flags: 0,
            resfd: 0,
        }
    };
    let list = scratch + 128;
    let events = scratch + 1024;
    for i in 0..BATCH {
        // SAFETY: 64 pointers behind the iocb, within the scratch page.
        unsafe { *((list + 8 * u64::from(i)) as *mut u64) = scratch };
    }
    let mut left = tail;
    while left > 0 {
        let n = if left < BATCH { left } else { BATCH };
        let sent = call(nr::IO_SUBMIT, [ring, n.into(), list, 0, 0, 0]);
        if sent < 0 {
            return sent;
        }
        if sent == 0 {
            return -EIO;
        }
        let got = call(nr::IO_GETEVENTS, [ring, sent as u64, sent as u64, events, 0, 0]);
        if got != sent {
            return if got < 0 { got } else { -EIO };
        }
        left -= sent as u32;
    }
    0
}
