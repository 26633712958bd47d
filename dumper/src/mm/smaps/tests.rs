use super::*;
use crate::mm::kind::{Kind, Refusal, classify};

const LINUX_6_18: &[u8] = include_bytes!("6.18.txt");

fn at(n: u64) -> u64 {
    0x2000_0000_0000 + n * 0x1000_0000
}

#[test]
fn a_real_smaps_is_understood() {
    let vmas = parse(LINUX_6_18).unwrap();
    assert_eq!(vmas.len(), 58);
    let find = |n| vmas.iter().find(|v| v.start == at(n)).unwrap();
    let file = find(11);
    assert_eq!((file.prot, file.shared, file.pgoff), (3, false, 4096));
    assert_eq!((file.dev, file.ino), ((0xfe, 0), 9_977_885));
    assert_eq!(file.name, b"/tmp/file");
    assert_eq!(find(18).name, b"/memfd:mymem (deleted)");
    assert!(find(22).flags.has(VmFlags::GUARD) && find(23).flags.has(VmFlags::DROPPABLE));
    assert_eq!((find(28).page_kib, find(1).page_kib), (2048, 4));
    assert!(find(1).populated && !find(4).populated);
    assert_eq!(vmas.last().unwrap().start, 0xffff_ffff_ff60_0000);
}

#[test]
fn kinds_of_a_real_smaps() {
    let vmas = parse(LINUX_6_18).unwrap();
    let kind = |n| classify(vmas.iter().find(|v| v.start == at(n)).unwrap(), (0, 1));
    assert_eq!(kind(1), Ok(Kind::Anon));
    assert_eq!(kind(12), Ok(Kind::File));
    assert_eq!(kind(17), Ok(Kind::Memfd));
    assert_eq!(kind(20), Ok(Kind::File));
    assert_eq!(kind(21), Ok(Kind::Memfd));
    assert_eq!(kind(23), Ok(Kind::Droppable));
    assert_eq!(kind(28), Ok(Kind::HugetlbAnon));
    assert_eq!(kind(29), Ok(Kind::Memfd));
    let named = |name: &[u8]| classify(vmas.iter().find(|v| v.name == name).unwrap(), (0, 1));
    assert_eq!(named(b"/[aio] (deleted)"), Ok(Kind::AioRing));
    assert_eq!(named(b"[heap]"), Ok(Kind::Heap));
    assert_eq!(named(b"[stack]"), Ok(Kind::Anon));
    assert_eq!(named(b"[vdso]"), Ok(Kind::Vdso));
    assert_eq!(named(b"[vvar_vclock]"), Ok(Kind::Vvar));
    assert_eq!(named(b"[vsyscall]"), Ok(Kind::Vsyscall));
}

#[test]
fn files_with_the_names_of_others_are_files() {
    let of = |name: &str| {
        let line = format!("1000-2000 rw-s 00000000 fe:00 7 {name}");
        classify(&header(line.as_bytes()).unwrap(), (0, 1))
    };
    for name in ["/dev/zero (deleted)", "/memfd:a (deleted)", "/SYSV0 (deleted)", "/[heap]"] {
        assert_eq!(of(name), Ok(Kind::File), "{name}");
    }
    assert_eq!(of("anon_inode:[perf_event]"), Err(Refusal::PerfEvent));
    // A ring of a packet socket; others' are refused where descriptors are known.
    assert_eq!(of("socket:[77]"), Ok(Kind::Socket));
}

#[test]
fn odd_headers() {
    let vma = header(b"1000-3000 r-xp 0000000a0 fe:1f 12                  /a b\\012c (deleted)");
    assert_eq!(vma.unwrap().name, b"/a b\\012c (deleted)");
    let nameless = header(b"1000-3000 ---p 00000000 00:00 0 ").unwrap();
    assert_eq!((nameless.name.len(), nameless.has_file()), (0, false));
    for bad in [
        &b""[..],
        b"-",
        b"3000-1000 r-xp 0 0:0 0",
        b"1001-2000 r-xp 0 0:0 0",
        b"1000-2000 r-x? 0 0:0 0",
        b"1000-2000 r-x",
        b"11111111111111111-2000 r-xp 0 0:0 0",
        b"1000-2000 r-xp 0 0:0 x",
        b"1000-2000 r-xp 0 0:0 99999999999999999999999",
    ] {
        assert_eq!(header(bad), None, "{:?}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn cut_or_shuffled_texts_are_refused() {
    let whole = parse(LINUX_6_18).unwrap();
    for cut in (0..LINUX_6_18.len()).step_by(97) {
        // Either refused, or the VMAs up to there.
        if let Ok(part) = parse(&LINUX_6_18[..cut]) {
            assert!(part.len() <= whole.len());
        }
    }
    let two = "2000-3000 rw-p 0 0:0 0\nVmFlags: rd\n1000-2000 rw-p 0 0:0 0\nVmFlags: rd\n";
    assert!(matches!(parse(two.as_bytes()), Err(ParseError::Order { line: 3, .. })));
    let bare = "1000-2000 rw-p 0 0:0 0\n2000-3000 rw-p 0 0:0 0\n";
    assert!(matches!(parse(bare.as_bytes()), Err(ParseError::NoFlags { start: 0x1000 })));
    assert!(matches!(parse(&b"xyz\n"[..]), Err(ParseError::Header { line: 1, .. })));
    assert_eq!(parse(&b""[..]).unwrap(), []);
}

#[test]
fn damaged_texts_are_no_trouble() {
    let text = &LINUX_6_18[..4000];
    let mut seed = 1u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % below
    };
    for _ in 0..2000 {
        let mut bad = text.to_vec();
        for _ in 0..=random(6) {
            let at = random(bad.len());
            match random(3) {
                0 => bad[at] = random(256) as u8,
                1 => drop(bad.remove(at)),
                _ => bad.insert(at, b"\n -0af9"[random(7)]),
            }
        }
        for vma in parse(&bad[..]).unwrap_or_default() {
            assert!(vma.start < vma.end);
            let _ = classify(&vma, (0, 1)).map(|kind| (kind.content(&vma), kind.map_flags(&vma)));
        }
    }
}
