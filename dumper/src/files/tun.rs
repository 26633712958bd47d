//! Collects descriptors of `/dev/net/tun`: with a tun or tap link, a queue of one, or nothing yet.
//! The links are the network namespace's; packets that were not read are lost.

use super::error::Why;
use super::reg_file::Path;
use super::{FileTable, Open, entry};
use images::checkpoint::NsKind;
use images::proto::{FdTypes, TunfileEntry};
use std::os::fd::BorrowedFd;

const TUNGETIFF: u64 = 0x8004_54d2;
const TUNGETVNETHDRSZ: u64 = 0x8004_54d7;
const TUNGETSNDBUF: u64 = 0x8004_54d3;
/// In the flags of `TUNGETIFF`: no packet filter is attached; the queue is not in use.
const IFF_NOFILTER: u16 = 0x1000;
const IFF_DETACH_QUEUE: u16 = 0x0400;

/// What only a descriptor of a link tells: length of the header of packets, of the send buffer.
pub(crate) type Sizes = (u32, u32);

impl FileTable {
    pub(crate) fn tun(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let (_, ns_id) = self.net_of(open)?;
        let link = link_of(open.own)?;
        if let Some((name, flags)) = &link {
            if self.ns.root(NsKind::Net).is_none_or(|own| own.is_ours()) {
                return Err(Why::refused(format!(
                    "Can't dump tun device {name} of the host: the tree has no network namespace \
                     of its own"
                )));
            }
            if flags & IFF_NOFILTER == 0 {
                return Err(Why::yet("packet filter of a tun device"));
            }
            let number = |what| {
                let mut value = [0; 4];
                sys::fd::ioctl_bytes(open.own, what, &mut value).map(|_| u32::from_ne_bytes(value))
            };
            let sizes = (number(TUNGETVNETHDRSZ)?, number(TUNGETSNDBUF)?);
            self.ns.add_tun(ns_id, name, sizes);
        }
        self.path_entry(&Path::of(open, open.id))?;
        let detached = link.as_ref().is_some_and(|(_, flags)| flags & IFF_DETACH_QUEUE != 0);
        let mut file = entry(FdTypes::Tunf, open.id);
        file.tunf = Some(TunfileEntry {
            id: open.id,
            netdev: link.map(|(name, _)| name),
            detached: detached.then_some(true),
            ns_id: Some(ns_id),
        });
        self.files.push(file);
        Ok(())
    }
}

/// Name and flags of the link; `None` if the descriptor has none.
fn link_of(fd: BorrowedFd<'_>) -> Result<Option<(String, u16)>, Why> {
    // struct ifreq: name, flags.
    let mut request = [0; 40];
    match sys::fd::ioctl_bytes(fd, TUNGETIFF, &mut request) {
        Err(e) if e.errno() == libc::EBADFD => return Ok(None),
        done => done?,
    };
    let name = request[..16].split(|b| *b == 0).next().unwrap_or_default();
    let flags = u16::from_ne_bytes([request[16], request[17]]);
    Ok(Some((String::from_utf8_lossy(name).into_owned(), flags)))
}
