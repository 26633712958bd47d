//! Looks for matches, in two blocks at once.
//!
//! What comes next in memory cannot be foretold: which of both keys finds something, how much is
//! alike. So what is decided for most sequences is decided without branches, and the time goes to
//! looks into tables and to places they tell of, each waiting for the one before. Two blocks that
//! have nothing to do with each other wait side by side: the steps of both are mixed, phase by phase.

use std::hint::select_unpredictable;

use super::alike::{before, behind, differ};

/// Bytes of a block, so that positions are of 16 bits and all of it is near enough for a match.
pub(super) const SIZE: usize = 64 << 10;
/// Bytes of pages, of which the last 64 are behind the block: may be read, to see whether they are alike.
pub(super) type Block = [u8; SIZE + 64];
/// What a block becomes; as large as one that does not become smaller, and some that are written over.
pub(super) type Room = [u8; SIZE + SIZE / 255 + 128];
const BITS: u32 = 12;
/// No match begins in so many bytes at the end of a block (12 would do); of them the last five, at
/// least, are in none.
const END: usize = 56;
/// What is looked at with greater steps: bytes without any match.
const DULL: u32 = 9;
/// Literals before a match whose word is at `at + 8` are fewer than 15 if at most so many bytes before
/// `at` are in no sequence yet.
const FEW: usize = 3;

/// Where words were last, by their keys: as the byte where the word before them begins.
pub(super) struct Tables {
    across: [u16; 1 << BITS],
    whole: [u16; 1 << BITS],
}

impl Tables {
    pub(super) const NEW: Self = Self { across: [0; 1 << BITS], whole: [0; 1 << BITS] };
}

/// How far a block is done.
#[derive(Clone, Copy)]
struct Place {
    /// The word before the one that is looked at begins here.
    at: usize,
    /// Bytes that are in `out`.
    done: usize,
    /// Bytes of `out`.
    to: usize,
}

#[inline(always)]
pub(super) fn word(block: &Block, at: usize) -> u64 {
    block[at..at + 8].try_into().map_or(0, u64::from_le_bytes)
}

#[inline(always)]
fn hash(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b1_85eb_ca87) >> (64 - BITS)) as usize
}

/// Compresses both, each with its length; gives how long each has become.
#[inline(never)]
pub(super) fn compress(
    [(block, len), (other, other_len)]: [(&Block, usize); 2],
    [tables, other_tables]: &mut [Tables; 2],
    [out, other_out]: &mut [Room; 2],
) -> [usize; 2] {
    let (last, other_last) = (last(len), last(other_len));
    let mut x = begin(block, tables, out, last);
    let mut y = begin(other, other_tables, other_out, other_last);
    while (x.at < last) & (y.at < other_last) {
        let (found, other_found) = (x.look(block, tables), y.look(other, other_tables));
        let (best, other_best) = (x.choose(block, found), y.choose(other, other_found));
        x = x.take(best, block, tables, out, last);
        y = y.take(other_best, other, other_tables, other_out, other_last);
    }
    let x = x.rest(block, tables, out, last);
    let y = y.rest(other, other_tables, other_out, other_last);
    [finish(&block[..len], x, out), finish(&other[..other_len], y, other_out)]
}

/// What is like the word at [`Place::at`], and which bytes around are not.
type Match = (u16, u32);

/// Where no word is looked at any more.
fn last(len: usize) -> usize {
    len.saturating_sub(END)
}

#[inline(always)]
fn begin(block: &Block, tables: &mut Tables, out: &mut Room, last: usize) -> Place {
    tables.across.fill(0);
    tables.whole.fill(0);
    Place { at: 8, done: 0, to: 0 }.search(block, tables, out, last)
}

impl Place {
    /// Where the word was last, by both keys.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a place in a block")]
    fn look(self, block: &Block, tables: &mut Tables) -> [u16; 2] {
        let place = self.at as u16;
        let at = usize::from(place);
        let across = &mut tables.across[hash(word(block, at + 11))];
        let whole = &mut tables.whole[hash(word(block, at + 8))];
        [std::mem::replace(across, place), std::mem::replace(whole, place)]
    }

    /// The better one: that which is like the upper five bytes and three more, or else the word.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a place in a block")]
    fn choose(self, block: &Block, [across, whole]: [u16; 2]) -> Match {
        let at = usize::from(self.at as u16);
        let by_whole = differ(block, at, whole.into());
        let by_across = differ(block, at, across.into());
        let word = by_whole & 0xff00 == 0;
        let like = select_unpredictable(word, whole, across);
        let differ = select_unpredictable(word, by_whole, by_across);
        let good = by_across & 0x7_f800 == 0;
        (select_unpredictable(good, across, like), select_unpredictable(good, by_across, differ))
    }

