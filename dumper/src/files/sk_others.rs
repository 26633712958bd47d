//! Socket options that CRIU's images have no room for.
//!
//! Only those whose value differs from that of a new socket of the same kind are saved; the
//! restorer sets them as they come. Not here: what the kernel changes by itself (MSS, quick
//! acknowledgements), but for sockets that no segment changes; memberships of multicast groups
//! have a module of their own.

use images::proto::AmberSockoptEntry;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

const SOCKET: &[i32] = &[
    29, // SO_TIMESTAMP_OLD
    35, // SO_TIMESTAMPNS_OLD
    37, // SO_TIMESTAMPING_OLD
    40, // SO_RXQ_OVFL
    41, // SO_WIFI_STATUS
    42, // SO_PEEK_OFF
    43, // SO_NOFCS
    44, // SO_LOCK_FILTER
    45, // SO_SELECT_ERR_QUEUE
    46, // SO_BUSY_POLL
    47, // SO_MAX_PACING_RATE
    60, // SO_ZEROCOPY
    61, // SO_TXTIME
    69, // SO_PREFER_BUSY_POLL
    73, // SO_RESERVE_MEM
    74, // SO_TXREHASH
    75, // SO_RCVMARK
    76, // SO_PASSPIDFD
    82, // SO_RCVPRIORITY
    83, // SO_PASSRIGHTS
];

const IP: &[i32] = &[
    6,  // IP_RECVOPTS
    7,  // IP_RETOPTS
    10, // IP_MTU_DISCOVER
    11, // IP_RECVERR
    12, // IP_RECVTTL
    13, // IP_RECVTOS
    18, // IP_PASSSEC
    19, // IP_TRANSPARENT
    20, // IP_RECVORIGDSTADDR
    21, // IP_MINTTL
    22, // IP_NODEFRAG
    23, // IP_CHECKSUM
    24, // IP_BIND_ADDRESS_NO_PORT
    25, // IP_RECVFRAGSIZE
    26, // IP_RECVERR_RFC4884
    32, // IP_MULTICAST_IF
    33, // IP_MULTICAST_TTL
    34, // IP_MULTICAST_LOOP
    49, // IP_MULTICAST_ALL
    50, // IP_UNICAST_IF
    51, // IP_LOCAL_PORT_RANGE
];

/// Of IPv6 sockets; they have those of IPv4 too, for mapped addresses.
const IPV6: &[i32] = &[
    7,  // IPV6_CHECKSUM
    11, // IPV6_FLOWINFO
    16, // IPV6_UNICAST_HOPS
    17, // IPV6_MULTICAST_IF
    18, // IPV6_MULTICAST_HOPS
    19, // IPV6_MULTICAST_LOOP
    23, // IPV6_MTU_DISCOVER
    25, // IPV6_RECVERR
    29, // IPV6_MULTICAST_ALL
    31, // IPV6_RECVERR_RFC4884
    33, // IPV6_FLOWINFO_SEND
    51, // IPV6_RECVHOPLIMIT
    53, // IPV6_RECVHOPOPTS
    56, // IPV6_RECVRTHDR
    58, // IPV6_RECVDSTOPTS
    60, // IPV6_RECVPATHMTU
    62, // IPV6_DONTFRAG
    66, // IPV6_RECVTCLASS
    67, // IPV6_TCLASS
    70, // IPV6_AUTOFLOWLABEL
    72, // IPV6_ADDR_PREFERENCES
    73, // IPV6_MINHOPCOUNT
    74, // IPV6_RECVORIGDSTADDR
    75, // IPV6_TRANSPARENT
    76, // IPV6_UNICAST_IF
    77, // IPV6_RECVFRAGSIZE
];

const TCP: &[i32] = &[
    7,  // TCP_SYNCNT
    8,  // TCP_LINGER2
    9,  // TCP_DEFER_ACCEPT
    13, // TCP_CONGESTION
    16, // TCP_THIN_LINEAR_TIMEOUTS
    18, // TCP_USER_TIMEOUT
    23, // TCP_FASTOPEN
    25, // TCP_NOTSENT_LOWAT
    27, // TCP_SAVE_SYN
    30, // TCP_FASTOPEN_CONNECT
    34, // TCP_FASTOPEN_NO_COOKIE
    36, // TCP_INQ
    37, // TCP_TX_DELAY
    44, // TCP_RTO_MAX_MS
    45, // TCP_RTO_MIN_US
    46, // TCP_DELACK_MAX_US
];

/// Of listeners, and sockets that are not connected yet: what segments would change.
const QUIET: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, 49), // SO_INCOMING_CPU
    (libc::SOL_TCP, 2),     // TCP_MAXSEG
    (libc::SOL_TCP, 10),    // TCP_WINDOW_CLAMP
];

const UDP: &[i32] = &[
    100, // UDP_ENCAP
    101, // UDP_NO_CHECK6_TX
    102, // UDP_NO_CHECK6_RX
    103, // UDP_SEGMENT
    104, // UDP_GRO
];

