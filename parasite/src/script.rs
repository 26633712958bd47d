//! A list of system calls for a task, written before their addresses are known.

use parasite_abi::{Op, Step};

/// An argument of a [`Script`]'s call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// As it stands.
    Value(u64),
    /// The address, in the task, of a piece of the script's data.
    Data(Data),
    /// The address of the page that a piece of the script's data begins on.
    Page(Data),
}

impl From<u64> for Arg {
    fn from(v: u64) -> Self {
        Self::Value(v)
    }
}

impl From<Data> for Arg {
    fn from(d: Data) -> Self {
        Self::Data(d)
    }
}

/// A piece of the script's data: input of calls, or where they write their output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    offset: usize,
    len: usize,
}

/// Names a call of the script, for asking what it returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call(usize);

/// System calls to be made in a task, in order; a failing one does not stop the list.
///
/// None of them may block: the dump waits, and a restartable call would overwrite the
/// task's own restart block.
#[derive(Clone, Debug, Default)]
pub struct Script {
    calls: Vec<(i64, [Arg; 6])>,
    data: Vec<u8>,
}

impl Script {
    /// Room for `len` bytes of output, zeroed.
    pub fn room(&mut self, len: usize) -> Data {
        let offset = self.data.len().next_multiple_of(8);
        self.data.resize(offset + len, 0);
        Data { offset, len }
    }

    /// Input.
    pub fn input(&mut self, bytes: &[u8]) -> Data {
        let d = self.room(bytes.len());
        self.data[d.offset..].copy_from_slice(bytes);
        d
    }

    /// Adds a call. `args`: at most six.
    pub fn call(&mut self, nr: i64, args: &[Arg]) -> Call {
        let mut all = [Arg::Value(0); 6];
        all[..args.len()].copy_from_slice(args);
        self.calls.push((nr, all));
        Call(self.calls.len() - 1)
    }

    /// Bytes it takes in the task: steps, then data.
    pub(crate) fn size(&self) -> usize {
        self.steps_size() + self.data.len().next_multiple_of(16)
    }

    fn steps_size(&self) -> usize {
        self.calls.len() * size_of::<Step>()
    }

    /// How many calls it has.
    pub(crate) fn count(&self) -> usize {
        self.calls.len()
    }

    /// The bytes for the task, to be put at `addr`.
    pub(crate) fn place(&self, addr: u64, out: &mut Vec<u8>) {
        let data = addr + self.steps_size() as u64;
        for (nr, args) in &self.calls {
            let args = args.map(|a| match a {
                Arg::Value(v) => v,
                Arg::Data(d) => data + d.offset as u64,
                Arg::Page(d) => (data + d.offset as u64) & !0xfff,
            });
            out.extend_from_slice(&(Op::Syscall as u32).to_ne_bytes());
            out.extend_from_slice(&0u32.to_ne_bytes());
            out.extend_from_slice(&(*nr as u64).to_ne_bytes());
            for a in args {
                out.extend_from_slice(&a.to_ne_bytes());
            }
            out.extend_from_slice(&[0; 16]);
        }
        out.extend_from_slice(&self.data);
        out.resize(out.len().next_multiple_of(16), 0);
    }

    /// Takes apart what [`Script::place`] had put there, after the run.
    pub(crate) fn answers(&self, bytes: &[u8]) -> Answers {
        let (steps, data) = bytes.split_at(self.steps_size());
        let results = steps
            .chunks_exact(size_of::<Step>())
            .map(|s| i64::from_ne_bytes(s[72..80].try_into().unwrap_or([0; 8])))
            .collect();
        Answers { results, data: data[..self.data.len()].to_vec() }
    }
}

/// What the calls of a [`Script`] returned and wrote.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    results: Vec<i64>,
    data: Vec<u8>,
}

impl Answers {
    /// The kernel's answer: `-errno` on failure.
    pub fn result(&self, call: Call) -> i64 {
        self.results[call.0]
    }

    /// Bytes of a piece of data after the run.
    pub fn bytes(&self, data: Data) -> &[u8] {
        &self.data[data.offset..data.offset + data.len]
    }

    /// Word `index` of a piece of data.
    pub fn u64(&self, data: Data, index: usize) -> u64 {
        let b = &self.bytes(data)[index * 8..index * 8 + 8];
        u64::from_ne_bytes(b.try_into().unwrap_or([0; 8]))
    }

    /// Half word `index` of a piece of data.
    pub fn u32(&self, data: Data, index: usize) -> u32 {
        let b = &self.bytes(data)[index * 4..index * 4 + 4];
        u32::from_ne_bytes(b.try_into().unwrap_or([0; 4]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_addresses_come_behind_the_steps() {
        let mut s = Script::default();
        let a = s.room(3);
        let b = s.input(b"xyz");
        let first = s.call(7, &[a.into(), 9.into()]);
        let second = s.call(8, &[b.into()]);
        let mut bytes = Vec::new();
        s.place(0x1000, &mut bytes);
        assert_eq!(bytes.len(), s.size());
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!((word(8), word(16), word(24)), (7, 0x1000 + 160, 9));
        assert_eq!((word(88), word(96)), (8, 0x1000 + 168));
        let mut after = bytes.clone();
        after[72..80].copy_from_slice(&(-2i64).to_ne_bytes());
        let answers = s.answers(&after);
        assert_eq!((answers.result(first), answers.result(second)), (-2, 0));
        assert_eq!(answers.bytes(b), b"xyz");
    }
}
