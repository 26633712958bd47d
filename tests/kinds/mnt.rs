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

/// Mounts outside, and what of them is bound into the tree's namespace.
const OUTSIDE: &str = "mount -t tmpfs none /mnt; mkdir /mnt/dir; mount -t tmpfs ext /mnt/dir
    mkdir /mnt/dir/sub; printf 'in dir' >/mnt/dir/file; printf 'a part' >/mnt/dir/sub/part
    printf 'in file' >/mnt/file; printf '/mnt/dir /mnt\n/mnt/file /etc/hostname\n' >binds";

/// The same, and the directory is shared out there.
const SHARED: &str = "mount -t tmpfs none /mnt; mkdir /mnt/dir; mount -t tmpfs ext /mnt/dir
    mkdir /mnt/dir/sub; printf 'in dir' >/mnt/dir/file; printf 'a part' >/mnt/dir/sub/part
    printf 'in file' >/mnt/file; printf '/mnt/dir /mnt\n/mnt/file /etc/hostname\n' >binds
    mount --make-shared /mnt/dir";

const KEYS: [&str; 6] =
    ["--external", "mnt[/mnt]:D", "--external", "mnt[/etc/hostname]:F", "--external", "mnt[/no]:x"];
const PLACES: [&str; 6] = [
    "--external",
    "mnt[D]:/mnt/dir",
    "--external",
    "mnt[F]:/mnt/file",
    "--external",
    "mnt[x]:/nowhere",
];

fn external() -> Subject {
    Subject::new("mnt_external").flavour("pid,mnt")
}

#[test]
fn external_mounts_come_from_where_it_is_said() {
    external().prepare(OUTSIDE).dump_args(&KEYS).restore_args(&PLACES).check();
}

#[test]
fn external_mounts_are_found_by_themselves() {
    let auto = ["--external", "mnt[]"];
    external().prepare(OUTSIDE).dump_args(&auto).restore_args(&auto).check();
}

#[test]
fn the_old_options_mean_the_same() {
    let keys = ["--ext-mount-map", "/mnt:D", "--ext-mount-map", "/etc/hostname:F"];
    let places = ["-M", "D:/mnt/dir", "-M", "F:/mnt/file"];
    external().prepare(OUTSIDE).dump_args(&keys).restore_args(&places).check();
}

#[test]
fn slaves_of_mounts_outside_stay_slaves() {
    let auto = ["--external", "mnt[]:m"];
    external().prepare(SHARED).dump_args(&auto).restore_args(&auto).check();
}

#[test]
fn mounts_from_outside_need_a_key() {
    external()
        .prepare(OUTSIDE)
        .refused("/etc/hostname doesn't have a proper root mount (tmpfs /file); try --external")
        .check();
}
