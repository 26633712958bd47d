//! Reads contents where they are: whole spans per call, and pages that cannot be had that way one by one.

use super::Piece;
use crate::pages::Error;
use crate::pages::select::Run;
use images::pages::PAGE_SIZE;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, OnceLock, PoisonError};
use sys::vm::{self, Span};

/// Where contents come from.
#[derive(Debug)]
pub enum Origin<'a> {
    /// Memory of a task.
    Task {
        /// In our pid namespace.
        pid: i32,
        /// `/proc/PID/mem`, opened when needed.
        mem: OnceLock<File>,
        /// It runs: pages that cannot be read, as they are gone meanwhile, are zeroes and go here.
        lost: Option<&'a Lost>,
    },
    /// A file: shared memory.
    File(&'a File),
}

/// Reads the contents of a piece.
pub fn read(
    origin: &Origin<'_>,
    runs: &[Run],
    name: &str,
    p: &Piece,
    buf: &mut [u8],
    spans: &mut Vec<Span>,
) -> Result<(), Error> {
    let mut runs = runs[p.run..].iter().copied();
    let mut skip = p.skip;
    let mut rest = buf;
    while !rest.is_empty() {
        // Runs that are read by the same means go together.
        spans.clear();
        let (mut len, mut readable) = (0, true);
        for r in runs.clone() {
            if len == rest.len() || (len > 0 && r.readable != readable) {
                break;
            }
            readable = r.readable;
            let want = ((r.pages - skip) * PAGE_SIZE).min((rest.len() - len) as u64);
            spans.push(Span { addr: r.start + skip * PAGE_SIZE, len: want });
            len += want as usize;
            skip = 0;
        }
        let (now, later) = std::mem::take(&mut rest).split_at_mut(len);
        for _ in 0..spans.len() {
            runs.next();
        }
        match origin {
            Origin::Task { pid, mem, lost: Some(lost) } => {
                read_live(*pid, mem, spans, now, lost)?;
            }
            Origin::Task { pid, mem, .. } if readable => read_task(*pid, mem, spans, now)?,
            Origin::Task { pid, mem, .. } => {
                let mut now = now;
                for span in spans.iter() {
                    let (one, others) = std::mem::take(&mut now).split_at_mut(span.len as usize);
                    read_mem(*pid, mem, span.addr, one)?;
                    now = others;
                }
            }
            Origin::File(file) => read_file(file, name, spans, now)?,
        }
        rest = later;
    }
    Ok(())
}

/// `process_vm_readv`, and `/proc/PID/mem` for pages that it does not read.
fn read_task(
    pid: i32,
    mem: &OnceLock<File>,
    spans: &mut [Span],
    mut buf: &mut [u8],
) -> Result<(), Error> {
    let mut spans = spans;
    loop {
        let got = match vm::read_spans(pid, spans, buf) {
            Ok(n) if n == buf.len() => return Ok(()),
            Ok(n) => n,
            Err(e) if e.errno() == libc::EFAULT => 0,
            Err(e) => return Err(e.into()),
        };
        buf = &mut buf[got..];
        advance(&mut spans, got as u64);
        // One page by the other means, then on as before.
        let (page, others) = buf.split_at_mut(PAGE_SIZE as usize);
        read_mem(pid, mem, spans[0].addr, page)?;
        buf = others;
        advance(&mut spans, PAGE_SIZE);
        if buf.is_empty() {
            return Ok(());
        }
    }
}

/// Pages of running tasks that could not be read: pid, first address, address behind.
#[derive(Debug, Default)]
pub struct Lost(Mutex<Vec<(i32, u64, u64)>>);

impl Lost {
    fn add(&self, pid: i32, start: u64, end: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.last_mut() {
            Some(last) if (last.0, last.2) == (pid, start) => last.2 = end,
            _ => all.push((pid, start, end)),
        }
    }

    /// All of them.
    pub fn ranges(self) -> Vec<(i32, u64, u64)> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a running task has of it.
fn read_live(
    pid: i32,
    mem: &OnceLock<File>,
    spans: &mut [Span],
    mut buf: &mut [u8],
    lost: &Lost,
) -> Result<(), Error> {
    let mut spans = spans;
    while !buf.is_empty() {
        let mut got = match vm::read_spans(pid, spans, buf) {
            Ok(n) => n,
            Err(e) if matches!(e.errno(), libc::EFAULT | libc::ESRCH | libc::EPERM) => 0,
            Err(e) => return Err(e.into()),
        };
        if got == 0 {
            // It may just be protected from reading.
            let (one, _) = buf.split_at_mut(spans[0].len as usize);
            got = mem_file(pid, mem).and_then(|f| f.read_at(one, spans[0].addr)).unwrap_or(0);
            got -= got % PAGE_SIZE as usize;
        }
        if got == 0 {
            got = PAGE_SIZE as usize;
            buf[..got].fill(0);
            lost.add(pid, spans[0].addr, spans[0].addr + PAGE_SIZE);
        }
        buf = &mut buf[got..];
        advance(&mut spans, got as u64);
    }
    Ok(())
}

/// Takes `len` bytes from the first spans, which are at least as long.
fn advance(spans: &mut &mut [Span], mut len: u64) {
    while len > 0 {
        let first = &mut spans[0];
        let step = len.min(first.len);
        first.addr += step;
        first.len -= step;
        len -= step;
        if first.len == 0 {
            let all = std::mem::take(spans);
            *spans = &mut all[1..];
        }
    }
}

fn read_mem(pid: i32, mem: &OnceLock<File>, addr: u64, buf: &mut [u8]) -> Result<(), Error> {
    let read = mem_file(pid, mem).and_then(|file| file.read_exact_at(buf, addr));
    read.map_err(|source| Error::Unreadable { pid, addr, source })
}

fn mem_file(pid: i32, mem: &OnceLock<File>) -> std::io::Result<&File> {
    if let Some(file) = mem.get() {
        return Ok(file);
    }
    let file = File::open(format!("/proc/{pid}/mem"))?;
    Ok(mem.get_or_init(|| file))
}

fn read_file(file: &File, name: &str, spans: &[Span], mut buf: &mut [u8]) -> Result<(), Error> {
    for span in spans {
        let (mut one, others) = buf.split_at_mut(span.len as usize);
        let mut at = span.addr;
        while !one.is_empty() {
            match file.read_at(one, at) {
                // The last page of a file whose size is not whole pages.
                Ok(0) => {
                    one.fill(0);
                    break;
                }
                Ok(n) => {
                    one = &mut one[n..];
                    at += n as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Shmem { name: name.to_owned(), source }),
            }
        }
        buf = others;
    }
    Ok(())
}
