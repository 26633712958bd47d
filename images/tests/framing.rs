//! Images as files: framing, lazily made ones, damaged ones.
#![allow(clippy::unwrap_used, reason = "tests")]

use images::proto::{FdinfoEntry, InventoryEntry, PipeDataEntry, PstreeEntry, SeccompEntry};
use images::{COMMON_MAGIC, Dir, Error, Image, Reader, Version};

fn dir() -> (tempfile::TempDir, Dir) {
    let temp = tempfile::tempdir().unwrap();
    let dir = Dir::open(temp.path()).unwrap();
    (temp, dir)
}

fn task(pid: u32) -> PstreeEntry {
    PstreeEntry { pid, threads: vec![pid, pid + 1], ..Default::default() }
}

fn image(entries: &[PstreeEntry]) -> Vec<u8> {
    let (temp, dir) = dir();
    let mut writer = dir.writer(Image::Pstree).unwrap();
    for entry in entries {
        writer.write(entry).unwrap();
    }
    writer.finish().unwrap();
    std::fs::read(temp.path().join("pstree.img")).unwrap()
}

fn read(bytes: &[u8]) -> Result<Vec<PstreeEntry>, Error> {
    Reader::new(Image::Pstree, Some(bytes))?.entries_of().collect()
}

#[test]
fn what_is_written_is_read() {
    let tasks = [task(1), task(7), task(300)];
    assert_eq!(read(&image(&tasks)).unwrap(), tasks);
}

#[test]
fn the_head_is_that_of_criu() {
    assert_eq!(image(&[]), [0x19, 0x43, 0x56, 0x54, 0x30, 0x30, 0x27, 0x50]);
    let (temp, dir) = dir();
    dir.write_one(Image::Inventory, &InventoryEntry { img_version: 2, ..Default::default() })
        .unwrap();
    let bytes = std::fs::read(temp.path().join("inventory.img")).unwrap();
    assert_eq!(bytes, [0x16, 0x31, 0x31, 0x58, 2, 0, 0, 0, 8, 2]);
}

#[test]
fn images_of_version_1_have_no_common_magic() {
    let bytes = image(&[task(1)]);
    let reader = Reader::new(Image::Pstree, Some(&bytes[4..])).unwrap();
    assert_eq!(reader.version(), Version::V1);
    assert_eq!(read(&bytes[4..]).unwrap(), [task(1)]);
}

#[test]
fn another_image_is_refused() {
    let mut bytes = image(&[]);
    bytes[4] ^= 1;
    let message = read(&bytes).unwrap_err().to_string();
    assert_eq!(message, "pstree.img: magic is 0x50273031, expected 0x50273030 (PSTREE)");
    let message = read(&[1, 2, 3, 4, 5, 6, 7, 8]).unwrap_err().to_string();
    assert!(message.contains(&format!("{COMMON_MAGIC:#x}")), "{message}");
}

#[test]
fn an_image_cut_anywhere_but_between_entries_is_an_error() {
    let tasks = [task(1), task(7)];
    let bytes = image(&tasks);
    let first = image(&tasks[..1]).len();
    for len in 0..bytes.len() {
        let whole = read(&bytes[..len]);
        if len == 8 || len == first {
            assert!(whole.is_ok(), "cut at {len}");
        } else {
            assert!(matches!(whole, Err(Error::Truncated { .. })), "cut at {len}");
        }
    }
}

#[test]
fn a_huge_size_is_an_error_and_costs_no_memory() {
    for size in [0x0fff_ffff_u32, 0x7fff_ffff, u32::MAX] {
        let mut bytes = image(&[]);
        bytes.extend(size.to_le_bytes());
        bytes.extend([8, 1]);
        assert!(read(&bytes).is_err());
    }
}

#[test]
fn a_missing_required_field_is_named() {
    let mut bytes = image(&[]);
    bytes.extend([2, 0, 0, 0, 8, 1]);
    let message = read(&bytes).unwrap_err().to_string();
    assert_eq!(message, "pstree.img: entry 0 (pstree_entry) has no `ppid`");
}

#[test]
fn flipped_bits_never_panic() {
    let bytes = image(&[task(1), task(7), task(300)]);
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        _ = read(&bytes);
    }
}

#[test]
fn an_absent_image_reads_like_an_empty_one() {
    let (_temp, dir) = dir();
    let mut reader = dir.reader(Image::Fdinfo(2)).unwrap();
    assert!(reader.is_absent());
    assert_eq!(reader.read_opt::<FdinfoEntry>().unwrap(), None);
    let message = dir.read_one::<SeccompEntry>(Image::Seccomp).unwrap_err().to_string();
    assert_eq!(message, "seccomp.img: no such image");
}

