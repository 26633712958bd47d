//! Parsers of what the kernel tells about files: functions on bytes, so that they can be fuzzed.

/// The lines of a `fdinfo` file that every kind has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fdinfo {
    /// Offset, as shown (negative ones wrap).
    pub pos: u64,
    /// `F_GETFL` value, without `O_CLOEXEC`.
    pub flags: u32,
    /// `FD_CLOEXEC` of this descriptor.
    pub cloexec: bool,
    /// Mount.
    pub mnt_id: i32,
    /// Inode (5.14), 0 when not told.
    pub ino: u64,
    /// There are file locks.
    pub locks: bool,
}

const O_CLOEXEC: u32 = 0o2_000_000;

/// Value of the line `key:`, without surrounding blanks.
pub fn value<'a>(text: &'a [u8], key: &str) -> Option<&'a str> {
    text.split(|&b| b == b'\n').find_map(|line| {
        let rest = line.strip_prefix(key.as_bytes())?.strip_prefix(b":")?;
        Some(std::str::from_utf8(rest).ok()?.trim())
    })
}

impl Fdinfo {
    /// Parses the text; `None` when one of the oldest lines is missing.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let pos = value(text, "pos")?;
        let flags = u32::from_str_radix(value(text, "flags")?, 8).ok()?;
        Some(Self {
            pos: pos.parse::<u64>().or_else(|_| pos.parse::<i64>().map(|p| p as u64)).ok()?,
            flags: flags & !O_CLOEXEC,
            cloexec: flags & O_CLOEXEC != 0,
            mnt_id: value(text, "mnt_id")?.parse().ok()?,
            ino: value(text, "ino").and_then(|v| v.parse().ok()).unwrap_or(0),
            locks: text.split(|&b| b == b'\n').any(|l| l.starts_with(b"lock:")),
        })
    }
}

/// Kinds of file locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// `fcntl(F_SETLK)`: of a process.
    Posix,
    /// `flock`.
    Flock,
    /// `fcntl(F_OFD_SETLK)`.
    Ofd,
    /// `fcntl(F_SETLEASE)`.
    Lease,
    /// A kind that is not known.
    Other,
}

/// A file lock, as `fdinfo` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FileLock {
    /// Its kind.
    pub kind: LockKind,
    /// `F_RDLCK`, `F_WRLCK`, `F_UNLCK`; of a lease that is being broken, what it is to become.
    pub kind_of_lock: u32,
    /// A lease that is being broken.
    pub breaking: bool,
    /// First byte.
    pub start: u64,
    /// Number of bytes, 0 for all that follow.
    pub len: u64,
}

/// The `lock:` lines of a `fdinfo` text.
pub fn file_locks(text: &[u8]) -> Vec<FileLock> {
    lines_with(text, "lock:").filter_map(file_lock).collect()
}

/// `1: FLOCK  ADVISORY  WRITE 359 fe:00:1705 0 EOF`
fn file_lock(line: &str) -> Option<FileLock> {
    let mut words = line.trim_start_matches("lock:").split_ascii_whitespace().skip(1);
    let kind = match words.next()? {
        "POSIX" => LockKind::Posix,
        "FLOCK" => LockKind::Flock,
        "OFDLCK" => LockKind::Ofd,
        "LEASE" => LockKind::Lease,
        _ => LockKind::Other,
    };
    let breaking = words.next()? == "BREAKING";
    let kind_of_lock = match words.next()? {
        "READ" => 0,
        "WRITE" => 1,
        "UNLCK" => 2,
        _ => 3,
    };
    let mut range = words.skip(2);
    let start = range.next()?.parse().ok()?;
    let len = match range.next()? {
        "EOF" => 0,
        end => end.parse::<u64>().ok()?.checked_sub(start)?.checked_add(1)?,
    };
    Some(FileLock { kind, kind_of_lock, breaking, start, len })
}

/// Words `key:value` of a line, where blanks may follow the colon.
fn word<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let at = line.match_indices(key).find(|&(i, _)| {
        line[i + key.len()..].starts_with(':')
            && (i == 0 || line.as_bytes()[i - 1].is_ascii_whitespace())
    })?;
    line[at.0 + key.len() + 1..].split_ascii_whitespace().next()
}

