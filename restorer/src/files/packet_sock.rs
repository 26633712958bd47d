//! Packet sockets: bound to a device, with their rings. What is in the rings is not saved.

use super::open::{Files, set_flags};
use super::sk_opts::{self, set_int};
use super::{Error, Result};
use images::proto::{PacketMclist, PacketRing, PacketSockEntry};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// `TPACKET_V3`: its rings have more parameters.
const V3: u32 = 2;
/// The type of before `AF_PACKET`.
const SOCK_PACKET: i32 = 10;
const NO_FANOUT: u32 = u32::MAX;

impl Files<'_> {
    pub(super) fn open_packet(&self, entry: &PacketSockEntry) -> Result<OwnedFd> {
        let kind = entry.r#type as i32;
        // As long as it has no protocol it gets nothing; `bind` gives it one.
        let old = kind == SOCK_PACKET;
        let protocol = if old || entry.ifindex == 0 { entry.protocol } else { 0 };
        let fd = sys::net::socket(libc::AF_PACKET, kind, protocol as i32)?;
        let sk = fd.as_fd();
        sk_opts::before_bind((self, entry.id), sk, &entry.opts, true)?;
        if !old {
            options(entry, sk)?;
        }
        if entry.ifindex != 0 {
            let address = if old { old_address(entry)? } else { address(entry) };
            sys::net::bind(sk, &address)?;
        }
        if let Some(fanout) = entry.fanout.filter(|f| *f != NO_FANOUT) {
            set_int(sk, libc::SOL_PACKET, libc::PACKET_FANOUT, fanout as i32)?;
        }
        sk_opts::restore((self, entry.id), sk, &entry.opts)?;
        set_flags(sk, entry.flags)?;
        Ok(fd)
    }

    /// A copy of a description that the caller, task `vpid`, has in its table.
    pub(crate) fn installed(&self, vpid: i32, id: u32) -> Result<OwnedFd> {
        let table = self.plan.tables.get(&self.plan.table_owner(vpid));
        let slot = table.and_then(|t| t.iter().find(|s| s.id == id)).ok_or_else(|| {
            Error::Refused(format!("task {vpid} maps file {id}, of which it has no descriptor"))
        })?;
        Ok(sys::fd::copy_above(slot.fd, self.plan.service_fd())?)
    }
}

fn options(entry: &PacketSockEntry, sk: BorrowedFd<'_>) -> Result<()> {
    let set = |name, value: u32| set_int(sk, libc::SOL_PACKET, name, value as i32);
    // Both are fixed as soon as there is a ring.
    set(libc::PACKET_VERSION, entry.version)?;
    set(libc::PACKET_RESERVE, entry.reserve)?;
    set(libc::PACKET_AUXDATA, entry.aux_data.into())?;
    set(libc::PACKET_ORIGDEV, entry.orig_dev.into())?;
    set(libc::PACKET_VNET_HDR, entry.vnet_hdr.into())?;
    set(libc::PACKET_LOSS, entry.loss.into())?;
    set(libc::PACKET_TIMESTAMP, entry.timestamp)?;
    // Cannot be read back, so it is always set.
    if entry.copy_thresh != 0 {
        let bytes = entry.copy_thresh.to_ne_bytes();
        sys::fd::setsockopt(sk, libc::SOL_PACKET, libc::PACKET_COPY_THRESH, &bytes)?;
    }
    for member in &entry.mclist {
        let bytes = membership(member);
        sys::fd::setsockopt(sk, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &bytes)?;
    }
    let rings = [(libc::PACKET_RX_RING, &entry.rx_ring), (libc::PACKET_TX_RING, &entry.tx_ring)];
    for (name, ring) in rings {
        if let Some(ring) = ring {
            let bytes = parameters(ring, entry.version);
            sys::fd::setsockopt(sk, libc::SOL_PACKET, name, &bytes)?;
        }
    }
    Ok(())
}

/// A `struct tpacket_req`, or `tpacket_req3`.
fn parameters(ring: &PacketRing, version: u32) -> Vec<u8> {
    let mut words = vec![ring.block_size, ring.block_nr, ring.frame_size, ring.frame_nr];
    if version == V3 {
        words.extend([ring.retire_tmo, ring.sizeof_priv, ring.features]);
    }
    words.into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// A `struct packet_mreq`.
fn membership(member: &PacketMclist) -> Vec<u8> {
    let mut bytes = member.index.to_ne_bytes().to_vec();
    bytes.extend((member.r#type as u16).to_ne_bytes());
    bytes.extend((member.addr.len() as u16).to_ne_bytes());
    bytes.extend(&member.addr);
    bytes.resize(16.max(bytes.len()), 0);
    bytes
}

/// A `struct sockaddr_ll`.
fn address(entry: &PacketSockEntry) -> Vec<u8> {
    let mut bytes = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    bytes.extend((entry.protocol as u16).to_ne_bytes());
    bytes.extend(entry.ifindex.to_ne_bytes());
    bytes.resize(20, 0);
    bytes
}

/// What old sockets bind to: a `struct sockaddr` with the name of the device.
fn old_address(entry: &PacketSockEntry) -> Result<Vec<u8>> {
    let mut bytes = (libc::AF_PACKET as u16).to_ne_bytes().to_vec();
    bytes.extend(sys::net::device_name(entry.ifindex)?);
    bytes.resize(16, 0);
    Ok(bytes)
}
