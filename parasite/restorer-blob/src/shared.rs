//! The page shared with the coordinator: stages, counts, the first failure.

use crate::{call, nr};
use core::sync::atomic::{AtomicU32, Ordering};
use parasite_abi::Step;
use parasite_abi::restore::{Fault, word};

const FUTEX_WAIT: u64 = 0;
const FUTEX_WAKE: u64 = 1;

/// Address of the page; it stays mapped as long as the blob runs.
#[derive(Clone, Copy)]
pub(crate) struct Shared(u64);

impl Shared {
    pub(crate) fn new(addr: u64) -> Self {
        Self(addr)
    }

    pub(crate) fn addr(self) -> u64 {
        self.0
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        let addr = self.0 + 4 * index as u64;
        // SAFETY: the host maps the page (several KiB, aligned) into the arena, and all sides
        // use atomics on it.
        unsafe { &*(addr as *const AtomicU32) }
    }

    /// So many more pages are filled.
    pub(crate) fn filled(&self, pages: u32) {
        self.word(word::FILLED).fetch_add(pages, Ordering::Relaxed);
    }

    /// Alone among all processes of the restore from now on, until [`Self::chosen`].
    pub(crate) fn choose(&self) {
        let word = self.word(word::CHOOSING);
        while word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            futex(word, FUTEX_WAIT, 1);
        }
    }

    pub(crate) fn chosen(&self) {
        let word = self.word(word::CHOOSING);
        word.store(0, Ordering::Release);
        wake(word);
    }

    /// One less to wait for; the last one wakes the coordinator.
    pub(crate) fn report(&self) {
        let left = self.word(word::LEFT);
        if left.fetch_sub(1, Ordering::AcqRel) == 1 {
            wake(left);
        }
    }

    /// Sleeps until `stage` is open.
    pub(crate) fn wait(&self, stage: u32) {
        let now = self.word(word::STAGE);
        loop {
            let v = now.load(Ordering::Acquire);
            if v >= stage {
                return;
            }
            futex(now, FUTEX_WAIT, v);
        }
    }

    /// Sleeps until ptrace puts this thread elsewhere.
    pub(crate) fn sleep(&self) -> ! {
        let now = self.word(word::STAGE);
        loop {
            futex(now, FUTEX_WAIT, now.load(Ordering::Acquire));
        }
    }

    /// Tells the coordinator about a failed step, if nobody failed before, and sleeps until it
    /// kills us.
    pub(crate) fn fail(&self, tid: u32, step: &Step) -> ! {
        let fault = self.word(word::FAULT);
        if fault
            .compare_exchange(0, Fault::Step as u32, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            self.word(word::FAULT_TID).store(tid, Ordering::Relaxed);
            let from = &raw const *step as u64;
            crate::copy(self.0 + 4 * word::FAULT_DATA as u64, from, size_of::<Step>() as u64);
            self.word(word::FAULT_READY).store(1, Ordering::Release);
            wake(self.word(word::LEFT));
        }
        self.sleep()
    }
}

pub(crate) fn futex(word: &AtomicU32, op: u64, value: u32) {
    call(nr::FUTEX, [word.as_ptr() as u64, op, value.into(), 0, 0, 0]);
}

pub(crate) fn wait_while(word: &AtomicU32, value: u32) {
    while word.load(Ordering::Acquire) == value {
        futex(word, FUTEX_WAIT, value);
    }
}

fn wake(word: &AtomicU32) {
    futex(word, FUTEX_WAKE, i32::MAX as u32);
}
