//! Compressed pages images: `pages-N.img.zst` and `pages-N.img.lz4`, in the place of `pages-N.img`.
//!
//! ```text
//! file := frame* table            frame: 256 KiB of pages, compressed by itself, with a checksum
//! table := skippable frame { entry { compressed size, size, checksum if zstd }*, footer }
//! ```
//!
//! A `.zst` is in the seekable format of zstd, a `.lz4` in the frame format of LZ4 with the same
//! table behind; `zstd -d` or `lz4 -d` makes the very `pages-N.img` of it that CRIU reads. What does
//! not become smaller is stored. CRIU finds no `pages-N.img`, and before that an inventory of a
//! version it does not know ([`COMPRESSED_VERSION`]).

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use super::lz4;
use crate::{Error, Result};

/// Bytes of pages in one frame.
pub const FRAME: usize = 256 << 10;
/// `img_version` of an inventory whose pages are compressed: 2, and so that CRIU refuses it.
pub const COMPRESSED_VERSION: u32 = 0x414d_0002;
/// Frames of a file made elsewhere may be larger, up to this.
const MAX_FRAME: u32 = 64 << 20;
const SKIPPABLE: u32 = 0x184d_2a5e;
const SEEKABLE: u32 = 0x8f92_eab1;
const FOOTER: u64 = 9;
const HAS_CHECKSUMS: u8 = 0x80;

/// How pages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Zstandard.
    Zstd,
    /// LZ4.
    Lz4,
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Zstd, Self::Lz4];

    /// What the name of an image ends in.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => "zst",
            Self::Lz4 => "lz4",
        }
    }

    /// The name of an image whose plain name is `name`.
    #[must_use]
    pub fn file_name(self, name: &str) -> String {
        format!("{name}.{}", self.suffix())
    }
}

/// Codec and level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// How.
    pub codec: Codec,
    /// zstd: -7 to 22, as its tool counts. LZ4: 1 looks at whole words, 2 at any bytes.
    pub level: i32,
}

impl Compression {
    /// The level that is meant when none is given.
    #[must_use]
    pub fn of(codec: Codec) -> Self {
        Self { codec, level: 1 }
    }
}

/// Some frames side by side, compressed.
#[derive(Debug, Default)]
pub struct Compressed {
    /// The frames.
    pub bytes: Vec<u8>,
    /// What the table says of each.
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    compressed: u32,
    size: u32,
    checksum: u32,
}

/// Compresses frames, one after the other. One for each thread.
pub struct Encoder {
    compression: Compression,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    lanes: lz4::Lanes,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("compression", &self.compression).finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder that works like this.
    pub fn new(compression: Compression) -> std::io::Result<Self> {
        let zstd = match compression.codec {
            Codec::Lz4 => None,
            Codec::Zstd => {
                let mut zstd = zstd::bulk::Compressor::new(compression.level)?;
                zstd.include_checksum(true)?;
                zstd.include_contentsize(true)?;
                Some(zstd)
            }
        };
        Ok(Self { compression, zstd, lanes: lz4::Lanes::default() })
    }

    /// Compresses `pages` in frames of [`FRAME`] bytes, into the room of `spare`, whatever is in it.
    pub fn encode(&mut self, pages: &[u8], spare: Compressed) -> std::io::Result<Compressed> {
        let mut out = spare;
        out.bytes.clear();
        out.entries.clear();
        for frame in pages.chunks(FRAME) {
            let before = out.bytes.len();
            match &mut self.zstd {
                Some(zstd) => {
                    let room = zstd::zstd_safe::compress_bound(frame.len());
                    out.bytes.resize(before + room, 0);
                    let len = zstd.compress_to_buffer(frame, &mut out.bytes[before..])?;
                    out.bytes.truncate(before + len);
                }
                None if self.compression.level <= 1 => {
                    lz4::frame(frame, &mut out.bytes, &mut self.lanes);
                }
                None => lz4_bytes(frame, &mut out.bytes)?,
            }
            let compressed = small(out.bytes.len() - before);
            // The last word of a frame is its checksum, the one that the table has, too.
            let end = out.bytes.len();
            let checksum = out.bytes[end - 4..].try_into().map_or(0, u32::from_le_bytes);
            out.entries.push(Entry { compressed, size: small(frame.len()), checksum });
        }
        Ok(out)
    }
}

