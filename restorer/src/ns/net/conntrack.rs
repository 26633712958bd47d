//! Tracked connections and expectations: messages of the kernel's, sent back to it.

use crate::Error;
use images::checkpoint::Net;
use sys::netlink::{Attributes, CREATE, EXCL, Message, Request, Socket, attributes, messages};

const CTNETLINK: u16 = 1;
const CTNETLINK_EXP: u16 = 2;
const NEW: u16 = 0;
/// Length of `struct nfgenmsg`.
const GENMSG: usize = 4;
const CTA_STATUS: u16 = 3;

/// Restores both images; in a thread that is in the namespace. What is tracked already stays as
/// it is.
pub(super) fn restore(net: &Net) -> Result<(), Error> {
    let of = |list, subsystem: u16| {
        messages(list)
            .filter(move |m: &Message<'_>| m.kind >> 8 == subsystem && m.body.len() >= GENMSG)
    };
    // The image of expectations that CRIU writes lists connections.
    let connections = of(&net.conntrack, CTNETLINK).map(|m| connection(&m));
    let expected = of(&net.expectations, CTNETLINK_EXP).map(|m| {
        Request::new("IPCTNL_MSG_EXP_NEW", CTNETLINK_EXP << 8 | NEW)
            .flags(CREATE | EXCL)
            .body(m.body)
    });
    let all: Vec<Request> = connections.chain(expected).collect();
    if all.is_empty() {
        return Ok(());
    }
    let mut netfilter = Socket::open(libc::NETLINK_NETFILTER)?;
    let failed = netfilter.orders(&all)?.into_iter().filter_map(Result::err);
    for e in failed.filter(|e| e.errno() != libc::EEXIST) {
        // A connection that is not tracked is tracked with its next packet.
        log::warn!("{e}");
    }
    Ok(())
}

/// The message that has a connection tracked.
fn connection(m: &Message<'_>) -> Request {
    let request = Request::new("IPCTNL_MSG_CT_NEW", CTNETLINK << 8 | NEW)
        .flags(CREATE | EXCL)
        .body(&m.body[..GENMSG]);
    request.attributes(|to| attributes(m.after(GENMSG)).fold(to, copied))
}

fn copied(to: Attributes, a: sys::netlink::Attribute<'_>) -> Attributes {
    /// Bits that only the kernel sets: from an expectation, dying.
    const NOT_OURS: u32 = 1 | 1 << 9;
    // Counters, number, uses, time stamps.
    const OWN: [u16; 5] = [9, 10, 11, 12, 20];
    match a.kind {
        CTA_STATUS => {
            let status = a.value.first_chunk().map_or(0, |b| u32::from_be_bytes(*b));
            to.be32(CTA_STATUS, status & !NOT_OURS)
        }
        own if OWN.contains(&own) => to,
        kind => to.attr(kind, a.value),
    }
}
