use super::*;
use crate::files::MappedFile;
use crate::pages::select::Run;
use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// A running `tests/subjects/memory.c`.
pub struct Subject {
    child: Child,
    _dir: TempDir,
}

impl Subject {
    pub fn start(args: &[&str]) -> Self {
        static BINARY: OnceLock<TempDir> = OnceLock::new();
        let binary = BINARY.get_or_init(|| {
            let dir = TempDir::new().unwrap();
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/subjects/memory.c");
            let mut cc = Command::new("cc");
            cc.args(["-O1", "-o"]).arg(dir.path().join("memory")).arg(source);
            assert!(cc.status().unwrap().success(), "cc failed");
            dir
        });
        let dir = TempDir::new().unwrap();
        let mut child = Command::new(binary.path().join("memory"))
            .arg(dir.path())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut BufReader::new(stdout), &mut ready).unwrap();
        assert_eq!(ready, "ready\n", "{args:?}");
        Self { child, _dir: dir }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Numbers files as they come.
#[derive(Debug, Default)]
pub struct Ids {
    pub seen: Vec<String>,
}

impl Backing for Ids {
    fn file(&mut self, file: &MappedFile) -> Result<u32, crate::Error> {
        self.seen.push(String::from_utf8_lossy(&file.path).into());
        Ok(self.seen.len() as u32)
    }

    fn memfd(&mut self, file: &MappedFile) -> Result<u32, crate::Error> {
        self.file(file)
    }

    fn socket(&mut self, _: u64) -> Result<Option<u32>, crate::Error> {
        Ok(None)
    }
}

pub fn at(n: u64) -> u64 {
    0x2000_0000_0000 + n * 0x1000_0000
}

pub fn collect(subject: &Subject, method: Method) -> Mm {
    let mut collector = Collector::with(false, method).unwrap();
    collector.vmas(subject.pid(), &mut Ids::default(), &Since::NOTHING).unwrap()
}

fn refusal(arg: &str) -> String {
    let subject = Subject::start(&[arg]);
    let mut collector = Collector::with(false, Method::Best).unwrap();
    let error = collector.vmas(subject.pid(), &mut Ids::default(), &Since::NOTHING).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&format!("pid {}: ", subject.pid())), "{text}");
    text
}

