//! Reads the records of one image.
//!
//! ```text
//! image  := head { record [payload] }*
//! record := u32 size, size bytes of protobuf
//! ```
//!
//! All integers are little-endian. An image that does not exist reads like one without entries.
//! Memory grows with the bytes that arrive, never with a length that a file claims.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::marker::PhantomData;

use prost::{Message, Name};

use crate::kind::{COMMON_MAGIC, Head, Image, Kind, SERVICE_MAGIC};
use crate::{Error, Result, required};

/// Largest entry accepted; a longer one means a corrupt or hostile image.
///
/// The longest honest one is `mm`, which lists every VMA: about 40 MiB for the million that
/// `vm.max_map_count` allows on current distributions.
pub const MAX_ENTRY_LEN: u32 = 256 << 20;

/// Whether heads have the common magic: `img_version` of the inventory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Own magic only.
    V1,
    /// Common magic, own magic.
    V2,
}

/// Bytes of an image: a file, or memory in tests.
pub trait Input: BufRead {
    /// Goes forward by `len` bytes; gives how many there were.
    fn skip(&mut self, len: u64) -> io::Result<u64>;
}

impl Input for &[u8] {
    fn skip(&mut self, len: u64) -> io::Result<u64> {
        let step = usize::try_from(len).unwrap_or(usize::MAX).min(self.len());
        *self = &self[step..];
        Ok(step as u64)
    }
}

impl Input for BufReader<File> {
    fn skip(&mut self, len: u64) -> io::Result<u64> {
        let meta = self.get_ref().metadata()?;
        if !meta.is_file() {
            return io::copy(&mut self.by_ref().take(len), &mut io::sink());
        }
        let at = self.stream_position()?;
        let step = len.min(meta.len().saturating_sub(at));
        match i64::try_from(step) {
            Ok(step) => self.seek_relative(step)?,
            Err(_) => _ = self.seek(SeekFrom::Start(at + step))?,
        }
        Ok(step)
    }
}

/// Where a payload lies, to be read when it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The image that has it.
    pub image: Image,
    /// First byte, from the beginning of the file.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// Reads one image from its beginning to its end.
#[derive(Debug)]
pub struct Reader<R = BufReader<File>> {
    input: Option<R>,
    image: Image,
    file: String,
    version: Version,
    offset: u64,
    entries: u64,
}

impl<R: Input> Reader<R> {
    /// Checks the head and stops at the first record. `None` reads like an image without any.
    pub fn new(image: Image, input: Option<R>) -> Result<Self> {
        let file = image.file_name();
        let mut reader = Self { input, image, file, version: Version::V2, offset: 0, entries: 0 };
        if reader.input.is_some() {
            reader.head(image.kind())?;
        }
        Ok(reader)
    }

    fn head(&mut self, kind: &'static Kind) -> Result<()> {
        match kind.head {
            Head::Raw => return Ok(()),
            Head::Inventory => {}
            Head::Service => self.expect(SERVICE_MAGIC, "IMG_SERVICE")?,
            // Version 1 has no common magic; no own magic equals it.
            Head::Normal => match self.word("magic")? {
                COMMON_MAGIC => {}
                got if got == kind.magic => {
                    self.version = Version::V1;
                    return Ok(());
                }
                got => return Err(self.magic(got, COMMON_MAGIC, "IMG_COMMON")),
            },
        }
        self.expect(kind.magic, kind.magic_name)
    }

    fn expect(&mut self, want: u32, what: &'static str) -> Result<()> {
        match self.word("magic")? {
            got if got == want => Ok(()),
            got => Err(self.magic(got, want, what)),
        }
    }

    fn magic(&self, got: u32, want: u32, what: &'static str) -> Error {
        Error::Magic { file: self.file.clone(), got, want, what }
    }

    /// The image that is read.
    #[must_use]
    pub fn image(&self) -> Image {
        self.image
    }

