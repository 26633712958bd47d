//! `--external` resources that are files.

use std::collections::HashSet;

/// The resources by kind; those of other kinds are not for files.
#[derive(Debug, Default)]
pub(crate) struct External {
    /// `file[MNT_ID:INODE]`, both hexadecimal.
    files: HashSet<(i32, u64)>,
    /// `tty[RDEV:DEV]`, both hexadecimal, user-space form.
    ttys: HashSet<(u32, u32)>,
    /// `unix[INODE]`.
    unix: HashSet<u32>,
}

fn inner<'a>(text: &'a str, kind: &str) -> Option<&'a str> {
    let rest = text.strip_prefix(kind)?.strip_prefix('[')?;
    Some(&rest[..rest.find(']')?])
}

fn hex_pair(text: &str) -> Option<(u64, u64)> {
    let (a, b) = text.split_once(':')?;
    let hex = |t: &str| u64::from_str_radix(t.trim_start_matches("0x"), 16).ok();
    Some((hex(a)?, hex(b)?))
}

impl External {
    pub(crate) fn parse(list: &[String]) -> Self {
        let mut out = Self::default();
        for text in list {
            if let Some((mnt, ino)) = inner(text, "file").and_then(hex_pair) {
                out.files.insert((mnt as i32, ino));
            }
            if let Some((rdev, dev)) = inner(text, "tty").and_then(hex_pair) {
                out.ttys.insert((rdev as u32, dev as u32));
            }
            if let Some(ino) = inner(text, "unix").and_then(|t| t.parse().ok()) {
                out.unix.insert(ino);
            }
        }
        out
    }

    pub(crate) fn has_file(&self, mnt_id: i32, ino: u64) -> bool {
        self.files.contains(&(mnt_id, ino))
    }

    pub(crate) fn has_tty(&self, rdev: u32, dev: u32) -> bool {
        self.ttys.contains(&(rdev, dev))
    }

    pub(crate) fn has_unix(&self, ino: u32) -> bool {
        self.unix.contains(&ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_other_kinds_left_alone() {
        let list =
            ["file[1b:98606e]", "tty[8800:1a]", "unix[12]", "mnt[/x]:y", "file[zz]", "unix["];
        let e = External::parse(&list.map(String::from));
        assert!(e.has_file(27, 0x98_606e) && e.has_tty(0x8800, 0x1a) && e.has_unix(12));
        assert!(!e.has_unix(13));
    }
}
