//! Memberships of multicast groups.
//!
//! No call lists the groups of a socket. But one asks for the sources that a socket takes of one
//! group on one link, and fails when it is no member: so all groups of the namespace are tried.

use super::error::Why;
use super::{FileTable, Open};
use images::checkpoint::NsKind;
use images::proto::AmberSockoptEntry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;

const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_MSFILTER: i32 = 48;
/// `fmode`: all but the sources listed.
const EXCLUDE: u32 = 0;
/// Offsets in `struct group_filter`.
const GROUP: usize = 8;
const STORAGE: usize = 128;
const MODE: usize = GROUP + STORAGE;
const COUNT: usize = MODE + 4;
const SOURCES: usize = COUNT + 4;
/// How many sources are asked for at first.
const SOME: usize = 16;

/// A group that somebody on a link of a namespace is a member of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    index: u32,
    device: String,
    address: IpAddr,
}

impl Group {
    /// `struct group_req`, which `struct group_filter` begins with.
    fn request(&self) -> Vec<u8> {
        let mut out = vec![0; GROUP + STORAGE];
        out[..4].copy_from_slice(&self.index.to_ne_bytes());
        let (family, address, at) = match self.address {
            IpAddr::V4(a) => (libc::AF_INET, a.octets().to_vec(), GROUP + 4),
            IpAddr::V6(a) => (libc::AF_INET6, a.octets().to_vec(), GROUP + 8),
        };
        out[GROUP..GROUP + 2].copy_from_slice(&(family as u16).to_ne_bytes());
        out[at..at + address.len()].copy_from_slice(&address);
        out
    }

    fn level(&self) -> i32 {
        if self.address.is_ipv4() { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 }
    }

    /// What makes a socket a member as `fd` is; nothing if it is none.
    fn membership(&self, fd: BorrowedFd<'_>) -> Result<Vec<AmberSockoptEntry>, Why> {
        let mut room = SOME;
        let filter = loop {
            let mut filter = self.request();
            filter.resize(SOURCES + room * STORAGE, 0);
            filter[COUNT..SOURCES].copy_from_slice(&(room as u32).to_ne_bytes());
            match sys::fd::getsockopt(fd, self.level(), MCAST_MSFILTER, &mut filter) {
                Err(e) if matches!(e.errno(), libc::EADDRNOTAVAIL | libc::ENOPROTOOPT) => {
                    return Ok(Vec::new());
                }
                got => got?,
            };
            // The kernel tells how many there are, whatever fitted.
            let count = word(&filter, COUNT) as usize;
            if count <= room {
                filter.truncate(SOURCES + count * STORAGE);
                break filter;
            }
            room = count;
        };
        let entry = |name, value| AmberSockoptEntry {
            level: self.level(),
            name,
            value,
            device: Some(self.device.clone()),
        };
        let mut out = vec![entry(MCAST_JOIN_GROUP, self.request())];
        if word(&filter, MODE) != EXCLUDE || filter.len() > SOURCES {
            out.push(entry(MCAST_MSFILTER, filter));
        }
        Ok(out)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

/// Groups of IPv4: a line for each link, and below it one for each group.
pub(crate) fn igmp(text: &str) -> Vec<Group> {
    let mut link = (0, String::new());
    let mut all = Vec::new();
    for line in text.lines().skip(1) {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if !line.starts_with('\t') {
            let name = line.split(['\t', ' ', ':']).filter(|w| !w.is_empty()).nth(1);
            link = (first.parse().unwrap_or(0), name.unwrap_or_default().to_owned());
        } else if let Ok(word) = u32::from_str_radix(first, 16) {
            let address = Ipv4Addr::from(word.to_ne_bytes()).into();
            all.push(Group { index: link.0, device: link.1.clone(), address });
        }
    }
    all
}

/// Groups of IPv6: a line for each.
pub(crate) fn igmp6(text: &str) -> Vec<Group> {
    let one = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (index, device) = (words.next()?.parse().ok()?, words.next()?.to_owned());
        let address = u128::from_str_radix(words.next()?, 16).ok()?;
        Some(Group { index, device, address: Ipv6Addr::from(address).into() })
    };
    text.lines().filter_map(one).collect()
}

/// All groups of the namespace that the calling thread is in.
fn all() -> Vec<Group> {
    // Absent where the kernel is built without.
    let read = |name: &str| {
        std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default()
    };
    let mut all = igmp(&read("igmp"));
    all.extend(igmp6(&read("igmp6")));
    all
}

impl FileTable {
    /// Memberships of a socket in the network namespace with inode `net`.
    pub(crate) fn memberships(
        &mut self,
        open: &Open<'_>,
        net: u64,
        v6: bool,
    ) -> Result<Vec<AmberSockoptEntry>, Why> {
        if !self.groups.contains_key(&net) {
            let groups = match self.ns.by_ino(NsKind::Net, net) {
                Some(ns) => ns.inside(|| Ok(all())).map_err(|e| Why::Text(e.to_string()))?,
                None => all(),
            };
            self.groups.insert(net, groups);
        }
        // Sockets of IPv6 may be members of groups of IPv4 too.
        let fitting = self.groups[&net].iter().filter(|g| v6 || g.address.is_ipv4());
        let each = fitting.map(|group| group.membership(open.own));
        Ok(each.collect::<Result<Vec<_>, _>>()?.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_stand_below_their_links() {
        let text = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
            1\tlo        :     2      V3\n\
            \t\t\t\tFB0000E0     1 0:00000000\t\t0\n\
            12\tveth@x: y :     1      V3\n\
            \t\t\t\t010000E0     1 0:00000000\t\t0\n";
        let group = |index, device: &str, address: &str| Group {
            index,
            device: device.to_owned(),
            address: address.parse().unwrap(),
        };
        let all = igmp(text);
        assert_eq!(all[0], group(1, "lo", "224.0.0.251"));
        assert_eq!(all[1].index, 12);
        let six = "1    lo              ff0200000000000000000000000000fb     1 0000000C 0\nx\n";
        assert_eq!(igmp6(six), [group(1, "lo", "ff02::fb")]);
    }

    #[test]
    fn a_member_is_told_from_others() {
        let member = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let other = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let address = Ipv4Addr::new(224, 9, 9, 9);
        if member.join_multicast_v4(&address, &Ipv4Addr::LOCALHOST).is_err() {
            return;
        }
        let group = Group { index: 1, device: "lo".to_owned(), address: address.into() };
        use std::os::fd::AsFd;
        let found = group.membership(member.as_fd()).unwrap();
        assert_eq!((found.len(), found[0].name), (1, MCAST_JOIN_GROUP));
        assert!(group.membership(other.as_fd()).unwrap().is_empty());
    }
}