const NETLINK: &[i32] = &[
    3,  // NETLINK_PKTINFO
    4,  // NETLINK_BROADCAST_ERROR
    5,  // NETLINK_NO_ENOBUFS
    8,  // NETLINK_LISTEN_ALL_NSID
    10, // NETLINK_CAP_ACK
    11, // NETLINK_EXT_ACK
    12, // NETLINK_GET_STRICT_CHK
];

const PACKET: &[i32] = &[
    20, // PACKET_QDISC_BYPASS
    23, // PACKET_IGNORE_OUTGOING
];

/// Family, type and protocol.
type Kind = (i32, i32, i32);

/// Options of new sockets, by kind.
#[derive(Debug, Default)]
pub(crate) struct Defaults(HashMap<Kind, Vec<AmberSockoptEntry>>);

impl Defaults {
    /// What is not as in a new socket.
    pub(crate) fn differing(&mut self, fd: BorrowedFd<'_>, kind: Kind) -> Vec<AmberSockoptEntry> {
        self.of(fd, kind, false)
    }

    /// The same of a TCP socket that no segment has changed yet.
    pub(crate) fn of_quiet(&mut self, fd: BorrowedFd<'_>, kind: Kind) -> Vec<AmberSockoptEntry> {
        self.of(fd, kind, true)
    }

    fn of(&mut self, fd: BorrowedFd<'_>, kind: Kind, quiet: bool) -> Vec<AmberSockoptEntry> {
        let mut now = all(fd, kind, quiet);
        let new = self.0.entry(kind).or_insert_with(|| {
            // Where no such socket can be made for comparison, all are kept.
            sys::net::socket(kind.0, kind.1, kind.2)
                .map(|fd| all(fd.as_fd(), kind, kind.2 == libc::IPPROTO_TCP))
                .unwrap_or_default()
        });
        now.retain(|option| !new.contains(option));
        now
    }
}

/// What streams inherit from the segments they began with, and cannot be told.
const NOT_OF_STREAMS: &[(i32, i32)] = &[
    (libc::IPPROTO_IP, 32),   // IP_MULTICAST_IF
    (libc::IPPROTO_IP, 33),   // IP_MULTICAST_TTL
    (libc::IPPROTO_IPV6, 17), // IPV6_MULTICAST_IF
    (libc::IPPROTO_IPV6, 18), // IPV6_MULTICAST_HOPS
];

fn all(fd: BorrowedFd<'_>, (family, kind, protocol): Kind, quiet: bool) -> Vec<AmberSockoptEntry> {
    let of_protocol = match (family, protocol) {
        (libc::AF_INET | libc::AF_INET6, libc::IPPROTO_TCP) => TCP,
        (libc::AF_INET | libc::AF_INET6, libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE) => UDP,
        _ => &[],
    };
    let inet = matches!(family, libc::AF_INET | libc::AF_INET6);
    let groups = [
        (libc::SOL_SOCKET, SOCKET),
        (libc::IPPROTO_IP, if inet { IP } else { &[] }),
        (libc::IPPROTO_IPV6, if family == libc::AF_INET6 { IPV6 } else { &[] }),
        (libc::SOL_PACKET, if family == libc::AF_PACKET { PACKET } else { &[] }),
        (libc::SOL_NETLINK, if family == libc::AF_NETLINK { NETLINK } else { &[] }),
        (if protocol == libc::IPPROTO_TCP { libc::SOL_TCP } else { libc::SOL_UDP }, of_protocol),
    ];
    let mut out = Vec::new();
    if quiet {
        for &(level, name) in QUIET {
            out.extend(option(fd, level, name));
        }
    }
    for (level, names) in groups {
        for &name in names {
            if kind == libc::SOCK_STREAM && NOT_OF_STREAMS.contains(&(level, name)) {
                continue;
            }
            out.extend(option(fd, level, name));
        }
    }
    out
}

fn option(fd: BorrowedFd<'_>, level: i32, name: i32) -> Option<AmberSockoptEntry> {
    let mut value = [0u8; 16];
    // Kernels without an option have nothing to lose.
    let len = sys::fd::getsockopt(fd, level, name, &mut value).ok()?;
    let value = value[..len.min(value.len())].to_vec();
    Some(AmberSockoptEntry { level, name, value, device: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_socket_has_nothing_to_save_and_a_changed_one_has() {
        for kind in [
            (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP),
            (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
            (libc::AF_UNIX, libc::SOCK_STREAM, 0),
        ] {
            let mut defaults = Defaults::default();
            let fd = sys::net::socket(kind.0, kind.1, kind.2).unwrap();
            assert_eq!(defaults.differing(fd.as_fd(), kind), []);
            let one = 1i32.to_ne_bytes();
            sys::fd::setsockopt(fd.as_fd(), libc::SOL_SOCKET, 29, &one).unwrap();
            let want = option(fd.as_fd(), libc::SOL_SOCKET, 29).unwrap();
            assert_eq!(want.value, one);
            assert_eq!(defaults.differing(fd.as_fd(), kind), [want]);
        }
    }
}
