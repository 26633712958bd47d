//! Numbers as crit shows them: bits and values by name, devices, addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::crit::Error;
use crate::crit::json::Json;
use crate::schema::View;

const MMAP_PROT: &[(&str, u64)] = &[("PROT_READ", 1), ("PROT_WRITE", 2), ("PROT_EXEC", 4)];
const MMAP_FLAGS: &[(&str, u64)] = &[
    ("MAP_SHARED", 0x1),
    ("MAP_PRIVATE", 0x2),
    ("MAP_DROPPABLE", 0x8),
    ("MAP_ANON", 0x20),
    ("MAP_GROWSDOWN", 0x100),
];
const MMAP_STATUS: &[(&str, u64)] = &[
    ("VMA_AREA_REGULAR", 1 << 0),
    ("VMA_AREA_STACK", 1 << 1),
    ("VMA_AREA_VSYSCALL", 1 << 2),
    ("VMA_AREA_VDSO", 1 << 3),
    ("VMA_AREA_HEAP", 1 << 5),
    ("VMA_FILE_PRIVATE", 1 << 6),
    ("VMA_FILE_SHARED", 1 << 7),
    ("VMA_ANON_SHARED", 1 << 8),
    ("VMA_ANON_PRIVATE", 1 << 9),
    ("VMA_AREA_SYSVIPC", 1 << 10),
    ("VMA_AREA_SOCKET", 1 << 11),
    ("VMA_AREA_VVAR", 1 << 12),
    ("VMA_AREA_AIORING", 1 << 13),
    ("VMA_AREA_MEMFD", 1 << 14),
    ("VMA_AREA_SHSTK", 1 << 15),
    ("VMA_AREA_UPROBES", 1 << 17),
    ("VMA_UNSUPP", 1 << 31),
];
const RFILE_FLAGS: &[(&str, u64)] = &[
    ("O_WRONLY", 0o1),
    ("O_RDWR", 0o2),
    ("O_CREAT", 0o100),
    ("O_EXCL", 0o200),
    ("O_NOCTTY", 0o400),
    ("O_TRUNC", 0o1000),
    ("O_APPEND", 0o2000),
    ("O_NONBLOCK", 0o4000),
    ("O_DSYNC", 0o10000),
    ("FASYNC", 0o20000),
    ("O_DIRECT", 0o40000),
    ("O_LARGEFILE", 0o100_000),
    ("O_DIRECTORY", 0o200_000),
    ("O_NOFOLLOW", 0o400_000),
    ("O_NOATIME", 0o1_000_000),
    ("O_CLOEXEC", 0o2_000_000),
];
const PMAP_FLAGS: &[(&str, u64)] = &[("PE_PARENT", 1), ("PE_LAZY", 2), ("PE_PRESENT", 4)];
const SEALS_FLAGS: &[(&str, u64)] = &[
    ("F_SEAL_SEAL", 1),
    ("F_SEAL_SHRINK", 2),
    ("F_SEAL_GROW", 4),
    ("F_SEAL_WRITE", 8),
    ("F_SEAL_FUTURE_WRITE", 16),
];

// crit's names for 3 and 6 do not say what the kernel means; they are kept, as scripts read them.
const TASK_STATE: &[(&str, u64)] = &[("Alive", 1), ("Zombie", 3), ("Stopped", 6)];
const SK_FAMILY: &[(&str, u64)] =
    &[("UNIX", 1), ("INET", 2), ("INET6", 10), ("NETLINK", 16), ("PACKET", 17)];
const SK_TYPE: &[(&str, u64)] =
    &[("STREAM", 1), ("DGRAM", 2), ("RAW", 3), ("SEQPACKET", 5), ("PACKET", 10)];
const SK_PROTO: &[(&str, u64)] = &[("IP", 0), ("TCP", 6), ("UDP", 17), ("UDPLITE", 136)];
const SK_STATE: &[(&str, u64)] = &[
    ("ESTABLISHED", 1),
    ("SYN_SENT", 2),
    ("SYN_RECV", 3),
    ("FIN_WAIT1", 4),
    ("FIN_WAIT2", 5),
    ("TIME_WAIT", 6),
    ("CLOSE", 7),
    ("CLOSE_WAIT", 8),
    ("LAST_ACK", 9),
    ("LISTEN", 10),
];

fn flags(table: &str) -> &'static [(&'static str, u64)] {
    match table {
        "mmap.prot" => MMAP_PROT,
        "mmap.flags" => MMAP_FLAGS,
        "mmap.status" => MMAP_STATUS,
        "rfile.flags" => RFILE_FLAGS,
        "pmap.flags" => PMAP_FLAGS,
        "seals.flags" => SEALS_FLAGS,
        _ => &[],
    }
}

fn dict(table: &str, field: &str) -> &'static [(&'static str, u64)] {
    match (table, field) {
        ("gen", "task_state") => TASK_STATE,
        ("sk", "family") => SK_FAMILY,
        ("sk", "type") => SK_TYPE,
        ("sk", "proto") => SK_PROTO,
        ("sk", "state") => SK_STATE,
        _ => &[],
    }
}