#[test]
fn entries_are_those_of_criu() {
    let subject = Subject::start(&["kinds"]);
    let mm = collect(&subject, Method::Best);
    let vmas: HashMap<u64, &VmaEntry> = mm.entry.vmas.iter().map(|v| (v.start, v)).collect();
    // Columns as stock criu 4.2.1 wrote them for the same mappings.
    type Row = (u64, u32, u32, u32, u64, Option<u32>);
    #[rustfmt::skip]
    let table: &[Row] = &[
        // n, status, flags, prot, madv, fdflags
        (1, 0x201, 0x22, 3, 0, None),
        (2, 0x201, 0x22, 1, 0, None),
        (3, 0x201, 0x22, 0, 0, None),
        (4, 0x201, 0x4022, 0, 0, None),
        (5, 0x201, 0x4022, 3, 0, None),
        (6, 0x201, 0x122, 3, 0, None),
        (7, 0x201, 0x2022, 3, 0, None),
        (8, 0x201, 0x2022, 3, 0, None),
        (9, 0x201, 0x22, 3, 1 << 10 | 1 << 14 | 1 << 16, None),
        (10, 0x201, 0x22, 3, 1 << 12 | 1 << 15 | 1 << 18, None),
        (11, 0x201, 0x22, 2, 0, None),
        (12, 0x201, 0x22, 3, 0, None),
        (15, 0x201, 0x22, 3, 0, None),
        (20, 0x41, 2, 3, 0, Some(2)),
        (21, 0x41, 2, 1, 0, Some(0)),
        (22, 0x81, 1, 3, 0, Some(2)),
        (23, 0x81, 1, 1, 0, Some(0)),
        (24, 0x41, 2, 3, 4, Some(2)),
        (25, 0x4081, 1, 3, 0, Some(2)),
        (26, 0x4081, 1, 3, 0, Some(2)),
        (27, 0x4041, 2, 3, 0, Some(2)),
        (30, 0x4081, 1, 3, 0, Some(2)),
        (31, 0x201, 0x22, 3, 0, None),
        (28, 0x41, 2, 3, 0, Some(2)),
    ];
    for &(n, status, flags, prot, madv, fdflags) in table {
        let v = vmas[&at(n)];
        let got = (v.status, v.flags, v.prot, v.madv.unwrap_or(0), v.fdflags);
        assert_eq!(got, (status, flags, prot, madv, fdflags), "mapping {n}");
        assert_eq!((v.fd, v.shmid != 0), (-1, fdflags.is_some()), "mapping {n}");
    }
    assert_eq!((vmas[&at(20)].pgoff, vmas[&at(26)].pgoff), (4096, 4 * 4096));
    assert_eq!(vmas[&at(24)].shmid, vmas[&at(20)].shmid, "one file, one id");
    assert_eq!(vmas[&at(26)].shmid, vmas[&at(27)].shmid, "one memfd, one id");
    if let Some(droppable) = vmas.get(&at(14)) {
        assert_eq!((droppable.status, droppable.flags), (0x201, 0x4028));
        assert_eq!(droppable.madv, Some(1 << 16 | 1 << 18));
    }
    if let Some(huge) = vmas.get(&at(17)) {
        assert_eq!((huge.status, huge.flags), (0x201, 0x5404_0022));
    }
    if let Some(huge) = vmas.get(&at(18)) {
        assert_eq!((huge.status, huge.flags, huge.fdflags), (0x4081, 0x5404_0001, Some(2)));
    }
    let of_status = |s: u32| mm.entry.vmas.iter().filter(move |v| v.status == s);
    assert_eq!(of_status(0x209).count(), 1, "vdso");
    assert_eq!(of_status(0x1201).count(), 1, "[vvar] and [vvar_vclock] are one");
    assert_eq!(of_status(0x221).count(), 1, "heap");
    let ring = of_status(0x2000).next().unwrap();
    assert_eq!(mm.entry.aios.len(), 1);
    let aio = &mm.entry.aios[0];
    assert_eq!((aio.id, u64::from(aio.ring_len)), (ring.start, ring.end - ring.start));
    assert_eq!(aio.nr_req, ((aio.ring_len - 32) / 32 - 2) / 2);
    let (plain, guards): (Vec<&VmaEntry>, Vec<_>) =
        mm.entry.vmas.iter().partition(|v| v.status != 0x10000);
    assert!(plain.is_sorted_by_key(|v| v.start));
    let ranges: Vec<_> = guards.iter().map(|v| (v.start, v.end)).collect();
    let page = |n, from: u64, to: u64| (at(n) + from * 4096, at(n) + to * 4096);
    assert_eq!(ranges, [page(12, 4, 6), page(12, 8, 9), page(29, 1, 2)]);
    assert!(mm.entry.vmas.ends_with(&guards.into_iter().cloned().collect::<Vec<_>>()));
}

#[test]
fn what_criu_forgets_is_kept_apart() {
    let subject = Subject::start(&["kinds"]);
    let mm = collect(&subject, Method::Best);
    let find = |n| mm.extras.iter().find(|e| e.start == at(n));
    assert!(find(8).unwrap().lock_on_fault());
    assert!(find(1).is_none() && find(7).is_none());
    for (n, name) in [(30, &b"shared name"[..]), (31, b"a name")] {
        // Kernels without CONFIG_ANON_VMA_NAME have no names.
        assert!(find(n).is_none_or(|e| e.anon_name.as_deref() == Some(name)));
    }
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", subject.pid())).unwrap();
    assert_eq!(smaps.contains(" sl"), find(15).is_some_and(|e| e.sealed()));
    let keyed = smaps.lines().any(|l| l.starts_with("ProtectionKey:") && !l.ends_with(" 0"));
    assert_eq!(keyed, find(16).is_some_and(|e| e.pkey() != 0));
}

fn runs_of(mm: &Mm, n: u64) -> Vec<(u64, u64, bool)> {
    let inside = |r: &&Run| (at(n)..at(n + 1)).contains(&r.start);
    let runs = mm.pages.runs.iter().filter(inside);
    runs.map(|r| ((r.start - at(n)) / 4096, r.pages, r.lazy)).collect()
}

