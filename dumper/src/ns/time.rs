//! Clocks: `timens-N.img`, `timens-0.img` for tasks in the dumper's own time namespace.
//!
//! The images hold what the clocks showed. A restore makes a time namespace in which they go on
//! from there, also for tasks that had none of their own.

use super::Cx;
use crate::Error;
use images::Image;
use images::checkpoint::NsKind;
use images::proto::{TimensEntry, Timespec};
use nix::time::{ClockId, clock_gettime};

/// Saves the clocks of the tree.
pub(crate) fn dump(cx: &Cx<'_>) -> Result<(), Error> {
    let root = cx.tree.root();
    if cx.all.of(root, NsKind::Time).is_none() {
        // The kernel has no time namespaces.
        return Ok(());
    }
    let own = offsets("self")?;
    let (id, theirs) = match cx.all.root(NsKind::Time) {
        None => (0, own),
        Some(ns) => (ns.id, offsets(&root.pid.to_string())?),
    };
    let clock = |id: ClockId, at: usize| -> Result<Timespec, Error> {
        let failed = |e: nix::Error| sys::Error::new(format_args!("clock_gettime({id})"), e as i32);
        let now = clock_gettime(id).map_err(failed)?;
        let host = nanos(now.tv_sec(), now.tv_nsec()) - own[at];
        let seen = u128::try_from(host + theirs[at]).unwrap_or(0);
        let (sec, nsec) = (seen / 1_000_000_000, seen % 1_000_000_000);
        Ok(Timespec { tv_sec: sec as u64, tv_nsec: nsec as u64 })
    };
    let entry = TimensEntry {
        monotonic: clock(ClockId::CLOCK_MONOTONIC, 0)?,
        boottime: clock(ClockId::CLOCK_BOOTTIME, 1)?,
    };
    cx.dir.write_one(Image::Timens(id), &entry)?;
    Ok(())
}

fn nanos(sec: i64, nsec: i64) -> i128 {
    i128::from(sec) * 1_000_000_000 + i128::from(nsec)
}

/// Offsets of the monotonic and the boot clock of a process against the host's.
fn offsets(pid: &str) -> Result<[i128; 2], Error> {
    let text = parasite::proc::read(format!("/proc/{pid}/timens_offsets"))?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

pub(super) fn parse(text: &str) -> [i128; 2] {
    let of = |names: [&str; 2]| {
        text.lines().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let name = words.next()?;
            let (sec, nsec) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            names.contains(&name).then(|| nanos(sec, nsec))
        })
    };
    [of(["monotonic", "1"]).unwrap_or(0), of(["boottime", "7"]).unwrap_or(0)]
}
