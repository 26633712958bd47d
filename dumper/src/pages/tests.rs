use super::dirty::Since;
use super::*;
use crate::hooks::Progress;
use crate::mm::Collector;
use crate::mm::tests::{Ids, Subject, at, collect};
use crate::stop::Stop;
use images::pages::PagemapReader;
use scan::Method;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

/// Counts what is expected and what is done.
#[derive(Default)]
struct Count {
    expected: AtomicU64,
    done: AtomicU64,
}

impl Progress for Count {
    fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    fn done(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Sees how many files are open.
#[derive(Default)]
struct OpenFiles {
    most: AtomicU64,
}

impl Progress for OpenFiles {
    fn expect(&self, _: u64) {}

    fn done(&self, _: u64) {
        let n = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        self.most.fetch_max(n, Ordering::Relaxed);
    }
}

fn control(progress: &dyn Progress) -> Control<'_> {
    Control {
        stop: Stop::watching_parent(),
        progress,
        room: None,
        server: None,
        storing: crate::Storing::default(),
        files: None,
    }
}

/// All pages of an image, by address.
fn saved(dir: &TempDir, set: PageSet) -> BTreeMap<u64, (u32, Vec<u8>)> {
    let dir = Dir::open(dir.path()).unwrap();
    let mut pagemap = PagemapReader::open(&dir, set).unwrap().unwrap();
    let pages = dir.open_raw(images::Image::Pages(pagemap.pages_id())).unwrap().unwrap();
    let (mut out, mut offset) = (BTreeMap::new(), 0);
    while let Some(range) = pagemap.read().unwrap() {
        for n in 0..range.pages {
            let mut page = vec![0; PAGE_SIZE as usize];
            pages.read_exact_at(&mut page, offset).unwrap();
            offset += PAGE_SIZE;
            out.insert(range.vaddr + n * PAGE_SIZE, (range.flags.bits(), page));
        }
    }
    assert_eq!(pages.metadata().unwrap().len(), offset, "nothing behind the last page");
    out
}

#[test]
fn contents_are_those_of_the_task() {
    let subject = Subject::start(&["kinds", "mem=30000", "scattered=6000"]);
    let mm = collect(&subject, Method::Best);
    let dir = TempDir::new().unwrap();
    let images = PageImages::new(Dir::open(dir.path()).unwrap());
    let progress = Count::default();
    let mut stats = Stats::default();
    dump_to(&images, std::slice::from_ref(&mm), &[], control(&progress), &mut stats).unwrap();
    let pages = saved(&dir, PageSet::Task(mm.vpid as u32));
    assert_eq!(stats.pages_written, pages.len() as u64);
    assert_eq!(progress.expected.into_inner(), pages.len() as u64 * PAGE_SIZE);
    assert_eq!(progress.done.into_inner(), pages.len() as u64 * PAGE_SIZE);
    let mem = File::open(format!("/proc/{}/mem", subject.pid())).unwrap();
    for (addr, (_, page)) in &pages {
        let mut live = vec![0; PAGE_SIZE as usize];
        mem.read_exact_at(&mut live, *addr).unwrap();
        assert!(*page == live, "page at {addr:#x}");
    }
    for (n, page) in [(1, 3), (2, 3), (3, 0), (11, 3), (12, 9), (24, 1), (50, 29_999), (51, 5998)] {
        let addr = at(n) + page * PAGE_SIZE;
        let (_, page) = &pages[&addr];
        assert_eq!(page[..8], addr.to_ne_bytes(), "page at {addr:#x}");
    }
    assert_eq!((pages[&at(1)].0, pages[&at(7)].0, pages[&at(28)].0), (6, 4, 4));
}

#[test]
fn a_huge_hole_costs_nothing() {
    let subject = Subject::start(&["kinds"]);
    let begin = Instant::now();
    let mm = collect(&subject, Method::Best);
    assert!(begin.elapsed().as_millis() < 500, "{:?}", begin.elapsed());
    assert!(mm.entry.vmas.iter().any(|v| v.end - v.start == 1 << 40));
}

#[test]
fn shared_segments_are_saved_once_and_without_their_holes() {
    let subject = Subject::start(&["kinds"]);
    let open = |n: u64, pages: u64| {
        let (start, end) = (at(n), at(n) + pages * PAGE_SIZE);
        let path = format!("/proc/{}/map_files/{start:x}-{end:x}", subject.pid());
        File::options().write(true).open(path).unwrap()
    };
    let (anon, memfd) = (open(25, 8), open(26, 8));
    let shmems = [Shmem { shmid: 33, fd: anon.as_fd() }, Shmem { shmid: 34, fd: memfd.as_fd() }];
    let dir = TempDir::new().unwrap();
    let images = PageImages::new(Dir::open(dir.path()).unwrap());
    let mut stats = Stats::default();
    dump_to(&images, &[], &shmems, control(&crate::NoHooks), &mut stats).unwrap();
    let pages = saved(&dir, PageSet::Shmem(33));
    let addrs: Vec<_> = pages.keys().map(|a| a / PAGE_SIZE).collect();
    assert_eq!(addrs, [0, 4]);
    assert_eq!(pages[&0].1[..8], at(25).to_ne_bytes());
    assert_eq!(pages[&0].0, 4);
    let pages = saved(&dir, PageSet::Shmem(34));
    // Looking at page 4 and at the cut one at the end has made them exist.
    let addrs: Vec<_> = pages.keys().map(|a| a / PAGE_SIZE).collect();
    assert_eq!(addrs, [0, 4, 8, 16]);
    assert_eq!(pages[&(4 * PAGE_SIZE)].1[..8], at(26).to_ne_bytes());
    assert_eq!(stats.shpages_written, Some(6));
}

#[test]
fn holes_of_huge_shared_memory_are_found_by_their_contents() {
    let subject = Subject::start(&["kinds"]);
    let path = format!("/proc/{}/map_files/{:x}-{:x}", subject.pid(), at(18), at(18) + (4 << 20));
    let Ok(file) = File::open(path) else {
        eprintln!("no huge pages here");
        return;
    };
    let runs = Shmem { shmid: 1, fd: file.as_fd() }.runs(&file).unwrap();
    assert_eq!(runs, [Run { start: 2 << 20, pages: 512, lazy: false, readable: true }]);
}

#[test]
fn images_are_flushed_before_descriptors_run_out() {
    let subject = Subject::start(&["kinds"]);
    let mut collector = Collector::with(false, Method::Best).unwrap();
    let mms: Vec<Mm> = (0..600)
        .map(|n| {
            let mut mm = if n % 100 == 0 {
                collector.vmas(subject.pid(), &mut Ids::default(), &Since::NOTHING).unwrap()
            } else {
                Mm { pid: subject.pid(), ..Mm::default() }
            };
            mm.vpid = n + 1;
            mm
        })
        .collect();
    let dir = TempDir::new().unwrap();
    let images = PageImages::new(Dir::open(dir.path()).unwrap());
    let watch = OpenFiles::default();
    dump_to(&images, &mms, &[], control(&watch), &mut Stats::default()).unwrap();
    assert!(watch.most.into_inner() < OPEN_IMAGES as u64 + 100);
    let first = saved(&dir, PageSet::Task(1));
    assert!(!first.is_empty() && first == saved(&dir, PageSet::Task(501)));
}

#[test]
fn a_task_that_is_gone_is_an_error() {
    let subject = Subject::start(&["mem=10"]);
    let mm = collect(&subject, Method::Best);
    drop(subject);
    let dir = TempDir::new().unwrap();
    let images = PageImages::new(Dir::open(dir.path()).unwrap());
    let mut stats = Stats::default();
    let error = dump_to(&images, &[mm], &[], control(&crate::NoHooks), &mut stats).unwrap_err();
    assert!(error.to_string().contains("No such process"), "{error}");
}

/// `cargo test -p dumper --release figures -- --ignored --nocapture`
#[test]
#[ignore = "takes time and memory; prints figures"]
fn figures() {
    for args in [&["mem=262144"][..], &["scattered=262144"], &["vmas=10000"], &["mem=10"]] {
        let subject = Subject::start(args);
        for _ in 0..3 {
            let begin = Instant::now();
            let smaps = std::fs::read(format!("/proc/{}/smaps", subject.pid())).unwrap();
            let read = begin.elapsed();
            let vmas = crate::mm::smaps::parse(&smaps[..]).unwrap().len();
            let parsed = begin.elapsed() - read;
            let begin = Instant::now();
            let mm = collect(&subject, Method::Best);
            let collected = begin.elapsed();
            let base = std::env::var("FIGURES_DIR").unwrap_or_else(|_| "/dev/shm".into());
            let dir = TempDir::new_in(base).unwrap();
            let images = PageImages::new(Dir::open(dir.path()).unwrap());
            let begin = Instant::now();
            let mut stats = Stats::default();
            dump_to(&images, &[mm], &[], control(&crate::NoHooks), &mut stats).unwrap();
            println!(
                "{args:?}: {vmas} vmas, {} pages: smaps read {read:?}, parsed {parsed:?}; \
                 collect {collected:?}, dump {:?} (plan {} us)",
                stats.pages_written,
                begin.elapsed(),
                stats.memdump_time,
            );
        }
    }
}
