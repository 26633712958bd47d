//! Collects netlink sockets.

use super::error::Why;
use super::parse::NetlinkDiag;
use super::sk_opts::{self, get_u32};
use super::{FileTable, Open, entry};
use images::proto::{FdTypes, NetlinkSkEntry};

impl FileTable {
    pub(crate) fn netlink_sk(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let ino = open.stat.st_ino as u32;
        let (net, ns_id) = self.net_of(open)?;
        let known = self.diag.netlink(net)?.get(&ino).cloned();
        let diag = match known {
            Some(diag) => diag,
            // A socket that is not bound is in no table of the kernel.
            None if bound(&sys::socket::own_name(open.own)?) => {
                return Err(Why::Text(
                    "sock_diag does not know the socket: is netlink_diag there?".into(),
                ));
            }
            None => NetlinkDiag {
                protocol: get_u32(open.own, libc::SOL_SOCKET, libc::SO_PROTOCOL)? as u8,
                ..NetlinkDiag::default()
            },
        };
        if diag.groups.iter().skip(1).any(|&g| g != 0) {
            return Err(Why::refused("Can't dump netlink socket that is in groups above 32"));
        }
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        match sys::socket::recv_msg(open.own, 1, flags) {
            Err(e) if e.errno() == libc::EAGAIN => {}
            _ => return Err(Why::refused("Can't dump netlink socket with unread messages")),
        }
        let mut opts = sk_opts::collect(open.own, false)?;
        let kind = (libc::AF_NETLINK, libc::SOCK_RAW, diag.protocol.into());
        opts.amber_others = self.sk_defaults.differing(open.own, kind);
        let mut file = entry(FdTypes::Netlinksk, open.id);
        file.nlsk = Some(NetlinkSkEntry {
            id: open.id,
            ino,
            protocol: diag.protocol.into(),
            state: diag.state.into(),
            flags: open.info.flags,
            portid: diag.portid,
            groups: diag.groups.into_iter().take(1).collect(),
            dst_portid: diag.dst_portid,
            dst_group: diag.dst_group,
            fown: open.fown,
            opts,
            ns_id: Some(ns_id),
        });
        self.files.push(file);
        Ok(())
    }
}

/// Whether a `sockaddr_nl` has a port or groups.
fn bound(name: &[u8]) -> bool {
    name.iter().skip(4).take(8).any(|&b| b != 0)
}
