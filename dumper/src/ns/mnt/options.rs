//! What was asked about mounts.

/// `--external mnt[]`, `--ext-mount-map`, `--skip-mnt`, `--enable-fs` and the like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Mountpoint and key (`--external mnt[MOUNTPOINT]:KEY`, `--ext-mount-map MOUNTPOINT:KEY`).
    pub external: Vec<(Vec<u8>, String)>,
    /// Devices by number and key (`--external dev[MAJOR/MINOR]:KEY`).
    pub devices: Vec<(u32, String)>,
    /// Mounts that the dumper has too are found by themselves (`mnt[]`, `--ext-mount-map auto`).
    pub auto: bool,
    /// Mounts may be in peer groups of the dumper's (`--enable-external-sharing`, `mnt[]:s`).
    pub sharing: bool,
    /// Mounts may be slaves of the dumper's (`--enable-external-masters`, `mnt[]:m`).
    pub masters: bool,
    /// Mountpoints that are left out (`--skip-mnt`).
    pub skip: Vec<Vec<u8>>,
    /// Kinds of file systems that are mounted by name (`--enable-fs`); `all` for all.
    pub enable_fs: Vec<String>,
}

impl MountOptions {
    /// Adds what `--external` resources say of mounts; those of other kinds are left alone.
    pub fn add_external(&mut self, resources: &[String]) {
        for text in resources {
            let Some((key, value)) = text.strip_prefix("mnt[").and_then(|t| t.split_once(']'))
            else {
                self.add_device(text);
                continue;
            };
            let value = value.strip_prefix(':');
            if key.is_empty() {
                self.auto = true;
                self.masters |= value.is_some_and(|v| v.contains('m'));
                self.sharing |= value.is_some_and(|v| v.contains('s'));
            } else {
                self.external.push((key.into(), value.unwrap_or(key).to_owned()));
            }
        }
    }

    fn add_device(&mut self, text: &str) {
        let device = || {
            let (number, key) = text.strip_prefix("dev[")?.split_once("]:")?;
            let (major, minor) = number.split_once(['/', ':'])?;
            let dev = major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?;
            Some((dev, key.to_owned()))
        };
        self.devices.extend(device());
    }

    /// Whether `--enable-fs` names this kind.
    pub(crate) fn enables(&self, name: &[u8]) -> bool {
        let given = self.enable_fs.iter().flat_map(|list| list.split(','));
        given.into_iter().any(|n| n == "all" || n.as_bytes() == name)
    }

    /// The key of the mount at `point`.
    pub(crate) fn key_of(&self, point: &[u8]) -> Option<&str> {
        let same = |given: &[u8]| trimmed(given) == trimmed(point);
        self.external.iter().find(|(given, _)| same(given)).map(|(_, key)| key.as_str())
    }

    /// Whether the mount at `point` is left out.
    pub(crate) fn skips(&self, point: &[u8]) -> bool {
        self.skip.iter().any(|given| trimmed(given) == trimmed(point))
    }
}

fn trimmed(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|b| *b != b'/').map_or(0, |n| n + 1);
    &path[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_sorted_out() {
        let mut options = MountOptions::default();
        let list = ["mnt[/etc/hosts]:h", "mnt[]:ms", "net[1]:x", "dev[8/1]:disk", "mnt[/x/]"];
        options.add_external(&list.map(String::from));
        assert_eq!(options.key_of(b"/etc/hosts"), Some("h"));
        assert_eq!((options.key_of(b"/x"), options.key_of(b"/")), (Some("/x/"), None));
        assert_eq!(options.devices, [(8 << 20 | 1, "disk".to_owned())]);
        assert!(options.auto && options.masters && options.sharing);
        options.enable_fs = vec!["nfsd,foo".into()];
        assert!(options.enables(b"foo") && !options.enables(b"fo"));
    }
}
