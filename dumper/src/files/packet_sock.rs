//! Collects packet sockets. What they have received, in the queue or in rings, is not saved.

use super::error::{Why, text};
use super::sk_opts::{self, get_u32};
use super::{FileTable, Open, entry};
use images::proto::{FdTypes, PacketMclist, PacketRing, PacketSockEntry};
use sys::netlink::attributes;

/// Flags of `PACKET_DIAG_INFO`.
mod flag {
    pub(super) const AUXDATA: u32 = 2;
    pub(super) const ORIGDEV: u32 = 4;
    pub(super) const VNETHDR: u32 = 8;
    pub(super) const LOSS: u32 = 0x10;
}

/// Attributes of an answer.
mod kind {
    pub(super) const INFO: u16 = 0;
    pub(super) const MCLIST: u16 = 1;
    pub(super) const RX_RING: u16 = 2;
    pub(super) const TX_RING: u16 = 3;
    pub(super) const FANOUT: u16 = 4;
}

/// INFO, MCLIST, RING_CFG, FANOUT.
pub(crate) const SHOW: u32 = 0xf;
const PACKET_FANOUT: i32 = 18;

/// What `sock_diag` tells about a packet socket.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PacketDiag {
    pub(crate) ino: u32,
    kind: u32,
    /// Host order.
    protocol: u16,
    /// Device, version, reserve, copy threshold, time stamp, flags.
    info: [u32; 6],
    members: Vec<PacketMclist>,
    rx_ring: Option<PacketRing>,
    tx_ring: Option<PacketRing>,
    has_fanout: bool,
}

fn words<const N: usize>(bytes: &[u8]) -> Option<[u32; N]> {
    let words = bytes.as_chunks::<4>().0;
    (words.len() >= N).then(|| std::array::from_fn(|i| u32::from_ne_bytes(words[i])))
}

fn ring(bytes: &[u8]) -> Option<PacketRing> {
    let [block_size, block_nr, frame_size, frame_nr, retire_tmo, sizeof_priv, features] =
        words(bytes)?;
    let ring = PacketRing {
        block_size,
        block_nr,
        frame_size,
        frame_nr,
        retire_tmo,
        sizeof_priv,
        features,
    };
    // The kernel tells of rings that are not there, too.
    Some(ring).filter(|r| r.block_nr != 0)
}

