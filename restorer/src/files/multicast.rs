//! Memberships of multicast groups: options that begin with the number of a link.

use super::{At, Result};
use images::proto::AmberSockoptEntry;
use std::os::fd::BorrowedFd;

const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_MSFILTER: i32 = 48;

/// Whether the option is about a membership; these are set once.
pub(super) fn is_membership(option: &AmberSockoptEntry) -> bool {
    let level = matches!(option.level, libc::IPPROTO_IP | libc::IPPROTO_IPV6);
    level && matches!(option.name, MCAST_JOIN_GROUP | MCAST_MSFILTER)
}

/// Makes the socket a member of its groups, on the links of the names it knew.
pub(super) fn join(fd: BorrowedFd<'_>, options: &[AmberSockoptEntry]) -> Result<()> {
    for option in options.iter().filter(|o| is_membership(o)) {
        let mut value = option.value.clone();
        if let (Some(device), Some(number)) = (&option.device, value.get_mut(..4)) {
            let index = sys::net::index_seen_by(fd, device)
                .at(|| format!("multicast group on device {device}"))?;
            number.copy_from_slice(&index.to_ne_bytes());
        }
        sys::fd::setsockopt(fd, option.level, option.name, &value)
            .at(|| format!("multicast group on device {}", option.device()))?;
    }
    Ok(())
}
