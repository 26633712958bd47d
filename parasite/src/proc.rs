//! Texts of `/proc/PID`: read once each, parsed without allocation where it counts.

use std::collections::VecDeque;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

/// Why a file of `/proc` did not tell what it should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read.
    #[error("{path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It has no such field, or one that does not parse.
    #[error("{path}: no valid `{field}`")]
    Field {
        /// Which file.
        path: PathBuf,
        /// Its field.
        field: &'static str,
    },
}

impl Error {
    /// The task is gone.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Read { source, .. }
            if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)))
    }
}

/// Reads a whole file of `/proc`, in as few calls as there are: such files have no size to ask
/// for, and most come in one piece.
pub fn read(path: impl Into<PathBuf>) -> Result<Vec<u8>, Error> {
    let path = path.into();
    let all = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(&path)?;
        let mut piece = [0; 8192];
        let mut text = Vec::new();
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(text),
                n => text.extend_from_slice(&piece[..n]),
            }
        }
    };
    all().map_err(|source| Error::Read { path, source })
}

/// `/proc/PID/stat`, as far as a dump needs it. Numbers are those of our pid namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Name (field 2), raw bytes, without the parentheses.
    pub comm: Vec<u8>,
    /// State letter (3).
    pub state: u8,
    /// Parent (4).
    pub ppid: i32,
    /// Process group (5).
    pub pgid: i32,
    /// Session (6).
    pub sid: i32,
    /// The signal its parent gets at its end (38); -1 for what is no leader.
    pub exit_signal: i32,
    /// `PF_*` (9).
    pub flags: u32,
    /// Start time in ticks (22).
    pub start_time: u64,
    /// First and last address of the program text (26, 27).
    pub code: (u64, u64),
    /// Bottom of the stack (28).
    pub start_stack: u64,
    /// First and last address of the data (45, 46).
    pub data: (u64, u64),
    /// Where brk started (47).
    pub start_brk: u64,
    /// Arguments (48, 49).
    pub arg: (u64, u64),
    /// Environment (50, 51).
    pub env: (u64, u64),
    /// Raw wait status of a zombie (52).
    pub exit_code: u32,
}

impl Stat {
    /// Parses the text; `None` when a field is missing.
    pub fn parse(text: &[u8]) -> Option<Self> {
        // The name may hold anything, also parentheses and newlines: the last ')' ends it.
        let open = text.iter().position(|&b| b == b'(')?;
        let close = text.iter().rposition(|&b| b == b')')?;
        let rest = std::str::from_utf8(text.get(close + 2..)?).ok()?;
        // `f[0]` is field 3.
        let f: Vec<&str> = rest.split_ascii_whitespace().collect();
        let num = |field: usize| -> Option<u64> { f.get(field - 3)?.parse().ok() };
        let int = |field: usize| -> Option<i32> { f.get(field - 3)?.parse().ok() };
        Some(Self {
            comm: text.get(open + 1..close)?.to_vec(),
            state: *f.first()?.as_bytes().first()?,
            ppid: int(4)?,
            pgid: int(5)?,
            sid: int(6)?,
            exit_signal: int(38)?,
            flags: num(9)? as u32,
            start_time: num(22)?,
            code: (num(26)?, num(27)?),
            start_stack: num(28)?,
            data: (num(45)?, num(46)?),
            start_brk: num(47)?,
            arg: (num(48)?, num(49)?),
            env: (num(50)?, num(51)?),
            exit_code: num(52)? as u32,
        })
    }

    /// Reads `/proc/PID/stat`.
    pub fn read(pid: i32) -> Result<Self, Error> {
        let path = format!("/proc/{pid}/stat");
        let text = read(&path)?;
        Self::parse(&text).ok_or_else(|| Error::Field { path: path.into(), field: "stat" })
    }
}

