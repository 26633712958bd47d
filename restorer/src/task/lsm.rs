//! Labels of security modules: AppArmor's profiles. Others' are refused.

use crate::script::{Data, Full, Script};
use images::proto::{CredsEntry, Lsmtype};
use parasite_abi::restore::{Op, What};
use std::collections::BTreeSet;
use std::fs;

/// What this kernel has of them, and what was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lsm {
    /// AppArmor runs here.
    apparmor: bool,
    /// Profiles that are loaded, where that can be seen.
    loaded: Option<BTreeSet<String>>,
    /// For all tasks, whatever theirs was.
    replaced: Option<String>,
    /// The images' labels are those of another module than AppArmor.
    foreign: bool,
}

impl Lsm {
    /// Asks the kernel.
    pub(crate) fn gather() -> Self {
        let enabled = fs::read("/sys/module/apparmor/parameters/enabled");
        let loaded = fs::read_to_string("/sys/kernel/security/apparmor/profiles");
        // "name (mode)"
        let name = |line: &str| line.rsplit_once(" (").map_or(line, |(name, _)| name).to_owned();
        Self {
            apparmor: enabled.is_ok_and(|text| text.starts_with(b"Y")),
            loaded: loaded.ok().map(|text| text.lines().map(name).collect()),
            ..Self::default()
        }
    }

    /// Takes in what the request and the images say. `lsmtype`: the module that the dump met.
    pub(crate) fn asked(&mut self, profile: Option<&str>, lsmtype: Option<i32>) {
        self.replaced = profile.map(str::to_owned);
        self.foreign = profile.is_none() && lsmtype == Some(Lsmtype::Selinux.into());
    }

    /// The label that a thread is to have.
    pub(crate) fn label(&self, entry: &CredsEntry) -> Option<String> {
        let own = || entry.lsm_profile.as_ref();
        let label = self.replaced.as_ref().or_else(own)?;
        (!label.is_empty() && label != "unconfined").then(|| label.clone())
    }

    /// What is wrong with a label, if anything is.
    pub(crate) fn check(&self, label: &str) -> Result<(), &'static str> {
        if self.foreign {
            return Err("one of SELinux is not supported yet");
        }
        if !self.apparmor {
            return Err("AppArmor is not active here");
        }
        // Those of a policy namespace (`:ns:name`) are in no list that we could read.
        let known = |name: &str| {
            name.starts_with(':')
                || name == "unconfined"
                || self.loaded.as_ref().is_none_or(|all| all.contains(name))
        };
        if label.split("//&").all(known) { Ok(()) } else { Err("it is not loaded here") }
    }
}

/// Confines the calling thread.
pub(crate) fn steps(label: &str, script: &mut Script, data: &mut Data<'_>) -> Result<(), Full> {
    // `lsm_set_self_attr` (6.8) would spare the path, but takes one more way to be tested: this
    // one is there on all kernels, and a task that AppArmor confines sees `/proc`.
    let own = fs::exists("/proc/self/attr/apparmor").unwrap_or(false);
    let path = if own { "apparmor/current" } else { "current" };
    let path = data.put(format!("/proc/thread-self/attr/{path}\0").as_bytes())?;
    let text = format!("changeprofile {label}");
    let at = data.put(text.as_bytes())?;
    script.op(What::Lsm, Op::WriteFile, [path, at, text.len() as u64]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(apparmor: bool) -> Lsm {
        let loaded = ["web", "web//child"].map(str::to_owned);
        Lsm { apparmor, loaded: Some(loaded.into()), ..Lsm::default() }
    }

    #[test]
    fn profiles_have_to_be_loaded() {
        let lsm = here(true);
        for good in ["web", "web//child", "web//&unconfined", ":inner:web//&web"] {
            assert_eq!(lsm.check(good), Ok(()), "{good}");
        }
        assert_eq!(lsm.check("mail"), Err("it is not loaded here"));
        assert_eq!(lsm.check("web//&mail"), Err("it is not loaded here"));
        assert_eq!(here(false).check("web"), Err("AppArmor is not active here"));
    }

    #[test]
    fn what_is_asked_for_replaces_what_was() {
        let mut lsm = here(true);
        let entry =
            |label: &str| CredsEntry { lsm_profile: Some(label.into()), ..Default::default() };
        assert_eq!(lsm.label(&entry("web")), Some("web".into()));
        assert_eq!(lsm.label(&entry("unconfined")), None);
        lsm.asked(None, Some(Lsmtype::Selinux.into()));
        assert!(lsm.check("web").is_err());
        lsm.asked(Some("unconfined"), Some(Lsmtype::Selinux.into()));
        assert_eq!(lsm.label(&entry("user_u:user_r:user_t")), None);
        lsm.asked(Some("web"), None);
        assert_eq!(lsm.label(&CredsEntry::default()), Some("web".into()));
    }
}
