//! What the plan has to know of this machine and of the restorer itself, gathered once.

use crate::task::creds::Creds;
use crate::task::lsm::Lsm;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use sys::arena::XsaveLayout;

/// Raising hard limits.
pub(crate) const CAP_SYS_RESOURCE: u32 = 24;
/// First address behind user memory (four-level page tables).
pub(crate) const TASK_SIZE: u64 = 0x7fff_ffff_f000;

/// A range of addresses: start and end.
pub(crate) type Range = std::ops::Range<u64>;

/// Facts about the machine and this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Numbers of processes are below it.
    pub(crate) pid_max: u32,
    /// Highest capability of this kernel.
    pub(crate) last_cap: u32,
    /// Credentials of this process, which new tasks begin with.
    pub(crate) creds: Creds,
    /// Nice value of this process.
    pub(crate) nice: i32,
    /// Scheduling policy of this process.
    pub(crate) sched_policy: u32,
    /// Limits of this process at its start: (soft, hard).
    pub(crate) rlimits: Vec<(u64, u64)>,
    /// Where the kernel put vvar and vdso, in ascending order.
    pub(crate) vdso: Vdso,
    /// Extended state of this CPU.
    pub(crate) xsave: XsaveLayout,
    /// POSIX timers can be made with chosen ids.
    pub(crate) timer_ids: bool,
    /// Processes can be made with chosen numbers.
    pub(crate) set_tid: bool,
    /// Capabilities in effect in the first user namespace, for tasks too.
    pub(crate) rights: u64,
    /// Processors and NUMA nodes that are here, as bits; empty: unknown.
    pub(crate) cpus: Vec<u8>,
    pub(crate) nodes: Vec<u8>,
    /// Control groups of this process: path by hierarchy.
    pub(crate) cgroups: BTreeMap<String, String>,
    /// Transparent huge pages are not turned off.
    pub(crate) huge: bool,
    /// Security modules.
    pub(crate) lsm: Lsm,
}

/// The kernel's pages in a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vdso {
    /// `[vvar]`, `[vvar_vclock]`, ...
    pub(crate) vvar: Vec<Range>,
    /// `[vdso]`.
    pub(crate) code: Option<Range>,
    /// Contents of `[vdso]`.
    pub(crate) bytes: Vec<u8>,
}

impl Vdso {
    /// All ranges, ascending.
    pub(crate) fn ranges(&self) -> Vec<Range> {
        let mut all: Vec<Range> = self.vvar.iter().chain(&self.code).cloned().collect();
        all.sort_by_key(|r| r.start);
        all
    }
}

impl Facts {
    /// Asks the kernel.
    pub(crate) fn gather() -> Result<Self, sys::Error> {
        let number = |path: &str| -> Result<u32, sys::Error> {
            let text = read(path)?;
            text.trim().parse().map_err(|_| sys::Error::new(format_args!("read({path})"), 22))
        };
        let attr = sys::task::sched_attr(0)?;
        let mut rlimits = Vec::new();
        for resource in 0..16 {
            rlimits.push(sys::task::rlimit(0, resource)?);
        }
        let ids = |on| {
            let option = crate::task::timers::PR_TIMER_CREATE_RESTORE_IDS;
            sys::task::prctl(option, [on, 0, 0, 0])
        };
        let timer_ids = ids(1).is_ok() && ids(0).is_ok();
        let own = creds(&read("/proc/self/status")?);
        let last_cap = number("/proc/sys/kernel/cap_last_cap")?;
        Ok(Self {
            pid_max: number("/proc/sys/kernel/pid_max")?,
            last_cap,
            rights: own.effective,
            creds: own,
            nice: attr.nice,
            sched_policy: attr.policy,
            rlimits,
            vdso: vdso()?,
            xsave: sys::arena::xsave_layout(),
            timer_ids,
            set_tid: sys::probe::clone3_set_tid(),
            cpus: online("cpu"),
            nodes: online("node"),
            cgroups: cgroups(&read("/proc/self/cgroup").unwrap_or_default()),
            huge: read("/sys/kernel/mm/transparent_hugepage/enabled")
                .is_ok_and(|text| !text.contains("[never]")),
            lsm: Lsm::gather(),
        })
    }

