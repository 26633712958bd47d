//! LZ4 for memory: one frame as its standard has it, with matches looked for where memory has them.
//!
//! Memory is words of eight bytes: small numbers, addresses whose upper bytes are alike, text. So
//! matches are looked for at whole words only, by two keys: the upper five bytes of a word with the
//! lower three of the next, which finds addresses and numbers by what follows them, and the word
//! itself. That is faster than to look at each byte, and finds more in what programs keep on a heap;
//! in machine code and plain text it finds less.

mod decode;

pub(super) use decode::decode;

use twox_hash::XxHash32;

const MAGIC: u32 = 0x184d_2204;
/// Version 1, independent blocks, each with a checksum, size of the contents told.
const FLAGS: u8 = 0b0111_1000;
/// Blocks of 256 KiB at most.
const BLOCK: u8 = 5 << 4;
/// A block that is stored as it is.
const STORED: u32 = 1 << 31;
const BITS: u32 = 11;
/// How far back a match may be.
const FAR: usize = 0xffff;
/// No match begins in so many bytes at the end of a block (12 would do); of them the last five, at
/// least, are in none.
const END: usize = 40;
/// What is looked at with greater steps: bytes without any match.
const DULL: u32 = 10;

/// Where words were last, by their keys; in words.
#[derive(Clone)]
pub(super) struct Words {
    across: Box<[u16; 1 << BITS]>,
    whole: Box<[u16; 1 << BITS]>,
    /// What a block becomes, before it is known how long it is.
    room: Vec<u8>,
}

impl Default for Words {
    fn default() -> Self {
        Self { across: Box::new([0; 1 << BITS]), whole: Box::new([0; 1 << BITS]), room: Vec::new() }
    }
}

/// Appends `pages`, 256 KiB at most, as one frame.
pub(super) fn frame(pages: &[u8], out: &mut Vec<u8>, words: &mut Words) {
    let head = out.len();
    out.extend(MAGIC.to_le_bytes());
    out.extend([FLAGS, BLOCK]);
    out.extend((pages.len() as u64).to_le_bytes());
    let [_, check, ..] = XxHash32::oneshot(0, &out[head + 4..]).to_le_bytes();
    out.push(check);
    let block = out.len();
    let mut room = std::mem::take(&mut words.room);
    let need = pages.len() + pages.len() / 255 + 64;
    if room.len() < need {
        room.resize(need, 0);
    }
    let len = words.compress(pages, &mut room);
    let (body, stored) = if len < pages.len() { (&room[..len], 0) } else { (pages, STORED) };
    let size = u32::try_from(body.len()).unwrap_or(u32::MAX) | stored;
    out.extend(size.to_le_bytes());
    out.extend_from_slice(body);
    words.room = room;
    let check = XxHash32::oneshot(0, &out[block + 4..]);
    out.extend(check.to_le_bytes());
    out.extend([0; 4]);
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes)
}

#[inline(always)]
fn hash(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b1_85eb_ca87) >> (64 - BITS)) as usize
}

/// Bytes that are the same from `a` and from `b` on; `b` is behind `a`, and not in the last [`END`].
#[inline(always)]
fn alike(bytes: &[u8], mut a: usize, b: usize) -> usize {
    let (mut at, last) = (b, bytes.len() - END + 16);
    while at < last {
        let differ = word(bytes, a) ^ word(bytes, at);
        if differ != 0 {
            return at - b + (differ.trailing_zeros() / 8) as usize;
        }
        a += 8;
        at += 8;
    }
    at - b
}

/// What LZ4 puts behind a token whose four bits do not do.
#[inline(always)]
fn more(out: &mut [u8], at: &mut usize, mut len: usize) {
    while len >= 255 {
        out[*at] = 255;
        *at += 1;
        len -= 255;
    }
    out[*at] = (len & 0xff) as u8;
    *at += 1;
}

