//! Netlink: links, addresses, routes, rules, conntrack, nftables and the sockets themselves.
//!
//! Messages are kept as the kernel wrote them, headers included, since images hold them so;
//! nothing here knows what they are about.
//!
//! ```no_run
//! # fn main() -> sys::Result<()> {
//! use sys::netlink::{Request, Socket, attributes, messages};
//! let mut route = Socket::open(libc::NETLINK_ROUTE)?;
//! // A list: raw messages back to back, without the closing NLMSG_DONE.
//! let links = route.dump(&Request::new("RTM_GETLINK", 18).body(&[0; 16]))?;
//! for link in messages(&links) {
//!     for attribute in attributes(link.after(16)) {
//!         println!("{} {:?}", attribute.kind, attribute.value);
//!     }
//! }
//! // An order: returns when the kernel has obeyed; errors have its own words (extack) in them.
//! let veth = Request::new("RTM_NEWLINK", 16).about("eth0").flags(sys::netlink::CREATE);
//! route.order(&veth.body(&[0; 16]).text(3, b"eth0").nested(18, |info| {
//!     info.text(1, b"veth").nested(2, |data| data)
//! }))?;
//! # Ok(()) }
//! ```
//! [`Socket::in_net_ns`] talks to another namespace; [`Socket::batch`] sends many messages with
//! one call, which is also how nf_tables wants its transactions.

mod message;
mod request;
mod route;
mod socket;
#[cfg(test)]
mod tests;

pub use message::{Attribute, HEADER, Message, attribute, attributes, messages};
pub use request::{Attributes, Request};
pub use route::plain_route;
pub use socket::{Socket, in_net_ns};

/// `NLM_F_REPLACE`.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`.
pub const EXCL: u16 = 0x200;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub const APPEND: u16 = 0x800;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// In an answer: the list changed while it was read.
const DUMP_INTR: u16 = 0x10;
/// In an acknowledgement: attributes follow (extack).
const ACK_TLVS: u16 = 0x200;
/// In an acknowledgement: the request is not repeated in full.
const CAPPED: u16 = 0x100;

const MSG_ERROR: u16 = 2;
const MSG_DONE: u16 = 3;
