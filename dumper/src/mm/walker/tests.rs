use super::*;
use crate::mm::tests::Subject;

fn by_smaps(pid: i32) -> Vec<Vma> {
    smaps::parse(&std::fs::read(format!("/proc/{pid}/smaps")).unwrap()[..]).unwrap()
}

/// The same but for `populated`, which tells of pages of its own here, and of any there.
fn check_same(walker: &Walker, pid: i32) {
    let mut told = walker.vmas(pid).unwrap();
    let shown = by_smaps(pid);
    assert_eq!(told.len(), shown.len());
    for (told, shown) in told.iter_mut().zip(&shown) {
        let own = !shown.shared && !shown.has_file() && !shown.name.starts_with(b"[v");
        assert!(!own || told.populated >= shown.populated, "{told:?}");
        told.populated = shown.populated;
        assert_eq!(told, shown);
    }
}

/// Kernels without iterators of tasks' VMAs, or without BTF, have none.
fn walker() -> Option<Walker> {
    match Walker::prepare() {
        Ok(walker) => Some(walker),
        Err(e) => {
            println!("{e}");
            assert!(matches!(e, Unknown::Sys(_) | Unknown::Read(..) | Unknown::Types(_)), "{e}");
            None
        }
    }
}

#[test]
fn both_ways_tell_the_same() {
    let Some(walker) = walker() else { return };
    let subject = Subject::start(&["plain", "kinds"]);
    check_same(&walker, subject.pid());
    // More than the kernel collects at a time, of both lists.
    let subject = Subject::start(&["vmas=5000"]);
    check_same(&walker, subject.pid());
    // Programs as they are.
    // By the call that each waits in when it has begun: clock_nanosleep, and read of descriptor 0.
    let programs = [("sleep", &["60"][..], "230 "), ("bash", &["-c", "read"], "0 0x0 ")];
    for (command, args, call) in programs {
        let mut child = std::process::Command::new(command)
            .args(args)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        while !std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap().starts_with(call) {
            std::thread::yield_now();
        }
        check_same(&walker, pid);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn what_only_smaps_tells_is_not_told() {
    let Some(walker) = walker() else { return };
    let subject = Subject::start(&["kinds"]);
    let shown = by_smaps(subject.pid());
    if shown.iter().any(|v| v.pkey != 0 || v.flags.has(VmFlags::HUGETLB)) {
        let error = walker.vmas(subject.pid()).unwrap_err();
        assert!(matches!(error, Unknown::Flags(..)), "{error}");
    }
}

#[test]
fn nothing_is_told_of_who_has_nothing() {
    let Some(walker) = walker() else { return };
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = child.id() as i32;
    while !std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z ") {
        std::thread::yield_now();
    }
    assert_eq!(walker.vmas(pid).unwrap(), []);
    child.wait().unwrap();
    assert!(walker.vmas(pid).is_err());
}

#[test]
fn a_smaps_is_cut_at_its_vmas() {
    let text = include_bytes!("../smaps/6.18.txt");
    let cut: Vec<_> = entries(text).flat_map(|e| smaps::parse(e).unwrap()).collect();
    assert_eq!(cut, smaps::parse(&text[..]).unwrap());
    assert_eq!(entries(b"").count(), 0);
}

/// With other threads' mappings coming and going.
#[test]
fn many_at_once_learn_the_same() {
    let Some(walker) = walker() else { return };
    let others: Vec<_> = (0..4).map(|_| std::thread::spawn(Walker::prepare)).collect();
    for other in others {
        assert_eq!(other.join().unwrap().unwrap().meaning, walker.meaning);
    }
}
