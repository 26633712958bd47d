//! TCP connections: a socket under repair gets numbers, peer, options and queues of the old one.
//!
//! | state | number one less | behind the queues |
//! |---|---|---|
//! | CLOSE_WAIT | received | the peer's FIN |
//! | FIN_WAIT1 | sent | our FIN, to be acknowledged |
//! | FIN_WAIT2 | sent | our FIN as sent, the peer's ACK of it |
//! | CLOSING | both | our FIN, the peer's FIN |
//! | LAST_ACK | both | the peer's FIN, our FIN |
//! | CLOSE | both | the peer's FIN, our FIN as sent, the ACK of it; or the peer's RST |
//!
//! What the peer did is done by forged segments, which the network lock lets through by their
//! mark. Sockets stay under repair until the network is unlocked: [`finish`].

mod segment;

use super::open::Files;
use super::set::FileSet;
use super::{At, Error, FilesPlan, Result};
use crate::Request;
use images::Extent;
use images::checkpoint::TcpStream;
use images::proto::{InetSkEntry, TcpStreamEntry};
use segment::{ACK, FIN, RST, Segment};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use sys::tcp::{self, Negotiated, Queue, Repair, Window, option, state};

/// Bytes that are put into a queue by one call: few fragments.
const CHUNK: usize = 64 << 10;

/// Whether a socket has a peer, or had one.
pub(super) fn is_connection(entry: &InetSkEntry) -> bool {
    let tcp = entry.r#type as i32 == libc::SOCK_STREAM;
    tcp && entry.state != u32::from(state::LISTEN) && entry.dst_port != 0
}

fn is_closed(entry: &InetSkEntry) -> bool {
    entry.state == u32::from(state::CLOSE)
}

/// The connection that a socket gets back; none for those that are closed instead.
pub(super) fn stream<'a>(
    set: &'a FileSet,
    request: &Request,
    entry: &InetSkEntry,
) -> Option<&'a TcpStream> {
    let closed = request.tcp_close && !is_closed(entry);
    set.tcp_streams.get(&entry.ino).filter(|_| is_connection(entry) && !closed)
}

/// Whether any connection needs segments of its peer.
pub(super) fn forges(set: &FileSet, request: &Request) -> bool {
    let entries = set.files.values().filter_map(|f| f.isk.as_ref());
    let needs = |e: &InetSkEntry| {
        let fins = stream(set, request, e).map(|s| Fins::of(e, &s.entry)).unwrap_or_default();
        fins.peer || fins.acknowledged || fins.reset
    };
    entries.into_iter().any(needs)
}

/// Refuses what cannot become a connection.
pub(super) fn check(set: &FileSet, request: &Request) -> Result<()> {
    let refuse = |entry: &InetSkEntry, text: &str| {
        let name = super::inet_sk::name(entry);
        Err(Error::Refused(format!("file {}, socket {name}: {text}", entry.id)))
    };
    for entry in set.files.values().filter_map(|f| f.isk.as_ref()).filter(|e| is_connection(e)) {
        if !request.tcp_close && !request.tcp_established && !is_closed(entry) {
            return refuse(
                entry,
                "Connected TCP socket in image, consider using --tcp-established or --tcp-close",
            );
        }
        let Some(stream) = stream(set, request, entry) else {
            if is_closed(entry) || request.tcp_close {
                continue;
            }
            return refuse(entry, &format!("tcp-stream-{:x}.img is missing", entry.ino));
        };
        let e = &stream.entry;
        if e.opt_mask & option::WSCALE != 0 && (e.rcv_wscale.is_none_or(|w| w > 14)) {
            return refuse(entry, "rcv_wscale is missing or over 14");
        }
        if e.snd_wscale > 14 {
            return refuse(entry, "snd_wscale is over 14");
        }
        if e.opt_mask & option::TIMESTAMPS != 0 && e.timestamp.is_none() {
            return refuse(entry, "timestamp is missing");
        }
        let known = [
            state::ESTABLISHED,
            state::SYN_SENT,
            state::FIN_WAIT1,
            state::FIN_WAIT2,
            state::CLOSE,
            state::CLOSE_WAIT,
            state::LAST_ACK,
            state::CLOSING,
        ];
        if !known.iter().any(|s| u32::from(*s) == entry.state) {
            return refuse(entry, &format!("state {} cannot be restored", entry.state));
        }
    }
    Ok(())
}

