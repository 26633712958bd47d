//! Compares memory with what was before it: 32 bytes at a time, as a bit for each.

use super::block::Block;
#[cfg(any(test, not(target_arch = "x86_64")))]
use super::block::word;

/// Bits of those bytes of 32 that differ from `a` and from `b` on.
#[inline(always)]
pub(super) fn differ(block: &Block, a: usize, b: usize) -> u32 {
    !(same(block, a, b) | same(block, a + 16, b + 16) << 16)
}

/// Bits of those bytes of 16 that are the same.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn same(block: &Block, a: usize, b: usize) -> u32 {
    use safe_arch::{cmp_eq_mask_i8_m128i, load_unaligned_m128i, move_mask_i8_m128i};
    let load = |at: usize| {
        block[at..at + 16].try_into().map_or_else(|_| Default::default(), load_unaligned_m128i)
    };
    move_mask_i8_m128i(cmp_eq_mask_i8_m128i(load(a), load(b))).cast_unsigned()
}

/// The same without any instructions for it.
#[cfg(any(test, not(target_arch = "x86_64")))]
#[inline(always)]
fn same_anywhere(block: &Block, a: usize, b: usize) -> u32 {
    const LOWER: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let half = |at: usize| {
        let differ = word(block, a + at) ^ word(block, b + at);
        // The upper bit of each byte that is not 0; then those eight side by side.
        let upper = (((differ & LOWER) + LOWER) | differ) & !LOWER;
        let [.., bits] = (upper >> 7).wrapping_mul(0x0102_0408_1020_4080).to_le_bytes();
        u32::from(!bits)
    };
    half(0) | half(8) << 8
}

#[cfg(not(target_arch = "x86_64"))]
use same_anywhere as same;

/// How many bytes are the same, counted back from byte 16: by the lower 11 bits of what differs,
/// when none of the five above does.
const BACK: [u8; 1 << 11] = {
    let mut table = [0; 1 << 11];
    let mut differ = 0u16;
    while (differ as usize) < table.len() {
        #[expect(clippy::cast_possible_truncation, reason = "16 at most")]
        let same = differ.leading_zeros() as u8;
        table[differ as usize] = same;
        differ += 1;
    }
    table
};

/// How many bytes before byte 16 are the same; the five before it have to be.
#[inline(always)]
pub(super) fn before(differ: u32) -> usize {
    // Without a special instruction to count upper zeroes, a look into a table is faster.
    BACK[(differ & 0x7ff) as usize].into()
}

/// How many bytes from byte 16 on are the same: 16 at most.
#[inline(always)]
pub(super) fn behind(differ: u32) -> usize {
    (differ >> 16 | 1 << 16).trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_of_bytes_that_differ() {
        let mut block = super::super::block::tests::block();
        let mut x = 1u64;
        for round in 0..5_000 {
            x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let (a, b) = ((x >> 20) as usize & 0x7ff8, (x >> 40) as usize & 0x7ff8);
            for k in 0..32 {
                block[a + k] = (x >> k) as u8;
                block[b + k] = if x >> (k / 2) & 3 == 0 { round as u8 } else { block[a + k] };
            }
            let want = (0..32).filter(|k| block[a + k] != block[b + k]).fold(0, |m, k| m | 1 << k);
            assert_eq!(differ(&block, a, b), want);
            assert_eq!(same(&block, a, b), same_anywhere(&block, a, b));
            let same = |k: &usize| block[a + k] == block[b + k];
            assert_eq!(behind(want), (16..32).take_while(same).count());
            if want & 0xf800 == 0 {
                assert_eq!(before(want), (0..16).rev().take_while(same).count());
            }
        }
    }
}
