// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Labels of security modules. Without AppArmor in the kernel these tests say so: `vm-tests` has
//! kernels with it.

use crate::Subject;
use crate::support::{Criu, LIMIT, Sandbox, dump, restore, subject};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    let dir = sandbox.dir().to_str().expect("utf-8").to_owned();
    sandbox.start_in("pid", &subject("apparmor"), &[&dir]);
    let heard = sandbox.hear(&["ready", "bad"], LIMIT).expect("never got ready");
    assert!(heard.starts_with("ready"), "{heard}");
    let images = sandbox.path("images");
    std::fs::create_dir(&images).expect("images");
    let pid = sandbox.root_pid().expect("pid");
    dump(&sandbox, &Criu::ours(), &pid, &images, &[]).expect("dump");
    profile.unload();
    restore(&sandbox, &Criu::ours(), &images, &[]).expect_err("nothing to confine it with");
    let log = std::fs::read_to_string(images.join("restore.log")).expect("log");
    assert!(log.contains("\"amber-kinds\": it is not loaded here"), "{log}");
}
