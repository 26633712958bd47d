// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mount namespaces.

use crate::Subject;

/// Stock's tar keeps neither extended attributes nor fractions of seconds.
const NO_XATTRS: &str = "its archives have no extended attributes";

#[test]
fn mounts_of_all_kinds_stay() {
    Subject::new("mounts").flavour("pid,mnt").check();
}

#[test]
fn extended_attributes_in_a_tmpfs_stay() {
    Subject::new("mounts").args(&["xattr"]).flavour("pid,mnt").lost_by_stock(NO_XATTRS).check();
}

#[test]
fn mounts_in_a_user_namespace_stay() {
    let why = "it wants a network namespace of the tree's own too";
    Subject::new("mounts").flavour("user,pid,mnt,uts,ipc").lost_by_stock(why).check();
}

#[test]
fn peer_groups_are_made_by_binds_too() {
    Subject::new("mounts").flavour("pid,mnt").restore_args(&["--mntns-compat-mode"]).check();
}

#[test]
fn a_nested_mount_namespace_stays() {
    Subject::new("mnt_nested").flavour("pid,mnt").check();
}

#[test]
fn a_nested_mount_namespace_stays_in_a_user_namespace() {
    let why = "it wants a network namespace of the tree's own too";
    Subject::new("mnt_nested").flavour("user,pid,mnt,uts,ipc").lost_by_stock(why).check();
}

#[test]
fn peers_in_two_namespaces_are_made_by_binds_too() {
    Subject::new("mnt_nested").flavour("pid,mnt").restore_args(&["--mntns-compat-mode"]).check();
}