    /// Whether there is no such file. Reading it gives no entries.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.input.is_none()
    }

    /// Which head the image has.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Name of the file, for messages.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.file
    }

    /// How many entries have been read.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// An error about the entry that was read last.
    pub fn invalid(&self, reason: impl std::fmt::Display) -> Error {
        let index = self.entries.saturating_sub(1);
        Error::invalid(&*self.file, format!("entry {index}: {reason}"))
    }

    /// The next entry, or `None` at the end of the image.
    pub fn read_opt<M: Message + Name + Default>(&mut self) -> Result<Option<M>> {
        let Some(body) = self.record(M::NAME)? else { return Ok(None) };
        let index = self.entries - 1;
        let entry = M::decode(&*body).map_err(|source| Error::Decode {
            file: self.file.clone(),
            index,
            message: M::NAME,
            source,
        })?;
        if let Some(field) = required::missing(M::NAME, &body) {
            let file = self.file.clone();
            return Err(Error::Missing { file, index, message: M::NAME, field });
        }
        Ok(Some(entry))
    }

    /// The next entry, which has to be there.
    pub fn read_one<M: Message + Name + Default>(&mut self) -> Result<M> {
        if self.is_absent() {
            return Err(Error::Absent { file: self.file.clone() });
        }
        let empty = |file: &str| Error::Empty { file: file.to_owned(), message: M::NAME };
        self.read_opt()?.ok_or_else(|| empty(&self.file))
    }

    /// All entries that are left.
    pub fn entries_of<M: Message + Name + Default>(&mut self) -> Entries<'_, M, R> {
        Entries { reader: self, failed: false, message: PhantomData }
    }

    /// Bytes of the next record, not yet decoded.
    pub fn record(&mut self, message: &'static str) -> Result<Option<Vec<u8>>> {
        if !self.image.kind().holds(message) {
            return Err(Error::Foreign { file: self.file.clone(), message });
        }
        if self.input.is_none() {
            return Ok(None);
        }
        let size = self.up_to(4)?;
        let len = match *size {
            // An image ends where an entry could begin; anywhere else it is cut short.
            [] => return Ok(None),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => return Err(self.truncated("size of entry", size.len(), 4)),
        };
        if len > MAX_ENTRY_LEN {
            return Err(Error::TooLong {
                file: self.file.clone(),
                index: self.entries,
                len: len.into(),
                max: MAX_ENTRY_LEN.into(),
            });
        }
        let body = self.up_to(len.into())?;
        if body.len() < len as usize {
            return Err(self.truncated("entry", body.len(), len.into()));
        }
        self.entries += 1;
        Ok(Some(body))
    }

    /// Reads `len` bytes that follow the last entry.
    pub fn read_payload(&mut self, len: u64) -> Result<Vec<u8>> {
        let bytes = self.up_to(len)?;
        if (bytes.len() as u64) < len {
            return Err(self.short_payload(bytes.len() as u64, len));
        }
        Ok(bytes)
    }

    /// Goes past `len` bytes that follow the last entry and tells where they are.
    pub fn skip_payload(&mut self, len: u64) -> Result<Extent> {
        let extent = Extent { image: self.image, offset: self.offset, len };
        let Some(input) = &mut self.input else { return Err(self.short_payload(0, len)) };
        let got = input.skip(len).map_err(Error::io(&self.file, "lseek"))?;
        self.offset += got;
        if got < len {
            return Err(self.short_payload(got, len));
        }
        Ok(extent)
    }

    /// Goes to the end of the image and tells where the rest is.
    pub fn skip_rest(&mut self) -> Result<Extent> {
        let (image, offset) = (self.image, self.offset);
        let Some(input) = &mut self.input else { return Ok(Extent { image, offset, len: 0 }) };
        let len = input.skip(u64::MAX).map_err(Error::io(&self.file, "lseek"))?;
        self.offset = self.offset.saturating_add(len);
        Ok(Extent { image, offset, len })
    }

    /// Fails unless the image ends here.
    pub fn expect_end(&mut self) -> Result<()> {
        match self.up_to(1)?.is_empty() {
            true => Ok(()),
            false => {
                let reason = format!("bytes after entry {}", self.entries.saturating_sub(1));
                Err(Error::invalid(&*self.file, reason))
            }
        }
    }

    fn short_payload(&self, got: u64, want: u64) -> Error {
        let index = self.entries.saturating_sub(1);
        Error::Truncated { file: self.file.clone(), what: "payload of entry", index, got, want }
    }

    fn truncated(&self, what: &'static str, got: usize, want: u64) -> Error {
        let (file, got) = (self.file.clone(), got as u64);
        Error::Truncated { file, what, index: self.entries, got, want }
    }

    fn word(&mut self, what: &'static str) -> Result<u32> {
        let bytes = self.up_to(4)?;
        match *bytes {
            [a, b, c, d] => Ok(u32::from_le_bytes([a, b, c, d])),
            _ => Err(self.truncated(what, bytes.len(), 4)),
        }
    }

    /// Reads `len` bytes, fewer at the end of the image.
    fn up_to(&mut self, len: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if let Some(input) = &mut self.input {
            input
                .by_ref()
                .take(len)
                .read_to_end(&mut bytes)
                .map_err(Error::io(&self.file, "read"))?;
        }
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }
}

/// Iterator over the entries of one image; stops at its end or after the first error.
#[derive(Debug)]
pub struct Entries<'a, M, R = BufReader<File>> {
    reader: &'a mut Reader<R>,
    failed: bool,
    message: PhantomData<M>,
}

impl<M: Message + Name + Default, R: Input> Iterator for Entries<'_, M, R> {
    type Item = Result<M>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.reader.read_opt().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}
