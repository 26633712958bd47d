//! Puts compressed frames into a file in the order of their pages, though many threads make them.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::pages::frames::{Codec, Compressed, Table};
use crate::{Error, Result};

/// A compressed pages image that is being written.
#[derive(Debug)]
pub struct FrameWriter {
    file: Arc<File>,
    name: String,
    codec: Codec,
    /// Compressed bytes that may wait for their turn.
    budget: usize,
    state: Mutex<State>,
    turn: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// First byte of the pages that is not in the file yet, and where it goes.
    next: u64,
    at: u64,
    /// What came before its turn, by its first byte among the pages: with its length there.
    waiting: BTreeMap<u64, (u64, Compressed)>,
    waiting_bytes: usize,
    /// Room of what is written, for others.
    spare: Vec<Compressed>,
    table: Table,
    failed: bool,
}

impl FrameWriter {
    /// Writes into `file`, called `name`, which is empty.
    #[must_use]
    pub fn new(file: Arc<File>, name: String, codec: Codec, budget: usize) -> Self {
        Self { file, name, codec, budget, state: Mutex::default(), turn: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for frames that come next: getting new memory for each costs as much as to write them.
    #[must_use]
    pub fn spare(&self) -> Compressed {
        self.lock().spare.pop().unwrap_or_default()
    }

    /// Takes the frames of `len` bytes of pages from `offset` on. Who comes before its turn
    /// waits while too much waits already, if it `may_wait`: one thread may not, or all could
    /// wait for what nobody does.
    pub fn put(&self, offset: u64, len: u64, frames: Compressed, may_wait: bool) -> Result<()> {
        let mut state = self.lock();
        while may_wait && state.next != offset && state.waiting_bytes > self.budget && !state.failed
        {
            state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting_bytes += frames.bytes.len();
        state.waiting.insert(offset, (len, frames));
        loop {
            let next = state.next;
            let Some((len, frames)) = state.waiting.remove(&next) else { break };
            state.table.push(&frames);
            state.waiting_bytes -= frames.bytes.len();
            let at = state.at;
            state.at += frames.bytes.len() as u64;
            state.next += len;
            drop(state);
            self.turn.notify_all();
            if let Err(e) = self.file.write_all_at(&frames.bytes, at) {
                self.fail();
                return Err(Error::io(&self.name, "pwrite")(e));
            }
            state = self.lock();
            state.spare.push(frames);
        }
        Ok(())
    }

    /// Nobody waits any more: something went wrong.
    pub fn fail(&self) {
        self.lock().failed = true;
        self.turn.notify_all();
    }

    /// Writes the table behind the frames. Gives the length of the file.
    pub fn finish(self) -> Result<u64> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        let table = state.table.encode(self.codec);
        self.file.write_all_at(&table, state.at).map_err(Error::io(&self.name, "pwrite"))?;
        let len = state.at + table.len() as u64;
        self.file.set_len(len).map_err(Error::io(&self.name, "ftruncate"))?;
        Ok(len)
    }
}
