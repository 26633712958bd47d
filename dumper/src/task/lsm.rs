//! Labels that security modules put on tasks.

use parasite::proc;
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
        let own = match self {
            Self::None => return None,
            // Its own file (5.8), for `current` is another module's where there are two.
            Self::Apparmor => {
                let own = format!("/proc/{pid}/task/{tid}/attr/apparmor/current");
                proc::read(own).ok()
            }
            Self::Selinux => None,
        };
        let file = || proc::read(format!("/proc/{pid}/task/{tid}/attr/current")).ok();
        let text = own.or_else(file)?;
        let text = String::from_utf8_lossy(&text);
        let text = text.trim_end_matches(['\0', '\n']);
        let name = match self {
            // "profile (enforce)".
            Self::Apparmor => text.rsplit_once(" (").map_or(text, |(name, _)| name),
            _ => text,
        };
        (name != "unconfined" && !name.is_empty()).then(|| name.to_owned())
    }
}

fn enabled_apparmor() -> bool {
    std::fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.starts_with(b"Y"))
}
