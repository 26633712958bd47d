//! Neighbours that somebody wrote down: the kernel's messages. All others are found again.

use crate::Error;
use sys::netlink::{Request, Socket, attribute, messages};

const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
/// `struct ndmsg`: family, index of the link, state, flags, type.
const NDMSG: usize = 12;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_PROXY: u8 = 8;
const NDA_DST: u16 = 1;

/// Of all links: permanent ones and those answered for, and entries of bridges and tunnels.
pub(super) fn collect(route: &mut Socket) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    for (family, flags) in
        [(libc::AF_UNSPEC, 0), (libc::AF_UNSPEC, NTF_PROXY), (libc::AF_BRIDGE, 0)]
    {
        let mut body = [0; NDMSG];
        (body[0], body[10]) = (family as u8, flags);
        let list = match route.dump(&Request::new("RTM_GETNEIGH", RTM_GETNEIGH).body(&body)) {
            Ok(list) => list,
            // No such table in this kernel.
            Err(e) if matches!(e.errno(), libc::EOPNOTSUPP | libc::EINVAL) => continue,
            Err(e) => return Err(e.into()),
        };
        for message in messages(&list).filter(|m| m.kind == RTM_NEWNEIGH && is_kept(m.body)) {
            all.extend(message.raw);
        }
    }
    Ok(all)
}

pub(super) fn is_kept(body: &[u8]) -> bool {
    let [family, _, _, _, _, _, _, _, s0, s1, flags, _, ..] = *body else { return false };
    let state = u16::from_ne_bytes([s0, s1]);
    if i32::from(family) == libc::AF_BRIDGE {
        // Permanent ones are the addresses of the ports, which the kernel enters by itself.
        let remote = attribute(body.get(NDMSG..).unwrap_or_default(), NDA_DST).is_some();
        return state & NUD_NOARP != 0 || remote;
    }
    state & NUD_PERMANENT != 0 || flags & NTF_PROXY != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(family: i32, state: u16, flags: u8) -> Vec<u8> {
        let mut body = vec![family as u8, 0, 0, 0, 1, 0, 0, 0];
        body.extend(state.to_ne_bytes());
        body.extend([flags, 0]);
        body
    }

    #[test]
    fn what_the_kernel_finds_by_itself_is_left_out() {
        assert!(is_kept(&entry(libc::AF_INET, NUD_PERMANENT, 0)));
        assert!(is_kept(&entry(libc::AF_INET6, 0, NTF_PROXY)));
        assert!(!is_kept(&entry(libc::AF_INET, 2, 0)), "reachable");
        assert!(!is_kept(&entry(libc::AF_INET, NUD_NOARP, 0)), "of lo");
        assert!(!is_kept(&entry(libc::AF_BRIDGE, NUD_PERMANENT, 0)), "a port's own");
        assert!(is_kept(&entry(libc::AF_BRIDGE, NUD_NOARP, 0)));
        assert!(!is_kept(&[7]));
    }
}
