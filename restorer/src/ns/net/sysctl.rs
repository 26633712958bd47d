//! Settings below `/proc/sys/net`, in a thread that is in the namespace. What is as it should be
//! already is not written.

use crate::Error;
use images::checkpoint::Net;
use images::checkpoint::net::{CONF4, CONF6};
use images::proto::{NetDeviceEntry, SysctlEntry, UsernsEntry};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

const ROOT: &str = "/proc/sys/net";
/// Changes of other settings change it: it is written last.
const LAST: &str = "accept_redirects";

/// Finds text that does not belong into a setting.
pub(super) fn check(id: u32, net: &Net) -> Result<(), Error> {
    let Some(entry) = &net.netns else { return Ok(()) };
    let texts = entry.ipv4_sysctl.iter().filter_map(|s| s.sarg.as_ref());
    for text in texts {
        if range(text).is_none() {
            let text = text.escape_debug();
            return Err(Error::NetNs(format!("netns-{id}.img: ping_group_range is {text}")));
        }
    }
    Ok(())
}

fn range(text: &str) -> Option<(u32, u32)> {
    let mut words = text.split_whitespace().map(str::parse);
    let range = (words.next()?.ok()?, words.next()?.ok()?);
    words.next().is_none().then_some(range)
}

/// Settings of the namespace. Links that are made later inherit them.
pub(super) fn namespace(net: &Net, user: Option<&UsernsEntry>) -> Result<(), Error> {
    let Some(entry) = &net.netns else { return Ok(()) };
    // `all` first: some of its settings become those of every link, and of `default`.
    conf(4, "all", &entry.all_conf4)?;
    conf(4, "default", &entry.def_conf4)?;
    conf(6, "all", &entry.all_conf6)?;
    conf(6, "default", &entry.def_conf6)?;
    old(4, "all", &entry.all_conf)?;
    old(4, "default", &entry.def_conf)?;
    let at = dir(ROOT)?;
    let Some(at) = at else { return Ok(()) };
    if let Some(len) = entry.unix_conf.first().and_then(|s| s.iarg) {
        set(&at, ROOT, "unix/max_dgram_qlen", &len.to_string())?;
    }
    let groups = entry.ipv4_sysctl.first().and_then(|s| s.sarg.as_deref());
    if let Some((low, high)) = groups.and_then(range) {
        let text = format!("{}\t{}", outside(low, user), outside(high, user));
        set(&at, ROOT, "ipv4/ping_group_range", &text)?;
    }
    Ok(())
}

/// A group of the user namespace as this process calls it.
fn outside(group: u32, user: Option<&UsernsEntry>) -> u32 {
    let of = |e: &images::proto::UidGidExtent| {
        let nth = group.checked_sub(e.first)?;
        (nth < e.count).then(|| e.lower_first + nth)
    };
    user.and_then(|u| u.gid_map.iter().find_map(of)).unwrap_or(group)
}

/// Settings of a link.
pub(super) fn link(entry: &NetDeviceEntry) -> Result<(), Error> {
    conf(4, &entry.name, &entry.conf4)?;
    conf(6, &entry.name, &entry.conf6)?;
    old(4, &entry.name, &entry.conf)
}

/// The MTU of a link for IPv6, which may be less than the link's.
pub(super) fn link_mtu(entry: &NetDeviceEntry) -> Result<(), Error> {
    let place = CONF6.iter().position(|name| *name == "mtu");
    let mtu = place.and_then(|at| entry.conf6.get(at)?.iarg);
    let path = format!("{ROOT}/ipv6/conf/{}", entry.name);
    match (mtu, dir(&path)?) {
        (Some(mtu), Some(at)) => set(&at, &path, "mtu", &mtu.to_string()),
        _ => Ok(()),
    }
}

/// `-1` in images before 2.0 was "no such setting".
fn old(version: u8, link: &str, values: &[i32]) -> Result<(), Error> {
    let entry = |value: &i32| SysctlEntry { iarg: Some(*value), ..SysctlEntry::default() };
    conf(version, link, &values.iter().map(entry).collect::<Vec<_>>())
}

fn conf(version: u8, link: &str, values: &[SysctlEntry]) -> Result<(), Error> {
    let path = format!("{ROOT}/ipv{version}/conf/{link}");
    let names = if version == 4 { &CONF4[..] } else { &CONF6[..] };
    let wanted = names.iter().zip(values).filter_map(|(name, value)| {
        let text = value.iarg.map(|v| v.to_string()).or_else(|| value.sarg.clone())?;
        Some((*name, text))
    });
    let wanted: Vec<(&str, String)> = wanted.collect();
    if wanted.is_empty() {
        return Ok(());
    }
    // Without IPv6 its settings are not there, and matter to nobody.
    let Some(at) = dir(&path)? else { return Ok(()) };
    let last = |(name, _): &&(&str, String)| *name == LAST;
    for (name, text) in wanted.iter().filter(|w| !last(w)).chain(wanted.iter().filter(last)) {
        set(&at, &path, name, text)?;
    }
    Ok(())
}

fn dir(path: &str) -> Result<Option<OwnedFd>, Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    match open(path, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(sys::Error::new(format_args!("open({path})"), e as i32).into()),
    }
}

/// Writes a value unless it is there. A kernel without the setting does as it likes.
fn set(at: &OwnedFd, dir: &str, name: &str, text: &str) -> Result<(), Error> {
    let mut now = [0; 128];
    let fd = match openat(at.as_fd(), name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        Err(Errno::ENOENT) => {
            log::warn!("{dir}/{name}: no such setting; it was {text}");
            return Ok(());
        }
        fd => fd.map_err(|e| sys::Error::new(format_args!("open({dir}/{name})"), e as i32))?,
    };
    // A secret that was never set cannot be read.
    let len = nix::unistd::read(&fd, &mut now).unwrap_or(0);
    if now[..len].trim_ascii() == text.trim().as_bytes() {
        return Ok(());
    }
    let call = || format!("write({dir}/{name}, {text})");
    let fd = openat(at.as_fd(), name, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty());
    let fd = fd.map_err(|e| sys::Error::new(call(), e as i32))?;
    std::fs::File::from(fd)
        .write_all(text.as_bytes())
        .map_err(|e| sys::Error::io(call(), &e).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_two_numbers() {
        assert_eq!(range("0\t2000\n"), Some((0, 2000)));
        assert_eq!(range("0"), None);
        assert_eq!(range("0 1 2"), None);
        assert_eq!(range("a b"), None);
    }
}
