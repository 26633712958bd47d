//! TCP segments as the peer would have sent them, for states that only the peer can bring about.

use super::super::Result;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

pub(super) const FIN: u8 = 1;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

/// What CRIU's network lock lets through.
const MARK: u32 = 0xc114;
/// Classic BPF, as in images (socket(7), Documentation/networking/filter.rst): only what carries
/// [`MARK`].
const MARKED_ONLY: [u64; 4] = [
    word(
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        0,
        (libc::SKF_AD_OFF + libc::SKF_AD_MARK) as u32,
    ),
    word(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, MARK),
    word(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
    word(libc::BPF_RET | libc::BPF_K, 0, 0),
];
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;

/// An instruction that goes on `jf` further if it is a comparison that fails.
const fn word(code: u32, jf: u8, k: u32) -> u64 {
    (code as u64) << 48 | (jf as u64) << 32 | k as u64
}

/// Does what `act` does with a connection that hears of nobody but us: what is sent meanwhile
/// may be answered by a host that knows of no such connection any more, with a reset.
pub(super) fn deaf<T>(sk: BorrowedFd<'_>, act: impl FnOnce() -> Result<T>) -> Result<T> {
    sys::net::attach_filter(sk, &MARKED_ONLY)?;
    let done = act()?;
    sys::net::detach_filter(sk)?;
    Ok(done)
}

/// A segment without data.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    pub(super) window: u16,
}

/// The Internet checksum.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|p| p.chunks(2));
    let sum: u64 = words.map(|w| u64::from(w[0]) << 8 | u64::from(*w.get(1).unwrap_or(&0))).sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    !((sum >> 16) + (sum & 0xffff)) as u16
}

impl Segment {
    /// TCP header, IP header.
    fn headers(&self) -> (Vec<u8>, Vec<u8>) {
        let mut tcp = Vec::with_capacity(TCP);
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.seq.to_be_bytes());
        tcp.extend(self.ack.to_be_bytes());
        tcp.extend([(TCP as u8 / 4) << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        let protocol = libc::IPPROTO_TCP as u8;
        let (ip, pseudo) = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut ip = vec![0x45, 0, 0, (IPV4 + TCP) as u8, 0, 0, 0, 0, 64, protocol, 0, 0];
                ip.extend(from.octets());
                ip.extend(to.octets());
                let sum = checksum(&[&ip]);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                let pseudo = [&ip[12..20], &[0, protocol, 0, TCP as u8]].concat();
                (ip, pseudo)
            }
            (from, to) => {
                let octets = |ip: IpAddr| match ip {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                let mut ip = Vec::with_capacity(IPV6);
                ip.extend([0x60, 0, 0, 0, 0, TCP as u8, protocol, 64]);
                ip.extend(octets(from));
                ip.extend(octets(to));
                let pseudo = [&ip[8..40], &[0, 0, 0, TCP as u8, 0, 0, 0, protocol]].concat();
                (ip, pseudo)
            }
        };
        let sum = checksum(&[&pseudo, &tcp]);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        (ip, tcp)
    }

    /// Sends it to ourselves: the receiver's address is local.
    pub(super) fn send(&self) -> Result<()> {
        let (ip, tcp) = self.headers();
        let packet = [ip, tcp].concat();
        let (family, to) = match self.to {
            SocketAddr::V4(to) => {
                let address = [&[0; 2], &to.ip().octets()[..], &[0; 8]].concat();
                (libc::AF_INET, address)
            }
            SocketAddr::V6(to) => {
                let ip = to.ip().octets();
                let scope = to.scope_id().to_ne_bytes();
                (libc::AF_INET6, [&[0; 6], &ip[..], &scope[..]].concat())
            }
        };
        let to = [&(family as u16).to_ne_bytes()[..], &to].concat();
        let raw = sys::net::socket(family, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
        let mark = MARK.to_ne_bytes();
        sys::fd::setsockopt(raw.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, &mark)?;
        sys::net::send_msg(raw.as_fd(), &packet, &[], &to, 0)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_come_out_even() {
        for (from, to) in [("10.1.2.3:80", "192.0.2.9:4711"), ("[fe80::1]:80", "[2001:db8::7]:9")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let segment =
                Segment { from, to, seq: 77, ack: 0xdead_beef, flags: FIN | ACK, window: 9 };
            let (ip, tcp) = segment.headers();
            let pseudo = match ip.len() {
                IPV4 => {
                    assert_eq!(checksum(&[&ip]), 0);
                    [&ip[12..], &[0, 6, 0, 20]].concat()
                }
                _ => [&ip[8..], &[0, 0, 0, 20, 0, 0, 0, 6]].concat(),
            };
            assert_eq!(checksum(&[&pseudo, &tcp]), 0);
        }
    }
}
