//! Clocks: a time namespace in which they go on from where they stood at the dump.

use super::{Cx, make, own};
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, NsKind};
use images::proto::Timespec;
use nix::time::{ClockId, clock_gettime};

const NANOS: i128 = 1_000_000_000;

/// What will be made.
#[derive(Debug)]
pub(crate) struct TimePlan {
    /// The tree had a time namespace of its own.
    pub(crate) own: bool,
    /// Readings of the monotonic and the boot clock, ns.
    clocks: [i128; 2],
}

/// Decides what is made.
pub(crate) fn plan(cp: &Checkpoint, _request: &Request) -> Result<Option<TimePlan>, Error> {
    let id = own(cp, NsKind::Time);
    let Some(entry) = cp.ns.time.get(&id.unwrap_or(0)) else { return Ok(None) };
    let clock = |t: &Timespec, what| -> Result<i128, Error> {
        let good = t.tv_nsec < NANOS as u64 && t.tv_sec < i64::MAX as u64 / NANOS as u64;
        let bad = Error::Field { what, value: t.tv_sec };
        if good { Ok(i128::from(t.tv_sec) * NANOS + i128::from(t.tv_nsec)) } else { Err(bad) }
    };
    let clocks =
        [clock(&entry.monotonic, "monotonic.tv_sec")?, clock(&entry.boottime, "boottime.tv_sec")?];
    Ok(Some(TimePlan { own: id.is_some(), clocks }))
}

impl TimePlan {
    /// Makes and enters it, in the root task.
    pub(crate) fn prepare(&self, cx: &mut Cx<'_>) -> Result<(), Error> {
        match make(NsKind::Time) {
            // A kernel without time namespaces, or a user who may not make one: the clocks jump, as
            // they do with CRIU.
            Err(Error::Sys(e)) if matches!(e.errno(), libc::EINVAL | libc::EPERM) && !self.own => {
                log::warn!("CLOCK_MONOTONIC jumps: {e}");
                return Ok(());
            }
            other => other?,
        }
        // The new one begins with the offsets of ours: what we read is off the host's by these.
        let ours = offsets(cx)?;
        let mut offsets = String::new();
        let ids = [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_BOOTTIME];
        for ((id, then), ours) in ids.iter().zip(self.clocks).zip(ours) {
            let failed = |e: nix::Error| sys::Error::new("clock_gettime()", e as i32);
            let now = clock_gettime(*id).map_err(failed)?;
            let now = i128::from(now.tv_sec()) * NANOS + i128::from(now.tv_nsec());
            let offset = then - (now - ours);
            let (sec, nsec) = (offset.div_euclid(NANOS), offset.rem_euclid(NANOS));
            offsets += &format!("{} {sec} {nsec}\n", id.as_raw());
        }
        super::write_proc(cx.proc, "self/timens_offsets", &offsets)?;
        super::enter(NsKind::Time, super::open_proc(cx.proc, "self/ns/time_for_children")?)
    }
}

/// Offsets of the namespace to come: of the monotonic and the boot clock, ns.
fn offsets(cx: &Cx<'_>) -> Result<[i128; 2], Error> {
    let path = "self/timens_offsets";
    let file = std::fs::File::from(super::open_proc(cx.proc, path)?);
    let text = std::io::read_to_string(file)
        .map_err(|e| sys::Error::io(format_args!("read(/proc/{path})"), &e))?;
    Ok([parse(&text, ["monotonic", "1"]), parse(&text, ["boottime", "7"])])
}

fn parse(text: &str, names: [&str; 2]) -> i128 {
    let of = |line: &str| -> Option<i128> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?;
        let (sec, nsec): (i128, i128) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        names.contains(&name).then_some(sec * NANOS + nsec)
    };
    text.lines().find_map(of).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_may_be_negative() {
        let text = "monotonic          -3   500000000\nboottime            5         0\n";
        assert_eq!(parse(text, ["monotonic", "1"]), -2_500_000_000);
        assert_eq!(parse(text, ["boottime", "7"]), 5 * NANOS);
    }
}
