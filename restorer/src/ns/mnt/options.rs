//! What was asked about mounts.

/// `--external mnt[KEY]:PATH`, `--ext-mount-map`, `--mntns-compat-mode`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Key and path of external mounts.
    pub external: Vec<(String, String)>,
    /// Name and path of external devices (`--external dev[NAME]:PATH`).
    pub devices: Vec<(String, String)>,
    /// Mounts that the dump found by itself are looked for at the same place (`mnt[]`).
    pub auto: bool,
    /// Peer groups are made by binds in the right order (`--mntns-compat-mode`).
    pub compat: bool,
    /// In the place of the contexts that mounts were mounted with (`--lsm-mount-context`).
    pub context: Option<String>,
}

impl MountOptions {
    /// Adds what `--external` resources say of mounts; those of other kinds are left alone.
    pub fn add_external(&mut self, resources: &[String]) {
        for text in resources {
            let Some((kind, rest)) = text.split_once('[') else { continue };
            let Some((key, value)) = rest.split_once(']') else { continue };
            let value = value.strip_prefix(':').unwrap_or(key).to_owned();
            match kind {
                "mnt" if key.is_empty() => self.auto = true,
                "mnt" => self.external.push((key.to_owned(), value)),
                "dev" => self.devices.push((key.to_owned(), value)),
                _ => {}
            }
        }
    }

    /// The path given for a key.
    pub(crate) fn path_of(&self, key: &str) -> Option<&str> {
        self.external.iter().find(|(k, _)| k == key).map(|(_, path)| path.as_str())
    }

    /// The device given for a name.
    pub(crate) fn device(&self, name: &str) -> Option<&str> {
        self.devices.iter().find(|(k, _)| k == name).map(|(_, path)| path.as_str())
    }
}
