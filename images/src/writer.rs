//! Writes the records of one image.

use std::fs::File;
use std::io::{BufWriter, Write};

use prost::{Message, Name};

use crate::kind::{COMMON_MAGIC, Creation, Head, Image, SERVICE_MAGIC};
use crate::reader::MAX_ENTRY_LEN;
use crate::{Dir, Error, Result};

/// Writes one image from its beginning to its end.
///
/// Kinds that are [`Creation::Lazy`] come into being with their first entry. Only
/// [`Writer::finish`] says that everything is written.
#[derive(Debug)]
#[must_use = "an image is whole only after finish()"]
pub struct Writer {
    dir: Dir,
    image: Image,
    file: String,
    out: Option<BufWriter<File>>,
    entries: u64,
}

impl Writer {
    pub(crate) fn create(dir: &Dir, image: Image) -> Result<Self> {
        Self::create_as(dir, image, &image.file_name())
    }

    /// As [`Writer::create`], in a file of another name.
    pub(crate) fn create_as(dir: &Dir, image: Image, file: &str) -> Result<Self> {
        let (dir, file) = (dir.clone(), file.to_owned());
        let mut writer = Self { dir, image, file, out: None, entries: 0 };
        if image.kind().creation == Creation::Always {
            writer.out()?;
        }
        Ok(writer)
    }

    fn out(&mut self) -> Result<&mut BufWriter<File>> {
        if self.out.is_none() {
            let kind = self.image.kind();
            let mut out = BufWriter::with_capacity(64 << 10, self.dir.create_file(&self.file)?);
            let first = match kind.head {
                Head::Normal => Some(COMMON_MAGIC),
                Head::Service => Some(SERVICE_MAGIC),
                Head::Inventory | Head::Raw => None,
            };
            let own = (kind.head != Head::Raw).then_some(kind.magic);
            for magic in first.into_iter().chain(own) {
                out.write_all(&magic.to_le_bytes()).map_err(Error::io(&self.file, "write"))?;
            }
            self.out = Some(out);
        }
        Ok(self.out.as_mut().expect("opened above"))
    }

    /// Name of the file, for messages.
    #[must_use]
    pub fn file_name(&self) -> &str {
        &self.file
    }

    /// How many entries have been written.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Appends one entry.
    pub fn write<M: Message + Name>(&mut self, entry: &M) -> Result<()> {
        if !self.image.kind().holds(M::NAME) {
            return Err(Error::Foreign { file: self.file.clone(), message: M::NAME });
        }
        self.write_record(&entry.encode_to_vec())
    }

    /// Appends one entry that is encoded already.
    pub fn write_record(&mut self, body: &[u8]) -> Result<()> {
        let len = match u32::try_from(body.len()) {
            Ok(len) if len <= MAX_ENTRY_LEN => len,
            _ => {
                return Err(Error::TooLong {
                    file: self.file.clone(),
                    index: self.entries,
                    len: body.len() as u64,
                    max: MAX_ENTRY_LEN.into(),
                });
            }
        };
        self.write_payload(&len.to_le_bytes())?;
        self.write_payload(body)?;
        self.entries += 1;
        Ok(())
    }

    /// Appends bytes that belong to the last entry.
    pub fn write_payload(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.out()?.write_all(bytes);
        written.map_err(Error::io(&self.file, "write"))
    }

    /// The file, with everything so far in it: for `sendfile` or `splice` of a big payload.
    ///
    /// What the caller writes has to be in place before the next entry.
    pub fn payload_file(&mut self) -> Result<&File> {
        self.out()?;
        let out = self.out.as_mut().expect("opened above");
        out.flush().map_err(Error::io(&self.file, "write"))?;
        Ok(out.get_ref())
    }

    /// Writes out what is buffered. An image that never came into being leaves no file behind,
    /// not even one of an older dump.
    pub fn finish(mut self) -> Result<u64> {
        match &mut self.out {
            Some(out) => out.flush().map_err(Error::io(&self.file, "write"))?,
            None => self.dir.remove_old(self.image)?,
        }
        Ok(self.entries)
    }
}