/// An address of the image.
fn address(entry: &InetSkEntry, words: &[u32], port: u32) -> Result<SocketAddr> {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    let ip = match (<[u8; 4]>::try_from(&bytes[..]), <[u8; 16]>::try_from(&bytes[..])) {
        (Ok(v4), _) => IpAddr::from(Ipv4Addr::from(v4)),
        // Mapped ones are of IPv4 on the wire.
        (_, Ok(v6)) => Ipv6Addr::from(v6).to_canonical(),
        _ => return Err(Error::Refused(format!("an address of {} words", words.len()))),
    };
    let port = port as u16;
    Ok(match ip {
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, super::inet_sk::scope(entry)?).into(),
    })
}

/// Own and peer's address of a connection.
pub(super) fn addresses(entry: &InetSkEntry) -> Result<(SocketAddr, SocketAddr)> {
    let own = address(entry, &entry.src_addr, entry.src_port)?;
    Ok((own, address(entry, &entry.dst_addr, entry.dst_port)?))
}

/// Which FINs were there.
#[derive(Clone, Copy, Debug, Default)]
struct Fins {
    own: bool,
    /// Our own needs no acknowledgement any more.
    acknowledged: bool,
    peer: bool,
    reset: bool,
}

impl Fins {
    fn of(entry: &InetSkEntry, stream: &TcpStreamEntry) -> Self {
        let fins = |own, acknowledged, peer| Self { own, acknowledged, peer, reset: false };
        match entry.state as u8 {
            state::FIN_WAIT1 => fins(true, false, false),
            state::FIN_WAIT2 => fins(true, true, false),
            state::CLOSING | state::LAST_ACK => fins(true, false, true),
            state::CLOSE_WAIT => fins(false, false, true),
            state::CLOSE if stream.amber_reset() => Self { reset: true, ..Self::default() },
            state::CLOSE => fins(true, true, true),
            _ => Self::default(),
        }
    }
}

