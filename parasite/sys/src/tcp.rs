//! TCP connections taken apart and put together: `TCP_REPAIR` (3.5, `CAP_NET_ADMIN` over the
//! socket's net namespace).
//!
//! A socket under repair sends nothing by itself: `close` is silent, `connect` leads straight to
//! ESTABLISHED, and what is sent or received goes to or comes from the queue that is selected.

use crate::fd::{getsockopt, ioctl_bytes, setsockopt};
use crate::{Error, Result};
use std::os::fd::BorrowedFd;

/// `TCP_*` states of the kernel.
pub mod state {
    #![allow(missing_docs, reason = "names of the kernel")]
    pub const ESTABLISHED: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const FIN_WAIT1: u8 = 4;
    pub const FIN_WAIT2: u8 = 5;
    pub const TIME_WAIT: u8 = 6;
    pub const CLOSE: u8 = 7;
    pub const CLOSE_WAIT: u8 = 8;
    pub const LAST_ACK: u8 = 9;
    pub const LISTEN: u8 = 10;
    pub const CLOSING: u8 = 11;
    /// In answers of sock_diag only (6.8): bound, and otherwise in state CLOSE.
    pub const BOUND_INACTIVE: u8 = 13;
}

/// Bits of `tcp_info.tcpi_options`.
pub mod option {
    #![allow(missing_docs, reason = "names of the kernel")]
    pub const TIMESTAMPS: u32 = 1;
    pub const SACK: u32 = 2;
    pub const WSCALE: u32 = 4;
}

const TCP_MAXSEG: i32 = 2;
/// What the kernel allows as TCP_MAXSEG.
const MAXSEG: std::ops::RangeInclusive<u32> = 88..=32767;
const TCP_INFO: i32 = 11;
const TCP_REPAIR: i32 = 19;
const TCP_REPAIR_QUEUE: i32 = 20;
const TCP_QUEUE_SEQ: i32 = 21;
const TCP_REPAIR_OPTIONS: i32 = 22;
const TCP_TIMESTAMP: i32 = 24;
const TCP_REPAIR_WINDOW: i32 = 29;

const SIOCINQ: u64 = 0x541b;
const SIOCOUTQ: u64 = 0x5411;
const SIOCOUTQNSD: u64 = 0x894b;

/// What to do about repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Repair {
    /// Off, and the peer is not told that we are back (4.19).
    OffSilently = -1,
    /// Off; a window probe wakes the peer.
    Off = 0,
    /// On. The kernel forgets SO_REUSEADDR: it is off when repair is.
    On = 1,
}

/// Which queue is read, written or numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Queue {
    /// None: what is sent is really sent.
    None = 0,
    /// What was received and not read.
    Receive = 1,
    /// What was written and not acknowledged.
    Send = 2,
}

/// Parts of `struct tcp_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// `TCP_*` state.
    pub state: u8,
    /// Bits of [`option`].
    pub options: u32,
    /// Shift of the windows that the peer announces.
    pub snd_wscale: u32,
    /// Shift of the windows that we announce.
    pub rcv_wscale: u32,
}

/// `struct tcp_repair_window`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Sequence number of the segment that last changed the send window.
    pub snd_wl1: u32,
    /// Window that the peer announced.
    pub snd_wnd: u32,
    /// Largest window that it announced.
    pub max_window: u32,
    /// Window that we announced.
    pub rcv_wnd: u32,
    /// Next expected byte when we announced it.
    pub rcv_wup: u32,
}

/// An option of `TCP_REPAIR_OPTIONS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negotiated {
    /// Largest segment.
    Mss(u32),
    /// Window scales: of the peer's windows, of ours.
    Wscale(u32, u32),
    /// Selective acknowledgements are permitted.
    Sack,
    /// Segments carry timestamps.
    Timestamps,
}

fn int(fd: BorrowedFd<'_>, name: i32) -> Result<u32> {
    let mut value = [0u8; 4];
    getsockopt(fd, libc::IPPROTO_TCP, name, &mut value)?;
    Ok(u32::from_ne_bytes(value))
}

fn set(fd: BorrowedFd<'_>, name: i32, value: u32) -> Result<()> {
    setsockopt(fd, libc::IPPROTO_TCP, name, &value.to_ne_bytes())
}

/// Turns repair on or off.
pub fn repair(fd: BorrowedFd<'_>, what: Repair) -> Result<()> {
    match set(fd, TCP_REPAIR, (what as i32).cast_unsigned()) {
        Err(e) if what == Repair::OffSilently && e.errno() == libc::EINVAL => {
            set(fd, TCP_REPAIR, 0)
        }
        done => done,
    }
}

/// Selects a queue.
pub fn select(fd: BorrowedFd<'_>, queue: Queue) -> Result<()> {
    set(fd, TCP_REPAIR_QUEUE, (queue as i32).cast_unsigned())
}

