//! Labels that security modules put on tasks.

use images::proto::AmberSelinuxEntry;
use parasite::proc;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;

/// The security module whose labels tasks carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lsm {
    /// None that labels.
    None,
    /// SELinux.
    Selinux,
    /// AppArmor.
    Apparmor,
}

impl Lsm {
    /// What this kernel runs; looked for once.
    pub(crate) fn detect() -> Self {
        static FOUND: OnceLock<Lsm> = OnceLock::new();
        *FOUND.get_or_init(Self::look)
    }

    fn look() -> Self {
        let there = |path: &str| std::path::Path::new(path).exists();
        if there("/sys/fs/selinux/enforce") {
            Self::Selinux
        } else if there("/sys/kernel/security/apparmor") || enabled_apparmor() {
            Self::Apparmor
        } else {
            Self::None
        }
    }

    /// Label of a thread; `None`: the default one.
    pub(crate) fn label(self, pid: i32, tid: i32) -> Option<String> {
        match self {
            Self::None => None,
            Self::Selinux => attr(pid, tid, "current"),
            Self::Apparmor => {
                // Its own file (5.8), for `current` is another module's where there are two.
                let text =
                    attr(pid, tid, "apparmor/current").or_else(|| attr(pid, tid, "current"))?;
                // "profile (enforce)".
                let name = text.rsplit_once(" (").map_or(&*text, |(name, _)| name);
                (name != "unconfined").then(|| name.to_owned())
            }
        }
    }

    /// Whether a task is confined in another way than this process.
    pub(crate) fn confines(self, pid: i32) -> bool {
        let own = std::process::id().cast_signed();
        let label = self.label(pid, pid);
        label.is_some() && (self == Self::Apparmor || label != self.label(own, own))
    }

    /// What SELinux gives to sockets that a thread makes, if the thread has chosen it.
    pub(crate) fn sockcreate(self, pid: i32, tid: i32) -> Option<String> {
        (self == Self::Selinux).then(|| attr(pid, tid, "sockcreate")).flatten()
    }

    /// Likewise what it gives to programs started, files and keys.
    pub(crate) fn creates(self, tid: i32) -> Option<AmberSelinuxEntry> {
        if self != Self::Selinux {
            return None;
        }
        let entry = AmberSelinuxEntry {
            exec: attr(tid, tid, "exec"),
            fscreate: attr(tid, tid, "fscreate"),
            keycreate: attr(tid, tid, "keycreate"),
        };
        (entry != AmberSelinuxEntry::default()).then_some(entry)
    }

    /// Context of a socket.
    pub(crate) fn socket(self, own: BorrowedFd<'_>) -> Option<String> {
        if self != Self::Selinux {
            return None;
        }
        let path = format!("/proc/self/fd/{}", own.as_raw_fd());
        let all = sys::file::xattrs(path.as_bytes(), true).ok()?;
        let (_, value) = all.into_iter().find(|(name, _)| name == b"security.selinux")?;
        text(&value)
    }
}

fn attr(pid: i32, tid: i32, name: &str) -> Option<String> {
    text(&proc::read(format!("/proc/{pid}/task/{tid}/attr/{name}")).ok()?)
}

fn text(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\0', '\n']);
    (!text.is_empty()).then(|| text.to_owned())
}

fn enabled_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with(b"Y"))
}
