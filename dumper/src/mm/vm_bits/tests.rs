use super::*;

/// A kernel of our own: which bit has which code.
const KERNEL: &[(u32, VmFlags)] = &[
    (0, VmFlags::READ),
    (1, VmFlags::WRITE),
    (4, VmFlags::MAY_READ),
    (41, VmFlags::SOFTDIRTY),
    (13, VmFlags::LOCKED),
    (44, VmFlags::LOCKONFAULT),
    (10, VmFlags::PFNMAP),
    (14, VmFlags::IO),
];

fn sample(bits: &[u32]) -> Sample {
    let with = |codes: VmFlags, (_, code): &(u32, VmFlags)| codes.with(*code);
    Sample {
        bits: bits.iter().map(|n| 1u64 << n).sum(),
        codes: KERNEL.iter().filter(|(n, _)| bits.contains(n)).fold(VmFlags::default(), with),
    }
}

fn samples() -> Vec<Sample> {
    let all: &[&[u32]] = &[
        &[0, 1, 4, 41],
        &[0, 4, 41],
        &[4, 41, 60],
        &[0, 1, 4, 41, 13],
        &[0, 1, 4, 41, 13, 44],
        &[0, 4, 41, 10, 14],
    ];
    all.iter().map(|bits| sample(bits)).collect()
}

#[test]
fn bits_that_are_told_apart_are_known() {
    let meaning = Meaning::learn(&samples()).unwrap();
    for bits in [&[0, 1, 4, 41, 13, 44][..], &[4, 41, 44], &[0, 4, 41, 10, 14], &[]] {
        let sample = sample(bits);
        assert_eq!(meaning.codes(sample.bits), Some(sample.codes), "{bits:?}");
    }
    assert_eq!(meaning.codes(1 << 60), Some(VmFlags::default()), "seen, and means nothing");
}

#[test]
fn what_is_not_known_is_not_guessed() {
    let meaning = Meaning::learn(&samples()).unwrap();
    assert_eq!(meaning.codes(1 << 20), None, "a bit that was in no sample");
    assert_eq!(meaning.codes(1 << 10), None, "of PFNMAP and IO one is here, and which?");
    assert!(meaning.codes(1 << 4).is_some(), "nobody asks for MAY_READ, or SOFTDIRTY");
    assert_eq!(Meaning::learn(&[]).unwrap().codes(1), None);
}

#[test]
fn contradictions_are_seen() {
    for at in 0..samples().len() {
        for bit in [0, 1, 4, 13, 44, 10, 14, 41] {
            let mut samples = samples();
            samples[at].bits ^= 1 << bit;
            let Some(meaning) = Meaning::learn(&samples) else { continue };
            // Another bit came with this one: it stands for it.
            for sample in samples {
                assert!(meaning.codes(sample.bits).is_none_or(|codes| codes == sample.codes));
            }
        }
    }
    let mut samples = samples();
    samples[3].bits ^= 1 << 13;
    assert_eq!(Meaning::learn(&samples), None, "locked, and no bit says so");
}
