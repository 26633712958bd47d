//! Any manifest, over a directory with a plain and a compressed image.
#![no_main]

use std::cell::OnceCell;
use std::fs;

use images::{Dir, Image, manifest};
use tempfile::TempDir;

thread_local! {
    static DIR: OnceCell<TempDir> = const { OnceCell::new() };
}

fn dir() -> TempDir {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    for name in ["core-1.img", "pages-1.img", "pages-2.img.zst", "pages-3.img.lz4"] {
        fs::write(dir.path().join(name), [7; 9000]).unwrap();
    }
    // Also whole and true, as the seed of others.
    manifest::write(&Dir::open(dir.path()).unwrap(), Vec::new(), None).unwrap();
    dir
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    DIR.with(|cell| {
        let path = cell.get_or_init(dir).path();
        let name = path.join(Image::Manifest.file_name());
        let whole = fs::read(&name).unwrap();
        // Behind the magics.
        let (head, _) = whole.split_at(8);
        fs::write(&name, [head, input].concat()).unwrap();
        let opened = Dir::open(path).unwrap();
        drop(manifest::check_images(&opened, 1, None));
        if let Ok((_, bad)) = manifest::verify(&opened, 2) {
            assert!(bad.iter().all(|b| !b.file.contains('/') && b.bytes.start <= b.bytes.end));
        }
        fs::write(&name, whole).unwrap();
    });
});
