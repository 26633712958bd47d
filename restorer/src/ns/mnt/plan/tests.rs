use super::groups::Step;
use super::*;

fn entry(id: u32, parent: u32, dev: u32, fstype: u32, root: &str, point: &str) -> MntEntry {
    MntEntry {
        mnt_id: id,
        parent_mnt_id: parent,
        root_dev: dev,
        fstype,
        root: root.into(),
        mountpoint: point.into(),
        sb_flags: Some(0),
        ..MntEntry::default()
    }
}

fn container() -> Vec<MntEntry> {
    let mut keys = entry(21, 13, 6, 3, "/null", "/proc/keys");
    keys.ext_key = Some("/dev/null".into());
    vec![
        keys,
        entry(20, 13, 54, 1, "/sys", "/proc/sys"),
        entry(19, 12, 254, 0, "/r/etc/hosts", "/etc/hosts"),
        entry(15, 14, 56, 6, "/", "/dev/pts"),
        entry(14, 12, 55, 5, "/", "/dev"),
        entry(13, 12, 54, 1, "/", "/proc"),
        entry(12, 9, 254, 0, "/r", "/"),
    ]
}

fn run(mounts: Vec<MntEntry>, external: &[&str]) -> Result<MountTrees, String> {
    let mut options = MountOptions::default();
    options.add_external(&external.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
    let wish = Wish { options: &options, root: true, user_ns: false };
    plan(&BTreeMap::from([(7, mounts)]), 7, &wish)
}

fn ids(trees: &MountTrees) -> Vec<u32> {
    trees.namespaces[0].order.iter().map(|i| trees.mounts[*i].id).collect()
}

#[test]
fn a_container_comes_back() {
    let trees = run(container(), &["mnt[/dev/null]:/dev/null"]).expect("good");
    assert_eq!(ids(&trees), [12, 19, 13, 14, 20, 21, 15]);
    let of = |id| trees.mounts.iter().find(|m| m.id == id).expect("mount");
    assert_eq!(of(21).source, Source::Host("/dev/null".into()));
    assert_eq!(of(20).place, b"sys");
    let at = trees.mounts.iter().position(|m| m.id == 13).expect("proc");
    assert_eq!(of(20).source, Source::Bind { of: at, path: b"sys".to_vec(), deleted: false });
    assert!(matches!(&of(19).source, Source::Bind { path, .. } if path == b"etc/hosts"));
    assert!(matches!(&of(14).source, Source::New(fs) if fs.name == "tmpfs" && fs.content));
    assert_eq!(of(12).source, Source::Root);
}

#[test]
fn all_missing_keys_are_told_at_once() {
    let mut mounts = container();
    mounts[2].ext_key = Some("hosts".into());
    let e = run(mounts, &[]).expect_err("no mapping");
    assert!(e.contains("21:/proc/keys (--external mnt[/dev/null]:PATH), 19:/etc/hosts"), "{e}");
}

#[test]
fn a_part_without_a_whole_is_refused() {
    let mut mounts = container();
    mounts[0].ext_key = None;
    let e = run(mounts, &[]).expect_err("devtmpfs has no root");
    assert!(e.contains("21:/proc/keys doesn't have a proper root mount"), "{e}");
}

#[test]
fn deeper_places_and_stacks_are_filled_in_order() {
    let mounts = vec![
        entry(5, 4, 60, 5, "/", "/a"),
        entry(4, 1, 61, 5, "/", "/a"),
        entry(3, 1, 62, 5, "/", "/a/b"),
        entry(1, 0, 254, 0, "/", "/"),
    ];
    let trees = run(mounts, &[]).expect("good");
    assert_eq!(ids(&trees), [1, 3, 4, 5]);
    assert_eq!(trees.mounts[0].place, b"");
}

#[test]
fn groups_are_made_from_masters_to_slaves() {
    let mut mounts = vec![
        entry(6, 1, 60, 5, "/d", "/s2"),
        entry(5, 1, 60, 5, "/", "/s"),
        entry(4, 1, 60, 5, "/d", "/p"),
        entry(3, 1, 60, 5, "/", "/m"),
        entry(1, 0, 254, 0, "/", "/"),
    ];
    (mounts[3].shared_id, mounts[2].shared_id) = (Some(9), Some(9));
    (mounts[1].master_id, mounts[1].shared_id) = (Some(9), Some(10));
    (mounts[0].master_id, mounts[0].shared_id) = (Some(9), Some(10));
    let trees = run(mounts.clone(), &[]).expect("good");
    let want = [
        Step::Share(3),
        Step::Copy(3, 2),
        Step::Copy(3, 1),
        Step::Slave(1),
        Step::Share(1),
        Step::Copy(1, 0),
    ];
    assert_eq!(trees.steps, want);
    (mounts[3].master_id, mounts[2].master_id) = (Some(10), Some(10));
    assert!(run(mounts, &[]).expect_err("circle").contains("slaves of each other"));
}

#[test]
fn overlays_wait_for_their_layers() {
    let mounts = vec![
        entry(5, 4, 61, 5, "/", "/o/t"),
        entry(4, 1, 60, 17, "/", "/o"),
        entry(3, 1, 62, 5, "/", "/z"),
        entry(1, 0, 254, 0, "/", "/"),
    ];
    let trees = run(mounts, &[]).expect("good");
    assert_eq!(ids(&trees), [1, 3, 4, 5]);
    assert_eq!(trees.mounts.iter().filter(|m| m.late).count(), 2);
}

#[test]
fn binds_of_overlays_wait_for_them() {
    // The first in the images is what the other is a bind of.
    let mounts = vec![
        entry(5, 1, 60, 17, "/", "/z"),
        entry(4, 1, 60, 17, "/", "/a"),
        entry(1, 0, 254, 0, "/", "/"),
    ];
    let trees = run(mounts, &[]).expect("good");
    assert_eq!(ids(&trees), [1, 5, 4]);
    // On the bind itself.
    let mounts = vec![
        entry(5, 4, 60, 17, "/", "/a/z"),
        entry(4, 1, 60, 17, "/", "/a"),
        entry(1, 0, 254, 0, "/", "/"),
    ];
    let e = run(mounts, &[]).expect_err("a circle");
    assert!(e.contains("mount 4 at /a"), "{e}");
}
