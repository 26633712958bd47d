//! Requests as bytes.

use super::NAME;
use crate::pages::{PageFlags, PageSet};
use crate::{Error, Result};

/// Bytes of a header: command and flags, four of nothing, pages, address, id.
pub const HEADER_LEN: usize = 32;

/// What a header asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Pages with contents, as clients before ADD_F sent them.
    Add,
    /// Pages that the parent images have, as clients before ADD_F sent them.
    Hole,
    /// Makes the images of a set. Nobody waits for an answer.
    Open,
    /// The same; the answer is a byte: the parent images have that set.
    Open2,
    /// Asks whether the parent images have a set; the answer is an `i32`.
    Parent,
    /// Pages of any flags, with contents if PRESENT is one of them.
    AddFlags,
    /// Asks for contents.
    Get,
    /// Writes out everything; the answer is an `i32`, 0 if all went well.
    Close,
    /// The same, and the server ends though the connection may stay open.
    ForceClose,
}

impl Command {
    const ALL: [(u16, Self); 9] = [
        (1, Self::Add),
        (2, Self::Hole),
        (3, Self::Open),
        (4, Self::Open2),
        (5, Self::Parent),
        (6, Self::AddFlags),
        (7, Self::Get),
        (0x1023, Self::Close),
        (0x1024, Self::ForceClose),
    ];

    fn of(number: u16) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == number).map(|(_, command)| *command)
    }

    fn number(self) -> u16 {
        Self::ALL.iter().find(|(_, c)| *c == self).map_or(0, |(n, _)| *n)
    }
}

/// A request, or the answer to GET, without contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What is asked.
    pub command: Command,
    /// Of the pages.
    pub flags: PageFlags,
    /// How many.
    pub pages: u64,
    /// Address of the first.
    pub vaddr: u64,
    /// Whose memory it is, as [`Header::set`] tells.
    pub id: u64,
}

/// `(type, is a segment)`: what the low byte of an id may be. CRIU writes the first two.
const TYPES: [(u8, bool); 12] = [
    (1, false),
    (2, true),
    (10, false),
    (11, false),
    (16, false),
    (17, false),
    (27, true),
    (28, true),
    (29, true),
    (32, true),
    (33, true),
    (34, true),
];

impl Header {
    /// A request about `set`, and no pages of it.
    #[must_use]
    pub fn about(command: Command, set: PageSet) -> Self {
        let id = match set {
            PageSet::Task(pid) => u64::from(pid) << 8 | 1,
            PageSet::Shmem(id) => id << 8 | 2,
        };
        Self { command, flags: PageFlags::empty(), pages: 0, vaddr: 0, id }
    }

    /// As it is sent.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let command = u32::from(self.command.number()) | self.flags.bits() << 16;
        bytes[..4].copy_from_slice(&command.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.pages.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.vaddr.to_ne_bytes());
        bytes[24..].copy_from_slice(&self.id.to_ne_bytes());
        bytes
    }

    /// As it was sent, by a peer that speaks of pages with 64 bits (CRIU 4.2).
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        let first = u32::from_ne_bytes(std::array::from_fn(|i| bytes[i]));
        let number = (first & 0xffff) as u16;
        let command = Command::of(number).ok_or_else(|| {
            let reason = format!(
                "{number:#x} is no request (the peer may be a CRIU before 4.2, or use TLS)"
            );
            Error::invalid(NAME, reason)
        })?;
        let flags = match command {
            Command::Add => PageFlags::PRESENT,
            Command::Hole => PageFlags::PARENT,
            _ => PageFlags::from_bits_retain(first >> 16),
        };
        Ok(Self { command, flags, pages: word(8), vaddr: word(16), id: word(24) })
    }

    /// Whose memory it is.
    pub fn set(&self) -> Result<PageSet> {
        let kind = (self.id & 0xff) as u8;
        let (number, known) = (self.id >> 8, TYPES.iter().find(|(k, _)| *k == kind));
        match known {
            Some((_, true)) => Ok(PageSet::Shmem(number)),
            Some((_, false)) if u32::try_from(number).is_ok() => Ok(PageSet::Task(number as u32)),
            _ => Err(Error::invalid(NAME, format!("{:#x} is no id of a task or segment", self.id))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_as_criu_lays_them_out() {
        let header = Header {
            command: Command::AddFlags,
            flags: PageFlags::PRESENT | PageFlags::LAZY,
            pages: 0x1_0000_0002,
            vaddr: 0x7fff_0000_1000,
            ..Header::about(Command::AddFlags, PageSet::Task(0x1234))
        };
        let bytes = header.encode();
        assert_eq!(bytes[..8], [6, 0, 6, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[8..16], [2, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bytes[16..24], [0, 0x10, 0, 0, 0xff, 0x7f, 0, 0]);
        assert_eq!(bytes[24..], [1, 0x34, 0x12, 0, 0, 0, 0, 0]);
        assert_eq!(Header::decode(&bytes).ok(), Some(header));
    }

    #[test]
    fn ids_of_all_versions_are_known() {
        let set = |id| Header { id, ..Header::about(Command::Open, PageSet::Task(0)) }.set().ok();
        assert_eq!(set(5 << 8 | 1), Some(PageSet::Task(5)));
        assert_eq!(set(5 << 8 | 16), Some(PageSet::Task(5)));
        assert_eq!(set(5 << 8 | 2), Some(PageSet::Shmem(5)));
        assert_eq!(set(5 << 8 | 33), Some(PageSet::Shmem(5)));
        assert_eq!(set(5 << 8 | 3), None);
        assert_eq!(set(1 << 40 | 1), None);
    }

    #[test]
    fn what_is_no_request_is_told_from_one() {
        assert!(Header::decode(&[0xff; HEADER_LEN]).is_err());
        assert!(Header::decode(&[0; HEADER_LEN]).is_err());
    }
}
