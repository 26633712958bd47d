//! `crit` on golden checkpoints: the JSON is that of criu's own crit, and gives the image back.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::PathBuf;

use images::{Head, Image, crit};
use support::{Rng, golden};

/// All framed images of the golden checkpoints.
fn images() -> Vec<PathBuf> {
    let dirs = ["tiny", "zoo", "ns"].map(|name| golden().join(name));
    let dirs = dirs.iter().filter(|d| d.exists());
    let files = dirs.flat_map(|dir| fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()));
    files
        .filter(|path| {
            let image = Image::from_file_name(path.file_name().unwrap().to_str().unwrap());
            image.unwrap().kind().head != Head::Raw
        })
        .collect()
}

#[test]
fn every_image_survives_a_round_trip() {
    let images = images();
    assert!(images.len() > 40);
    for path in images {
        let image = fs::read(&path).unwrap();
        for pretty in [false, true] {
            let json = crit::decode(&image, pretty).unwrap();
            assert_eq!(crit::encode(&json).unwrap(), image, "{}", path.display());
        }
    }
}

#[test]
fn json_is_that_of_criu() {
    let mut compared = 0;
    for name in ["tiny", "zoo", "ns"] {
        let Ok(list) = fs::read_dir(golden().join("crit").join(name)) else { continue };
        for path in list.map(|e| e.unwrap().path()) {
            if path.extension().is_some_and(|x| x == "json") {
                let stem = path.file_stem().unwrap().to_str().unwrap();
                let image = fs::read(golden().join(name).join(format!("{stem}.img"))).unwrap();
                let want = fs::read_to_string(&path).unwrap();
                assert_eq!(crit::decode(&image, true).unwrap(), want, "{}", path.display());
                compared += 1;
            }
        }
    }
    assert!(compared >= 20);
}

#[test]
fn tasks_files_and_memory_look_as_in_criu() {
    let dir = images::Dir::open(golden().join("tiny")).unwrap();
    for what in ["ps", "fds", "mems", "rss"] {
        let want = fs::read(golden().join("crit/tiny").join(format!("{what}.txt"))).unwrap();
        let ours = crit::explore(&dir, what).unwrap();
        assert_eq!(String::from_utf8(ours), String::from_utf8(want), "{what}");
    }
}

#[test]
fn text_that_is_no_utf8_is_escaped() {
    let image = fs::read(golden().join("zoo/core-4365.img")).unwrap();
    let json = crit::decode(&image, false).unwrap();
    assert!(json.contains(r#""comm": "wor\udcffker""#), "{json}");
}

#[test]
fn names_of_numbers_are_read_back() {
    let json = r#"{"magic": "TTY_DATA", "entries": [{"tty_id": "0x10", "data": "YQ=="}]}"#;
    let image = crit::encode(json).unwrap();
    let json = crit::decode(&image, false).unwrap();
    assert!(json.contains(r#""tty_id": 16"#));
}

#[test]
fn json_that_is_no_image_is_refused() {
    let check = |entry: &str, want: &str| {
        let json = format!(r#"{{"magic": "PSTREE", "entries": [{entry}]}}"#);
        let message = crit::encode(&json).unwrap_err().to_string();
        assert_eq!(message, want);
    };
    check("1", "entry 0: pstree_entry: is no object");
    check(r#"{"pid": 1}"#, r#"entry 0: pstree_entry: required field "ppid" is missing"#);
    check(r#"{"pid": -1}"#, "entry 0: pid: -1 is out of range");
    check(r#"{"pid": "one"}"#, r#"entry 0: pid: "one" is no number or name"#);
    check(r#"{"bogus": 1}"#, r#"entry 0: pstree_entry: has no field "bogus""#);
    check(
        r#"{"pid": 1, "ppid": 0, "pgid": 0, "sid": 0, "threads": 1}"#,
        "entry 0: threads: is no list",
    );
    let pipe = r#"{"pipe_id": 1, "bytes": "0x2", "extra": "YQ=="}"#;
    let json = format!(r#"{{"magic": "PIPES_DATA", "entries": [{pipe}]}}"#);
    let message = crit::encode(&json).unwrap_err().to_string();
    assert_eq!(message, "entry 0: extra: has length 1, the entry tells of 2");
    let message = crit::encode(r#"{"magic": "X", "entries": []}"#).unwrap_err().to_string();
    assert_eq!(message, "magic: is not known");
}

#[test]
fn damaged_images_never_panic() {
    let mut rng = Rng(0xfeed_f00d_dead_beef);
    for path in images() {
        let whole = fs::read(&path).unwrap();
        for _ in 0..60 {
            let mut bytes = whole.clone();
            for _ in 0..=rng.below(4) {
                let at = rng.below(bytes.len());
                bytes[at] = rng.word() as u8;
            }
            bytes.truncate(bytes.len() - rng.below(8).min(bytes.len()));
            if let Ok(json) = crit::decode(&bytes, rng.below(2) == 0) {
                _ = crit::encode(&json);
            }
        }
    }
}
