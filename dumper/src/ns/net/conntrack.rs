//! Tracked connections and expectations: the kernel's messages. No image where there are none.

use super::write_raw;
use crate::Error;
use images::{Dir, Image};
use sys::netlink::{Request, Socket};

/// Subsystems of nfnetlink, and "get" in both.
const CTNETLINK: u16 = 1;
const CTNETLINK_EXP: u16 = 2;
const GET: u16 = 1;

/// Writes both images.
pub(super) fn dump(id: u32, dir: &Dir) -> Result<(), Error> {
    let kinds = [
        ("IPCTNL_MSG_CT_GET", CTNETLINK, Image::NetnsCt(id)),
        ("IPCTNL_MSG_EXP_GET", CTNETLINK_EXP, Image::NetnsExp(id)),
    ];
    let mut netfilter = Socket::open(libc::NETLINK_NETFILTER)?;
    for (name, subsystem, image) in kinds {
        // struct nfgenmsg: any family, version 0.
        let request = Request::new(name, subsystem << 8 | GET).body(&[0; 4]);
        let list = match netfilter.dump(&request) {
            Ok(list) => list,
            // The kernel tracks none.
            Err(e) if matches!(e.errno(), libc::EINVAL | libc::EOPNOTSUPP) => continue,
            Err(e) => return Err(e.into()),
        };
        if !list.is_empty() {
            write_raw(dir, image, &list)?;
        }
    }
    Ok(())
}
