// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests with random fields: answered or hung up on, and nobody is harmed.

use crate::client::{Client, Images, alive, pid};
use images::proto::{CriuOpts, CriuReq, CriuReqType};
use prost::Message;
use std::time::{Duration, Instant};

/// xorshift64*: a seed repeats a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    fn text(&mut self) -> String {
        const SOME: &[&str] = &[
            "",
            "/",
            ".",
            "..",
            "/proc/self/fd/0",
            "net",
            "mnt[]",
            "fd[0]:x",
            "unix[1]",
            "a:b",
            "/nowhere",
            "\u{0}",
            "net[1]:x",
            "veth[a]:b",
            "apparmor:x",
            "127.0.0.1",
            "%s%n",
            "cpu:/x",
            "\n",
            "auto",
        ];
        match self.below(8) {
            0 => "x".repeat(self.below(9000) as usize),
            _ => SOME[self.below(SOME.len() as u64) as usize].to_owned(),
        }
    }

    fn number(&mut self) -> u64 {
        const SOME: &[u64] =
            &[0, 1, 2, 3, 4, 7, 255, 1000, 1 << 31, u32::MAX as u64, u64::MAX, 1 << 63];
        match self.below(3) {
            0 => self.next(),
            _ => SOME[self.below(SOME.len() as u64) as usize],
        }
    }
}

fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A field of any number, well-formed for its wire type: prost checks what it knows of it.
fn field(random: &mut Random, numbers: u64, depth: u32, out: &mut Vec<u8>) {
    let number = random.below(numbers) + 1;
    match random.below(if depth > 0 { 3 } else { 2 }) {
        0 => {
            varint(number << 3, out);
            varint(random.number(), out);
        }
        1 => {
            let text = random.text();
            varint(number << 3 | 2, out);
            varint(text.len() as u64, out);
            out.extend(text.as_bytes());
        }
        _ => {
            let mut inner = Vec::new();
            for _ in 0..random.below(4) {
                field(random, 5, depth - 1, &mut inner);
            }
            varint(number << 3 | 2, out);
            varint(inner.len() as u64, out);
            out.extend(inner);
        }
    }
}

/// Options that would be good, some of them changed. The tree is never to be killed by a request
/// that happens to be good: it is told to be left running, last.
fn request(random: &mut Random, images: &Images) -> Vec<u8> {
    let mut opts = images.opts("fuzz.log");
    opts.pid = Some(pid());
    opts.timeout = Some(5);
    let mut bytes = opts.encode_to_vec();
    for _ in 0..random.below(5) {
        // Only what the schema takes there, or the whole request is garbage.
        let mut more = Vec::new();
        field(random, 72, 2, &mut more);
        if CriuOpts::decode(&more[..]).is_ok() || random.below(20) == 0 {
            bytes.extend(more);
        }
    }
    // leave_running, not leave_stopped, and no directory by a path: the file system is that of the
    // machine.
    for (number, value) in [(3, 1), (69, 0)] {
        varint(number << 3, &mut bytes);
        varint(value, &mut bytes);
    }
    let nowhere = b"/nowhere";
    varint(68 << 3 | 2, &mut bytes);
    varint(nowhere.len() as u64, &mut bytes);
    bytes.extend(nowhere);
    let kinds = [
        CriuReqType::Dump,
        CriuReqType::PreDump,
        CriuReqType::SinglePreDump,
        CriuReqType::Check,
        CriuReqType::CpuinfoDump,
        CriuReqType::CpuinfoCheck,
        CriuReqType::FeatureCheck,
        CriuReqType::Version,
        CriuReqType::WaitPid,
        CriuReqType::Restore,
        CriuReqType::Dump,
    ];
    let kind = kinds[random.below(kinds.len() as u64) as usize];
    let mut out = CriuReq { r#type: kind.into(), ..CriuReq::default() }.encode_to_vec();
    varint(2 << 3 | 2, &mut out);
    varint(bytes.len() as u64, &mut out);
    out.extend(bytes);
    if random.below(4) == 0 {
        field(random, 8, 1, &mut out);
    }
    if random.below(6) == 0 && !out.is_empty() {
        let at = random.below(out.len() as u64) as usize;
        let bit = 1 << random.below(8);
        out[at] ^= bit;
        // A good request for a dump that ends or stops the tree may do so.
        let opts = CriuReq::decode(&out[..]).map(|request| request.opts.unwrap_or_default());
        let runs = |o: CriuOpts| o.leave_running == Some(true) && o.leave_stopped != Some(true);
        if opts.is_ok_and(|opts| !runs(opts)) {
            out[at] ^= bit;
        }
    }
    out
}

fn count() -> u64 {
    std::env::var("AMBER_REQUESTS").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

/// Each request on a connection of its own; answers are not read to the end by everybody.
pub(crate) fn mutated_requests_are_answered_and_harm_nobody() {
    let given = std::env::var("AMBER_SEED").ok().and_then(|n| n.parse().ok());
    let first = given.unwrap_or_else(|| u64::from(std::process::id()) << 20);
    for seed in first..first + count() {
        println!("AMBER_SEED={seed}");
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        let images = Images::open();
        let packet = request(&mut random, &images);
        let client = Client::start();
        client.send_bytes(&packet);
        let begun = Instant::now();
        client
            .answer_all(Duration::from_secs(30))
            .unwrap_or_else(|| panic!("stuck: {packet:02x?}"));
        let _ = client.end();
        assert!(begun.elapsed() < Duration::from_secs(40), "slow: {packet:02x?}");
        assert!(alive(pid()), "killed by {packet:02x?}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid())).expect("status");
        assert!(status.contains("TracerPid:\t0"), "traced after {packet:02x?}");
        let stopped = status.contains("State:\tT") || status.contains("State:\tt");
        assert!(!stopped, "stopped by {packet:02x?}");
    }
}
