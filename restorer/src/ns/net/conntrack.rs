//! Tracked connections and expectations: messages of the kernel's, sent back to it.

use crate::Error;
use images::checkpoint::Net;
use sys::netlink::{
    Attributes, CREATE, EXCL, Message, Request, Socket, attribute, attributes, messages,
};

const CTNETLINK: u16 = 1;
const CTNETLINK_EXP: u16 = 2;
const NEW: u16 = 0;
/// Length of `struct nfgenmsg`.
const GENMSG: usize = 4;
const CTA_TUPLE_REPLY: u16 = 2;
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
    let all = m.after(GENMSG);
    let translated = Translation::of(all);
    request.attributes(|to| {
        let to = attributes(all).fold(to, |to, a| match &translated {
            Some(t) if a.kind == CTA_TUPLE_REPLY => t.reply(to),
            _ => copied(to, a),
        });
        translated.iter().fold(to, |to, t| t.orders(to))
    })
}

/// One way of a connection: addresses (IPv4 or IPv6), protocol's part.
#[derive(Clone, Debug)]
struct Tuple<'a> {
    from: &'a [u8],
    to: &'a [u8],
    ports: Option<(&'a [u8], &'a [u8])>,
    number: &'a [u8],
}

impl<'a> Tuple<'a> {
    fn of(all: &'a [u8], kind: u16) -> Option<Self> {
        let nest = attribute(all, kind)?.value;
        let ip = attribute(nest, 1)?.value;
        let proto = attribute(nest, 2)?.value;
        let get = |list, kind| attribute(list, kind).map(|a| a.value);
        let (from, to) = (get(ip, 1).or_else(|| get(ip, 3))?, get(ip, 2).or_else(|| get(ip, 4))?);
        let ports = get(proto, 2).zip(get(proto, 3));
        Some(Self { from, to, ports, number: get(proto, 1)? })
    }
}

/// What of a connection's addresses is translated (NAT). The kernel tells only both ways as they
/// are on the wire; it takes the answers as they would be without, and what to make of them.
#[derive(Debug)]
struct Translation<'a> {
    original: Tuple<'a>,
    answers: Tuple<'a>,
    source: bool,
    destination: bool,
}

impl<'a> Translation<'a> {
    /// `None`: nothing is translated, or something that has no ports.
    fn of(all: &'a [u8]) -> Option<Self> {
        const IPS_SRC_NAT: u32 = 1 << 4;
        const IPS_DST_NAT: u32 = 1 << 5;
        let status = attribute(all, CTA_STATUS)?.value.first_chunk()?;
        let status = u32::from_be_bytes(*status);
        let (source, destination) = (status & IPS_SRC_NAT != 0, status & IPS_DST_NAT != 0);
        let (original, answers) = (Tuple::of(all, 1)?, Tuple::of(all, CTA_TUPLE_REPLY)?);
        let ports = original.ports.is_some() && answers.ports.is_some();
        (ports && (source || destination)).then_some(Self {
            original,
            answers,
            source,
            destination,
        })
    }

    /// The answers, as if nothing were translated.
    fn reply(&self, to: Attributes) -> Attributes {
        let (original, answers) = (&self.original, &self.answers);
        let (ports, back) = (original.ports.unwrap_or_default(), answers.ports.unwrap_or_default());
        let (from, from_port) =
            if self.destination { (original.to, ports.1) } else { (answers.from, back.0) };
        let (dest, dest_port) =
            if self.source { (original.from, ports.0) } else { (answers.to, back.1) };
        let six = u16::from(from.len() == 16) * 2;
        to.nested(CTA_TUPLE_REPLY, |to| {
            to.nested(1, |ip| ip.attr(1 + six, from).attr(2 + six, dest)).nested(2, |proto| {
                proto.attr(1, answers.number).attr(2, from_port).attr(3, dest_port)
            })
        })
    }

    /// What the kernel is to make of them.
    fn orders(&self, to: Attributes) -> Attributes {
        const CTA_NAT_SRC: u16 = 6;
        const CTA_NAT_DST: u16 = 13;
        let one = |to: Attributes, kind: u16, address: &[u8], port: &[u8]| {
            let (least, most) = if address.len() == 16 { (4, 5) } else { (1, 2) };
            to.nested(kind, |to| {
                to.attr(least, address)
                    .attr(most, address)
                    .nested(3, |ports| ports.attr(1, port).attr(2, port))
            })
        };
        let answers = &self.answers;
        let (from_port, to_port) = answers.ports.unwrap_or_default();
        let to = if self.source { one(to, CTA_NAT_SRC, answers.to, to_port) } else { to };
        if self.destination { one(to, CTA_NAT_DST, answers.from, from_port) } else { to }
    }
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