fn hex<T: TryFrom<u64>>(text: &str) -> Option<T> {
    T::try_from(u64::from_str_radix(text, 16).ok()?).ok()
}

fn lines_with<'a>(text: &'a [u8], prefix: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(|&b| b == b'\n')
        .filter_map(|l| std::str::from_utf8(l).ok())
        .filter(move |l| l.starts_with(prefix))
}

/// A `tfd:` line of an epoll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The number the target was added under.
    pub tfd: u32,
    /// Wanted events and flags.
    pub events: u32,
    /// The program's word.
    pub data: u64,
    /// Offset of the target (4.13).
    pub pos: u64,
    /// Its inode (4.13).
    pub ino: u64,
    /// Device of its inode, kernel encoding (4.13).
    pub sdev: u32,
}

/// The targets of an epoll, in the kernel's order; `None` when a line does not parse.
pub fn epoll(text: &[u8]) -> Option<Vec<Target>> {
    lines_with(text, "tfd:")
        .map(|l| {
            Some(Target {
                tfd: word(l, "tfd")?.parse().ok()?,
                events: hex(word(l, "events")?)?,
                data: hex(word(l, "data")?)?,
                pos: word(l, "pos").map_or(Some(0), |v| {
                    v.parse::<u64>().or_else(|_| v.parse::<i64>().map(|p| p as u64)).ok()
                })?,
                ino: word(l, "ino").map_or(Some(0), hex)?,
                sdev: word(l, "sdev").map_or(Some(0), hex)?,
            })
        })
        .collect()
}

/// An `inotify` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Watch descriptor.
    pub wd: u32,
    /// Watched inode.
    pub ino: u64,
    /// Its device, kernel encoding.
    pub sdev: u32,
    /// Events.
    pub mask: u32,
    /// Ignored events.
    pub ignored_mask: u32,
    /// Type and bytes of the file handle, when the file system has them.
    pub handle: Option<(i32, Vec<u8>)>,
}

fn handle(line: &str) -> Option<(i32, Vec<u8>)> {
    let len: usize = hex(word(line, "fhandle-bytes")?)?;
    let kind: u32 = hex(word(line, "fhandle-type")?)?;
    let text = word(line, "f_handle")?;
    if len > 128 || text.len() < len * 2 || !text.is_ascii() {
        return None;
    }
    let bytes: Option<Vec<u8>> = (0..len).map(|i| hex(&text[2 * i..2 * i + 2])).collect();
    Some((kind as i32, bytes?))
}

/// The watches of an inotify, in the kernel's order; `None` when a line does not parse.
pub fn inotify(text: &[u8]) -> Option<Vec<Watch>> {
    lines_with(text, "inotify ")
        .map(|l| {
            Some(Watch {
                wd: hex(word(l, "wd")?)?,
                ino: hex(word(l, "ino")?)?,
                sdev: hex(word(l, "sdev")?)?,
                mask: hex(word(l, "mask")?)?,
                ignored_mask: hex(word(l, "ignored_mask")?)?,
                handle: handle(l),
            })
        })
        .collect()
}

/// What a fanotify watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// An inode.
    pub watch: Option<Watch>,
    /// A mount, by its id.
    pub mnt_id: Option<i32>,
    /// `FAN_MARK_*` of the ignored events.
    pub mflags: u32,
    /// Events.
    pub mask: u32,
    /// Ignored events.
    pub ignored_mask: u32,
}

/// Lines of a fanotify.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fanotify {
    /// Flags of `fanotify_init`.
    pub flags: u32,
    /// `O_*` of descriptors in events.
    pub event_flags: u32,
    /// In the kernel's order.
    pub marks: Vec<Mark>,
}

/// What a fanotify is and watches; `None` when a line does not parse.
pub fn fanotify(text: &[u8]) -> Option<Fanotify> {
    let mut out = Fanotify::default();
    for line in lines_with(text, "fanotify ") {
        if let Some(flags) = word(line, "flags") {
            (out.flags, out.event_flags) = (hex(flags)?, hex(word(line, "event-flags")?)?);
            continue;
        }
        let (mask, ignored_mask) = (hex(word(line, "mask")?)?, hex(word(line, "ignored_mask")?)?);
        let sdev = word(line, "sdev").map(hex);
        let watch = match word(line, "ino") {
            None => None,
            Some(ino) => {
                let handle = handle(line);
                Some(Watch { wd: 0, ino: hex(ino)?, sdev: sdev??, mask, ignored_mask, handle })
            }
        };
        let mnt_id = match word(line, "mnt_id") {
            None => None,
            Some(id) => Some(hex::<u32>(id)?.cast_signed()),
        };
        let mflags = hex(word(line, "mflags")?)?;
        out.marks.push(Mark { watch, mnt_id, mflags, mask, ignored_mask });
    }
    Some(out)
}

