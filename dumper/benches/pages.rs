//! How fast pages go from a task into an image in memory, as it is and compressed, by one thread and
//! by all; as a share of memcpy of as much memory in the same run.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use criterion::{BenchmarkId, Criterion, Throughput};
use dumper::{Storing, bench};
use images::pages::{Codec, Compression};
use std::cell::RefCell;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LEN: usize = 128 << 20;

/// A process that holds `LEN` bytes of a kind at an address that it says.
struct Holder {
    child: Child,
    addr: u64,
}

impl Holder {
    fn start(kind: &str) -> Self {
        let own = std::env::current_exe().unwrap();
        let mut child = Command::new(own)
            .env("AMBER_BENCH_HOLDER", kind)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        Self { child, addr: line.trim().parse().unwrap() }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Contents: zeroes, noise, or what a heap looks like.
fn contents(kind: &str) -> Vec<u64> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let word = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        match (kind, x % 16) {
            ("zero", _) => 0,
            ("random", _) => x,
            (_, 0..5) => 0,
            (_, 5..8) => x >> 8 & 1023,
            (_, 8..12) => 0x7f3a_0000_0000 | (x >> 16 & 0xff_fff8),
            _ => [0x656d_6361, 0x7265_6c64, 0x7265_7375, 0x656d_6974][(x >> 20) as usize % 4],
        }
    };
    (0..LEN / 8).map(word).collect()
}

fn hold(kind: &str) {
    let memory = contents(kind);
    // Pages start at the next boundary.
    let addr = (memory.as_ptr() as u64).next_multiple_of(4096);
    println!("{addr}");
    let _ = std::io::stdin().read_line(&mut String::new());
    std::hint::black_box(memory);
}

fn image() -> std::fs::File {
    tempfile::tempfile_in("/dev/shm").unwrap()
}

fn main() {
    if let Ok(kind) = std::env::var("AMBER_BENCH_HOLDER") {
        return hold(&kind);
    }
    let cpus = sys::worker::cpus();
    let seen: RefCell<Vec<(String, f64)>> = RefCell::default();
    let note = |name: &str, times: u64, took: Duration| {
        let speed = times as f64 * LEN as f64 / took.as_secs_f64() / 1e9;
        seen.borrow_mut().push((name.to_owned(), speed));
        took
    };
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let mut group = criterion.benchmark_group("pages");
    group.throughput(Throughput::Bytes(LEN as u64));
    let from = contents("random");
    let mut to = vec![0u64; LEN / 8];
    group.bench_function("memcpy", |b| {
        b.iter_custom(|times| {
            let begin = Instant::now();
            for _ in 0..times {
                to.copy_from_slice(std::hint::black_box(&from));
                std::hint::black_box(&mut to);
            }
            note("memcpy", times, begin.elapsed())
        });
    });
    let zstd = |level| Some(Compression { codec: Codec::Zstd, level });
    let ways = [
        ("raw", "random", None),
        ("raw, zero pages", "zero", None),
        ("raw", "heap", None),
        ("lz4", "heap", Some(Compression::of(Codec::Lz4))),
        ("zstd -3", "heap", zstd(-3)),
        ("zstd 1", "heap", zstd(1)),
        ("zstd 3", "heap", zstd(3)),
        ("zstd 1", "random", zstd(1)),
    ];
    for (way, kind, compression) in ways {
        let holder = Holder::start(kind);
        for threads in [1, 2, 4, 8, 16].into_iter().filter(|n| *n <= cpus) {
            let name = format!("{way} ({kind}) x{threads}");
            let storing = Storing { compression, threads, ..Storing::default() };
            let id = BenchmarkId::from_parameter(&name);
            group.bench_function(id, |b| {
                b.iter_custom(|times| {
                    let mut took = Duration::ZERO;
                    for _ in 0..times {
                        let image = image();
                        let begin = Instant::now();
                        let pid = holder.child.id().cast_signed();
                        let len = LEN as u64 - 4096;
                        bench::move_pages(pid, holder.addr, len, image, storing);
                        took += begin.elapsed();
                    }
                    note(&name, times, took)
                });
            });
        }
    }
    group.finish();
    table(&seen.into_inner());
}

/// Medians, and shares of memcpy.
fn table(seen: &[(String, f64)]) {
    let mut names: Vec<&String> = seen.iter().map(|(name, _)| name).collect();
    names.dedup();
    let median = |name: &str| {
        let mut all: Vec<f64> = seen.iter().filter(|(n, _)| n == name).map(|(_, s)| *s).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(0.0)
    };
    let memcpy = median("memcpy");
    println!("\n{:28} {:>8} {:>9}", "", "GB/s", "of memcpy");
    for name in names {
        let speed = median(name);
        println!("{name:28} {speed:8.2} {:8.0}%", speed / memcpy * 100.0);
    }
}
