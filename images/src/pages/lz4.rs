//! LZ4 for memory: one frame as its standard has it, with matches looked for where memory has them.
//!
//! Memory is words of eight bytes: small numbers, addresses whose upper bytes are alike, text. So
//! matches are looked for at whole words only, by two keys: the upper five bytes of a word with the
//! lower three of the next, which finds addresses and numbers by what follows them, and the word
//! itself. That is faster than to look at each byte, and finds more in what programs keep on a heap;
//! in machine code and plain text it finds less.

mod alike;
mod block;
mod decode;

pub(super) use decode::decode;

use block::{Block, Room, SIZE, Tables};
use twox_hash::XxHash32;

const MAGIC: u32 = 0x184d_2204;
/// Version 1, independent blocks, each with a checksum, size of the contents told.
const FLAGS: u8 = 0b0111_1000;
/// Blocks of 64 KiB at most.
const BLOCK: u8 = 4 << 4;
/// A block that is stored as it is.
const STORED: u32 = 1 << 31;

/// What two blocks at once need.
pub(super) struct Lanes(Box<Both>);

struct Both {
    tables: [Tables; 2],
    /// What blocks become, before it is known how long they are.
    rooms: [Room; 2],
    /// Blocks behind which there is nothing.
    copies: [Block; 2],
}

impl Default for Lanes {
    fn default() -> Self {
        let (tables, rooms, copies) = ([Tables::NEW; 2], [[0; _]; 2], [[0; _]; 2]);
        Self(Box::new(Both { tables, rooms, copies }))
    }
}

/// Appends `pages` as one frame.
pub(super) fn frame(pages: &[u8], out: &mut Vec<u8>, lanes: &mut Lanes) {
    let head = out.len();
    out.extend(MAGIC.to_le_bytes());
    out.extend([FLAGS, BLOCK]);
    out.extend((pages.len() as u64).to_le_bytes());
    let [_, check, ..] = XxHash32::oneshot(0, &out[head + 4..]).to_le_bytes();
    out.push(check);
    let Both { tables, rooms, copies: [copy, other_copy] } = &mut *lanes.0;
    for pair in (0..pages.len()).step_by(2 * SIZE) {
        let (one, other) = (&pages[pair..], &pages[pages.len().min(pair + SIZE)..]);
        let blocks = [first(one, copy), first(other, other_copy)];
        let lens = block::compress(blocks, tables, rooms);
        append(out, one, &rooms[0][..lens[0]]);
        append(out, other, &rooms[1][..lens[1]]);
    }
    out.extend([0; 4]);
}

/// The first block of `pages`, and how long it is.
fn first<'a>(pages: &'a [u8], copy: &'a mut Block) -> (&'a Block, usize) {
    let len = pages.len().min(SIZE);
    let block = pages.first_chunk().unwrap_or_else(|| {
        copy[..len].copy_from_slice(&pages[..len]);
        copy
    });
    (block, len)
}

