//! Running [`Script`]s in the threads of a frozen process.
//!
//! One anonymous mapping in the process (the *arena*) holds the blob's code and a slot for
//! each thread that runs at a time:
//!
//! ```text
//! | code | Run, steps, data | stack | rt_sigframe | Run, steps, data | stack | ...
//! ```
//!
//! A slot is complete before the thread is pointed at the code, and from then on the thread
//! finds home alone if the tracer dies. The calls that make and remove the arena have a way home
//! of their own (see [`crate::shelter`]).

use crate::remote::Place;
use crate::shelter::Shelter;
use crate::tracee::{Stop, Thread, next_stop};
use crate::{Answers, BLOB, Error, Limits, Process, Result, Script, gadget, remote, sigframe};
use parasite_abi::dump::Run;
use std::time::Instant;
use sys::ptrace::{self, Regs};
use sys::{task, vm};

const PAGE: usize = 4096;
/// The blob needs about 100 bytes; it calls nothing.
const STACK: usize = 512;
const HEAD: usize = size_of::<Run>().next_multiple_of(64);
/// Threads that run at a time: bounds the arena, and keeps it in the caches.
const BATCH: usize = 64;
/// Code segment of 64-bit programs.
const CS64: u64 = 0x33;
/// Marks system calls of the x32 ABI.
const X32_CALL: u64 = 0x4000_0000;
/// I/O permission bitmap.
const NT_386_IOPERM: u64 = 0x201;
const SYS_RT_SIGRETURN: u64 = 15;

/// A frozen process that has our code mapped. Dropping it unmaps it and gives all threads
/// their own registers back.
#[derive(Debug)]
pub struct Infected<'a> {
    process: &'a mut Process,
    limits: Limits<'static>,
    place: Place,
    shelter: Option<Shelter>,
    arena: u64,
    len: usize,
    knock: Option<i32>,
}

fn code_len() -> usize {
    BLOB.len().next_multiple_of(PAGE)
}

/// Length of the slot that `thread` needs for `script`.
fn slot_len(thread: &mut Thread, script: &Script) -> Result<usize> {
    let frame = sigframe::size(thread.saved()?);
    Ok((HEAD + script.size() + STACK).next_multiple_of(64) + frame.next_multiple_of(64))
}

/// What cannot run our code, or would not survive it.
fn refuse(thread: &mut Thread) -> Result<()> {
    let tid = thread.tid;
    // Linux before 6.4 cannot tell.
    if let Ok(true) = ptrace::syscall_user_dispatch(tid) {
        let what = "syscall user dispatch is on (PR_SET_SYSCALL_USER_DISPATCH)";
        return Err(Error::Mode { tid, what });
    }
    if thread.status.shstk {
        return Err(Error::Mode { tid, what: "a user shadow stack" });
    }
    // ENXIO: no ports were ever asked for; ENODEV: not in this kernel.
    let mut ports = [0; 8];
    if ptrace::regset(tid, NT_386_IOPERM, &mut ports).is_ok_and(|n| n > 0) {
        return Err(Error::Mode { tid, what: "I/O port permissions (ioperm, iopl)" });
    }
    let regs = thread.saved()?.regs;
    if regs.orig_rax as i64 >= 0 && regs.orig_rax & X32_CALL != 0 {
        return Err(Error::Mode { tid, what: "x32 code" });
    }
    match regs.cs {
        CS64 => Ok(()),
        0x23 => Err(Error::Mode { tid, what: "32-bit code" }),
        _ => Err(Error::Mode { tid, what: "code in an LDT segment" }),
    }
}

/// A signal that means nothing to the process: not handled, not pending, and ignored by
/// default, so that nobody sees it unless somebody traces.
fn knock(process: &Process) -> Option<i32> {
    let bit = |signo: i32| 1u64 << (signo - 1);
    let status = process.status();
    let pending = process.threads.iter().fold(status.shd_pnd, |m, t| m | t.status.sig_pnd);
    let blocked = process.threads.iter().fold(0, |m, t| m | t.status.sig_blk);
    let free = |avoid: u64| {
        [libc::SIGWINCH, libc::SIGURG, libc::SIGCHLD].into_iter().find(|&s| avoid & bit(s) == 0)
    };
    // A blocked one may be waited for by sigwait or signalfd: only if there is no other.
    free(status.sig_cgt | pending | blocked).or_else(|| free(status.sig_cgt | pending))
}

