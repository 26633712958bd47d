//! Pagemaps and pages images, in one directory and in chains.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::IoSlice;
use std::path::Path;

use images::pages::{
    Chain, Origin, PAGE_SIZE, PageFlags, PageImages, PageRange, PageSet, PageSink, PagemapReader,
};
use images::proto::{PagemapEntry, PagemapHead};
use images::{Dir, Image};

const SET: PageSet = PageSet::Task(42);

fn page(byte: u8) -> Vec<u8> {
    vec![byte; PAGE_SIZE as usize]
}

/// Writes one layer: `(page number, byte)` for contents, `(page number, count)` for parent holes.
fn layer(dir: &Dir, parts: &[(u64, Result<u8, u64>)]) {
    let mut sink = Box::new(PageImages::new(dir.clone()).create(SET).unwrap());
    for (number, part) in parts {
        let vaddr = number * PAGE_SIZE;
        match part {
            Ok(byte) => {
                sink.write(vaddr, PageFlags::LAZY, &[IoSlice::new(&page(*byte))]).unwrap();
            }
            Err(pages) => sink.hole(vaddr, *pages, PageFlags::PARENT).unwrap(),
        }
    }
    sink.finish().unwrap();
}

/// Directories `0` (oldest) to `n - 1`, each the parent of the next.
fn chain(n: usize) -> (tempfile::TempDir, Vec<Dir>) {
    let temp = tempfile::tempdir().unwrap();
    let dirs: Vec<Dir> = (0..n)
        .map(|i| {
            let path = temp.path().join(i.to_string());
            std::fs::create_dir(&path).unwrap();
            Dir::open(path).unwrap()
        })
        .collect();
    for (i, dir) in dirs.iter().enumerate().skip(1) {
        dir.set_parent(Path::new(&format!("../{}", i - 1))).unwrap();
    }
    (temp, dirs)
}

fn load(dir: &Dir) -> Result<Vec<Option<u8>>, String> {
    let source = Chain::open(dir).and_then(|c| c.load(SET)).map_err(|e| e.to_string())?;
    let source = source.ok_or("no pagemap")?;
    let byte = |number: u64| {
        let at = number * PAGE_SIZE;
        source.within(at..at + PAGE_SIZE).next()?;
        let mut buf = [0; 16];
        source.read_at(at + 100, &mut buf).unwrap();
        Some(buf[15])
    };
    Ok((0..12).map(byte).collect())
}

#[test]
fn adjacent_ranges_become_one_entry_with_both_counts() {
    let (_temp, dirs) = chain(1);
    layer(&dirs[0], &[(1, Ok(1)), (2, Ok(2)), (5, Ok(5))]);
    let mut reader = dirs[0].reader(Image::Pagemap(42)).unwrap();
    assert_eq!(reader.read_one::<PagemapHead>().unwrap().pages_id, 1);
    let entries: Vec<PagemapEntry> = reader.entries_of().map(Result::unwrap).collect();
    assert_eq!(entries.len(), 2);
    assert_eq!((entries[0].compat_nr_pages, entries[0].nr_pages), (2, Some(2)));
    assert_eq!(entries[1].flags, Some(6));
}

#[test]
fn pages_of_one_layer_are_found() {
    let (_temp, dirs) = chain(1);
    layer(&dirs[0], &[(1, Ok(1)), (2, Ok(2)), (5, Ok(5))]);
    let pages = load(&dirs[0]).unwrap();
    assert_eq!(pages[..7], [None, Some(1), Some(2), None, None, Some(5), None]);
}

#[test]
fn pages_are_found_through_all_parents() {
    let (_temp, dirs) = chain(3);
    layer(&dirs[0], &[(0, Ok(10)), (1, Ok(11)), (2, Ok(12)), (3, Ok(13)), (8, Ok(18))]);
    layer(&dirs[1], &[(0, Err(2)), (2, Ok(22)), (3, Err(1)), (8, Ok(28))]);
    layer(&dirs[2], &[(0, Ok(30)), (1, Err(3)), (7, Ok(37)), (8, Err(1))]);
    let pages = load(&dirs[2]).unwrap();
    assert_eq!(pages[..4], [Some(30), Some(11), Some(22), Some(13)]);
    assert_eq!(pages[7..9], [Some(37), Some(28)]);
}

#[test]
fn a_page_that_no_parent_has_is_an_error() {
    let (_temp, dirs) = chain(2);
    layer(&dirs[0], &[(0, Ok(1)), (2, Ok(2))]);
    layer(&dirs[1], &[(0, Err(3))]);
    assert_eq!(load(&dirs[1]).unwrap_err(), "pagemap-42.img: page 0x1000 is in no parent image");
}

#[test]
fn parent_pages_without_a_parent_are_an_error() {
    let (_temp, dirs) = chain(1);
    layer(&dirs[0], &[(0, Err(3))]);
    assert!(load(&dirs[0]).unwrap_err().contains("there is no `parent`"));
}

