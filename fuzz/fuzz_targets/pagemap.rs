//! Two layers of a chain: any pagemap, in the newer and in the older.
#![no_main]

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use images::Dir;
use images::pages::{Chain, PAGE_SIZE, PageSet};

fn dirs() -> [PathBuf; 2] {
    let base = PathBuf::from(format!("/dev/shm/images-fuzz-{}", std::process::id()));
    let dirs = ["new", "old"].map(|name| base.join(name));
    for dir in &dirs {
        fs::create_dir_all(dir).unwrap();
        for n in 0..4 {
            let pages = fs::File::create(dir.join(format!("pages-{n}.img"))).unwrap();
            pages.set_len(1 << 20).unwrap();
        }
    }
    Dir::open(&dirs[0]).unwrap().set_parent(Path::new("../old")).unwrap();
    dirs
}

thread_local! {
    static DIRS: OnceCell<[PathBuf; 2]> = const { OnceCell::new() };
}

libfuzzer_sys::fuzz_target!(|input: (&[u8], &[u8])| {
    DIRS.with(|cell| {
        let [new, old] = cell.get_or_init(dirs);
        fs::write(new.join("pagemap-1.img"), input.0).unwrap();
        fs::write(old.join("pagemap-1.img"), input.1).unwrap();
        let chain = Chain::open(&Dir::open(new).unwrap()).unwrap();
        let Ok(Some(source)) = chain.load(PageSet::Task(1)) else { return };
        let mut end = 0;
        for segment in source.segments() {
            assert!(segment.vaddr >= end && segment.pages > 0);
            end = segment.end();
        }
        let mut page = [0; 5000];
        for at in [0, end.saturating_sub(PAGE_SIZE), end / 2, u64::MAX - 100] {
            _ = source.read_at(at, &mut page);
            assert!(
                source
                    .within(at..at.saturating_add(PAGE_SIZE))
                    .all(|s| s.pages == 1 || at % PAGE_SIZE != 0)
            );
        }
    });
});
