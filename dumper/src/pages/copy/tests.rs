use super::*;
use std::sync::OnceLock;

fn source(runs: &[Run]) -> Source<'_> {
    Source {
        origin: Origin::Task { pid: 0, mem: OnceLock::new(), lost: None },
        runs,
        image: Arc::new(File::open("/dev/null").unwrap()),
        name: "pages-1.img".into(),
        has_room: false,
        panes: None,
        frames: None,
        hashes: Mutex::default(),
    }
}

fn run(start: u64, pages: u64) -> Run {
    Run { start: start * PAGE_SIZE, pages, lazy: false, readable: true }
}

/// Plain images, made as they are filled, and nobody who watches.
fn control() -> Control<'static> {
    Control {
        stop: Stop::watching_parent(),
        progress: &crate::NoHooks,
        room: None,
        server: None,
        storing: crate::Storing::default(),
        files: None,
    }
}

#[test]
fn pieces_cover_all_pages_once() {
    let one: Vec<Run> = vec![run(0, 3), run(10, 1), run(20, 9)];
    let many: Vec<Run> = (0..3000).map(|n| run(n * 2, 1)).collect();
    let none: Vec<Run> = Vec::new();
    let sources = [source(&one), source(&none), source(&many)];
    let page = PAGE_SIZE as usize;
    let got = pieces(&sources, 4 * page);
    let first: Vec<_> =
        got.iter().filter(|p| p.source == 0).map(|p| (p.run, p.skip, p.offset, p.len)).collect();
    let off = |n: u64| n * PAGE_SIZE;
    assert_eq!(
        first,
        [
            (0, 0, 0, 4 * page),
            (2, 0, off(4), 4 * page),
            (2, 4, off(8), 4 * page),
            (2, 8, off(12), page)
        ]
    );
    let wide = pieces(&sources, 1 << 30);
    let spans: Vec<_> = wide.iter().filter(|p| p.source == 2).map(|p| p.len / page).collect();
    assert_eq!(spans, [1024, 1024, 952], "no more spans than a call takes");
}

#[test]
fn pieces_filled_in_place_are_spread_among_the_others() {
    let pieces: Vec<_> = (0..10u64)
        .map(|n| Piece { source: 0, run: 0, skip: 0, offset: n, len: 1, readable: true })
        .collect();
    let order = |placed: fn(&Piece) -> bool| -> Vec<u64> {
        spread(pieces.clone(), placed).iter().map(|p| p.offset).collect()
    };
    assert_eq!(order(|p| p.offset >= 8), [0, 1, 2, 3, 8, 4, 5, 6, 7, 9]);
    let same: Vec<u64> = (0..10).collect();
    assert_eq!(order(|_| true), same);
    assert_eq!(order(|_| false), same);
    assert!(spread(Vec::new(), |_| true).is_empty());
}

#[test]
fn what_is_mapped_is_filled_in_place() {
    use std::os::unix::fs::MetadataExt;
    let page = PAGE_SIZE as usize;
    let len = 4 * PIECE + 5 * page;
    let mut memory = vec![0u8; len + page];
    let skip = memory.as_ptr().align_offset(page);
    let own = &mut memory[skip..skip + len];
    for (n, page) in own.chunks_mut(page).enumerate() {
        // Zeroes in the third piece, which is mapped, and in the first, which is not.
        let zero = (20..60).contains(&n) || (270..300).contains(&n);
        page.fill(if zero { 0 } else { n as u8 | 1 });
    }
    let start = own.as_ptr() as u64;
    let runs = [Run { start, pages: (len / page) as u64, lazy: false, readable: true }];
    let image = tempfile::tempfile_in("/dev/shm").unwrap();
    // More than is needed.
    nix::fcntl::posix_fallocate(&image, 0, 6 * PIECE as i64).unwrap();
    let window = sys::window::Window::new(&image, 2 * PIECE as u64, 3 * PIECE as u64).unwrap();
    let panes = window.cut(PIECE as u64).into_iter().map(Mutex::new);
    let panes = (2 * PIECE as u64..).step_by(PIECE).zip(panes).collect();
    let image = Arc::new(image);
    let files = Mutex::default();
    let sources = [Source {
        origin: Origin::Task { pid: std::process::id() as i32, mem: OnceLock::new(), lost: None },
        image: Arc::clone(&image),
        has_room: true,
        panes: Some(&panes),
        ..source(&runs)
    }];
    copy(&sources, Control { files: Some(&files), ..control() }, None).unwrap();
    let mut got = vec![0xff; len];
    image.read_exact_at(&mut got, 0).unwrap();
    assert!(got == *own);
    let meta = image.metadata().unwrap();
    assert_eq!((meta.len(), meta.blocks() * 512), (len as u64, (len - 70 * page) as u64));
    let hashes: Vec<_> = own.chunks(PIECE).map(manifest::hash).collect();
    assert_eq!(*sources[0].hashes.lock().unwrap(), hashes);
}

