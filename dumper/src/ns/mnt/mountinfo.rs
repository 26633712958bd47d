//! Mounts as `/proc/PID/mountinfo` tells them.

use crate::files::parse::unescape;

/// `MS_*` flags of a mount, as images have them.
pub(crate) mod flag {
    pub(crate) const RDONLY: u32 = 1;
    pub(crate) const NOSUID: u32 = 2;
    pub(crate) const NODEV: u32 = 4;
    pub(crate) const NOEXEC: u32 = 8;
    pub(crate) const SYNCHRONOUS: u32 = 0x10;
    pub(crate) const MANDLOCK: u32 = 0x40;
    pub(crate) const DIRSYNC: u32 = 0x80;
    pub(crate) const NOSYMFOLLOW: u32 = 0x100;
    pub(crate) const NOATIME: u32 = 0x400;
    pub(crate) const NODIRATIME: u32 = 0x800;
    pub(crate) const UNBINDABLE: u32 = 0x2_0000;
    pub(crate) const SLAVE: u32 = 0x8_0000;
    pub(crate) const SHARED: u32 = 0x10_0000;
    pub(crate) const RELATIME: u32 = 0x20_0000;
    pub(crate) const STRICTATIME: u32 = 0x100_0000;
    pub(crate) const LAZYTIME: u32 = 0x200_0000;
}

/// A mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountInfo {
    /// Its id.
    pub(crate) id: u32,
    /// Id of the mount it is on.
    pub(crate) parent: u32,
    /// Number of the superblock, kernel encoding.
    pub(crate) dev: u32,
    /// What of the file system is mounted, without the mark of a deleted one.
    pub(crate) root: Vec<u8>,
    /// What is mounted has been deleted.
    pub(crate) deleted: bool,
    /// Where, from the root of the namespace.
    pub(crate) point: Vec<u8>,
    /// [`flag`]s of the mount, propagation included.
    pub(crate) flags: u32,
    /// Peer group, 0 if none.
    pub(crate) shared: u32,
    /// Peer group that it gets mounts from, 0 if none.
    pub(crate) master: u32,
    /// Kind of file system, with its subtype.
    pub(crate) fstype: Vec<u8>,
    /// What was mounted.
    pub(crate) source: Vec<u8>,
    /// [`flag`]s of the superblock.
    pub(crate) sb_flags: u32,
    /// Options of the file system.
    pub(crate) options: Vec<u8>,
}

impl MountInfo {
    /// One line. `None` for what is none.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|b| *b == b' ');
        let mut number = || std::str::from_utf8(words.next()?).ok()?.parse::<u32>().ok();
        let (id, parent) = (number()?, number()?);
        let (major, minor) = std::str::from_utf8(words.next()?).ok()?.split_once(':')?;
        let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
        let mut root = unescape(words.next()?);
        let deleted = root.ends_with(b"//deleted");
        if deleted {
            root.truncate(root.len() - b"//deleted".len());
        }
        let point = unescape(words.next()?);
        let mut out = Self {
            id,
            parent,
            dev: major << 20 | minor & 0xf_ffff,
            root,
            deleted,
            point,
            flags: mount_flags(words.next()?),
            ..Self::default()
        };
        for word in words.by_ref().take_while(|w| *w != b"-") {
            out.optional(word);
        }
        out.fstype = unescape(words.next()?);
        out.source = unescape(words.next()?);
        let (sb_flags, options) = sb_options(words.next()?);
        out.sb_flags = sb_flags;
        out.options = options;
        Some(out)
    }

    fn optional(&mut self, word: &[u8]) {
        let text = std::str::from_utf8(word).unwrap_or("");
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        let id = value.parse().unwrap_or(0);
        match name {
            "shared" => {
                self.shared = id;
                self.flags |= flag::SHARED;
            }
            "master" => {
                self.master = id;
                self.flags |= flag::SLAVE;
            }
            "unbindable" => self.flags |= flag::UNBINDABLE,
            _ => {}
        }
    }
}

/// All mounts of a text; lines that are none are left out.
pub(crate) fn parse(text: &[u8]) -> Vec<MountInfo> {
    text.split(|b| *b == b'\n').filter_map(MountInfo::parse).collect()
}

fn mount_flags(options: &[u8]) -> u32 {
    let one = |option: &[u8]| match option {
        b"ro" => flag::RDONLY,
        b"nosuid" => flag::NOSUID,
        b"nodev" => flag::NODEV,
        b"noexec" => flag::NOEXEC,
        b"noatime" => flag::NOATIME,
        b"nodiratime" => flag::NODIRATIME,
        b"relatime" => flag::RELATIME,
        b"nosymfollow" => flag::NOSYMFOLLOW,
        _ => 0,
    };
    let flags = options.split(|b| *b == b',').fold(0, |f, o| f | one(o));
    if flags & (flag::NOATIME | flag::RELATIME) == 0 { flags | flag::STRICTATIME } else { flags }
}

/// Options that are flags of every superblock, and the rest.
fn sb_options(text: &[u8]) -> (u32, Vec<u8>) {
    let (mut flags, mut rest) = (0, Vec::new());
    for option in text.split(|b| *b == b',') {
        match option {
            b"" | b"rw" => {}
            b"ro" => flags |= flag::RDONLY,
            b"sync" => flags |= flag::SYNCHRONOUS,
            b"dirsync" => flags |= flag::DIRSYNC,
            b"mand" => flags |= flag::MANDLOCK,
            b"lazytime" => flags |= flag::LAZYTIME,
            other => {
                if !rest.is_empty() {
                    rest.push(b',');
                }
                rest.extend(unescape(other));
            }
        }
    }
    (flags, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Linux 6.18, from a container.
    const LINES: &[u8] = b"114 112 0:55 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755\n\
        118 112 0:58 / /sys ro,nosuid,nodev,noexec,relatime shared:3 master:7 - sysfs sysfs ro\n\
        119 112 254:0 /a\\040b//deleted /etc/h rw,relatime unbindable - ext4 /dev/vda rw,discard\n\
        nonsense\n";

    #[test]
    fn lines_become_mounts() {
        let all = parse(LINES);
        assert_eq!(all.len(), 3);
        assert_eq!((all[0].flags, &all[0].options[..]), (0x100_0002, &b"size=65536k,mode=755"[..]));
        assert_eq!((all[1].flags, all[1].sb_flags), (0x38_000f, 1));
        assert_eq!((all[1].shared, all[1].master), (3, 7));
        assert_eq!((&all[2].root[..], all[2].deleted), (&b"/a b"[..], true));
        assert_eq!((all[2].dev, all[2].flags), (254 << 20, 0x22_0000));
    }

    #[test]
    fn cut_lines_are_none() {
        let line = LINES.split(|b| *b == b'\n').next().unwrap_or_default();
        let end = line.len() - b" rw,size=65536k,mode=755".len();
        for cut in 0..=end {
            assert_eq!(MountInfo::parse(&line[..cut]), None, "{cut}");
        }
    }
}
