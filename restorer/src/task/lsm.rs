//! Labels of security modules: AppArmor's profiles, SELinux's contexts.
//!
//! A profile is taken on by each thread, as late as can be. A context is the leader's before it has
//! threads, for a process with several may not change to one with other rights.

use crate::script::{Data, Full, Script};
use images::Checkpoint;
use images::proto::{AmberThreadEntry, CredsEntry, Lsmtype};
use parasite_abi::restore::{Op, What};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// Where selinuxfs is.
const SELINUX: &str = "/sys/fs/selinux";
/// Files of `/proc/PID/attr`: the context of a thread, and those of what it makes.
const ATTRS: [&str; 5] = ["current", "sockcreate", "exec", "fscreate", "keycreate"];

/// A file of `/proc/PID/attr`, and what to write there.
pub(crate) type Attr = (&'static str, String);
/// What images say of a thread's labels.
pub(crate) type Saved<'a> = (Option<&'a CredsEntry>, Option<&'a AmberThreadEntry>);

/// What this kernel has of them, and what was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lsm {
    /// AppArmor runs here.
    apparmor: bool,
    /// Profiles that are loaded, where that can be seen.
    loaded: Option<BTreeSet<String>>,
    /// SELinux runs here: the context of this process.
    selinux: Option<String>,
    /// Contexts that the policy of this kernel does not know.
    unknown: BTreeSet<String>,
    /// For all tasks, whatever theirs was.
    replaced: Option<String>,
    /// Labels of the tasks in the images.
    old: BTreeSet<String>,
    /// The labels to be given are SELinux's.
    contexts: bool,
}

impl Lsm {
    /// Asks the kernel.
    pub(crate) fn gather() -> Self {
        let enabled = fs::read("/sys/module/apparmor/parameters/enabled");
        let loaded = fs::read_to_string("/sys/kernel/security/apparmor/profiles");
        // "name (mode)"
        let name = |line: &str| line.rsplit_once(" (").map_or(line, |(name, _)| name).to_owned();
        let own = || fs::read_to_string("/proc/self/attr/current").ok();
        let selinux = fs::exists(format!("{SELINUX}/enforce")).unwrap_or(false).then(own).flatten();
        Self {
            apparmor: enabled.is_ok_and(|text| text.starts_with(b"Y")),
            loaded: loaded.ok().map(|text| text.lines().map(name).collect()),
            selinux: selinux.map(|text| text.trim_end_matches(['\0', '\n']).to_owned()),
            ..Self::default()
        }
    }

    /// Takes in what the request (`TYPE:NAME`) and the images say.
    pub(crate) fn asked(&mut self, profile: Option<&str>, cp: &Checkpoint) {
        let lsmtype = cp.inventory.lsmtype.unwrap_or(0);
        let module = profile.and_then(|p| p.split_once(':'));
        self.replaced = module.map(|(_, name)| name.to_owned());
        let of_images = lsmtype == i32::from(Lsmtype::Selinux);
        self.contexts = module.map_or(of_images, |(kind, _)| kind == "selinux");
        let threads = cp.tasks.iter().filter(|t| t.live.is_some()).flat_map(|t| &t.threads);
        let creds = threads.filter_map(|t| t.thread_core().creds.as_ref());
        self.old = creds.filter_map(|c| c.lsm_profile.clone()).collect();
    }

    /// Asks the policy about the contexts that will be needed, once [`Lsm::asked`].
    pub(crate) fn look_up(&mut self, cp: &Checkpoint) {
        if self.selinux.is_none() || !self.contexts {
            return;
        }
        let sockets = sockets(cp);
        let wanted = self.old.iter().chain(sockets.values()).map(|c| self.now(c).to_owned());
        let wanted: BTreeSet<String> = wanted.collect();
        let known = |context: &String| {
            match fs::write(format!("{SELINUX}/context"), context) {
                // Others than EINVAL say that we may not ask.
                Err(e) => e.raw_os_error() != Some(libc::EINVAL),
                Ok(()) => true,
            }
        };
        self.unknown = wanted.into_iter().filter(|context| !known(context)).collect();
    }

    /// The label that a thread is to have.
    pub(crate) fn label(&self, entry: &CredsEntry) -> Option<String> {
        let own = || entry.lsm_profile.as_ref();
        let label = self.replaced.as_ref().or_else(own)?;
        let none = label.is_empty() || !self.contexts && label == "unconfined";
        (!none).then(|| label.clone())
    }

    /// Likewise, if it is one of AppArmor.
    pub(crate) fn profile(&self, entry: &CredsEntry) -> Option<String> {
        if self.contexts { None } else { self.label(entry) }
    }