/// Appends the first block of `pages`, if there is one.
fn append(out: &mut Vec<u8>, pages: &[u8], compressed: &[u8]) {
    let pages = &pages[..pages.len().min(SIZE)];
    if pages.is_empty() {
        return;
    }
    let (body, stored) =
        if compressed.len() < pages.len() { (compressed, 0) } else { (pages, STORED) };
    let size = u32::try_from(body.len()).unwrap_or(u32::MAX) | stored;
    out.extend(size.to_le_bytes());
    out.extend_from_slice(body);
    out.extend(XxHash32::oneshot(0, body).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    use std::io::{Read, Write};

    /// By the way of others, and by ours.
    fn back(frame: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut pages = Vec::new();
        let others = lz4_flex::frame::FrameDecoder::new(frame).read_to_end(&mut pages);
        let told =
            frame.get(6..14).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b));
        let mut own = vec![0xa5; told.min(1 << 20) as usize];
        match decode(frame, &mut own) {
            Some(Ok(())) => assert!(others.is_ok() && own == pages),
            // The end mark is ours to look at.
            Some(Err(_)) => return Err(std::io::ErrorKind::InvalidData.into()),
            None => assert!(others.is_err() || frame.len() < 19),
        }
        others.map(|_| pages)
    }

    /// Words as programs have them, of several kinds, and some noise.
    fn heap(len: usize, seed: u64) -> Vec<u8> {
        let mut x = seed;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        let word = |_| match (next() % 8, next()) {
            (0 | 1, _) => 0u64.to_le_bytes(),
            (2 | 3, n) => (0x7f00_0000_0000 + (n & 0xff_fff8)).to_le_bytes(),
            (4, n) => (n & 0xff).to_le_bytes(),
            (5, n) if n % 16 == 0 => n.to_le_bytes(),
            (_, n) => [*b"java/lan", *b"select\0\0", *b"user_id\0"][(n % 3) as usize],
        };
        (0..len.div_ceil(8)).flat_map(word).take(len).collect()
    }

    #[test]
    fn what_comes_back_is_what_it_was() {
        let mut lanes = Lanes::default();
        let noise: Vec<u8> = (0..65536u64).flat_map(|n| hash_of(n).to_le_bytes()).collect();
        let steps: Vec<u8> = (0..32768u64).flat_map(|n| (n / 300).to_le_bytes()).collect();
        let mut all = vec![vec![0; 256 << 10], vec![7; 4096], noise[..256 << 10].to_vec(), steps];
        all.extend((0..40).map(|n| heap(4096 * (1 + n * 63 / 39), n as u64 + 1)));
        all.extend((0..64).map(|n| heap(n, 9)));
        let edges = [1usize, 2, 3].map(|n| [-64, -8, 0, 1, 8, 56, 64, 100].map(|d| (n << 16, d)));
        let edges = edges.as_flattened().iter();
        all.extend(edges.map(|&(n, d): &(usize, isize)| heap(n.strict_add_signed(d), 11)));
        all.push([vec![0; 64 << 10], heap(64 << 10, 12), vec![1; 128 << 10]].concat());
        for pages in all {
            let mut out = vec![1, 2, 3];
            frame(&pages, &mut out, &mut lanes);
            assert!(back(&out[3..]).unwrap() == pages, "{} bytes", pages.len());
            assert!(out.len() < pages.len() + 64);
        }
    }

    fn hash_of(n: u64) -> u64 {
        let x = (n ^ n >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
    }

    #[test]
    fn frames_of_others_come_back_too() {
        let shape = || {
            FrameInfo::new()
                .block_size(BlockSize::Max256KB)
                .block_mode(BlockMode::Independent)
                .block_checksums(true)
        };
        let periods = (1..40).map(|n: usize| (0..5000).map(|i| (i % n * 7) as u8).collect());
        let mut all: Vec<Vec<u8>> = periods.collect();
        all.push(std::fs::read(std::env::current_exe().unwrap()).unwrap()[..200_000].to_vec());
        all.push(all.concat()[..256 << 10].to_vec());
        for pages in all {
            let info = shape().content_size(Some(pages.len() as u64));
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(&pages).unwrap();
            let frame = encoder.finish().unwrap();
            let mut own = vec![0xa5; pages.len()];
            decode(&frame, &mut own).expect("one of this shape").unwrap();
            assert!(own == pages);
            // What is behind its end is not touched, and less than its contents is an error.
            assert!(decode(&frame, &mut own[1..]).is_none_or(|done| done.is_err()));
        }
    }

    #[test]
    fn wrong_blocks_are_errors() {
        let pages = heap(16 << 10, 5);
        let mut good = Vec::new();
        frame(&pages, &mut good, &mut Lanes::default());
        let mut next = 1u64;
        for _ in 0..2_000 {
            let mut bad = good.clone();
            next = hash_of(next);
            let at = 19 + next as usize % (bad.len() - 19 - 8);
            bad[at] ^= 1 << (next >> 60 & 7);
            let body = bad.len() - 8;
            let check = XxHash32::oneshot(0, &bad[19..body]);
            bad[body..body + 4].copy_from_slice(&check.to_le_bytes());
            // Whatever comes of it, nothing is read or written that is not there.
            let _ = decode(&bad, &mut vec![0; pages.len()]);
        }
    }

    #[test]
    fn a_heap_becomes_small_and_a_changed_bit_is_found() {
        let pages = heap(256 << 10, 3);
        let mut out = Vec::new();
        frame(&pages, &mut out, &mut Lanes::default());
        assert!(out.len() * 100 < pages.len() * 40, "{}", out.len());
        for at in (0..out.len()).step_by(997) {
            let mut bad = out.clone();
            bad[at] ^= 4;
            // A wrong frame is an error, never wrong pages.
            assert!(back(&bad).map_or(true, |got| got == pages), "byte {at}");
        }
    }
}