impl Files<'_> {
    /// Brings a socket that has room and its first options into the connection of the image.
    pub(super) fn connect_tcp(
        &self,
        sk: BorrowedFd<'_>,
        entry: &InetSkEntry,
        stream: &TcpStream,
    ) -> Result<()> {
        let e = &stream.entry;
        let fins = Fins::of(entry, e);
        // SO_REUSEADDR is on already: set later, it would take the right to any address away.
        tcp::repair(sk, Repair::On)?;
        self.bind_to(sk, entry, &super::inet_sk::own_address(entry)?)?;
        let syn = u32::from(entry.state as u8 == state::SYN_SENT);
        let minus = |seq: u32, len: u32, more: u32| seq.wrapping_sub(len).wrapping_sub(more);
        tcp::select(sk, Queue::Receive)?;
        tcp::set_queue_seq(sk, minus(e.inq_seq, e.inq_len, fins.peer.into()))?;
        tcp::select(sk, Queue::Send)?;
        tcp::set_queue_seq(sk, minus(e.outq_seq, e.outq_len, syn | u32::from(fins.own)))?;
        let peer = super::inet_sk::peer_address(entry)?;
        if syn != 0 {
            return start(sk, &peer);
        }
        let (_, to) = addresses(entry)?;
        connect(sk, &peer, to, e)?;
        self.fill_queues(sk, stream)?;
        set_window(sk, e, fins)?;
        tcp::select(sk, Queue::None)?;
        segment::deaf(sk, || close(sk, entry, e, fins))?;
        let now = tcp::info(sk)?.state;
        if u32::from(now) != entry.state {
            let text = format!("is in TCP state {now}, not {}", entry.state);
            return Err(Error::Refused(text));
        }
        Ok(())
    }

    fn fill_queues(&self, sk: BorrowedFd<'_>, stream: &TcpStream) -> Result<()> {
        tcp::select(sk, Queue::Receive)?;
        self.put(sk, stream.inq).at(|| "receive queue".into())?;
        let unsent = u64::from(stream.entry.unsq_len());
        let sent = stream.outq.len - unsent;
        tcp::select(sk, Queue::Send)?;
        self.put(sk, Extent { len: sent, ..stream.outq }).at(|| "send queue".into())?;
        if unsent > 0 {
            // What is sent under repair counts as sent.
            let rest = Extent { offset: stream.outq.offset + sent, len: unsent, ..stream.outq };
            tcp::repair(sk, Repair::OffSilently)?;
            let put = self.put(sk, rest).at(|| "unsent data".into());
            tcp::repair(sk, Repair::On)?;
            put?;
        }
        Ok(())
    }

    /// Puts bytes into the selected queue.
    fn put(&self, sk: BorrowedFd<'_>, bytes: Extent) -> Result<()> {
        let data = self.extent(bytes)?;
        let (mut rest, mut chunk) = (&data[..], CHUNK);
        while !rest.is_empty() {
            let some = &rest[..rest.len().min(chunk)];
            match sys::net::send_msg(sk, some, &[], &[], libc::MSG_DONTWAIT) {
                Ok(n) => rest = &rest[n..],
                // No memory in one piece.
                Err(e) if matches!(e.errno(), libc::ENOMEM | libc::ENOBUFS) && chunk > 1024 => {
                    chunk /= 2;
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// Sends a SYN once more, with the old number.
fn start(sk: BorrowedFd<'_>, peer: &[u8]) -> Result<()> {
    tcp::repair(sk, Repair::OffSilently)?;
    let flags = sys::fd::fcntl(sk, libc::F_GETFL, 0)?;
    sys::fd::fcntl(sk, libc::F_SETFL, (flags | libc::O_NONBLOCK) as u64)?;
    match sys::net::connect(sk, peer) {
        Err(e) if e.errno() != libc::EINPROGRESS => return Err(e.into()),
        _ => {}
    }
    sys::fd::fcntl(sk, libc::F_SETFL, flags as u64)?;
    Ok(())
}

/// Connects, and lets segments be as long as they were: `connect` under repair knows nothing of
/// the peer's limit and takes the least, and the kernel does not look again when it is told.
fn connect(sk: BorrowedFd<'_>, peer: &[u8], to: SocketAddr, e: &TcpStreamEntry) -> Result<()> {
    if to.is_ipv4() {
        sys::net::connect(sk, peer)?;
        negotiate(sk, e)?;
        return Ok(tcp::renew_mss(sk)?);
    }
    tcp::limit_mss(sk, e.mss_clamp)?;
    sys::net::connect(sk, peer)?;
    tcp::limit_mss(sk, 0)?;
    negotiate(sk, e)
}

fn negotiate(sk: BorrowedFd<'_>, e: &TcpStreamEntry) -> Result<()> {
    let mut options = vec![Negotiated::Mss(e.mss_clamp)];
    if e.opt_mask & option::WSCALE != 0 {
        options.push(Negotiated::Wscale(e.snd_wscale, e.rcv_wscale()));
    }
    if e.opt_mask & option::SACK != 0 {
        options.push(Negotiated::Sack);
    }
    if e.opt_mask & option::TIMESTAMPS != 0 {
        options.push(Negotiated::Timestamps);
    }
    tcp::set_negotiated(sk, &options)?;
    if e.opt_mask & option::TIMESTAMPS != 0 {
        tcp::set_timestamp(sk, e.timestamp())?;
    }
    Ok(())
}

fn set_window(sk: BorrowedFd<'_>, e: &TcpStreamEntry, fins: Fins) -> Result<()> {
    let (Some(snd_wl1), Some(snd_wnd), Some(max_window), Some(rcv_wnd), Some(rcv_wup)) =
        (e.snd_wl1, e.snd_wnd, e.max_window, e.rcv_wnd, e.rcv_wup)
    else {
        return Ok(());
    };
    let mut window = Window { snd_wl1, snd_wnd, max_window, rcv_wnd, rcv_wup };
    if fins.peer {
        // It comes later, and needs room.
        window.rcv_wnd = window.rcv_wnd.saturating_add(1);
        if rcv_wup == e.inq_seq {
            window.rcv_wup = rcv_wup.wrapping_sub(1);
        }
    }
    Ok(tcp::set_window(sk, window)?)
}

/// Our FIN and what came from the peer behind its data.
fn close(sk: BorrowedFd<'_>, entry: &InetSkEntry, e: &TcpStreamEntry, fins: Fins) -> Result<()> {
    if !fins.own && !fins.peer && !fins.reset {
        return Ok(());
    }
    let (to, from) = addresses(entry)?;
    let scale = if e.opt_mask & option::WSCALE != 0 { e.snd_wscale } else { 0 };
    let window = (e.snd_wnd.unwrap_or(u32::MAX) >> scale).min(0xffff) as u16;
    let una = e.outq_seq.wrapping_sub(e.outq_len).wrapping_sub(fins.own.into());
    let next = e.inq_seq.wrapping_sub(fins.peer.into());
    let segment = Segment { from, to, seq: next, ack: una, flags: ACK, window };
    let own = || -> Result<()> {
        if fins.acknowledged {
            tcp::select(sk, Queue::Send)?;
        }
        sys::net::shutdown(sk, libc::SHUT_WR)?;
        Ok(tcp::select(sk, Queue::None)?)
    };
    if fins.reset {
        return Segment { flags: RST | ACK, ..segment }.send();
    }
    let own_first = entry.state as u8 == state::CLOSING;
    if own_first {
        own()?;
    }
    if fins.peer {
        Segment { flags: FIN | ACK, ..segment }.send()?;
    }
    if fins.own && !own_first {
        own()?;
    }
    if fins.acknowledged {
        Segment { seq: e.inq_seq, ack: e.outq_seq, ..segment }.send()?;
    }
    Ok(())
}

/// Connections in flight inside of other sockets, held for [`finish`].
#[derive(Debug, Default)]
pub struct Flying(HashMap<u32, OwnedFd>);

/// Takes copies of the connections that are in no table. When all tasks have installed theirs.
pub fn flying(plan: &FilesPlan, pid_of: &dyn Fn(i32) -> i32) -> Result<Flying> {
    let mut all = HashMap::new();
    for (id, (owner, number)) in &plan.flying {
        let task = sys::fd::pidfd_open(pid_of(*owner), 0)?;
        let fd = sys::fd::pidfd_getfd(task.as_fd(), *number).at(|| format!("file {id}"))?;
        all.insert(*id, fd);
    }
    Ok(Flying(all))
}

/// Lets all connections go on: the network is unlocked, and the tasks stand still.
pub fn finish(
    plan: &FilesPlan,
    request: &Request,
    flying: Flying,
    pid_of: &dyn Fn(i32) -> i32,
) -> Result<()> {
    let connections = plan.set.files.values().filter_map(|f| f.isk.as_ref());
    let mut due: HashMap<u32, &InetSkEntry> = connections
        .filter(|e| stream(&plan.set, request, e).is_some())
        .map(|e| (e.id, e))
        .collect();
    for (id, fd) in flying.0 {
        if let Some(entry) = due.remove(&id) {
            go_on(fd.as_fd(), entry)?;
        }
    }
    for (owner, table) in &plan.tables {
        let mut task: Option<OwnedFd> = None;
        for slot in table {
            let Some(entry) = due.remove(&slot.id) else { continue };
            let at = || format!("task {owner}: fd {}", slot.fd);
            let task = match &mut task {
                Some(task) => task,
                none => none.insert(sys::fd::pidfd_open(pid_of(*owner), 0)?),
            };
            let fd = sys::fd::pidfd_getfd(task.as_fd(), slot.fd).at(at)?;
            go_on(fd.as_fd(), entry).at(at)?;
        }
    }
    Ok(())
}

fn go_on(fd: BorrowedFd<'_>, entry: &InetSkEntry) -> Result<()> {
    // Even if it is not under repair any more: SO_REUSEADDR is what the kernel made of it.
    tcp::repair(fd, Repair::Off)?;
    let reuse = u32::from(entry.opts.reuseaddr()).to_ne_bytes();
    Ok(sys::fd::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &reuse)?)
}