/// `struct packet_diag_mclist`: index, count, type, length of the address, address.
fn members(bytes: &[u8]) -> Vec<PacketMclist> {
    let one = |b: &[u8; 44]| {
        let [index, count] = words(&b[..8])?;
        let short = |at: usize| u16::from_ne_bytes([b[at], b[at + 1]]);
        let addr = b.get(12..12 + usize::from(short(10)))?.to_vec();
        // Whoever joined twice has to leave twice.
        let member = PacketMclist { index, r#type: short(8).into(), addr };
        Some(std::iter::repeat_n(member, count.min(1 << 16) as usize))
    };
    bytes.as_chunks::<44>().0.iter().filter_map(one).flatten().collect()
}

/// Parses the body of an answer.
pub(crate) fn packet_diag(body: &[u8]) -> Option<PacketDiag> {
    let [head, ino, _, _] = words::<4>(body)?;
    let head = head.to_ne_bytes();
    let protocol = u16::from_ne_bytes([head[2], head[3]]);
    let mut out = PacketDiag { ino, kind: head[1].into(), protocol, ..PacketDiag::default() };
    for attribute in attributes(body.get(16..)?) {
        match attribute.kind {
            kind::INFO => out.info = words(attribute.value)?,
            kind::MCLIST => out.members = members(attribute.value),
            kind::RX_RING => out.rx_ring = ring(attribute.value),
            kind::TX_RING => out.tx_ring = ring(attribute.value),
            kind::FANOUT => out.has_fanout = true,
            _ => {}
        }
    }
    Some(out)
}

impl FileTable {
    pub(crate) fn packet_sock(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let (net, ns_id) = self.net_of(open)?;
        let known = self.diag.packet(net)?.get(&(open.stat.st_ino as u32)).cloned();
        let Some(diag) = known else {
            return Err(Why::Text(
                "sock_diag does not know the packet socket: is packet_diag there?".into(),
            ));
        };
        let mut waiting = [0u8; 4];
        sys::fd::ioctl_bytes(open.own, libc::FIONREAD, &mut waiting)?;
        if i32::from_ne_bytes(waiting) > 0 {
            log::warn!("task {}: fd {}: unread packets will be dropped", open.pid, open.fd);
        }
        let mut opts = sk_opts::collect(open.own, false)?;
        let new = (libc::AF_PACKET, diag.kind as i32, 0);
        opts.amber_others = self.sk_defaults.differing(open.own, new);
        let [ifindex, version, reserve, copy_thresh, timestamp, flags] = diag.info;
        let fanout = if diag.has_fanout {
            Some(get_u32(open.own, libc::SOL_PACKET, PACKET_FANOUT)?)
        } else {
            None
        };
        let mut file = entry(FdTypes::Packetsk, open.id);
        file.psk = Some(PacketSockEntry {
            id: open.id,
            r#type: diag.kind,
            protocol: diag.protocol.to_be().into(),
            flags: open.info.flags,
            ifindex,
            fown: open.fown,
            opts,
            version,
            reserve,
            aux_data: flags & flag::AUXDATA != 0,
            orig_dev: flags & flag::ORIGDEV != 0,
            vnet_hdr: flags & flag::VNETHDR != 0,
            loss: flags & flag::LOSS != 0,
            timestamp,
            copy_thresh,
            mclist: diag.members,
            fanout,
            rx_ring: diag.rx_ring,
            tx_ring: diag.tx_ring,
            ns_id: Some(ns_id),
        });
        self.files.push(file);
        Ok(())
    }

    /// File id of a packet socket whose rings the task `pid` has mapped, by its inode. `None` if
    /// it has no descriptor of it, or if it is another kind of socket.
    pub(crate) fn mapped_socket(&self, pid: i32, ino: u64) -> Result<Option<u32>, Why> {
        let of_it = |at: &&usize| self.types.get(at) == Some(&FdTypes::Packetsk);
        let Some(&at) = self.walk.by_ino.get(&ino).into_iter().flatten().find(of_it) else {
            return Ok(None);
        };
        let dir = format!("/proc/{pid}/fd");
        let failed = |e: std::io::Error| sys::Error::io(format_args!("read({dir})"), &e);
        let wanted = format!("socket:[{ino}]");
        for entry in std::fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if std::fs::read_link(path).is_ok_and(|link| link.as_os_str() == wanted.as_str()) {
                return Ok(Some(self.walk.descs[at].id));
            }
        }
        log::debug!("{}: no descriptor of {pid}", text(wanted.as_bytes()));
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let mut body = vec![libc::AF_PACKET as u8, 3, 0x00, 0x08];
        body.extend(77u32.to_ne_bytes());
        body.extend([0; 8]);
        let mut attr = |kind: u16, value: &[u8]| {
            body.extend((value.len() as u16 + 4).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
        };
        let bytes = |words: &[u32]| words.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<_>>();
        attr(kind::INFO, &bytes(&[1, 2, 8, 0, 0, flag::ORIGDEV]));
        let mut member = bytes(&[1, 2]);
        member.extend([3, 0, 6, 0, 1, 2, 3, 4, 5, 6]);
        member.resize(44, 0);
        attr(kind::MCLIST, &member);
        attr(kind::RX_RING, &bytes(&[4096, 1, 1024, 4, 0, 0, 0]));
        attr(kind::TX_RING, &bytes(&[0; 7]));
        let got = packet_diag(&body).unwrap();
        assert_eq!((got.ino, got.kind, got.protocol), (77, 3, 0x0800));
        assert_eq!(got.info, [1, 2, 8, 0, 0, flag::ORIGDEV]);
        let member = PacketMclist { index: 1, r#type: 3, addr: vec![1, 2, 3, 4, 5, 6] };
        assert_eq!(got.members, [member.clone(), member]);
        assert_eq!((got.rx_ring.unwrap().frame_nr, got.tx_ring), (4, None));
        assert!(!got.has_fanout);
        assert_eq!(packet_diag(&[0; 15]), None);
    }
}