    /// Capabilities that this kernel has.
    pub(crate) fn known_caps(&self) -> u64 {
        u64::MAX >> (63 - self.last_cap.min(63))
    }

    /// Whether a capability is in effect.
    pub(crate) fn has_cap(&self, cap: u32) -> bool {
        self.rights >> cap & 1 != 0
    }
}

/// Bits of `/sys/devices/system/KIND/online`: `0-3,5`.
fn online(kind: &str) -> Vec<u8> {
    bits(&read(&format!("/sys/devices/system/{kind}/online")).unwrap_or_default())
}

fn bits(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else { continue };
        for number in usize::from(first)..=usize::from(last) {
            out.resize(out.len().max(number / 8 + 1), 0);
            out[number / 8] |= 1 << (number % 8);
        }
    }
    out
}

fn read(path: &str) -> Result<String, sys::Error> {
    let bytes = fs::read(path).map_err(|e| sys::Error::io(format_args!("read({path})"), &e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Parses `/proc/PID/cgroup`.
pub(crate) fn cgroups(text: &str) -> BTreeMap<String, String> {
    let line = |l: &str| {
        let mut parts = l.splitn(3, ':').skip(1);
        Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Parses `/proc/PID/status`.
fn creds(status: &str) -> Creds {
    let field = |name: &str| {
        status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).unwrap_or("").trim()
    };
    let ids = |name| {
        let mut n = field(name).split_whitespace().map(|n| n.parse().unwrap_or(0));
        [(); 4].map(|()| n.next().unwrap_or(0))
    };
    let set = |name| u64::from_str_radix(field(name), 16).unwrap_or(0);
    Creds {
        uids: ids("Uid"),
        gids: ids("Gid"),
        groups: field("Groups").split_whitespace().filter_map(|g| g.parse().ok()).collect(),
        inheritable: set("CapInh"),
        permitted: set("CapPrm"),
        effective: set("CapEff"),
        bounding: set("CapBnd"),
        ambient: set("CapAmb"),
        securebits: sys::task::prctl(libc::PR_GET_SECUREBITS, [0; 4]).unwrap_or(0).cast_unsigned(),
        no_new_privs: field("NoNewPrivs") == "1",
        label: None,
    }
}

/// One line of `/proc/PID/maps`: range and name.
pub(crate) fn map_line(line: &str) -> Option<(Range, &str)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let hex = |s| u64::from_str_radix(s, 16).ok();
    let name = rest.splitn(5, ' ').nth(4).unwrap_or("").trim_start();
    Some((hex(start)?..hex(end)?, name))
}

fn vdso() -> Result<Vdso, sys::Error> {
    let mut vdso = Vdso::default();
    for (range, name) in read("/proc/self/maps")?.lines().filter_map(map_line) {
        if name == "[vdso]" {
            vdso.code = Some(range);
        } else if name.starts_with("[vvar") {
            vdso.vvar.push(range);
        }
    }
    if let Some(range) = &vdso.code {
        vdso.bytes = vec![0; (range.end - range.start) as usize];
        let mem = fs::File::open("/proc/self/mem")
            .and_then(|f| f.read_exact_at(&mut vdso.bytes, range.start));
        mem.map_err(|e| sys::Error::io("read(/proc/self/mem, [vdso])", &e))?;
    }
    Ok(vdso)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_bits() {
        assert_eq!(bits("0-2,9\n"), [7, 2]);
        assert_eq!(bits("0\n"), [1]);
        assert!(bits("").is_empty());
    }

    #[test]
    fn a_line_of_maps_gives_range_and_name() {
        let line =
            "7f4919636000-7f4919638000 r-xp 00000000 00:00 0                          [vdso]";
        assert_eq!(map_line(line), Some((0x7f49_1963_6000..0x7f49_1963_8000, "[vdso]")));
        let line = "7f4919636000-7f4919638000 rw-p 00000000 00:00 0 ";
        assert_eq!(map_line(line), Some((0x7f49_1963_6000..0x7f49_1963_8000, "")));
    }
}
