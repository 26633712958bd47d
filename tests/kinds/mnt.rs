// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Mount namespaces.

use crate::support::{Criu, Sandbox, Subject, directions, dump, restore};

/// Stock's tar keeps neither extended attributes nor fractions of seconds.
const NO_XATTRS: &str = "its archives have no extended attributes";

#[test]
fn mounts_of_all_kinds_stay() {
    Subject::new("mounts").flavour("pid,mnt").check();
}

/// What is in them is the kernel's, or other mounts' (overlay).
#[test]
fn mounts_of_the_kernels_file_systems_stay() {
    let of = |kind: &'static str| Subject::new("mnt_kinds").args(&[kind]).flavour("pid,mnt,ipc");
    for kind in ["devtmpfs", "sysfs", "mqueue", "cgroup2"] {
        of(kind).check();
    }
    of("overlay").stock_cannot_restore("mounts it before its layers are there").check();
    of("tracefs")
        .stock_cannot_dump("leaves the mount out, and fails for what is open there")
        .check();
}

#[test]
fn mounts_of_the_kernels_file_systems_stay_in_a_user_namespace() {
    let why = "it wants a network namespace of the tree's own too";
    for kind in ["mqueue", "overlay"] {
        let subject = Subject::new("mnt_kinds").args(&[kind]);
        subject.flavour("user,pid,mnt,uts,ipc").lost_by_stock(why).check();
    }
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

#[test]
fn a_file_unlinked_under_two_mounts_is_one() {
    Subject::new("mnt_links").flavour("pid,mnt").check();
}

#[test]
fn a_file_linked_elsewhere_is_one_under_two_mounts() {
    let args = ["--link-remap"];
    Subject::new("mnt_links").args(&["linked"]).flavour("pid,mnt").dump_args(&args).check();
}

#[test]
fn a_file_unlinked_under_two_mounts_of_a_user_namespace_is_one() {
    let why = "it wants a network namespace of the tree's own too";
    Subject::new("mnt_links").flavour("user,pid,mnt,uts,ipc").lost_by_stock(why).check();
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

/// Mounts outside, temporary files, tasks.
fn outside(sandbox: &Sandbox) -> String {
    // Not all of /tmp: other tests live there at the same time.
    // The shell itself counts: of a pipeline some would be there or not.
    sandbox.shell("cut -d' ' -f4- /proc/self/mountinfo; set -- /proc/[0-9]*; echo $#")
}

#[test]
fn a_restore_that_fails_leaves_no_mount() {
    let sandbox = Sandbox::new("mounts");
    sandbox.shell("mkdir root && mount --bind / root && mount --make-private root");
    let pid = sandbox.start_subject("pid,mnt", "mounts", &[]);
    let images = sandbox.make_images();
    dump(&sandbox, &Criu::ours(), &pid, &images, &[]).expect("dump");
    let root = sandbox.path("root");
    let args = ["--root", root.to_str().expect("utf-8")];
    let archives: Vec<_> = std::fs::read_dir(&images)
        .expect("images")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.to_string_lossy().contains("tmpfs-dev"))
        .collect();
    assert!(archives.len() > 5, "{archives:?}");
    sandbox.empty().expect("dumped");
    let before = outside(&sandbox);
    for (n, archive) in archives.iter().enumerate().step_by(3) {
        let whole = std::fs::read(archive).expect("archive");
        std::fs::write(archive, &whole[..whole.len() * n / archives.len()]).expect("archive");
        let said = restore(&sandbox, &Criu::ours(), &images, &args).expect_err("a cut archive");
        assert!(said.contains("tmpfs-dev"), "{said}");
        sandbox.empty().expect("no task");
        assert_eq!(outside(&sandbox), before);
        std::fs::write(archive, &whole).expect("archive");
    }
    let said = restore(&sandbox, &Criu::ours(), &images, &[]).expect_err("no --root");
    assert!(said.contains("--root option is required"), "{said}");
    restore(&sandbox, &Criu::ours(), &images, &args).expect("whole images");
}

#[test]
fn a_file_linked_elsewhere_stays_one_in_a_user_namespace() {
    let args = ["--link-remap"];
    Subject::new("mnt_links").args(&["linked"]).flavour("uns").dump_args(&args).check();
}

/// A subject in a mount namespace, with what `prepare` mounts in there; dumped by one with
/// `dump_args`, restored by the other with `restore_args`. What `ask` says in the restored tree.
fn with_mounts(
    (by, to): &(Criu, Criu),
    prepare: &str,
    (dump_args, restore_args): (&[&str], &[&str]),
    ask: &str,
) -> Result<String, String> {
    let sandbox = Sandbox::new("bare");
    let pid = sandbox.start_subject("pid,mnt", "bare", &[]);
    let images = sandbox.make_images();
    let within =
        |pid: &str, line: &str| sandbox.shell(&format!("nsenter -t {pid} -p -m bash -c '{line}'"));
    within(&pid, prepare);
    if let Err(said) = dump(&sandbox, by, &pid, &images, dump_args) {
        sandbox.finish();
        return Err(said);
    }
    let root = sandbox.path("root");
    let args = [&["--root", root.to_str().expect("utf-8")], restore_args].concat();
    restore(&sandbox, to, &images, &args)?;
    // Nobody else is here, and the root of the tree is its first.
    let pid = sandbox.pids().first().expect("a tree").to_string();
    let answer = within(&pid, ask);
    sandbox.finish();
    Ok(answer)
}

/// A mount that is left out, and what is mounted below it (where stock wants each one named).
#[test]
fn skipped_mounts_are_left_out() {
    let prepare = "mount -t tmpfs left /opt; mount -t tmpfs kept /mnt; echo x >/mnt/x";
    let below = format!("{prepare}; mkdir /opt/a; mount -t tmpfs below /opt/a");
    let skip: &[&str] = &["--skip-mnt", "/opt"];
    let ask = "cat /mnt/x; grep -c -e \" left \" -e \" below \" /proc/self/mountinfo || true";
    for pair in directions(&Criu::ours(), Criu::stock().as_ref()) {
        let prepare = if pair.0.name == "ours" { &below } else { prepare };
        let said = with_mounts(&pair, prepare, (skip, &[]), ask);
        let who = format!("{} -> {}", pair.0.name, pair.1.name);
        assert_eq!(said.as_deref(), Ok("x\n0\n"), "{who}");
    }
}

/// Kinds of file systems that nobody vouches for, but who asks for the dump.
#[test]
fn file_systems_of_other_kinds_are_enabled_by_name() {
    let prepare = "mount -t hugetlbfs huge /opt";
    let ask = "grep -c \" hugetlbfs huge \" /proc/self/mountinfo";
    let ours = (Criu::ours(), Criu::ours());
    let said = with_mounts(&ours, prepare, (&[], &[]), ask).expect_err("an unknown kind");
    assert!(said.contains("/opt") && said.contains("--enable-fs hugetlbfs"), "{said}");
    for pair in directions(&Criu::ours(), Criu::stock().as_ref()) {
        let who = format!("{} -> {}", pair.0.name, pair.1.name);
        for kinds in ["hugetlbfs", "all"] {
            let enabled: &[&str] = &["--enable-fs", kinds];
            let said = with_mounts(&pair, prepare, (enabled, enabled), ask);
            assert_eq!(said.as_deref(), Ok("1\n"), "{kinds}: {who}");
        }
    }
}