fn lz4_bytes(frame: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
    let info = FrameInfo::new()
        .block_size(BlockSize::Max256KB)
        .block_mode(BlockMode::Independent)
        .content_size(Some(frame.len() as u64))
        .content_checksum(true);
    let mut encoder = FrameEncoder::with_frame_info(info, out);
    encoder.write_all(frame)?;
    encoder.finish().map(drop).map_err(std::io::Error::other)
}

#[expect(clippy::cast_possible_truncation, reason = "at most a frame")]
fn small(n: usize) -> u32 {
    n as u32
}

/// The table behind the frames, in the making.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
}

impl Table {
    /// More frames have come.
    pub(super) fn push(&mut self, more: &Compressed) {
        self.entries.extend(&more.entries);
    }

    /// As it lies in the file.
    #[must_use]
    pub(super) fn encode(&self, codec: Codec) -> Vec<u8> {
        let checksums = codec == Codec::Zstd;
        let each = if checksums { 12 } else { 8 };
        let len = self.entries.len() * each + FOOTER as usize;
        let mut out = Vec::with_capacity(len + 8);
        out.extend(SKIPPABLE.to_le_bytes());
        out.extend(small(len).to_le_bytes());
        for e in &self.entries {
            out.extend(e.compressed.to_le_bytes());
            out.extend(e.size.to_le_bytes());
            if checksums {
                out.extend(e.checksum.to_le_bytes());
            }
        }
        out.extend(small(self.entries.len()).to_le_bytes());
        out.push(if checksums { HAS_CHECKSUMS } else { 0 });
        out.extend(SEEKABLE.to_le_bytes());
        out
    }
}

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// First byte in the file.
    pub at: u64,
    /// Compressed bytes.
    pub len: u32,
    /// First byte of its contents among the pages.
    pub start: u64,
    /// Bytes of its contents.
    pub size: u32,
}

/// The table of a compressed image, read and checked.
#[derive(Debug)]
pub struct Frames {
    name: String,
    codec: Codec,
    frames: Vec<Frame>,
    /// The frame that was read last, for those who read little by little.
    last: Mutex<(usize, Vec<u8>)>,
}

impl Frames {
    /// Reads the table of `file`, called `name`.
    pub fn open(file: &File, name: &str, codec: Codec) -> Result<Self> {
        let meta = file.metadata().map_err(Error::io(name, "stat"))?;
        if !meta.is_file() {
            return Err(Error::invalid(name, "not a regular file"));
        }
        let torn = || Error::invalid(name, "no table of frames at its end: torn, or not seekable");
        let total = meta.len();
        let read =
            |at: u64, buf: &mut [u8]| file.read_exact_at(buf, at).map_err(Error::io(name, "pread"));
        let word = |b: &[u8]| b.try_into().map_or(0, u32::from_le_bytes);
        let mut footer = [0; FOOTER as usize];
        read(total.checked_sub(FOOTER).ok_or_else(torn)?, &mut footer)?;
        if word(&footer[5..]) != SEEKABLE {
            return Err(torn());
        }
        let each = if footer[4] & HAS_CHECKSUMS != 0 { 12 } else { 8 };
        let len = u64::from(word(&footer[..4])) * each + FOOTER;
        let begin = total.checked_sub(len + 8).ok_or_else(torn)?;
        let mut table = vec![0; usize::try_from(len + 8).map_err(|_| torn())?];
        read(begin, &mut table)?;
        if word(&table[..4]) != SKIPPABLE || u64::from(word(&table[4..8])) != len {
            return Err(torn());
        }
        let entries = &table[8..table.len() - FOOTER as usize];
        let mut frames = Vec::with_capacity(entries.len() / each as usize);
        let (mut at, mut start) = (0, 0);
        for entry in entries.chunks_exact(each as usize) {
            let (len, size) = (word(&entry[..4]), word(&entry[4..8]));
            if size == 0 || size > MAX_FRAME || len > 2 * MAX_FRAME {
                let reason = format!("frame at byte {at} of {len} bytes has {size} bytes in it");
                return Err(Error::invalid(name, reason));
            }
            frames.push(Frame { at, len, start, size });
            at += u64::from(len);
            start += u64::from(size);
        }
        if at != begin {
            let reason = format!("frames end at byte {at}, and their table begins at {begin}");
            return Err(Error::invalid(name, reason));
        }
        let last = Mutex::new((usize::MAX, Vec::new()));
        Ok(Self { name: name.to_owned(), codec, frames, last })
    }