/// Number behind the last byte of the selected queue.
pub fn queue_seq(fd: BorrowedFd<'_>) -> Result<u32> {
    int(fd, TCP_QUEUE_SEQ)
}

/// Number of the first byte that the selected queue will get; before `connect` only.
pub fn set_queue_seq(fd: BorrowedFd<'_>, seq: u32) -> Result<()> {
    set(fd, TCP_QUEUE_SEQ, seq)
}

/// The largest segment that the peer takes; under repair only.
pub fn mss_clamp(fd: BorrowedFd<'_>) -> Result<u32> {
    int(fd, TCP_MAXSEG)
}

/// Limits segments of a socket that is to be connected, or takes the limit away: 0.
pub fn limit_mss(fd: BorrowedFd<'_>, mss: u32) -> Result<()> {
    match mss {
        0 => set(fd, TCP_MAXSEG, 0),
        _ => set(fd, TCP_MAXSEG, mss.clamp(*MAXSEG.start(), *MAXSEG.end())),
    }
}

/// Has the kernel compute the size of segments anew, of a connection over IPv4.
pub fn renew_mss(fd: BorrowedFd<'_>) -> Result<()> {
    // Headers may have become longer.
    setsockopt(fd, libc::IPPROTO_IP, libc::IP_OPTIONS, &[])
}

/// The clock that timestamps are taken from.
pub fn timestamp(fd: BorrowedFd<'_>) -> Result<u32> {
    int(fd, TCP_TIMESTAMP)
}

/// Lets that clock go on from `value`.
pub fn set_timestamp(fd: BorrowedFd<'_>, value: u32) -> Result<()> {
    set(fd, TCP_TIMESTAMP, value)
}

/// `TCP_INFO`.
pub fn info(fd: BorrowedFd<'_>) -> Result<Info> {
    let mut raw = [0u8; 8];
    let len = getsockopt(fd, libc::IPPROTO_TCP, TCP_INFO, &mut raw)?;
    if len < 7 {
        return Err(Error::new("getsockopt(TCP_INFO)", libc::EMSGSIZE));
    }
    Ok(Info {
        state: raw[0],
        options: raw[5].into(),
        snd_wscale: (raw[6] & 15).into(),
        rcv_wscale: (raw[6] >> 4).into(),
    })
}

/// The windows (4.8); `None` where the kernel does not tell.
pub fn window(fd: BorrowedFd<'_>) -> Result<Option<Window>> {
    let mut raw = [0u8; 20];
    match getsockopt(fd, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &mut raw) {
        Err(e) if e.errno() == libc::ENOPROTOOPT => Ok(None),
        Err(e) => Err(e),
        Ok(_) => {
            let word = |i: usize| raw[4 * i..].first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
            Ok(Some(Window {
                snd_wl1: word(0),
                snd_wnd: word(1),
                max_window: word(2),
                rcv_wnd: word(3),
                rcv_wup: word(4),
            }))
        }
    }
}

/// Sets the windows.
pub fn set_window(fd: BorrowedFd<'_>, w: Window) -> Result<()> {
    let words = [w.snd_wl1, w.snd_wnd, w.max_window, w.rcv_wnd, w.rcv_wup];
    let raw: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    setsockopt(fd, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW, &raw)
}

/// Sets what was negotiated; in state ESTABLISHED, before anything was sent.
pub fn set_negotiated(fd: BorrowedFd<'_>, options: &[Negotiated]) -> Result<()> {
    // Numbers of the options in TCP headers.
    let pair = |option: &Negotiated| match *option {
        Negotiated::Mss(mss) => [2, mss],
        Negotiated::Wscale(snd, rcv) => [3, snd | rcv << 16],
        Negotiated::Sack => [4, 0],
        Negotiated::Timestamps => [8, 0],
    };
    let raw: Vec<u8> = options.iter().flat_map(pair).flat_map(u32::to_ne_bytes).collect();
    setsockopt(fd, libc::IPPROTO_TCP, TCP_REPAIR_OPTIONS, &raw)
}

/// Bytes received and not read.
pub fn unread(fd: BorrowedFd<'_>) -> Result<u32> {
    length(fd, SIOCINQ)
}

/// What was written and not acknowledged, and how much of it was never sent. A FIN counts as one.
pub fn unacknowledged(fd: BorrowedFd<'_>) -> Result<(u32, u32)> {
    Ok((length(fd, SIOCOUTQ)?, length(fd, SIOCOUTQNSD)?))
}

fn length(fd: BorrowedFd<'_>, request: u64) -> Result<u32> {
    let mut value = [0u8; 4];
    ioctl_bytes(fd, request, &mut value)?;
    Ok(u32::from_ne_bytes(value))
}
