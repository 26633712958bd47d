//! Routes as messages.

use super::HEADER;

const RTA_MULTIPATH: u16 = 9;
const RTA_NH_ID: u16 = 30;
/// Length of `struct rtmsg`.
const RTMSG: usize = 12;

/// A route as it can be made again: without the state of its links (dead, link down, offloaded),
/// and with its hops spelt out instead of the number of an object that is not saved.
#[must_use]
pub fn plain_route(message: &[u8]) -> Vec<u8> {
    /// `RTNH_F_PERVASIVE` and `RTNH_F_ONLINK`.
    const KEPT: u8 = 2 | 4;
    let mut out = message.to_vec();
    if out.len() < HEADER + RTMSG {
        return out;
    }
    out[HEADER + 8] &= KEPT;
    out[HEADER + 9..HEADER + 12].fill(0);
    let mut at = HEADER + RTMSG;
    while let Some((len, kind)) = head(&out, at) {
        if kind == RTA_MULTIPATH {
            // struct rtnexthop: length, flags, hops, index.
            let mut hop = at + 4;
            while let Some((len, _)) = head(&out, hop).filter(|_| hop < at + len) {
                out[hop + 2] &= KEPT;
                hop += len.next_multiple_of(4);
            }
        }
        let padded = len.next_multiple_of(4);
        if kind == RTA_NH_ID {
            out.drain(at..(at + padded).min(out.len()));
            let total = (out.len() as u32).to_ne_bytes();
            out[..4].copy_from_slice(&total);
        } else {
            at += padded;
        }
    }
    out
}

/// Length (at least that of a head) and type of what is at `at`.
fn head(bytes: &[u8], at: usize) -> Option<(usize, u16)> {
    let &[l0, l1, k0, k1] = bytes.get(at..)?.first_chunk()?;
    let len = usize::from(u16::from_ne_bytes([l0, l1]));
    (len >= 4 && at + len <= bytes.len()).then(|| (len, u16::from_ne_bytes([k0, k1]) & 0x3fff))
}