/// Lines of a timerfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// `CLOCK_*`.
    pub clockid: u32,
    /// Unread expirations.
    pub ticks: u64,
    /// `TFD_TIMER_*`.
    pub settime_flags: u32,
    /// Time left: seconds, nanoseconds.
    pub value: (u64, u64),
    /// Period: seconds, nanoseconds.
    pub interval: (u64, u64),
}

fn pair(text: &str) -> Option<(u64, u64)> {
    let (a, b) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(", ")?;
    Some((a.parse().ok()?, b.parse().ok()?))
}

/// Parses `fdinfo` of a timerfd.
pub fn timerfd(text: &[u8]) -> Option<Timer> {
    Some(Timer {
        clockid: value(text, "clockid")?.parse().ok()?,
        ticks: value(text, "ticks")?.parse().ok()?,
        settime_flags: u32::from_str_radix(value(text, "settime flags")?, 8).ok()?,
        value: pair(value(text, "it_value")?)?,
        interval: pair(value(text, "it_interval")?)?,
    })
}

/// A line of `mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Mount id.
    pub id: i32,
    /// Device, kernel encoding.
    pub dev: u32,
    /// What of the file system is mounted.
    pub root: Vec<u8>,
    /// Where.
    pub point: Vec<u8>,
}

/// Undoes the octal escapes of `mountinfo` and `maps`.
pub fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut i = 0;
    while i < text.len() {
        let digits = text.get(i + 1..i + 4).filter(|d| d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(d) if text[i] == b'\\' && d[0] <= b'3' => {
                out.push((d[0] - b'0') << 6 | (d[1] - b'0') << 3 | (d[2] - b'0'));
                i += 4;
            }
            _ => {
                out.push(text[i]);
                i += 1;
            }
        }
    }
    out
}

/// The mounts of `mountinfo`; lines that do not parse are left out.
pub fn mountinfo(text: &[u8]) -> Vec<Mount> {
    let line = |l: &[u8]| {
        let mut w = l.split(|&b| b == b' ');
        let id = std::str::from_utf8(w.next()?).ok()?.parse().ok()?;
        let dev = std::str::from_utf8(w.nth(1)?).ok()?;
        let (major, minor) = dev.split_once(':')?;
        let dev = major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()? & 0xf_ffff;
        Some(Mount { id, dev, root: unescape(w.next()?), point: unescape(w.next()?) })
    };
    text.split(|&b| b == b'\n').filter_map(line).collect()
}

/// What `sock_diag` tells about a unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnixDiag {
    /// Inode.
    pub ino: u32,
    /// `SOCK_*`.
    pub kind: u8,
    /// 1 established, 7 unconnected, 10 listening.
    pub state: u8,
    /// Address: path (perhaps with its NUL), or NUL and an abstract name.
    pub name: Vec<u8>,
    /// Device and inode of the socket file.
    pub vfs: Option<(u32, u32)>,
    /// Inode of the other end.
    pub peer: u32,
    /// Inodes of clients in the accept queue.
    pub icons: Vec<u32>,
    /// Receive queue; pending connections of a listener.
    pub rqueue: u32,
    /// Send queue; backlog of a listener.
    pub wqueue: u32,
    /// Bit 0 receive, bit 1 send.
    pub shutdown: u8,
}

/// What `sock_diag` tells about a netlink socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetlinkDiag {
    /// Inode.
    pub ino: u32,
    /// `NETLINK_*`.
    pub protocol: u8,
    /// 0 unconnected, 1 connected.
    pub state: u8,
    /// Own address.
    pub portid: u32,
    /// Address of the other end.
    pub dst_portid: u32,
    /// Its group.
    pub dst_group: u32,
    /// Groups it is in, a bit for each.
    pub groups: Vec<u32>,
}

