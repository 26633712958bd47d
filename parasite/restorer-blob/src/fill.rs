//! Filling memory from pages images.

use crate::shared::{Shared, wait_while};
use crate::thread::{alive, helper};
use crate::{EINTR, EIO, call, nr};
use core::sync::atomic::{AtomicU32, Ordering};
use parasite_abi::Step;
use parasite_abi::restore::{Fill, Thread, fresh};

/// `struct iovec`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Iovec {
    base: u64,
    len: u64,
}

const IOV_MAX: u64 = 1024;
const PAGE: u64 = 4096;

/// Reads `count` iovecs at `iov` full, from `offset` of `fd` on. Uses the iovecs up.
pub(crate) fn read(shared: Shared, fd: u64, iov: u64, count: u64, offset: u64) -> isize {
    let mut at = iov as *mut Iovec;
    let end = at.wrapping_add(count as usize);
    let mut offset = offset;
    while at < end {
        let n = (end as u64 - at as u64) / size_of::<Iovec>() as u64;
        let n = if n > IOV_MAX { IOV_MAX } else { n };
        let ret = call(nr::PREADV, [fd, at as u64, n, offset, 0, 0]);
        if ret == -EINTR {
            continue;
        }
        if ret < 0 {
            return ret;
        }
        if ret == 0 {
            return -EIO;
        }
        offset += ret as u64;
        shared.filled((ret as u64 / PAGE) as u32);
        let mut got = ret as u64;
        while got > 0 && at < end {
            // SAFETY: `at` is within the host's array.
            let v = unsafe { &mut *at };
            if got < v.len {
                v.base += got;
                v.len -= got;
                break;
            }
            got -= v.len;
            at = at.wrapping_add(1);
        }
    }
    0
}

const HUGE: u64 = 2 << 20;
/// Less than this is not worth a call of its own.
const WORTH: u64 = 64 << 10;
const MADV_POPULATE_WRITE: u64 = 23;
const MADV_COLLAPSE: u64 = 25;

/// Which way of making memory costs this worker less, as measured while it works: huge pages are
/// several times cheaper, or dearer where the machine has to be given the memory first (a guest
/// whose free blocks are its host's).
#[derive(Default)]
struct Ways {
    /// Microseconds that 2 MiB took the last time: page by page, and huge. 0: not tried.
    small: u64,
    huge: u64,
}

impl Ways {
    fn huge(&self) -> bool {
        self.huge == 0 || self.small != 0 && self.huge < self.small
    }
}

fn now() -> u64 {
    const MONOTONIC: u64 = 1;
    let mut t = [0u64; 2];
    call(nr::CLOCK_GETTIME, [MONOTONIC, &raw mut t as u64, 0, 0, 0, 0]);
    // SAFETY: reads the array back that the kernel has written behind the compiler's back.
    let t = unsafe { core::ptr::read_volatile(&raw const t) };
    t[0].wrapping_mul(1_000_000).wrapping_add(t[1] / 1000)
}

/// Makes memory exist that is about to be filled, in bulk instead of fault by fault. What does not
/// work is left to the faults.
fn prepare(f: &Fill, ways: &mut Ways) {
    for i in 0..f.count {
        // SAFETY: the host wrote `count` iovecs at `iov`.
        let v = unsafe { *((f.iov + i * size_of::<Iovec>() as u64) as *const Iovec) };
        if v.len < WORTH {
            continue;
        }
        let first = v.base.next_multiple_of(HUGE);
        let end = (v.base + v.len) / HUGE * HUGE;
        let mut at = v.base;
        if f.fresh == fresh::HUGE && first < end {
            populate(at, first - at);
            at = first;
            while at < end {
                let begun = now();
                let huge = ways.huge();
                if huge {
                    // SAFETY: memory of this task that the image has contents for, mapped
                    // writable until it is filled. A page has to exist for others to join it.
                    unsafe { core::ptr::write_volatile(at as *mut u8, 0) };
                    call(nr::MADVISE, [at, HUGE, MADV_COLLAPSE, 0, 0, 0]);
                } else {
                    populate(at, HUGE);
                }
                let took = now().wrapping_sub(begun) | 1;
                if huge {
                    ways.huge = took;
                } else {
                    ways.small = took;
                }
                at += HUGE;
            }
        }
        populate(at, v.base + v.len - at);
    }
}

fn populate(at: u64, len: u64) {
    if len > 0 {
        call(nr::MADVISE, [at, len, MADV_POPULATE_WRITE, 0, 0, 0]);
    }
}

/// Takes pieces of the step's list until there are none.
fn work(shared: Shared, step: &Step) -> isize {
    let a = step.args;
    // SAFETY: the host gave the address of an aligned word in the arena.
    let next = unsafe { &*(a[2] as *const AtomicU32) };
    let mut ways = Ways::default();
    loop {
        let i = u64::from(next.fetch_add(1, Ordering::Relaxed));
        if i >= a[1] {
            return 0;
        }
        // SAFETY: `i` is below the number of pieces the host wrote.
        let f = unsafe { *((a[0] + i * size_of::<Fill>() as u64) as *const Fill) };
        if f.fresh != fresh::FAULT {
            prepare(&f, &mut ways);
        }
        let ret = read(shared, f.fd, f.iov, f.count, f.offset);
        if ret < 0 {
            return ret;
        }
    }
}

/// Fills all pieces with the helpers' aid and waits until the helpers are gone.
pub(crate) fn parallel(shared: Shared, step: &Step) -> isize {
    let a = step.args;
    let each = |i: u64| {
        let addr = a[3] + i * size_of::<Thread>() as u64;
        // SAFETY: the host wrote `a[4]` descriptors at `a[3]`.
        unsafe { &mut *(addr as *mut Thread) }
    };
    let mut made = 0;
    while made < a[4] {
        let t = each(made);
        t.job = &raw const *step as u64;
        t.alive = 1;
        t.shared = shared.addr();
        // Fewer helpers only take longer.
        if helper(t) < 0 {
            break;
        }
        made += 1;
    }
    let mut ret = work(shared, step);
    for i in 0..made {
        let t = each(i);
        wait_while(alive(t), 1);
        // SAFETY: the helper is gone and wrote its errno before; volatile since it did so
        // behind the compiler's back.
        let failed = unsafe { core::ptr::read_volatile(&raw const t.failed) };
        if failed != 0 {
            ret = -(failed as isize);
        }
    }
    ret
}

/// What a helper does.
pub(crate) fn help(thread: &Thread) {
    // SAFETY: `parallel` put the address of its step there, which outlives the helpers.
    let step = unsafe { &*(thread.job as *const Step) };
    let ret = work(Shared::new(thread.shared), step);
    let failed = (&raw const thread.failed).cast::<AtomicU32>();
    // SAFETY: an aligned word of this thread's own descriptor.
    unsafe { &*failed }.store((-ret) as u32, Ordering::Release);
}