#[test]
fn a_circle_of_parents_is_an_error() {
    let (_temp, dirs) = chain(3);
    dirs[0].set_parent(Path::new("../2")).unwrap();
    layer(&dirs[2], &[(0, Ok(1))]);
    assert!(load(&dirs[2]).unwrap_err().contains("circle"));
}

#[test]
fn a_short_pages_image_is_an_error() {
    let (temp, dirs) = chain(1);
    layer(&dirs[0], &[(0, Ok(1)), (1, Ok(1))]);
    let pages = std::fs::File::options().write(true).open(temp.path().join("0/pages-1.img"));
    pages.unwrap().set_len(PAGE_SIZE + 1).unwrap();
    assert!(load(&dirs[0]).unwrap_err().starts_with("pages-1.img: "));
    dirs[0].remove_file("pages-1.img").unwrap();
    assert_eq!(load(&dirs[0]).unwrap_err(), "pages-1.img: no such image");
}

fn entries(dir: &Dir, entries: &[PagemapEntry]) -> Result<Vec<PageRange>, String> {
    let mut writer = dir.writer(Image::Pagemap(42)).unwrap();
    writer.write(&PagemapHead { pages_id: 1 }).unwrap();
    for entry in entries {
        writer.write(entry).unwrap();
    }
    writer.finish().unwrap();
    let reader = PagemapReader::open(dir, SET).unwrap().unwrap();
    reader.map(|r| r.map_err(|e| e.to_string())).collect()
}

#[test]
fn entries_of_old_versions_read_like_new_ones() {
    let (_temp, dirs) = chain(1);
    let old = |vaddr, in_parent, flags, nr_pages| PagemapEntry {
        vaddr,
        compat_nr_pages: 2,
        in_parent,
        flags,
        nr_pages,
    };
    let ranges = entries(
        &dirs[0],
        &[
            old(0x1000, None, None, None),
            old(0x3000, Some(true), None, None),
            old(0x5000, Some(true), Some(4), None),
            old(0x7000, None, Some(6), Some(1)),
        ],
    );
    let flags: Vec<(u64, u32)> =
        ranges.unwrap().iter().map(|r| (r.pages, r.flags.bits())).collect();
    assert_eq!(flags, [(2, 4), (2, 1), (2, 4), (1, 6)]);
}

#[test]
fn entries_that_cannot_be_are_refused() {
    let (_temp, dirs) = chain(1);
    let entry = |vaddr, nr_pages| PagemapEntry {
        vaddr,
        compat_nr_pages: 0,
        in_parent: None,
        flags: Some(4),
        nr_pages: Some(nr_pages),
    };
    let check = |list: &[PagemapEntry], want: &str| {
        let message = entries(&dirs[0], list).unwrap_err();
        assert!(message.contains(want), "{message}");
    };
    check(&[entry(0x1001, 1)], "page boundary");
    check(&[entry(0x1000, u64::MAX)], "end of memory");
    check(&[entry(0x1000, 1 << 52)], "end of memory");
    check(
        &[entry(0x1000, 2), entry(0x2000, 1)],
        "entry 2: vaddr 0x2000, nr_pages 1: is not behind",
    );
    check(&[entry(0x3000, 2), entry(0x1000, 1)], "is not behind");
}

#[test]
fn reserved_pages_lie_where_the_sink_says() {
    let (_temp, dirs) = chain(1);
    let mut sink = PageImages::new(dirs[0].clone()).create(SET).unwrap();
    assert_eq!(sink.reserve(0x1000, 2, PageFlags::empty()).unwrap(), 0);
    assert_eq!(sink.reserve(0x9000, 1, PageFlags::empty()).unwrap(), 2 * PAGE_SIZE);
    sink.file().set_len(sink.len_bytes()).unwrap();
    sink.close().unwrap();
    let source = Chain::open(&dirs[0]).unwrap().load(SET).unwrap().unwrap();
    let last = source.segments()[1];
    assert_eq!(last.origin, Origin::File { file: 0, offset: 2 * PAGE_SIZE });
    assert_eq!(source.within(0x2000..0x3000).next().unwrap().pages, 1);
}

#[test]
fn pages_that_newer_images_have_are_given_back() {
    let (_temp, dirs) = chain(3);
    layer(&dirs[0], &[(0, Ok(10)), (1, Ok(11)), (2, Ok(12)), (3, Ok(13)), (8, Ok(18))]);
    layer(&dirs[1], &[(0, Err(2)), (2, Ok(22)), (3, Err(1)), (8, Ok(28))]);
    layer(&dirs[2], &[(0, Ok(30)), (1, Err(3)), (7, Ok(37)), (8, Err(1))]);
    let before = load(&dirs[2]).unwrap();
    let chain = Chain::open(&dirs[2]).unwrap();
    // Of the oldest 0 (newest has it), 2 and 8 (the middle has them).
    assert_eq!(images::pages::dedup(&chain).unwrap(), 3);
    assert_eq!(load(&dirs[2]).unwrap(), before);
    let oldest: Vec<u8> = load(&dirs[0]).unwrap().into_iter().flatten().collect();
    assert_eq!(oldest, [0, 11, 0, 13, 0]);
}

