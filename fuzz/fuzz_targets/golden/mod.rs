//! A golden checkpoint, and how an input damages it.
//!
//! Input: pieces of `image number, kind of damage, place (2 bytes), length, bytes`.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use images::{Dir, Head, Image};

struct Golden {
    dir: PathBuf,
    images: Vec<(PathBuf, Vec<u8>)>,
}

fn golden() -> Golden {
    let dir = PathBuf::from(format!("/dev/shm/images-fuzz-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/images/zoo");
    let mut images = Vec::new();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let bytes = fs::read(entry.path()).unwrap();
        let name = entry.file_name();
        let image = Image::from_file_name(name.to_str().unwrap()).unwrap();
        fs::write(dir.join(&name), &bytes).unwrap();
        if image.kind().head != Head::Raw {
            images.push((dir.join(name), bytes));
        }
    }
    for n in 1..10 {
        fs::File::create(dir.join(format!("pages-{n}.img"))).unwrap().set_len(1 << 20).unwrap();
    }
    images.sort();
    Golden { dir, images }
}

thread_local! {
    static GOLDEN: RefCell<Golden> = RefCell::new(golden());
}

/// Calls `work` with the checkpoint as `input` damages it.
pub fn with_damaged(input: &[u8], work: impl Fn(&Dir)) {
    GOLDEN.with_borrow(|golden| {
        let mut changed = Vec::new();
        let mut input = input;
        while let [number, kind, high, low, len, rest @ ..] = input {
            let (path, whole) = &golden.images[usize::from(*number) % golden.images.len()];
            let at = usize::from(*high) << 8 | usize::from(*low);
            let (bytes, rest) = rest.split_at(usize::from(*len).min(rest.len()));
            let mut image = whole.clone();
            let at = at.min(image.len());
            match kind % 4 {
                0 => drop(image.splice(at..(at + bytes.len()).min(whole.len()), bytes.to_vec())),
                1 => image.truncate(at),
                2 => image.extend_from_slice(bytes),
                _ => drop(image.splice(8.min(whole.len()).., bytes.to_vec())),
            }
            fs::write(path, &image).unwrap();
            changed.push((path, whole));
            input = rest;
        }
        work(&Dir::open(&golden.dir).unwrap());
        for (path, whole) in changed {
            fs::write(path, whole).unwrap();
        }
    });
}