impl<'a> Infected<'a> {
    /// Maps the blob into `process`, with room to run each of `scripts` in any thread.
    ///
    /// `deadline`: how long this and all runs may take. There is no other way to stop them:
    /// they are short, and nothing foreign may be left in the process.
    pub fn new(
        process: &'a mut Process,
        scripts: &[&Script],
        deadline: Option<Instant>,
    ) -> Result<Self> {
        let limits = Limits { deadline, stop: &|| false };
        let mut slot = 0;
        for thread in &mut process.threads {
            refuse(thread)?;
            for script in scripts {
                slot = slot.max(slot_len(thread, script)?);
            }
            if thread.status.seccomp != 0 {
                let options = ptrace::option::TRACESYSGOOD | ptrace::option::SUSPEND_SECCOMP;
                ptrace::set_options(thread.tid, options)?;
            }
        }
        let slots = process.threads.len().min(BATCH);
        let len = (code_len() + slot * slots).next_multiple_of(PAGE);
        let gadgets = gadget::find(process.pid)?;
        let start_stack = process.start_stack;
        let shelter = match gadgets.returning {
            Some(gadget) => Shelter::build(&mut process.threads[0], start_stack, gadget)?,
            None => None,
        };
        let place = match &shelter {
            Some(s) => Place { rip: s.gadget, rsp: Some(s.rsp) },
            None => Place { rip: gadgets.plain, rsp: None },
        };
        let knock = knock(process);
        let mut new = Self { process, limits, place, shelter, arena: 0, len, knock };
        new.map()?;
        Ok(new)
    }

    fn remote(&mut self, what: &'static str, nr: i64, args: [u64; 6]) -> Result<u64> {
        let leader = &mut self.process.threads[0];
        let ret = remote::call(leader, self.place, nr, args, &self.limits)?;
        if (-4095..0).contains(&ret) {
            let source = std::io::Error::from_raw_os_error(-ret as i32);
            return Err(Error::Remote { tid: leader.tid, what, source });
        }
        Ok(ret as u64)
    }

    fn mmap(&mut self, prot: i32) -> Result<u64> {
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let args = [0, self.len as u64, prot as u64, flags, u64::MAX, 0];
        self.remote("mmap", libc::SYS_mmap, args)
    }

    fn map(&mut self) -> Result<()> {
        let (read, write, exec) = (libc::PROT_READ, libc::PROT_WRITE, libc::PROT_EXEC);
        let errno = |r: &Result<u64>| match r {
            Err(Error::Remote { source, .. }) => source.raw_os_error().unwrap_or(0),
            _ => 0,
        };
        let mut made = self.mmap(read | write | exec);
        // Address space or locked memory (MCL_FUTURE) is used up to the limit.
        for (no, resource) in
            [(libc::ENOMEM, libc::RLIMIT_AS), (libc::EAGAIN, libc::RLIMIT_MEMLOCK)]
        {
            if errno(&made) == no {
                made = self.with_limit_lifted(resource, |s| s.mmap(read | write | exec))?;
            }
        }
        if matches!(errno(&made), libc::EACCES | libc::EPERM) {
            return self.map_without_wx();
        }
        self.arena = made?;
        vm::write_all(self.process.pid, self.arena, BLOB)?;
        Ok(())
    }

    fn with_limit_lifted<T>(
        &mut self,
        resource: u32,
        work: impl FnOnce(&mut Self) -> T,
    ) -> Result<T> {
        let pid = self.process.pid;
        let (soft, hard) = task::rlimit(pid, resource)?;
        task::set_rlimit(pid, resource, u64::MAX, u64::MAX)?;
        let done = work(self);
        task::set_rlimit(pid, resource, soft, hard)?;
        Ok(done)
    }

