//! What a task does in the blob: lists of steps, and the data they point to.

use parasite_abi::restore::{Op, Stage, What, flag};
use parasite_abi::{Step, flag as common};

/// A list of [`Step`]s in the making.
#[derive(Debug, Default)]
pub(crate) struct Script {
    steps: Vec<Step>,
}

impl Script {
    /// A system call that has to succeed.
    pub(crate) fn call<const N: usize>(&mut self, what: What, nr: i64, args: [u64; N]) {
        self.push(what, Op::Syscall, nr, args, 0, 0);
    }

    /// A system call that has to answer exactly `expect`.
    pub(crate) fn call_expecting<const N: usize>(
        &mut self,
        what: What,
        nr: i64,
        args: [u64; N],
        expect: u64,
    ) {
        self.push(what, Op::Syscall, nr, args, common::EXPECT, expect.cast_signed());
    }

    /// A system call for which `errno` is as good as success.
    pub(crate) fn call_or<const N: usize>(
        &mut self,
        what: What,
        nr: i64,
        args: [u64; N],
        errno: i32,
    ) {
        self.push(what, Op::Syscall, nr, args, flag::OK_ERRNO, errno.into());
    }

    /// A system call whose failure does not matter.
    pub(crate) fn call_may_fail<const N: usize>(&mut self, what: What, nr: i64, args: [u64; N]) {
        self.push(what, Op::Syscall, nr, args, common::MAY_FAIL, 0);
    }

    /// One of the blob's own operations.
    pub(crate) fn op<const N: usize>(&mut self, what: What, op: Op, args: [u64; N]) {
        self.push(what, op, 0, args, 0, 0);
    }

    /// Reports the present stage as done and waits for `stage`.
    pub(crate) fn stage(&mut self, stage: Stage) {
        self.op(What::Other, Op::Stage, [stage as u64]);
    }

    /// The end: reports, and waits for the coordinator's ptrace.
    pub(crate) fn park(&mut self) {
        self.op(What::Other, Op::Park, []);
    }

    fn push<const N: usize>(
        &mut self,
        what: What,
        op: Op,
        nr: i64,
        args: [u64; N],
        flags: u32,
        expect: i64,
    ) {
        let mut all = [0; 6];
        all[..N].copy_from_slice(&args);
        self.steps.push(Step {
            op: op as u32,
            flags: flags | (what as u32) << flag::WHAT_SHIFT,
            nr: nr.cast_unsigned(),
            args: all,
            expect,
            result: 0,
        });
    }

    /// Writes the list into the task's data; returns its address.
    pub(crate) fn place(&self, data: &mut Data<'_>) -> Result<u64, Full> {
        data.align(8);
        let addr = data.next();
        for s in &self.steps {
            data.put_u32s(&[s.op, s.flags])?;
            data.put_u64s(&[s.nr])?;
            data.put_u64s(&s.args)?;
            data.put_u64s(&[s.expect.cast_unsigned(), 0])?;
        }
        Ok(addr)
    }
}

/// The arena's room for data is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more data for the restorer than its arena holds")]
pub(crate) struct Full;

/// Room for data that steps point to, at addresses known beforehand.
#[derive(Debug)]
pub(crate) struct Data<'a> {
    base: u64,
    bytes: &'a mut [u8],
    used: usize,
}

impl<'a> Data<'a> {
    /// `bytes` will be seen by the blob at `base`.
    pub(crate) fn new(base: u64, bytes: &'a mut [u8]) -> Self {
        Self { base, bytes, used: 0 }
    }

    /// Address of the next byte to be put.
    pub(crate) fn next(&self) -> u64 {
        self.base + self.used as u64
    }

    /// Moves on to a multiple of `to`.
    pub(crate) fn align(&mut self, to: usize) {
        self.used = self.used.next_multiple_of(to);
    }

    /// Puts bytes; returns their address, a multiple of eight.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<u64, Full> {
        self.align(8);
        let addr = self.next();
        self.raw(bytes)?;
        Ok(addr)
    }

    /// Puts words behind what was put last; the caller aligns.
    pub(crate) fn put_u64s(&mut self, words: &[u64]) -> Result<u64, Full> {
        let addr = self.next();
        for w in words {
            self.raw(&w.to_le_bytes())?;
        }
        Ok(addr)
    }

    /// Puts half words behind what was put last.
    pub(crate) fn put_u32s(&mut self, words: &[u32]) -> Result<u64, Full> {
        let addr = self.next();
        for w in words {
            self.raw(&w.to_le_bytes())?;
        }
        Ok(addr)
    }

    /// Leaves room for `len` zero bytes, aligned to `align`.
    pub(crate) fn room(&mut self, len: usize, align: usize) -> Result<u64, Full> {
        self.align(align);
        let addr = self.next();
        if self.used + len > self.bytes.len() {
            return Err(Full);
        }
        self.used += len;
        Ok(addr)
    }

    /// The bytes at an address inside, for filling them.
    pub(crate) fn at(&mut self, addr: u64, len: usize) -> &mut [u8] {
        let from = (addr - self.base) as usize;
        &mut self.bytes[from..from + len]
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let to = self.bytes.get_mut(self.used..self.used + bytes.len()).ok_or(Full)?;
        to.copy_from_slice(bytes);
        self.used += bytes.len();
        Ok(())
    }
}