#[test]
fn pages_are_those_of_criu_by_either_method() {
    let subject = Subject::start(&["kinds"]);
    for method in [Method::Best, Method::File] {
        let mm = collect(&subject, method);
        let of = |n| runs_of(&mm, n);
        assert_eq!(of(1), [(0, 1, true), (3, 1, true)], "no zero page, {method:?}");
        assert_eq!(of(2), [(0, 4, true)]);
        assert_eq!(of(3), [(0, 4, true)]);
        assert_eq!(of(4), []);
        assert_eq!(of(5), [(15, 1, true)]);
        assert_eq!(of(6), [(15, 1, true)]);
        assert_eq!(of(7), [(0, 4, false)], "locked memory is not lazy");
        assert_eq!(of(8), [(0, 1, false)]);
        assert_eq!(of(11), [(0, 4, true)]);
        assert_eq!(of(12), [(0, 4, true), (6, 2, true), (9, 7, true)], "{method:?}");
        assert_eq!(of(14), [], "droppable");
        assert!(matches!(of(17)[..], [] | [(0, 512, false)]), "huge page, {method:?}");
        assert_eq!(of(18), []);
        assert_eq!(of(20), [(2, 1, false)]);
        assert_eq!(of(21), []);
        assert_eq!(of(22), []);
        assert_eq!(of(24), [(1, 1, false)]);
        assert_eq!(of(25), []);
        assert_eq!(of(26), []);
        assert_eq!(of(27), [(0, 1, false)]);
        assert_eq!(of(28), [(0, 1, false)]);
        assert_eq!(of(29), [(0, 1, false), (2, 6, false)]);
        let total: u64 = of(9).iter().map(|r| r.1).sum();
        assert!(total >= 512, "{total}");
        let unreadable = mm.pages.runs.iter().filter(|r| !r.readable);
        let unreadable: Vec<_> = unreadable.map(|r| (r.start, r.pages)).collect();
        assert_eq!(unreadable, [(at(3), 4), (at(11), 4)]);
        for v in mm.entry.vmas.iter().filter(|v| v.status == 0x209 || v.status == 0x2000) {
            let run = mm.pages.runs.iter().find(|r| r.start <= v.start && r.end() >= v.end);
            assert!(run.is_some_and(|r| !r.lazy), "vdso and aio rings are saved whole");
        }
        assert_eq!(mm.pages.guards.len(), 3);
    }
}

/// More than are told at a time.
#[test]
fn scattered_pages_are_found_by_either_method() {
    let subject = Subject::start(&["scattered=20000"]);
    for method in [Method::Best, Method::File] {
        let found = runs_of(&collect(&subject, method), 51);
        let wanted: Vec<_> = (0..20000).step_by(2).map(|page| (page, 1, true)).collect();
        assert!(found == wanted, "{method:?}: {} of {}", found.len(), wanted.len());
    }
}

#[test]
fn the_huge_zero_page_is_left_out() {
    let subject = Subject::start(&["kinds"]);
    assert_eq!(runs_of(&collect(&subject, Method::Best), 13), []);
}

#[test]
fn what_cannot_be_saved_is_refused_by_name() {
    assert!(refusal("sysv").contains("SYSV00000000 (deleted)): segments of System V"));
    assert!(refusal("secretmem").contains("(/secretmem (deleted)): memfd_secret"));
    assert!(refusal("ring").contains("(anon_inode:[io_uring]): rings"));
}

#[test]
fn auxv_ends_at_its_null() {
    let words: [u64; 8] = [33, 5, 6, 0, 0, 0, 7, 7];
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    assert_eq!(parse_auxv(&bytes), [33, 5, 6, 0]);
    assert_eq!(parse_auxv(&bytes[..20]), [33, 5]);
    assert_eq!(parse_auxv(&[]), []);
    assert_eq!(auxv(std::process::id() as i32).unwrap().len() % 2, 0);
}

#[test]
fn a_zombie_has_no_memory() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id() as i32;
    while !std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ") {
        std::thread::yield_now();
    }
    let mut collector = Collector::with(false, Method::Best).unwrap();
    let error = collector.vmas(pid, &mut Ids::default(), &Since::NOTHING).unwrap_err();
    assert!(error.to_string().ends_with("its main thread has ended"), "{error}");
    child.wait().unwrap();
}