    /// Memory that is writable and executable is forbidden here (MDWE, SELinux execmem): the
    /// code's pages are written from outside, the rest loses its execute permission.
    fn map_without_wx(&mut self) -> Result<()> {
        self.arena = self.mmap(libc::PROT_READ | libc::PROT_EXEC)?;
        let rest = code_len();
        let (start, len) = (self.arena + rest as u64, (self.len - rest) as u64);
        let prot = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        self.remote("mprotect", libc::SYS_mprotect, [start, len, prot, 0, 0, 0])?;
        let path = format!("/proc/{}/mem", self.process.pid);
        let io = |e: std::io::Error| sys::Error::io(&path, &e);
        let mem = std::fs::File::options().write(true).open(&path).map_err(io)?;
        std::os::unix::fs::FileExt::write_all_at(&mem, BLOB, self.arena).map_err(io)?;
        Ok(())
    }

    /// First byte for slots: on other pages than the code, whose pages may be read-only.
    fn slots(&self) -> u64 {
        self.arena + code_len() as u64
    }

    /// Whether pages of our mapping are locked as they come, as those of new mappings are
    /// (`MCL_ONFAULT`). Looks through `/proc/PID/smaps`.
    pub fn is_locked_on_fault(&self) -> Result<bool> {
        let text = crate::proc::read(format!("/proc/{}/smaps", self.process.pid))?;
        let text = String::from_utf8_lossy(&text);
        // The code may be a mapping apart.
        let starts = [self.arena, self.slots()].map(|at| format!("{at:x}-"));
        let mut lines = text.lines().skip_while(|l| !starts.iter().any(|s| l.starts_with(s)));
        let flags = lines.find_map(|l| l.strip_prefix("VmFlags:"));
        Ok(flags.is_some_and(|f| f.split_ascii_whitespace().any(|flag| flag == "lf")))
    }

    /// Runs `script` in the leader.
    pub fn run(&mut self, script: &Script) -> Result<Answers> {
        let mut all = self.batch(0, 1, script)?;
        all.pop().ok_or(Error::Ended { tid: self.process.pid })
    }

    /// Runs `script` in every thread but the leader; answers in the order of the threads.
    pub fn run_others(&mut self, script: &Script) -> Result<Vec<Answers>> {
        let others = self.process.threads.len() - 1;
        let mut all = Vec::with_capacity(others);
        while all.len() < others {
            let n = (others - all.len()).min(BATCH);
            all.extend(self.batch(1 + all.len(), n, script)?);
        }
        Ok(all)
    }

    fn batch(&mut self, first: usize, n: usize, script: &Script) -> Result<Vec<Answers>> {
        let pid = self.process.pid;
        let base = self.slots();
        let mut bytes = Vec::new();
        let mut heads = Vec::with_capacity(n);
        for i in first..first + n {
            heads.push(bytes.len());
            self.slot(i, base + bytes.len() as u64, script, &mut bytes)?;
        }
        vm::write_all(pid, base, &bytes)?;
        let limits = self.limits;
        let knock = self.knock;
        let mut failed = None;
        let mut started = 0;
        for (i, head) in heads.iter().enumerate() {
            let thread = &mut self.process.threads[first + i];
            match start(thread, self.arena, base + *head as u64, script, knock) {
                Ok(()) => started += 1,
                Err(e) => {
                    failed = Some(e);
                    break;
                }
            }
        }
        // Whoever was started is waited for, also after a failure: all have to come back.
        for i in first..first + started {
            let thread = &mut self.process.threads[i];
            let end = match knock {
                Some(signo) => wait_knock(thread, signo, &limits),
                None => step_to_end(thread, &limits),
            };
            let end = end.inspect_err(|_| remote::catch(thread));
            // Put back in any case.
            let back = thread.put_back();
            if let Err(e) = end.and(back) {
                failed = failed.or(Some(e));
            }
        }
        if let Some(e) = failed {
            return Err(e);
        }
        vm::read_exact(pid, base, &mut bytes)?;
        Ok(heads.iter().map(|h| script.answers(&bytes[h + HEAD..][..script.size()])).collect())
    }