    /// Makes a sequence of it, if it is one, and goes on until there are few literals.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "what is in a block, and a sequence")]
    fn take(
        self,
        (like, differ): Match,
        block: &Block,
        tables: &mut Tables,
        out: &mut Room,
        last: usize,
    ) -> Self {
        let Self { at, done, to } = self;
        let place = at as u16;
        let at = usize::from(place);
        if differ & 0xffff_f800 == 0 {
            return self.long((like, differ), block, out, last);
        }
        if differ & 0xf800 != 0 {
            if (word(block, at) ^ word(block, at + 8)) >> 24 == 0 {
                // An address behind another.
                return self.one(place.wrapping_sub(8), block, out, last);
            }
            let next = Self { at: at + 8, ..self };
            return if next.at > done + FEW { next.search(block, tables, out, last) } else { next };
        }
        let begin = (at + 16 - before(differ)).max(done);
        let end = at + 16 + behind(differ);
        let (literals, len) = (begin.wrapping_sub(done) & 15, end.wrapping_sub(begin));
        assert!(to <= out.len() - 40);
        let Some(room) = out[to..].first_chunk_mut::<40>() else { return self };
        // Always as much: what is too much is written over.
        room[0] = (literals << 4) as u8 | len.wrapping_sub(4).min(15) as u8;
        room[1..17].copy_from_slice(&block[done & 0xffff..][..16]);
        room[1 + literals..3 + literals].copy_from_slice(&place.wrapping_sub(like).to_le_bytes());
        room[3 + literals] = len.wrapping_sub(19) as u8;
        Self { at: (end - 4) & !7, done: end, to: to + 3 + literals + usize::from(len >= 19) }
    }

    /// The same for what is longer than 32 bytes can tell.
    #[inline(always)]
    fn long(self, (like, around): Match, block: &Block, out: &mut Room, last: usize) -> Self {
        let Self { at, done, to } = self;
        let begin = (at + 16 - before(around)).max(done);
        let limit = (last + 16).min(SIZE - 40);
        let (mut end, mut from) = (at + 32, usize::from(like) + 32);
        while (end < limit) & (from < limit) {
            let differ = differ(block, end, from);
            if differ != 0 {
                end += differ.trailing_zeros() as usize;
                break;
            }
            end += 32;
            from += 32;
        }
        let distance = at - usize::from(like);
        let to = sequence(block, (done, begin, distance, end - begin), out, to);
        Self { at: (end - 4) & !7, done: end, to }
    }

    /// A sequence, however many literals it has: at least five bytes at `like` are alike.
    #[inline(always)]
    fn one(self, like: u16, block: &Block, out: &mut Room, last: usize) -> Self {
        let Self { at, done, to } = self;
        let around = differ(block, at, like.into());
        if behind(around) == 16 {
            return self.long((like, around), block, out, last);
        }
        let begin = (at + 16 - before(around)).max(done);
        let end = at + 16 + behind(around);
        let distance = at - usize::from(like);
        let to = sequence(block, (done, begin, distance, end - begin), out, to);
        Self { at: (end - 4) & !7, done: end, to }
    }

    /// Goes on to the next match and makes a sequence of it: with branches, as there is nothing else
    /// for some time.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "a place in a block")]
    fn search(self, block: &Block, tables: &mut Tables, out: &mut Room, last: usize) -> Self {
        let Self { mut at, done, .. } = self;
        while at < last {
            let here = at as u16;
            at = here.into();
            let (across, whole) = (word(block, at + 11), word(block, at + 8));
            let mut like = std::mem::replace(&mut tables.across[hash(across)], here);
            let mut found = word(block, usize::from(like) + 11) == across;
            if !found {
                like = std::mem::replace(&mut tables.whole[hash(whole)], here);
                found = word(block, usize::from(like) + 8) == whole;
            }
            if !found && (word(block, at) ^ whole) >> 24 == 0 {
                (like, found) = (here.wrapping_sub(8), true);
            }
            if found {
                return Self { at, ..self }.one(like, block, out, last);
            }
            at += 8 + (((at - done) >> DULL) & !7);
        }
        Self { at, ..self }
    }

    /// All that is left, by itself.
    #[inline(never)]
    fn rest(mut self, block: &Block, tables: &mut Tables, out: &mut Room, last: usize) -> Self {
        while self.at < last {
            let found = self.look(block, tables);
            self = self.take(self.choose(block, found), block, tables, out, last);
        }
        self
    }
}

/// The literals at the end; gives how long all has become.
#[expect(clippy::cast_possible_truncation, reason = "four bits")]
fn finish(pages: &[u8], Place { done, mut to, .. }: Place, out: &mut Room) -> usize {
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

/// What LZ4 puts behind a token whose four bits do not do.
#[inline(always)]
fn more(out: &mut Room, at: &mut usize, mut len: usize) {
    while len >= 255 {
        out[*at] = 255;
        *at += 1;
        len -= 255;
    }
    out[*at] = (len & 0xff) as u8;
    *at += 1;
}

/// Literals from `done` to `begin`, and a match. Gives where the next one goes.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the least bits, and what is in a block")]
fn sequence(
    block: &Block,
    (done, begin, distance, len): (usize, usize, usize, usize),
    out: &mut Room,
    mut to: usize,
) -> usize {
    let literals = begin - done;
    let room = &mut out[to..];
    room[0] = ((literals.min(15) << 4) | (len - 4).min(15)) as u8;
    if literals < 15 {
        let room = &mut room[..24];
        room[1..17].copy_from_slice(&block[done..done + 16]);
        room[1 + literals..3 + literals].copy_from_slice(&(distance as u16).to_le_bytes());
        to += 3 + literals;
    } else {
        to += 1;
        more(out, &mut to, literals - 15);
        out[to..to + literals].copy_from_slice(&block[done..begin]);
        to += literals;
        out[to..to + 2].copy_from_slice(&(distance as u16).to_le_bytes());
        to += 2;
    }
    if len - 4 >= 15 {
        more(out, &mut to, len - 4 - 15);
    }
    to
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn block() -> Box<Block> {
        vec![0; SIZE + 64].into_boxed_slice().try_into().unwrap()
    }
}
