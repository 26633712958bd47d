//! The way back: blocks of LZ4, straight to where its pages belong.

use twox_hash::XxHash32;

use super::{BLOCK, FLAGS, MAGIC, STORED};

/// Bytes of a frame before its blocks: magic, flags, size of the contents, check of these.
const HEAD: usize = 15;
/// Blocks of 256 KiB at most: what others make, and older versions.
const LARGE: u8 = 5 << 4;

/// Undoes a frame of the shape that [`frame`](super::frame) makes; `None`: it has another one.
/// `out` is as long as the contents.
pub(in crate::pages) fn decode(from: &[u8], out: &mut [u8]) -> Option<std::io::Result<()>> {
    let (head, mut rest) = from.split_at_checked(HEAD)?;
    let most = match head[5] {
        BLOCK => 64 << 10,
        LARGE => 256 << 10,
        _ => return None,
    };
    if head[..4] != MAGIC.to_le_bytes() || head[4] != FLAGS {
        return None;
    }
    let damaged = |what: &str| Some(Err(std::io::Error::other(what.to_owned())));
    if head[14] != XxHash32::oneshot(0, &head[4..14]).to_le_bytes()[1] {
        return damaged("wrong checksum of its header");
    }
    if head[6..14] != (out.len() as u64).to_le_bytes() {
        return damaged("not as long as the table says");
    }
    for out in out.chunks_mut(most) {
        let (size, more) = rest.split_first_chunk()?;
        let size = u32::from_le_bytes(*size);
        // 0: the end, too early.
        let (body, more) = more.split_at_checked((size & !STORED) as usize).filter(|_| size > 0)?;
        let (check, more) = more.split_first_chunk()?;
        if *check != XxHash32::oneshot(0, body).to_le_bytes() {
            return damaged("wrong checksum");
        }
        rest = more;
        match size & STORED {
            // Blocks need not be full, and ours are: that is for the general way.
            0 => block(body, out)?,
            _ if body.len() == out.len() => out.copy_from_slice(body),
            _ => return None,
        }
    }
    if rest == [0; 4] { Some(Ok(())) } else { damaged("no end") }
}

/// Undoes a block; `None`: it is none, or its contents are not as long as `out`.
#[inline(never)]
fn block(from: &[u8], out: &mut [u8]) -> Option<()> {
    let (mut at, mut done) = (0, 0);
    loop {
        // The usual sequences, as long as there is room to read and to write more than they need.
        while let Some(now) = from.get(at..).and_then(|rest| rest.first_chunk::<32>()) {
            let Some(room) = out.get_mut(done..).and_then(|rest| rest.first_chunk_mut::<64>())
            else {
                break;
            };
            let (literals, len) = (usize::from(now[0] >> 4), usize::from(now[0] & 15) + 4);
            let distance = u16::from_le_bytes([now[1 + literals], now[2 + literals]]);
            let distance = usize::from(distance);
            let long = (literals == 15) | (len == 19);
            if long | (distance < 8) | (distance > done + literals) {
                break;
            }
            room[..16].copy_from_slice(&now[1..17]);
            at += 3 + literals;
            done += literals;
            let both = &mut out[done - distance..done + 24];
            for word in [0, 8, 16] {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&both[word..word + 8]);
                both[distance + word..distance + word + 8].copy_from_slice(&bytes);
            }
            done += len;
        }
        if sequence(from, &mut at, out, &mut done)? {
            return (done == out.len()).then_some(());
        }
    }
}

/// One sequence, whatever it is like; true: it was the last one.
fn sequence(from: &[u8], at: &mut usize, out: &mut [u8], done: &mut usize) -> Option<bool> {
    let token = *from.get(*at)?;
    *at += 1;
    let literals = length(from, at, token >> 4)?;
    let here = from.get(*at..at.checked_add(literals)?)?;
    out.get_mut(*done..done.checked_add(literals)?)?.copy_from_slice(here);
    *at += literals;
    *done += literals;
    if *at == from.len() {
        return Some(true);
    }
    let distance = usize::from(u16::from_le_bytes(*from.get(*at..)?.first_chunk()?));
    *at += 2;
    let len = length(from, at, token & 15)?.checked_add(4)?;
    let begin = done.checked_sub(distance).filter(|_| distance > 0)?;
    let both = out.get_mut(begin..done.checked_add(len)?)?;
    *done += len;
    // What there is, is doubled until it is enough.
    let mut have = distance;
    while have < both.len() {
        let (there, rest) = both.split_at_mut(have);
        let more = have.min(rest.len());
        rest[..more].copy_from_slice(&there[..more]);
        have += more;
    }
    Some(false)
}

/// A length that begins in the token.
fn length(from: &[u8], at: &mut usize, bits: u8) -> Option<usize> {
    let mut len = usize::from(bits);
    if bits == 15 {
        loop {
            let byte = *from.get(*at)?;
            *at += 1;
            len += usize::from(byte);
            if byte < 255 {
                break;
            }
        }
    }
    Some(len)
}