/// Parses the body of a netlink answer.
pub fn netlink_diag(b: &[u8]) -> Option<NetlinkDiag> {
    let mut out = NetlinkDiag {
        protocol: *b.get(2)?,
        state: *b.get(3)?,
        portid: u32_at(b, 4)?,
        dst_portid: u32_at(b, 8)?,
        dst_group: u32_at(b, 12)?,
        ino: u32_at(b, 16)?,
        groups: Vec::new(),
    };
    for (kind, p) in attributes(b.get(28..)?) {
        if kind == 1 {
            out.groups = (0..p.len() / 4).filter_map(|i| u32_at(p, 4 * i)).collect();
        }
    }
    Some(out)
}

/// What `sock_diag` tells about an inet socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InetDiag {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// `TCP_*` state.
    pub state: u8,
    /// Ports, host order.
    pub ports: (u16, u16),
    /// Addresses, words in network order.
    pub addrs: ([u32; 4], [u32; 4]),
    /// Interface it is bound to.
    pub ifindex: u32,
    /// Receive queue.
    pub rqueue: u32,
    /// Send queue; backlog of a listener.
    pub wqueue: u32,
    /// Inode.
    pub ino: u32,
    /// Bit 0 receive, bit 1 send.
    pub shutdown: u8,
    /// Keys that sign segments (`struct tcp_diag_md5sig`).
    pub keys: Vec<[u8; 100]>,
}

fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(b.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Attributes (type, payload) of a netlink message.
fn attributes(b: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    sys::netlink::attributes(b).map(|a| (a.kind, a.value))
}

/// Parses the body of a unix answer.
pub fn unix_diag(b: &[u8]) -> Option<UnixDiag> {
    let mut out =
        UnixDiag { kind: *b.get(1)?, state: *b.get(2)?, ino: u32_at(b, 4)?, ..UnixDiag::default() };
    for (kind, p) in attributes(b.get(16..)?) {
        match kind {
            0 => out.name = p.to_vec(),
            // Inode, then device.
            1 => out.vfs = Some((u32_at(p, 4)?, u32_at(p, 0)?)),
            2 => out.peer = u32_at(p, 0)?,
            3 => out.icons = (0..p.len() / 4).filter_map(|i| u32_at(p, 4 * i)).collect(),
            4 => (out.rqueue, out.wqueue) = (u32_at(p, 0)?, u32_at(p, 4)?),
            6 => out.shutdown = *p.first()?,
            _ => {}
        }
    }
    Some(out)
}

/// Parses the body of an inet answer.
pub fn inet_diag(b: &[u8]) -> Option<InetDiag> {
    let port = |at: usize| Some(u16::from_be_bytes(b.get(at..at + 2)?.try_into().ok()?));
    let addr = |at: usize| {
        Some([u32_at(b, at)?, u32_at(b, at + 4)?, u32_at(b, at + 8)?, u32_at(b, at + 12)?])
    };
    let mut out = InetDiag {
        family: *b.first()?,
        state: *b.get(1)?,
        ports: (port(4)?, port(6)?),
        addrs: (addr(8)?, addr(24)?),
        ifindex: u32_at(b, 40)?,
        rqueue: u32_at(b, 56)?,
        wqueue: u32_at(b, 60)?,
        ino: u32_at(b, 68)?,
        shutdown: 0,
        keys: Vec::new(),
    };
    for (kind, p) in attributes(b.get(72..)?) {
        match kind {
            8 => out.shutdown = *p.first()?,
            // INET_DIAG_MD5SIG
            18 => out.keys = p.as_chunks().0.to_vec(),
            _ => {}
        }
    }
    Some(out)
}

/// Words of the GNU build-id of an ELF file, found in its first bytes.
pub fn build_id(b: &[u8]) -> Option<Vec<u32>> {
    let wide = match (b.get(..4)?, b.get(4)?, b.get(5)?) {
        (b"\x7fELF", 2, 1) => true,
        (b"\x7fELF", 1, 1) => false,
        _ => return None,
    };
    let word = |at: usize| -> Option<usize> {
        let b = b.get(at..)?;
        Some(if wide {
            usize::try_from(u64::from_le_bytes(b.get(..8)?.try_into().ok()?)).ok()?
        } else {
            u32::from_le_bytes(b.get(..4)?.try_into().ok()?) as usize
        })
    };
    let half =
        |at: usize| Some(usize::from(u16::from_le_bytes(b.get(at..at + 2)?.try_into().ok()?)));
    let (phoff, size, count) =
        if wide { (word(32)?, half(54)?, half(56)?) } else { (word(28)?, half(42)?, half(44)?) };
    for i in 0..count {
        let ph = phoff.checked_add(i * size)?;
        if u32_at(b, ph)? != 4 {
            continue;
        }
        // A header of which four bytes are there: these sums cannot overflow.
        let (offset, len) =
            if wide { (word(ph + 8)?, word(ph + 32)?) } else { (word(ph + 4)?, word(ph + 16)?) };
        let notes = b.get(offset..offset.checked_add(len)?.min(b.len())).unwrap_or_default();
        if let Some(id) = build_id_note(notes) {
            return Some(id);
        }
    }
    None
}

fn build_id_note(mut notes: &[u8]) -> Option<Vec<u32>> {
    loop {
        let (namesz, descsz) = (u32_at(notes, 0)? as usize, u32_at(notes, 4)? as usize);
        let desc = 12 + namesz.checked_next_multiple_of(4)?;
        if u32_at(notes, 8)? == 3 && notes.get(12..16)? == b"GNU\0" && namesz == 4 {
            let words = notes.get(desc..desc.checked_add(descsz)?)?.chunks(4).map(|c| {
                let mut word = [0u8; 4];
                word[..c.len()].copy_from_slice(c);
                u32::from_ne_bytes(word)
            });
            return Some(words.collect());
        }
        notes = notes.get(desc.checked_add(descsz.checked_next_multiple_of(4)?)?..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // All texts: Linux 6.18.

    #[test]
    fn cloexec_is_not_a_status_flag() {
        let text = b"pos:\t11\nflags:\t02102002\nmnt_id:\t27\nino:\t9986158\n";
        let want = Fdinfo {
            pos: 11,
            flags: 0o102_002,
            cloexec: true,
            mnt_id: 27,
            ino: 9_986_158,
            locks: false,
        };
        assert_eq!(Fdinfo::parse(text), Some(want));
        assert_eq!(Fdinfo::parse(b"pos:\t11\n"), None);
        assert_eq!(Fdinfo::parse(b""), None);
    }

    #[test]
    fn locks_are_seen() {
        let text = b"pos:\t0\nflags:\t0100002\nmnt_id:\t27\nino:\t3\n\
            lock:\t1: FLOCK  ADVISORY  WRITE 359 fe:00:1705 0 EOF\n";
        assert!(Fdinfo::parse(text).unwrap().locks);
        let lock = |kind, kind_of_lock, breaking, start, len| FileLock {
            kind,
            kind_of_lock,
            breaking,
            start,
            len,
        };
        assert_eq!(file_locks(text), [lock(LockKind::Flock, 1, false, 0, 0)]);
        let text = b"lock:\t1: POSIX  ADVISORY  READ 359 fe:00:1705 10 19\n\
            lock:\t2: OFDLCK ADVISORY  WRITE -1 fe:00:1705 5 EOF\n\
            lock:\t3: LEASE  BREAKING  UNLCK 359 fe:00:1705 0 EOF\nlock:\tnonsense\n";
        assert_eq!(
            file_locks(text),
            [
                lock(LockKind::Posix, 0, false, 10, 10),
                lock(LockKind::Ofd, 1, false, 5, 0),
                lock(LockKind::Lease, 2, true, 0, 0),
            ]
        );
    }

    #[test]
    fn epoll_targets_are_hexadecimal_but_for_the_number() {
        let text = b"pos:\t0\nflags:\t02\nmnt_id:\t17\nino:\t1038\n\
            tfd:       16 events:       19 data: 1122334455667788  pos:0 ino:63b7 sdev:f\n\
            tfd:       20 events: 80000019 data:                7  pos:5 ino:40e sdev:10\n";
        let got = epoll(text).unwrap();
        assert_eq!(got.len(), 2);
        assert_eq!((got[0].tfd, got[0].events, got[0].data), (16, 0x19, 0x1122_3344_5566_7788));
        assert_eq!((got[0].ino, got[0].sdev), (0x63b7, 15));
        assert_eq!((got[1].tfd, got[1].events, got[1].pos), (20, 0x8000_0019, 5));
        assert_eq!(epoll(b"tfd: x events: 0 data: 0\n"), None);
    }

    #[test]
    fn marks_of_a_fanotify() {
        let text = b"pos:\t0\nfanotify flags:12 event-flags:8000\n\
            fanotify ino:4f969 sdev:800013 mflags:0 mask:3b ignored_mask:40000000 \
            fhandle-bytes:8 fhandle-type:1 f_handle:69f90400c275b5b4\n\
            fanotify mnt_id:12 mflags:40 mask:38 ignored_mask:3\n\
            fanotify sdev:800013 mflags:0 mask:10 ignored_mask:0\n";
        let got = fanotify(text).unwrap();
        assert_eq!((got.flags, got.event_flags, got.marks.len()), (0x12, 0x8000, 3));
        let watch = got.marks[0].watch.as_ref().unwrap();
        assert_eq!(
            (watch.ino, watch.sdev, watch.handle.as_ref().unwrap().0),
            (0x4f969, 0x80_0013, 1)
        );
        assert_eq!((got.marks[0].mask, got.marks[0].ignored_mask), (0x3b, 0x4000_0000));
        assert_eq!((got.marks[1].mnt_id, got.marks[1].mflags), (Some(0x12), 0x40));
        assert_eq!((&got.marks[2].watch, got.marks[2].mnt_id), (&None, None));
        assert_eq!(fanotify(b"fanotify flags:x event-flags:0\n"), None);
    }

    #[test]
    fn watches_come_with_handles() {
        let text = b"pos:\t0\nflags:\t04000\nmnt_id:\t17\nino:\t1038\ninotify wd:3 ino:13 \
            sdev:fe00000 mask:80000002 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 \
            f_handle:1300000000000000\ninotify wd:1f ino:2 sdev:18 mask:2 ignored_mask:0 \n";
        let got = inotify(text).unwrap();
        assert_eq!((got[0].wd, got[0].ino, got[0].sdev), (3, 0x13, 0xfe0_0000));
        assert_eq!(got[0].handle, Some((1, vec![0x13, 0, 0, 0, 0, 0, 0, 0])));
        assert_eq!((got[1].wd, got[1].handle.clone()), (31, None));
    }

    #[test]
    fn timers_are_read() {
        let text = b"pos:\t0\nflags:\t04002\nmnt_id:\t17\nino:\t1038\nclockid: 1\nticks: 4\n\
            settime flags: 01\nit_value: (989, 277065302)\nit_interval: (1, 5)\n";
        let want = Timer {
            clockid: 1,
            ticks: 4,
            settime_flags: 1,
            value: (989, 277_065_302),
            interval: (1, 5),
        };
        assert_eq!(timerfd(text), Some(want));
    }

    #[test]
    fn mounts_with_blanks_in_their_names() {
        let text = b"29 26 0:26 / /dev/pts rw,relatime - devpts devpts rw\n\
            30 27 254:1 /a\\040b /mnt/x\\134y rw shared:1 - ext4 /dev/vda rw\nshort\n";
        let got = mountinfo(text);
        assert_eq!(got.len(), 2);
        assert_eq!((got[0].id, got[0].dev), (29, 26));
        assert_eq!(
            (got[1].dev, &got[1].root[..], &got[1].point[..]),
            (0xfe0_0001, &b"/a b"[..], &b"/mnt/x\\y"[..])
        );
    }

    #[test]
    fn the_build_id_of_this_test_is_found_and_rubbish_is_not() {
        let exe = std::fs::read("/proc/self/exe").unwrap();
        let id = build_id(&exe[..exe.len().min(1 << 20)]);
        assert!(id.is_none_or(|id| id.len() == 5));
        for cut in 0..200 {
            build_id(&exe[..cut]);
        }
        assert_eq!(build_id(b"#!/bin/sh"), None);
        // Found by fuzzing: program headers at the end of all addresses.
        let mut far = [0xff; 64];
        far[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert_eq!(build_id(&far), None);
    }

    #[test]
    fn cut_answers_of_sock_diag_are_none() {
        assert_eq!(unix_diag(&[1, 1, 1]), None);
        assert_eq!(inet_diag(&[0; 71]), None);
        assert_eq!(netlink_diag(&[0; 27]), None);
    }
}