#[test]
fn a_lazy_image_without_entries_leaves_no_stale_one() {
    let (temp, dir) = dir();
    let path = temp.path().join("pipes-data.img");
    std::fs::write(&path, "stale").unwrap();
    assert_eq!(dir.writer(Image::PipesData).unwrap().finish().unwrap(), 0);
    assert!(!path.exists());
}

#[test]
fn a_message_of_another_image_is_not_written() {
    let (_temp, dir) = dir();
    let mut writer = dir.writer(Image::Pstree).unwrap();
    assert!(matches!(writer.write(&PipeDataEntry::default()), Err(Error::Foreign { .. })));
}

#[test]
fn payloads_are_found_and_read() {
    let (_temp, dir) = dir();
    let mut writer = dir.writer(Image::PipesData).unwrap();
    for (pipe_id, data) in [(1, &b"abc"[..]), (2, b""), (3, b"defgh")] {
        let bytes = data.len() as u32;
        writer.write(&PipeDataEntry { pipe_id, bytes, size: Some(65536) }).unwrap();
        writer.write_payload(data).unwrap();
    }
    writer.finish().unwrap();
    let mut reader = dir.reader(Image::PipesData).unwrap();
    let mut found = Vec::new();
    while let Some(entry) = reader.read_opt::<PipeDataEntry>().unwrap() {
        let extent = reader.skip_payload(entry.bytes.into()).unwrap();
        found.push((entry.pipe_id, dir.read_extent(extent).unwrap()));
    }
    assert_eq!(found, [(1, b"abc".to_vec()), (2, vec![]), (3, b"defgh".to_vec())]);
}

#[test]
fn a_short_payload_is_an_error() {
    let (_temp, dir) = dir();
    let mut writer = dir.writer(Image::PipesData).unwrap();
    writer.write(&PipeDataEntry { pipe_id: 1, bytes: u32::MAX, size: None }).unwrap();
    writer.write_payload(b"few").unwrap();
    writer.finish().unwrap();
    let mut reader = dir.reader(Image::PipesData).unwrap();
    let entry: PipeDataEntry = reader.read_one().unwrap();
    let message = reader.skip_payload(entry.bytes.into()).unwrap_err().to_string();
    assert!(message.ends_with("payload of entry 0 is cut short: 3 of 4294967295 bytes"));
}

#[test]
fn a_manifest_tells_of_no_files_outside() {
    use images::{manifest, proto::AmberFileEntry};
    for name in ["../passwd", "/etc/passwd", "passwd", "/dev/zero.img"] {
        let (_temp, dir) = dir();
        let entry = AmberFileEntry { name: name.into(), ..AmberFileEntry::default() };
        manifest::write(&dir, vec![entry], None).unwrap();
        for got in [manifest::verify(&dir, 1).map(drop), manifest::check_images(&dir, 1, None)] {
            let said = got.unwrap_err().to_string();
            assert!(said.contains("is that of no image"), "{name}: {said}");
        }
    }
}

#[test]
fn large_images_are_read_again_unless_they_must_be_what_they_were() {
    use images::{manifest, proto::AmberFileEntry};
    use std::os::unix::fs::FileExt;
    let (temp, dir) = dir();
    let path = temp.path().join("pages-1.img");
    let size = 16 << 20;
    std::fs::write(&path, vec![7; size]).unwrap();
    // Hashes of other contents, so that reading shows.
    let wrong = AmberFileEntry {
        name: "pages-1.img".into(),
        size: size as u64,
        chunk: manifest::CHUNK as u32,
        hashes: vec![0; size / manifest::CHUNK * 16],
        ..AmberFileEntry::default()
    };
    let refused = |boot| manifest::check_images(&dir, 2, boot).is_err();
    manifest::write(&dir, vec![wrong.clone()], Some("one")).unwrap();
    assert!(!refused(Some("one")));
    assert!(refused(Some("two")), "the machine was started anew");
    assert!(refused(None), "the kernel does not tell");
    assert!(!manifest::verify(&dir, 2).unwrap().1.is_empty(), "verify reads all");
    // The kernel's clock for files has ticks of up to 10 ms.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_at(&[8], 4711).unwrap();
    file.set_modified(modified).unwrap();
    assert!(refused(Some("one")), "somebody wrote to it");
    manifest::write(&dir, vec![wrong.clone()], Some("one")).unwrap();
    let copy = temp.path().join("copy");
    std::fs::copy(&path, &copy).unwrap();
    std::fs::rename(&copy, &path).unwrap();
    assert!(refused(Some("one")), "it is another file");
    manifest::write(&dir, vec![wrong], None).unwrap();
    assert!(refused(Some("one")), "of a dump that did not know");
}