    /// Name of the file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of pages.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.frames.last().map_or(0, |f| f.start + u64::from(f.size))
    }

    /// All frames, in order.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// The number of the frame that has the byte `offset` of the pages.
    #[must_use]
    pub fn find(&self, offset: u64) -> usize {
        self.frames.partition_point(|f| f.start + u64::from(f.size) <= offset)
    }

    /// Reads frame `n` into `out`, which is as long as its contents.
    pub fn decode(
        &self,
        file: &File,
        n: usize,
        decoder: &mut Decoder,
        out: &mut [u8],
    ) -> Result<()> {
        let frame = self.frames[n];
        decoder.compressed.resize(frame.len as usize, 0);
        file.read_exact_at(&mut decoder.compressed, frame.at)
            .map_err(Error::io(&self.name, "pread"))?;
        decoder.decode(self.codec, out).map_err(|e| {
            let range = format!("bytes {} to {}", frame.at, frame.at + u64::from(frame.len));
            Error::invalid(&*self.name, format!("{range}: damaged frame: {e}"))
        })
    }

    /// Reads pages from `offset` on.
    pub fn read_at(&self, file: &File, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut decoder = Decoder::default();
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let n = self.find(at);
            let Some(frame) = self.frames.get(n) else {
                return Err(Error::invalid(&*self.name, format!("no page at byte {at} of it")));
            };
            if last.0 != n {
                last.0 = usize::MAX;
                last.1.resize(frame.size as usize, 0);
                let mut out = std::mem::take(&mut last.1);
                let decoded = self.decode(file, n, &mut decoder, &mut out);
                last.1 = out;
                decoded?;
                last.0 = n;
            }
            let from = usize::try_from(at - frame.start).unwrap_or(usize::MAX);
            let len = (last.1.len() - from).min(buf.len() - done);
            buf[done..done + len].copy_from_slice(&last.1[from..from + len]);
            done += len;
        }
        Ok(())
    }
}

/// Decompresses frames. One for each thread.
#[derive(Default)]
pub struct Decoder {
    compressed: Vec<u8>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    fn decode(&mut self, codec: Codec, out: &mut [u8]) -> std::io::Result<()> {
        let got = match codec {
            Codec::Zstd => {
                let zstd = match &mut self.zstd {
                    Some(zstd) => zstd,
                    none => none.insert(zstd::bulk::Decompressor::new()?),
                };
                zstd.decompress_to_buffer(&self.compressed, out)?
            }
            Codec::Lz4 => match lz4::decode(&self.compressed, out) {
                Some(done) => return done,
                None => {
                    let mut decoder = FrameDecoder::new(&self.compressed[..]);
                    decoder.read_exact(out)?;
                    // Only the end of the frame brings its checksum.
                    if decoder.read(&mut [0])? > 0 {
                        return Err(std::io::Error::other("longer than the table says"));
                    }
                    out.len()
                }
            },
        };
        if got == out.len() { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
    }
}