    /// What is wrong with a label, if anything is.
    pub(crate) fn check(&self, label: &str) -> Result<(), &'static str> {
        if self.contexts {
            return match &self.selinux {
                None => Err("SELinux is not active here"),
                Some(_) if self.unknown.contains(label) => Err("the policy here does not know it"),
                Some(_) => Ok(()),
            };
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

    /// What a context of the images is here: that of a task becomes the one asked for.
    fn now<'s>(&'s self, context: &'s str) -> &'s str {
        self.replaced.as_deref().filter(|_| self.old.contains(context)).unwrap_or(context)
    }

    /// Contexts of sockets by file id, and that of those whose own is not known: the root task's.
    /// `None`: there are none to be given.
    pub(crate) fn sockets(&self, cp: &Checkpoint) -> Option<(BTreeMap<u32, String>, String)> {
        let _own = self.selinux.as_ref().filter(|_| self.contexts)?;
        let root = cp.root().threads.first()?.thread_core().creds.as_ref()?;
        let given = |(id, context): (u32, String)| (id, self.now(&context).to_owned());
        Some((sockets(cp).into_iter().map(given).collect(), self.label(root)?))
    }

    /// Contexts of a thread, in the order of [`ATTRS`].
    fn state(&self, (creds, amber): Saved<'_>) -> [Option<String>; 5] {
        let now = |context: &String| self.now(context).to_owned();
        let more = amber.and_then(|a| a.selinux.as_ref());
        [
            creds.and_then(|c| self.label(c)),
            creds.and_then(|c| c.lsm_sockcreate.as_ref()).map(now),
            more.and_then(|m| m.exec.as_ref()).map(now),
            more.and_then(|m| m.fscreate.as_ref()).map(now),
            more.and_then(|m| m.keycreate.as_ref()).map(now),
        ]
    }

    /// What a leader has to write before it has threads.
    pub(crate) fn leader(&self, saved: Saved<'_>) -> Vec<Attr> {
        let Some(own) = self.selinux.as_ref().filter(|_| self.contexts) else { return Vec::new() };
        // The context for sockets is what the last of its sockets had.
        let from = [Some(own.clone()), Some(String::new()), None, None, None];
        differences(from, self.state(saved))
    }

    /// What another thread has to write, which began with all that its leader has.
    pub(crate) fn thread(&self, leader: Saved<'_>, own: Saved<'_>) -> Vec<Attr> {
        if self.selinux.is_none() || !self.contexts {
            return Vec::new();
        }
        differences(self.state(leader), self.state(own))
    }
}

fn differences(from: [Option<String>; 5], to: [Option<String>; 5]) -> Vec<Attr> {
    let pairs = ATTRS.into_iter().zip(from.into_iter().zip(to));
    let changed =
        pairs.filter(|(name, (from, to))| from != to && (*name != "current" || to.is_some()));
    // A line's end alone says: none.
    changed.map(|(name, (_, to))| (name, to.unwrap_or_else(|| "\n".to_owned()))).collect()
}

/// Contexts of sockets by file id.
fn sockets(cp: &Checkpoint) -> BTreeMap<u32, String> {
    let tables = cp.tasks.iter().filter_map(|t| t.live.as_ref()).flat_map(|l| l.fdinfo.iter());
    tables.filter_map(|fd| Some((fd.id, fd.xattr_security_selinux.clone()?))).collect()
}

/// Takes on contexts by descriptors of the files in `/proc/self/attr`.
pub(crate) fn leader_steps(
    attrs: &[(std::os::fd::RawFd, String)],
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    for (fd, text) in attrs {
        let len = text.len() as u64;
        let at = data.put(text.as_bytes())?;
        script.call_expecting(What::Lsm, libc::SYS_write, [*fd as u64, at, len], len);
    }
    Ok(())
}

/// Takes on contexts by path.
pub(crate) fn thread_steps(
    attrs: &[Attr],
    script: &mut Script,
    data: &mut Data<'_>,
) -> Result<(), Full> {
    for (name, text) in attrs {
        let path = data.put(format!("/proc/thread-self/attr/{name}\0").as_bytes())?;
        let at = data.put(text.as_bytes())?;
        script.op(What::Lsm, Op::WriteFile, [path, at, text.len() as u64]);
    }
    Ok(())
}

/// Confines the calling thread by a profile of AppArmor.
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
        assert_eq!(lsm.profile(&entry("web")), Some("web".into()));
        assert_eq!(lsm.profile(&entry("unconfined")), None);
        lsm.contexts = true;
        assert_eq!(lsm.check("a:b:c"), Err("SELinux is not active here"));
        assert_eq!(lsm.profile(&entry("a:b:c")), None);
        lsm.contexts = false;
        lsm.replaced = Some("unconfined".into());
        assert_eq!(lsm.label(&entry("web")), None);
        lsm.replaced = Some("web".into());
        assert_eq!(lsm.label(&CredsEntry::default()), Some("web".into()));
    }

    #[test]
    fn contexts_of_tasks_follow_the_one_that_is_asked_for() {
        let own = "u:r:criu:s0";
        let mut lsm = Lsm { selinux: Some(own.into()), contexts: true, ..Lsm::default() };
        lsm.old.insert("u:r:web:s0".into());
        let entry = |label: &str, sockets: &str| CredsEntry {
            lsm_profile: Some(label.into()),
            lsm_sockcreate: Some(sockets.into()),
            ..Default::default()
        };
        let web = entry("u:r:web:s0", "u:r:mail:s0");
        let at = |name, text: &str| (name, text.to_owned());
        let both = [at("current", "u:r:web:s0"), at("sockcreate", "u:r:mail:s0")];
        assert_eq!(lsm.leader((Some(&web), None)), both);
        assert_eq!(lsm.thread((Some(&web), None), (Some(&web), None)), []);
        let as_we = CredsEntry { lsm_profile: Some(own.into()), ..Default::default() };
        assert_eq!(lsm.leader((Some(&as_we), None)), [at("sockcreate", "\n")]);
        lsm.replaced = Some("u:r:new:s0".into());
        let web = entry("u:r:web:s0", "u:r:web:s0");
        let both = [at("current", "u:r:new:s0"), at("sockcreate", "u:r:new:s0")];
        assert_eq!(lsm.leader((Some(&web), None)), both);
    }
}