/// `/proc/PID/task/TID/status`, as far as a dump needs it. Ids are those of our namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Name, as the kernel prints it (newlines and backslashes escaped).
    pub name: Vec<u8>,
    /// State letter.
    pub state: u8,
    /// Thread group.
    pub tgid: i32,
    /// Parent process.
    pub ppid: i32,
    /// Who traces it, 0 for nobody.
    pub tracer: i32,
    /// umask; `None` for a zombie.
    pub umask: Option<u32>,
    /// Real, effective, saved, file system user.
    pub uids: [u32; 4],
    /// Real, effective, saved, file system group.
    pub gids: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Pids in all namespaces from ours down; the last is what the task sees.
    pub nspid: Vec<i32>,
    /// Process group likewise.
    pub nspgid: Vec<i32>,
    /// Session likewise.
    pub nssid: Vec<i32>,
    /// Thread count.
    pub threads: u32,
    /// Bytes of resident anonymous memory.
    pub rss_anon: u64,
    /// Signals pending for the thread.
    pub sig_pnd: u64,
    /// Signals pending for the process.
    pub shd_pnd: u64,
    /// Blocked signals.
    pub sig_blk: u64,
    /// Ignored signals.
    pub sig_ign: u64,
    /// Caught signals.
    pub sig_cgt: u64,
    /// Capability sets: inheritable, permitted, effective, bounding, ambient.
    pub caps: [u64; 5],
    /// `PR_GET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Seccomp mode.
    pub seccomp: u32,
    /// How many filters (5.9).
    pub seccomp_filters: Option<u32>,
    /// `THP_enabled` (5.0).
    pub thp_enabled: Option<bool>,
    /// Virtual memory size in KiB: absent for zombies and kernel threads.
    pub vm_size: Option<u64>,
    /// `untag_mask` (6.4).
    pub untag_mask: Option<u64>,
    /// User shadow stack is on (6.6).
    pub shstk: bool,
    /// Text of `Speculation_Store_Bypass`.
    pub ssb: Vec<u8>,
    /// Text of `SpeculationIndirectBranch`.
    pub ibs: Vec<u8>,
}

fn ints<T: std::str::FromStr>(v: &str) -> Vec<T> {
    v.split_ascii_whitespace().filter_map(|w| w.parse().ok()).collect()
}

fn four(v: &str) -> [u32; 4] {
    let mut out = [0; 4];
    for (o, n) in out.iter_mut().zip(v.split_ascii_whitespace()) {
        *o = n.parse().unwrap_or(u32::MAX);
    }
    out
}

impl Status {
    /// Parses the text. Unknown lines are skipped, missing ones keep their default.
    pub fn parse(text: &[u8]) -> Self {
        let mut s = Self::default();
        for line in text.split(|&b| b == b'\n') {
            let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
            let value = &line[colon + 1..];
            if line.starts_with(b"Name:") {
                s.name = value.strip_prefix(b"\t").unwrap_or(value).to_vec();
                continue;
            }
            let Ok(v) = std::str::from_utf8(value) else { continue };
            s.field(&line[..colon], v.trim_matches([' ', '\t']));
        }
        s
    }

    /// Name of the thread (`comm`), raw bytes.
    pub fn comm(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        let mut bytes = self.name.iter().copied();
        while let Some(b) = bytes.next() {
            out.push(match (b, b == b'\\') {
                (_, true) => match bytes.next() {
                    Some(b'n') => b'\n',
                    Some(other) => other,
                    None => b'\\',
                },
                (b, _) => b,
            });
        }
        out
    }

    fn field(&mut self, key: &[u8], v: &str) {
        let hex = |v: &str| u64::from_str_radix(v.trim_start_matches("0x"), 16).unwrap_or(0);
        match key {
            b"State" => self.state = v.bytes().next().unwrap_or(0),
            b"Tgid" => self.tgid = v.parse().unwrap_or(0),
            b"PPid" => self.ppid = v.parse().unwrap_or(0),
            b"RssAnon" => {
                let kib = v.strip_suffix(" kB").and_then(|v| v.parse::<u64>().ok());
                self.rss_anon = kib.unwrap_or(0) << 10;
            }
            b"TracerPid" => self.tracer = v.parse().unwrap_or(0),
            b"Umask" => self.umask = u32::from_str_radix(v, 8).ok(),
            b"Uid" => self.uids = four(v),
            b"Gid" => self.gids = four(v),
            b"Groups" => self.groups = ints(v),
            b"NSpid" => self.nspid = ints(v),
            b"NSpgid" => self.nspgid = ints(v),
            b"NSsid" => self.nssid = ints(v),
            b"Threads" => self.threads = v.parse().unwrap_or(0),
            b"SigPnd" => self.sig_pnd = hex(v),
            b"ShdPnd" => self.shd_pnd = hex(v),
            b"SigBlk" => self.sig_blk = hex(v),
            b"SigIgn" => self.sig_ign = hex(v),
            b"SigCgt" => self.sig_cgt = hex(v),
            b"CapInh" => self.caps[0] = hex(v),
            b"CapPrm" => self.caps[1] = hex(v),
            b"CapEff" => self.caps[2] = hex(v),
            b"CapBnd" => self.caps[3] = hex(v),
            b"CapAmb" => self.caps[4] = hex(v),
            b"NoNewPrivs" => self.no_new_privs = v == "1",
            b"Seccomp" => self.seccomp = v.parse().unwrap_or(0),
            b"Seccomp_filters" => self.seccomp_filters = v.parse().ok(),
            b"THP_enabled" => self.thp_enabled = Some(v == "1"),
            b"VmSize" => self.vm_size = v.split(' ').next().and_then(|n| n.parse().ok()),
            b"untag_mask" => self.untag_mask = Some(hex(v)),
            b"x86_Thread_features" => self.shstk = v.contains("shstk"),
            b"Speculation_Store_Bypass" => self.ssb = v.into(),
            b"SpeculationIndirectBranch" => self.ibs = v.into(),
            _ => {}
        }
    }

