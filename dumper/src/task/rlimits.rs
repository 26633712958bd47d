//! Resource limits.

use crate::Error;
use images::proto::{RlimitEntry, TaskRlimitsEntry};
use parasite::proc;
use sys::task;

/// How many resources there are (`RLIM_NLIMITS`).
const COUNT: u32 = 16;

/// Limits of `pid`; the place in the list is the resource.
pub(crate) fn entry(pid: i32) -> Result<TaskRlimitsEntry, Error> {
    let mut rlimits = Vec::with_capacity(COUNT as usize);
    for resource in 0..COUNT {
        match task::rlimit(pid, resource) {
            Ok((cur, max)) => rlimits.push(RlimitEntry { cur, max }),
            // Of another user, and we have no CAP_SYS_RESOURCE: the text is open.
            Err(e) if e.errno() == libc::EPERM => return from_text(pid),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(TaskRlimitsEntry { rlimits })
}

fn from_text(pid: i32) -> Result<TaskRlimitsEntry, Error> {
    let path = format!("/proc/{pid}/limits");
    let text = proc::read(&path)?;
    let rlimits = parse(&String::from_utf8_lossy(&text));
    let field = proc::Error::Field { path: path.into(), field: "limits" };
    Ok(TaskRlimitsEntry { rlimits: rlimits.ok_or(Error::Proc(field))? })
}

/// Names of `/proc/PID/limits` in the order of the numbers.
const NAMES: [&str; COUNT as usize] = [
    "Max cpu time",
    "Max file size",
    "Max data size",
    "Max stack size",
    "Max core file size",
    "Max resident set",
    "Max processes",
    "Max open files",
    "Max locked memory",
    "Max address space",
    "Max file locks",
    "Max pending signals",
    "Max msgqueue size",
    "Max nice priority",
    "Max realtime priority",
    "Max realtime timeout",
];

pub(crate) fn parse(text: &str) -> Option<Vec<RlimitEntry>> {
    let number = |word: &str| match word {
        "unlimited" => Some(u64::MAX),
        n => n.parse().ok(),
    };
    NAMES
        .iter()
        .map(|name| {
            let line = text.lines().find_map(|l| l.strip_prefix(name))?;
            let mut words = line.split_ascii_whitespace();
            Some(RlimitEntry { cur: number(words.next()?)?, max: number(words.next()?)? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_says_what_the_call_says() {
        let text = std::fs::read_to_string("/proc/self/limits").unwrap();
        let pid = std::process::id() as i32;
        assert_eq!(parse(&text), Some(entry(pid).unwrap().rlimits));
    }

    #[test]
    fn a_text_without_all_limits_is_refused() {
        assert_eq!(parse("Max cpu time  1 2 seconds\n"), None);
    }
}