impl Words {
    /// A match for the word at `at`: where it begins, and what it is like. Nothing before `from` may
    /// be part of it. Five bytes at least are the same.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "words of a block")]
    fn find(&mut self, pages: &[u8], at: usize, from: usize) -> Option<(usize, usize)> {
        let across = word(pages, at + 3);
        let slot = &mut self.across[hash(across)];
        let like = usize::from(*slot) * 8 + 3;
        *slot = (at / 8) as u16;
        if word(pages, like) == across && at + 3 - like <= FAR {
            return Some((at + 3, like));
        }
        let whole = word(pages, at);
        let slot = &mut self.whole[hash(whole)];
        let like = usize::from(*slot) * 8;
        *slot = (at / 8) as u16;
        if word(pages, like) == whole && at - like <= FAR && at >= from {
            return Some((at, like));
        }
        // An address behind another.
        ((whole ^ word(pages, at - 8)) >> 24 == 0).then_some((at + 3, at - 5))
    }

    /// One block; gives its length. `out` has to have room for what does not become smaller.
    #[expect(clippy::cast_possible_truncation, reason = "the length of what is behind 15 bits")]
    fn compress(&mut self, pages: &[u8], out: &mut [u8]) -> usize {
        // The first two words are like nothing, so that there is a word before all that is like any.
        self.across.fill(1);
        self.whole.fill(1);
        let last = pages.len().saturating_sub(END);
        // `done`: bytes that are in `out`.
        let (mut to, mut done, mut at) = (0, 0, 16);
        while at < last {
            let Some((begin, like)) = self.find(pages, at, done) else {
                at += 8 + (((at - done.min(at)) >> DULL) & !7);
                continue;
            };
            let len = alike(pages, like, begin);
            let differ = word(pages, like - 8) ^ word(pages, begin - 8);
            let back = (differ.leading_zeros() as usize / 8).min(begin - done);
            sequence(pages, (done, begin - back, begin - like, len + back), out, &mut to);
            done = begin + len;
            at = (done + 4) & !7;
        }
        let rest = &pages[done..];
        let token = to;
        to += 1;
        out[token] = (rest.len().min(15) << 4) as u8;
        if rest.len() >= 15 {
            more(out, &mut to, rest.len() - 15);
        }
        out[to..to + rest.len()].copy_from_slice(rest);
        to + rest.len()
    }
}

/// Literals from `done` to `begin`, and a match.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the least bits, and what is at most FAR")]
fn sequence(
    pages: &[u8],
    (done, begin, distance, len): (usize, usize, usize, usize),
    out: &mut [u8],
    to: &mut usize,
) {
    let literals = begin - done;
    let room = &mut out[*to..];
    room[0] = ((literals.min(15) << 4) | (len - 4).min(15)) as u8;
    if literals < 15 {
        // Always as many: what is too much is written over.
        let room = &mut room[..24];
        room[1..17].copy_from_slice(&pages[done..done + 16]);
        room[1 + literals..3 + literals].copy_from_slice(&(distance as u16).to_le_bytes());
        *to += 3 + literals;
    } else {
        *to += 1;
        more(out, to, literals - 15);
        out[*to..*to + literals].copy_from_slice(&pages[done..begin]);
        *to += literals;
        out[*to..*to + 2].copy_from_slice(&(distance as u16).to_le_bytes());
        *to += 2;
    }
    if len - 4 >= 15 {
        more(out, to, len - 4 - 15);
    }
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
        let mut words = Words::default();
        let noise: Vec<u8> = (0..65536u64).flat_map(|n| hash_of(n).to_le_bytes()).collect();
        let steps: Vec<u8> = (0..32768u64).flat_map(|n| (n / 300).to_le_bytes()).collect();
        let mut all = vec![vec![0; 256 << 10], vec![7; 4096], noise[..256 << 10].to_vec(), steps];
        all.extend((0..40).map(|n| heap(4096 * (1 + n * 63 / 39), n as u64 + 1)));
        all.extend((0..64).map(|n| heap(n, 9)));
        for pages in all {
            let mut out = vec![1, 2, 3];
            frame(&pages, &mut out, &mut words);
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
        frame(&pages, &mut good, &mut Words::default());
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
        frame(&pages, &mut out, &mut Words::default());
        assert!(out.len() * 100 < pages.len() * 40, "{}", out.len());
        for at in (0..out.len()).step_by(997) {
            let mut bad = out.clone();
            bad[at] ^= 4;
            // A wrong frame is an error, never wrong pages.
            assert!(back(&bad).map_or(true, |got| got == pages), "byte {at}");
        }
    }
}