    /// Reads the status of one thread of `pid` (`tid == pid`: the leader).
    pub fn read(pid: i32, tid: i32) -> Result<Self, Error> {
        let text = read(format!("/proc/{pid}/task/{tid}/status"))?;
        Ok(Self::parse(&text))
    }
}

/// The numbers of a directory of `/proc` (`task`, `fd`), or the words of a `children` file.
pub fn numbers(path: &str) -> Result<Vec<i32>, Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    let mut out = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Some(n) = entry.file_name().to_str().and_then(|s| s.parse().ok()) {
            out.push(n);
        }
    }
    Ok(out)
}

/// Children made by thread `tid` of `pid`.
pub fn children(pid: i32, tid: i32) -> Result<Vec<i32>, Error> {
    let text = read(format!("/proc/{pid}/task/{tid}/children"))?;
    Ok(ints(std::str::from_utf8(&text).unwrap_or("")))
}

/// `root` and its descendants, parents before children, as they are met: the tree runs, and who is
/// gone has no children.
pub fn family(root: i32) -> impl Iterator<Item = i32> {
    let mut known = VecDeque::from([root]);
    std::iter::from_fn(move || {
        let pid = known.pop_front()?;
        known.extend(children(pid, pid).unwrap_or_default());
        Some(pid)
    })
}

/// Pages of a process that are in memory, and how many of them are of files or shared
/// (`/proc/PID/statm`); none of one that is gone.
pub fn resident(pid: i32) -> (u64, u64) {
    let text = read(format!("/proc/{pid}/statm")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut pages = text.split_ascii_whitespace().skip(1).filter_map(|n| n.parse().ok());
    (pages.next().unwrap_or(0), pages.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_newlines_does_not_shift_fields() {
        let mut text = b"7 (a) (\nb) S 1 7 7 0 -1 4194560".to_vec();
        for n in 10..=52 {
            text.extend_from_slice(format!(" {n}").as_bytes());
        }
        let s = Stat::parse(&text).unwrap();
        assert_eq!(s.comm, b"a) (\nb");
        assert_eq!((s.state, s.ppid, s.flags), (b'S', 1, 4_194_560));
        assert_eq!((s.start_time, s.exit_code), (22, 52));
        assert_eq!((s.code, s.env), ((26, 27), (50, 51)));
    }

    #[test]
    fn a_short_stat_is_refused() {
        assert_eq!(Stat::parse(b"7 (a) S 1 7"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    // Linux 6.18, shortened.
    const STATUS: &[u8] =
        b"Name:\tx\nUmask:\t0022\nState:\tZ (zombie)\nTgid:\t9\nNgid:\t0\nPid:\t9\n\
        PPid:\t1\nTracerPid:\t0\nUid:\t0\t1\t2\t3\nGid:\t4\t5\t6\t7\nFDSize:\t64\nGroups:\t8 9 \n\
        NStgid:\t9\t2\nNSpid:\t9\t2\nNSpgid:\t9\t2\nNSsid:\t9\t2\nThreads:\t1\n\
        SigQ:\t0/95\nSigPnd:\t0000000000000001\nShdPnd:\t0000000000000002\n\
        SigIgn:\t0000000000001000\nSigCgt:\t00000001800004e8\nCapInh:\t0000000000000001\n\
        CapAmb:\t0000000000000002\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n\
        THP_enabled:\t1\nuntag_mask:\t0xffffffffffffffff\n";

    #[test]
    fn status_fields_are_found() {
        let s = Status::parse(STATUS);
        assert_eq!((s.state, s.umask, s.uids), (b'Z', Some(0o22), [0, 1, 2, 3]));
        assert_eq!((s.groups, s.nspid), (vec![8, 9], vec![9, 2]));
        assert_eq!((s.sig_pnd, s.shd_pnd, s.sig_cgt), (1, 2, 0x1_8000_04e8));
        assert_eq!((s.caps, s.no_new_privs), ([1, 0, 0, 0, 2], true));
        assert_eq!((s.seccomp, s.seccomp_filters, s.untag_mask), (2, Some(3), Some(u64::MAX)));
        assert_eq!(s.vm_size, None);
    }
}