#[test]
fn a_full_disk_is_told_with_the_name_of_the_image() {
    let memory = vec![7u8; 2 * PAGE_SIZE as usize];
    let start = (memory.as_ptr() as u64).next_multiple_of(PAGE_SIZE);
    let runs = [Run { start, pages: 1, lazy: false, readable: true }];
    let full = File::options().write(true).open("/dev/full").unwrap();
    let sources = [Source {
        origin: Origin::Task { pid: std::process::id() as i32, mem: OnceLock::new(), lost: None },
        image: Arc::new(full),
        ..source(&runs)
    }];
    let control = control();
    let error = copy(&sources, control, None).unwrap_err();
    assert_eq!(error.to_string(), "pages-1.img: pwrite: No space left on device (os error 28)");
}

#[test]
fn only_long_stretches_of_zeros_become_holes() {
    let page = PAGE_SIZE as usize;
    let image = |pages: &[u8]| -> Vec<u8> { pages.iter().flat_map(|b| vec![*b; page]).collect() };
    let cut = |pages: &[u8]| -> Vec<(usize, usize)> {
        let buf = image(pages);
        let parts = data(&buf).filter(|(_, d)| !d.is_empty());
        parts.map(|(at, d)| (at / page, d.len() / page)).collect()
    };
    let z = [0; MIN_HOLE];
    assert_eq!(cut(&[1, 0, 0, 2]), [(0, 4)]);
    assert_eq!(cut(&[]), []);
    assert_eq!(cut(&z), []);
    assert_eq!(cut(&[&z[..], &[1]].concat()), [(MIN_HOLE, 1)]);
    assert_eq!(cut(&[&[1], &z[..], &[0, 0, 2, 0]].concat()), [(0, 1), (MIN_HOLE + 3, 2)]);
    assert_eq!(cut(&[&[0, 3], &z[..], &[4], &z].concat()), [(0, 2), (MIN_HOLE + 2, 1)]);
    assert_eq!(cut(&[&z[1..], &[1]].concat()), [(0, MIN_HOLE)]);
}

#[test]
fn what_process_vm_readv_does_not_read_is_read_otherwise() {
    use crate::mm::tests::{Subject, at};
    let subject = Subject::start(&["kinds"]);
    let origin = || Origin::Task { pid: subject.pid(), mem: OnceLock::new(), lost: None };
    let run = |start, pages| Run { start, pages, lazy: false, readable: true };
    let image = Arc::new(tempfile::tempfile().unwrap());
    let control = control();
    // Mapping 3 is PROT_NONE, which is not told here.
    let runs = [run(at(2), 4), run(at(3), 4), run(at(12), 1)];
    let go = |runs: &[Run]| {
        let source = Source { origin: origin(), image: Arc::clone(&image), ..source(runs) };
        copy(&[source], control, None)
    };
    go(&runs).unwrap();
    let addrs = runs.iter().flat_map(|r| (0..r.pages).map(|n| r.start + n * PAGE_SIZE));
    for (n, addr) in addrs.enumerate() {
        let mut word = [0; 8];
        image.read_exact_at(&mut word, n as u64 * PAGE_SIZE).unwrap();
        assert_eq!(u64::from_ne_bytes(word), addr);
    }
    let error = go(&[run(at(2), 4), run(at(2) + 0x10_0000, 1)]).unwrap_err().to_string();
    let want = format!("pid {}: page at {:#x} cannot be read", subject.pid(), at(2) + 0x10_0000);
    assert!(error.starts_with(&want), "{error}");
}
