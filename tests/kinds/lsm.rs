// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Labels of security modules. Without AppArmor or SELinux in the kernel these tests say so:
//! `vm-tests` has kernels with either.

use crate::Subject;
use crate::support::{Criu, Sandbox, dump, restore};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

const LOAD: &str = "apparmor_parser -r <<'E'
profile amber-kinds flags=(attach_disconnected) {
  file,
  capability,
  network,
  signal,
  unix,
  ptrace,
  mount,
  umount,
  pivot_root,
  deny /etc/hostname r,
}
E";

/// The profile, while it is loaded; by one test at a time.
struct Profile(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Profile {
    fn load() -> Option<Self> {
        let enabled = std::fs::read("/sys/module/apparmor/parameters/enabled");
        let parser = Command::new("apparmor_parser").arg("--version").output();
        if !enabled.is_ok_and(|text| text.starts_with(b"Y")) || parser.is_err() {
            crate::support::skip("apparmor", "no AppArmor in this kernel, or no apparmor_parser");
            return None;
        }
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let done = Command::new("sh").args(["-c", LOAD]).status().expect("a shell");
        assert!(done.success(), "apparmor_parser");
        Some(Self(one))
    }
}

impl Profile {
    fn unload(&self) {
        let remove = "echo 'profile amber-kinds {}' | apparmor_parser -R 2>/dev/null";
        let _ = Command::new("sh").args(["-c", remove]).status();
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.unload();
    }
}

#[test]
fn apparmor_confines_as_before() {
    let Some(_profile) = Profile::load() else { return };
    for flavour in ["host", "pid,mnt", "user,pid,mnt"] {
        Subject::new("apparmor").flavour(flavour).check();
    }
    for (name, label) in
        [("apparmor:unconfined", "unconfined"), ("apparmor:amber-kinds", "amber-kinds (enforce)")]
    {
        let restore_args = ["--lsm-profile", name];
        Subject::new("apparmor").args(&[label]).restore_args(&restore_args).check();
    }
}

#[test]
fn a_profile_that_is_not_loaded_is_named() {
    let Some(profile) = Profile::load() else { return };
    let sandbox = Sandbox::new("apparmor");
    let pid = sandbox.start_subject("pid", "apparmor", &[]);
    let images = sandbox.make_images();
    dump(&sandbox, &Criu::ours(), &pid, &images, &[]).expect("dump");
    profile.unload();
    restore(&sandbox, &Criu::ours(), &images, &[]).expect_err("nothing to confine it with");
    let log = std::fs::read_to_string(images.join("restore.log")).expect("log");
    assert!(log.contains("\"amber-kinds\": it is not loaded here"), "{log}");
}

/// Loads our policy, where SELinux has none yet, and has it enforced.
fn selinux() -> bool {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    let load = || {
        let own = std::fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
        let top = std::path::Path::new("/sys/fs/selinux");
        if !top.join("load").exists() || own.trim_end_matches('\0') != "kernel" {
            return Err("no SELinux without a policy in this kernel".to_owned());
        }
        let policy = std::env::temp_dir().join("amber-selinux-policy");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kinds/selinux.conf");
        // By default it is of a version that only the newest kernels read.
        let args = ["-M", "-c", "31", "-U", "allow", "-o"];
        let made = Command::new("checkpolicy").args(args).arg(&policy).arg(source).output();
        let made = made.map_err(|e| format!("checkpolicy: {e}"))?;
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let bytes = std::fs::read(&policy).expect("the policy");
        std::fs::write(top.join("load"), bytes).expect("load the policy");
        std::fs::write(top.join("enforce"), "1").expect("enforce it");
        Ok(())
    };
    match LOADED.get_or_init(load) {
        Ok(()) => true,
        Err(why) => {
            crate::support::skip("selinux", why);
            false
        }
    }
}

#[test]
fn contexts_of_selinux_stay() {
    if !selinux() {
        return;
    }
    for flavour in ["host", "pid,mnt", "user,pid,mnt"] {
        Subject::new("selinux").flavour(flavour).check();
    }
    let restore_args = ["--lsm-profile", "selinux:amber_u:amber_r:second_t:s0:c2"];
    let args = ["amber_u:amber_r:second_t:s0:c2"];
    Subject::new("selinux").args(&args).restore_args(&restore_args).check();
}

#[test]
fn contexts_of_mounts_stay_or_are_replaced() {
    if !selinux() {
        return;
    }
    let own = "amber_u:amber_r:first_t:s0:c1";
    let mounted = "amber_u:amber_r:base_t:s0:c1,c2";
    Subject::new("selinux").args(&[own, mounted]).flavour("pid,mnt").check();
    let new = "amber_u:amber_r:first_t:s0:c0,c1";
    let args = ["--lsm-mount-context", new];
    Subject::new("selinux").args(&[own, new]).flavour("pid,mnt").restore_args(&args).check();
}

#[test]
fn contexts_that_cannot_be_had_are_named() {
    if !selinux() {
        return;
    }
    let sandbox = Sandbox::new("selinux");
    let pid = sandbox.start_subject("pid", "selinux", &[]);
    let images = sandbox.make_images();
    dump(&sandbox, &Criu::ours(), &pid, &images, &[]).expect("dump");
    for (asked, said) in [
        ("selinux:amber_u:amber_r:nobody_t:s0", "the policy here does not know it"),
        ("selinux:amber_u:amber_r:forbidden_t:s0", "take on the security profile"),
        ("apparmor:amber-kinds", "AppArmor is not active here"),
    ] {
        let args = ["--lsm-profile", asked];
        restore(&sandbox, &Criu::ours(), &images, &args).expect_err(asked);
        let log = std::fs::read_to_string(images.join("restore.log")).expect("log");
        assert!(log.contains(said), "{asked}: {log}");
    }
    restore(&sandbox, &Criu::ours(), &images, &[]).expect("as it was");
}