    /// Everything that thread `i` needs to run `script` and to find home, at `addr`.
    fn slot(&mut self, i: usize, addr: u64, script: &Script, out: &mut Vec<u8>) -> Result<()> {
        let vpid = last(&self.process.status().nspid);
        let thread = &mut self.process.threads[i];
        let vtid = last(&thread.status.nspid);
        let start = out.len();
        let frame_at = (HEAD + script.size() + STACK).next_multiple_of(64);
        let steps = addr + HEAD as u64;
        // `rt_sigreturn` looks for the frame 8 bytes below the stack pointer.
        let frame = addr + frame_at as u64 + 8;
        for word in [
            steps,
            script.count() as u64,
            u64::from(vpid) | u64::from(vtid) << 32,
            self.knock.unwrap_or(0) as u64,
            frame,
        ] {
            out.extend_from_slice(&word.to_ne_bytes());
        }
        out.resize(start + HEAD, 0);
        script.place(steps, out);
        out.resize(start + frame_at, 0);
        out.extend_from_slice(&sigframe::build(thread.saved()?, addr + frame_at as u64));
        out.resize(start + (out.len() - start).next_multiple_of(64), 0);
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        for thread in &mut self.process.threads {
            thread.put_back()?;
        }
        let mut unmapped = Ok(());
        if self.arena != 0 {
            let args = [std::mem::take(&mut self.arena), self.len as u64, 0, 0, 0, 0];
            unmapped = self.remote("munmap", libc::SYS_munmap, args).map(drop);
        }
        let taken_down = self.shelter.take().map_or(Ok(()), |s| s.remove(self.process.pid));
        unmapped.and(taken_down)
    }

    /// Takes our code out again. As dropping does, but tells when it did not work.
    pub fn cure(mut self) -> Result<()> {
        self.remove()
    }
}

impl Drop for Infected<'_> {
    fn drop(&mut self) {
        // Nothing more can be done for a process that died or does not come back in time.
        let pid = self.process.pid;
        if let Err(e) = self.remove() {
            log::warn!("task {pid}: taking our code out: {e}");
        }
    }
}

fn last(numbers: &[i32]) -> u32 {
    numbers.last().map_or(0, |&n| n as u32)
}

/// Points a thread at the blob and lets it run.
fn start(
    thread: &mut Thread,
    code: u64,
    head: u64,
    script: &Script,
    knock: Option<i32>,
) -> Result<()> {
    let own = thread.saved()?.regs;
    let stack_end = head + (HEAD + script.size() + STACK) as u64;
    let regs = Regs {
        rip: code,
        rdi: head,
        rsp: stack_end & !15,
        orig_rax: remote::NO_CALL,
        eflags: remote::PLAIN_FLAGS,
        ..own
    };
    thread.dirty = true;
    thread.visited = true;
    ptrace::set_regs(thread.tid, &regs)?;
    ptrace::set_sigmask(thread.tid, knock.map_or(u64::MAX, |s| !(1 << (s - 1))))?;
    match knock {
        Some(_) => ptrace::cont(thread.tid, 0)?,
        None => ptrace::syscall(thread.tid, 0)?,
    }
    Ok(())
}

/// `si_code` of `tgkill`.
const SI_TKILL: i32 = -6;

fn wait_knock(thread: &mut Thread, signo: i32, limits: &Limits<'_>) -> Result<()> {
    loop {
        match next_stop(thread.tid, limits)? {
            Stop::Signal(s) if s == signo => {
                let info = ptrace::siginfo(thread.tid)?;
                let code = i32::from_ne_bytes([info[8], info[9], info[10], info[11]]);
                if code == SI_TKILL {
                    return Ok(());
                }
                // Somebody else's, just now.
                thread.requeue.push(s);
            }
            other => remote::absorb(thread, other, "the dump blob")?,
        }
        ptrace::cont(thread.tid, 0)?;
    }
}

/// All signals that could be a knock are the program's: follow the blob call by call, up to
/// the one that would take it home.
fn step_to_end(thread: &mut Thread, limits: &Limits<'_>) -> Result<()> {
    let tid = thread.tid;
    loop {
        match next_stop(tid, limits)? {
            Stop::Syscall => {
                let regs = ptrace::regs(tid)?;
                if regs.orig_rax == SYS_RT_SIGRETURN {
                    // Not yet: our registers come first, so the call itself is left out.
                    ptrace::set_regs(tid, &Regs { orig_rax: remote::NO_CALL, ..regs })?;
                    ptrace::syscall(tid, 0)?;
                    return match next_stop(tid, limits)? {
                        Stop::Syscall => Ok(()),
                        other => remote::absorb(thread, other, "the end of the dump blob"),
                    };
                }
            }
            other => remote::absorb(thread, other, "the dump blob, stepping")?,
        }
        ptrace::syscall(tid, 0)?;
    }
}