/// Shows one number of a field.
pub(crate) fn show(view: &View, field: &str, n: i128) -> Json {
    let Ok(bits) = u64::try_from(n) else { return Json::Int(n) };
    match view {
        View::Plain | View::UnixName | View::Ip => Json::Int(n),
        View::Hex => Json::from(&*format!("{bits:#x}")),
        View::Dev => Json::from(&*format!("{}:{}", bits >> 20, bits & 0xf_ffff)),
        View::OldDev => {
            let (major, minor) = (bits >> 8 & 0xfff, (bits & 0xff) | (bits >> 12 & 0xf_ff00));
            Json::from(&*format!("{major}:{minor}"))
        }
        View::Flags(table) => {
            let table = flags(table);
            let mut names: Vec<String> =
                table.iter().filter(|(_, bit)| bits & bit != 0).map(|f| f.0.to_owned()).collect();
            let rest = table.iter().fold(bits, |rest, (_, bit)| rest & !bit);
            names.extend((rest != 0).then(|| format!("{rest:#x}")));
            Json::from(&*names.join(" | "))
        }
        View::Dict(table) => match dict(table, field).iter().find(|(_, v)| *v == bits) {
            Some((name, _)) => Json::from(*name),
            None => Json::Int(n),
        },
    }
}

/// Shows the words of an address.
pub(crate) fn show_ip(words: &[i128]) -> Json {
    let bytes = |word: &i128| u32::try_from(*word).unwrap_or(0).to_le_bytes();
    match words {
        [one] => Json::from(&*Ipv4Addr::from(bytes(one)).to_string()),
        [a, b, c, d] => {
            let mut all = [0; 16];
            for (part, word) in all.chunks_mut(4).zip([a, b, c, d]) {
                part.copy_from_slice(&bytes(word));
            }
            Json::from(&*show_ipv6(all))
        }
        other => Json::List(other.iter().map(|n| Json::Int(*n)).collect()),
    }
}

/// Shows an address as Python's `ipaddress` does: without dots where Rust has them.
fn show_ipv6(bytes: [u8; 16]) -> String {
    let address = Ipv6Addr::from(bytes);
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, a, b] => format!("::ffff:{a:x}:{b:x}"),
        _ => address.to_string(),
    }
}

/// Reads the words of an address.
pub(crate) fn read_ip(field: &str, text: &str) -> Result<Vec<i128>, Error> {
    let words = |bytes: &[u8]| -> Vec<i128> {
        let words = bytes.chunks_exact(4);
        words.map(|w| i128::from(u32::from_le_bytes([w[0], w[1], w[2], w[3]]))).collect()
    };
    if let Ok(v4) = text.parse::<Ipv4Addr>() {
        return Ok(words(&v4.octets()));
    }
    match text.parse::<Ipv6Addr>() {
        Ok(v6) => Ok(words(&v6.octets())),
        Err(_) => Err(Error::json(field, format!("{text:?} is no address"))),
    }
}

/// Reads a number that may be shown in any way.
pub(crate) fn read(view: &View, field: &str, text: &str) -> Result<i128, Error> {
    let unknown = |part: &str| Error::json(field, format!("{part:?} is no number or name"));
    match view {
        View::Flags(table) => {
            let mut bits = 0;
            for part in text.split('|').map(str::trim).filter(|p| !p.is_empty()) {
                let named = flags(table).iter().find(|(name, _)| *name == part);
                bits |= match named {
                    Some((_, bit)) => i128::from(*bit),
                    None => integer(part).ok_or_else(|| unknown(part))?,
                };
            }
            Ok(bits)
        }
        View::Dict(table) => match dict(table, field).iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Ok((*value).into()),
            None => integer(text).ok_or_else(|| unknown(text)),
        },
        View::Dev | View::OldDev => {
            let parts = text.split_once(':');
            let Some((major, minor)) = parts else {
                return integer(text).ok_or_else(|| unknown(text));
            };
            let number = |part: &str| part.parse::<u32>().map_err(|_| unknown(text));
            let (major, minor) = (u64::from(number(major)?), u64::from(number(minor)?));
            Ok(match view {
                View::Dev => i128::from(major << 20 | minor),
                _ => i128::from((minor & 0xff) | major << 8 | (minor & !0xff) << 12),
            })
        }
        _ => integer(text).ok_or_else(|| unknown(text)),
    }
}

/// Reads an integer with Python's prefixes.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let n = match digits.get(..2) {
        Some("0x" | "0X") => i128::from_str_radix(&digits[2..], 16),
        Some("0o" | "0O") => i128::from_str_radix(&digits[2..], 8),
        Some("0b" | "0B") => i128::from_str_radix(&digits[2..], 2),
        _ => digits.parse(),
    };
    n.ok().map(|n| if negative { -n } else { n })
}