mod compressed {
    use super::*;
    use images::pages::{Codec, Compression, Encoder, FRAME, FrameWriter, convert};
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    /// Words that compress well, and some that do not.
    fn contents() -> Vec<u8> {
        let mut x = 1u64;
        let mut word = |i: usize| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            if (i / 100_000).is_multiple_of(2) { x % 7 } else { x }
        };
        (0..(3 * FRAME + 8192) / 8).flat_map(|i| word(i).to_le_bytes()).collect()
    }

    /// A directory with an image of these contents, made by two threads that come in any order.
    fn image(how: Compression) -> (tempfile::TempDir, Dir, Vec<u8>) {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let images = PageImages::new(dir.clone()).compressed(Some(how));
        let mut sink = images.create(SET).unwrap();
        let contents = contents();
        sink.reserve(0x10000, contents.len() as u64 / PAGE_SIZE, PageFlags::empty()).unwrap();
        let name = sink.pages_name().to_owned();
        let writer = FrameWriter::new(Arc::clone(sink.file()), name, how.codec, 1);
        let half = |odd: usize, may_wait| {
            let mut encoder = Encoder::new(how).unwrap();
            for (i, piece) in contents.chunks(FRAME).enumerate().filter(|(i, _)| i % 2 == odd) {
                let at = (i * FRAME) as u64;
                let done = encoder.encode(piece, writer.spare()).unwrap();
                writer.put(at, piece.len() as u64, done, may_wait).unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| half(1, true));
            half(0, false);
        });
        writer.finish().unwrap();
        sink.close().unwrap();
        (temp, dir, contents)
    }

    fn read(dir: &Dir) -> Result<Vec<u8>, String> {
        let source = Chain::open(dir).and_then(|c| c.load(SET)).map_err(|e| e.to_string())?;
        let source = source.ok_or("no pagemap")?;
        let mut all = vec![0; contents().len()];
        source.read_at(0x10000, &mut all).map_err(|e| e.to_string())?;
        let mut some = [0; 100];
        source.read_at(0x10000 + FRAME as u64 - 50, &mut some).map_err(|e| e.to_string())?;
        assert_eq!(some[..], all[FRAME - 50..FRAME + 50]);
        Ok(all)
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        for codec in Codec::ALL {
            let (temp, dir, contents) = image(Compression::of(codec));
            assert_eq!(read(&dir).unwrap(), contents);
            let name = codec.file_name("pages-1.img");
            let len = std::fs::metadata(temp.path().join(name)).unwrap().len();
            assert!(len < contents.len() as u64 * 3 / 4, "{codec:?}: {len}");
        }
    }

    #[test]
    fn torn_and_altered_images_are_noticed() {
        for codec in Codec::ALL {
            let name = codec.file_name("pages-1.img");
            let (temp, dir, contents) = image(Compression::of(codec));
            let path = temp.path().join(&name);
            let whole = std::fs::read(&path).unwrap();
            for len in [0, 5, whole.len() / 2, whole.len() - 1] {
                std::fs::write(&path, &whole[..len]).unwrap();
                let error = read(&dir).unwrap_err();
                assert!(error.starts_with(&name) && error.contains("torn"), "{error}");
            }
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            for at in [whole.len() / 3, 200, whole.len() - 20] {
                std::fs::write(&path, &whole).unwrap();
                file.write_all_at(&[!whole[at]], at as u64).unwrap();
                assert!(read(&dir).map_or(true, |got| got != contents || at > whole.len() - 100));
            }
            std::fs::write(&path, &whole).unwrap();
            file.write_all_at(&[!whole[300]], 300).unwrap();
            let error = read(&dir).unwrap_err();
            assert!(error.contains("bytes 0 to") && error.contains("damaged"), "{error}");
        }
    }

    #[test]
    fn directories_are_converted_both_ways() {
        let (temp, dir, contents) = image(Compression::of(Codec::Zstd));
        for to in [Some(Codec::Lz4), None, Some(Codec::Zstd), None] {
            let how = to.map(Compression::of);
            assert_eq!(convert(&dir, how, 2).unwrap(), 1);
            assert_eq!(convert(&dir, how, 2).unwrap(), 0);
            assert_eq!(read(&dir).unwrap(), contents);
            assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 2, "{to:?}");
        }
        assert_eq!(std::fs::read(temp.path().join("pages-1.img")).unwrap(), contents);
    }

    #[test]
    fn an_older_plain_image_is_not_taken_for_a_new_compressed_one() {
        let (_temp, dir, contents) = image(Compression::of(Codec::Lz4));
        convert(&dir, None, 1).unwrap();
        let images = PageImages::new(dir.clone()).compressed(Some(Compression::of(Codec::Zstd)));
        images.create(SET).unwrap().close().unwrap();
        assert!(read(&dir).is_ok_and(|got| got != contents && got.iter().all(|b| *b == 0)));
    }
}
