//! Settings below `/proc/sys/net` of the namespace that the calling thread is in.

use crate::Error;
use images::checkpoint::net::{CONF4, CONF6, STABLE_SECRET};
use images::proto::{NetnsEntry, SysctlEntry, SysctlType};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use std::os::fd::AsFd;

const ROOT: &str = "/proc/sys/net";

/// Settings of the namespace, without its `nsids`. `group` tells how a group is called inside the
/// user namespace.
pub(super) fn namespace(group: &dyn Fn(u32) -> u32) -> Result<NetnsEntry, Error> {
    Ok(NetnsEntry {
        def_conf4: conf(4, "default")?,
        all_conf4: conf(4, "all")?,
        def_conf6: conf(6, "default")?,
        all_conf6: conf(6, "all")?,
        unix_conf: vec![number(value(ROOT, "unix/max_dgram_qlen")?)],
        ipv4_sysctl: vec![SysctlEntry {
            r#type: SysctlType::CtlStr.into(),
            sarg: value(ROOT, "ipv4/ping_group_range")?.and_then(|t| groups(&t, group)),
            ..SysctlEntry::default()
        }],
        ..NetnsEntry::default()
    })
}

/// Which groups may ping, as they are called inside; `None` when it is the kernel's "none".
fn groups(text: &str, group: &dyn Fn(u32) -> u32) -> Option<String> {
    let mut words = text.split_whitespace().map(str::parse::<u32>);
    let (low, high) = (words.next()?.ok()?, words.next()?.ok()?);
    (low <= high).then(|| format!("{}\t{}\n", group(low), group(high)))
}

/// Settings of one link, or of `all` or `default`, in the order that images have. Absent
/// settings have an entry without value; without IPv6 there is no entry at all.
pub(super) fn conf(version: u8, link: &str) -> Result<Vec<SysctlEntry>, Error> {
    let dir = format!("{ROOT}/ipv{version}/conf/{link}");
    if !std::path::Path::new(&dir).exists() {
        return Ok(Vec::new());
    }
    let names = if version == 4 { &CONF4[..] } else { &CONF6[..] };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let at = open(dir.as_str(), flags, Mode::empty())
        .map_err(|e| sys::Error::new(format_args!("open({dir})"), e as i32))?;
    let read = |name: &&str| {
        let value = value_at(&at, &dir, name)?;
        Ok(if *name == STABLE_SECRET {
            SysctlEntry {
                r#type: SysctlType::CtlStr.into(),
                sarg: value.map(|v| v.trim().to_owned()),
                ..SysctlEntry::default()
            }
        } else {
            number(value)
        })
    };
    names.iter().map(read).collect()
}

fn number(value: Option<String>) -> SysctlEntry {
    SysctlEntry {
        r#type: SysctlType::Ctl32.into(),
        iarg: value.and_then(|v| v.trim().parse().ok()),
        ..SysctlEntry::default()
    }
}

fn value(dir: &str, name: &str) -> Result<Option<String>, Error> {
    value_at(nix::fcntl::AT_FDCWD, dir, &format!("{dir}/{name}"))
}

/// `None`: there is no such setting, or it has no value yet (`stable_secret`).
fn value_at(at: impl AsFd, dir: &str, name: &str) -> Result<Option<String>, Error> {
    let failed = |call: &str, e: Errno| sys::Error::new(format!("{call}({dir}: {name})"), e as i32);
    let fd = match openat(at, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::ENOENT) => return Ok(None),
        Err(e) => return Err(failed("open", e).into()),
    };
    let mut text = [0; 128];
    match nix::unistd::read(&fd, &mut text) {
        Ok(len) => Ok(Some(String::from_utf8_lossy(&text[..len]).into_owned())),
        Err(Errno::EIO) => Ok(None),
        Err(e) => Err(failed("read", e).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_inside() {
        let inside = |gid: u32| gid - 100_000;
        assert_eq!(groups("100000\t102000\n", &inside).as_deref(), Some("0\t2000\n"));
        assert_eq!(groups("1\t0\n", &inside), None);
        assert_eq!(groups("", &inside), None);
    }

    #[test]
    fn loopback_has_all_settings_in_their_places() {
        let four = conf(4, "lo").unwrap();
        assert_eq!(four.len(), CONF4.len());
        let at = |name| CONF4.iter().position(|n| *n == name).unwrap();
        assert!(four[at("rp_filter")].iarg.is_some());
        let six = conf(6, "lo").unwrap();
        assert!(six.is_empty() || six.len() == CONF6.len());
        assert_eq!(conf(4, "none-such").unwrap(), []);
    }
}
