//! The last moments: all threads sleep in the blob and are traced. Their registers are put right
//! from outside, the arenas go, and everything runs.

use crate::mm::Space;
use crate::ns::pid::Pids;
use crate::plan::Plan;
use crate::task::regs;
use crate::{Error, Request, files};
use images::checkpoint::{Live, NsKind, Task, TaskState, Thread};
use parasite::proc::Stat;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use sys::ptrace::{self, Regs, Wait};

/// `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// All live threads: (task, thread).
fn threads<'a>(plan: &'a Plan<'_>) -> impl Iterator<Item = (&'a Task, &'a Thread)> + 'a {
    plan.live().flat_map(|(_, task, _)| task.threads.iter().map(move |t| (task, t)))
}

/// Options under which all threads are traced: our death is theirs.
pub(crate) fn options(plan: &Plan<'_>) -> u64 {
    use ptrace::option::{EXITKILL, SUSPEND_SECCOMP, TRACESYSGOOD};
    EXITKILL | TRACESYSGOOD | if plan.seccomp { SUSPEND_SECCOMP } else { 0 }
}

/// Traces the leaders of all live tasks but the root.
pub(crate) fn seize_leaders(plan: &Plan<'_>, pids: &Pids) -> Result<(), Error> {
    // The first is the root, which is traced from the start.
    for (_, task, _) in plan.live().skip(1) {
        ptrace::seize(pids.real(task.pid)?, options(plan))?;
    }
    Ok(())
}

/// Traces all other threads.
pub(crate) fn seize_threads(plan: &Plan<'_>, pids: &Pids) -> Result<(), Error> {
    for (_, thread) in threads(plan).filter(|(task, t)| t.tid != task.pid) {
        ptrace::seize(pids.real(thread.tid)?, options(plan))?;
    }
    Ok(())
}

/// Names that are to go, and the root of the mount namespace that they are in.
pub(crate) type Leftover<'a> = (Vec<&'a [u8]>, OwnedFd);

/// Links that the dump has left for us.
pub(crate) fn leftovers<'a>(
    plan: &'a Plan<'_>,
    pids: &Pids,
    root: i32,
) -> Result<Vec<Leftover<'a>>, Error> {
    let open = |pid: Option<i32>| {
        let path = pid.map_or_else(|| "/".to_owned(), |pid| format!("/proc/{pid}/root"));
        std::fs::File::open(&path)
            .map(OwnedFd::from)
            .map_err(|e| sys::Error::io(format_args!("open({path})"), &e))
    };
    let mut out = Vec::new();
    for (mnt_id, links) in files::links(&plan.files) {
        let at = plan
            .cp
            .ns
            .mnt
            .iter()
            .find(|(_, mounts)| mounts.iter().any(|m| Some(m.mnt_id.cast_signed()) == mnt_id));
        let inside = |task: &Task| {
            at.zip(task.ids.as_ref()).is_some_and(|((ns, _), ids)| NsKind::Mnt.id(ids) == *ns)
        };
        let pid = match plan.live().find(|(_, task, _)| inside(task)) {
            Some((_, task, _)) if plan.ns.mnt.is_some() => Some(pids.real(task.pid)?),
            _ => plan.ns.mnt.as_ref().map(|_| root),
        };
        out.push((links, open(pid)?));
    }
    Ok(out)
}

/// Stops all threads, wherever the blob put them to sleep.
pub(crate) fn stop_all(plan: &Plan<'_>, pids: &Pids) -> Result<(), Error> {
    for (_, thread) in threads(plan) {
        ptrace::interrupt(pids.real(thread.tid)?)?;
    }
    for (_, thread) in threads(plan) {
        expect_stop(pids.real(thread.tid)?)?;
    }
    Ok(())
}

fn expect_stop(tid: i32) -> Result<(), Error> {
    match wait(tid)? {
        Wait::Gone(status) => Err(Error::Died { pid: tid, how: super::coordinator::how(status) }),
        _ => Ok(()),
    }
}

fn wait(tid: i32) -> Result<Wait, Error> {
    loop {
        match ptrace::wait(tid, true) {
            Ok((_, wait)) => return Ok(wait),
            Err(e) if e.errno() == libc::EINTR => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Unmaps the arenas by a system call of each leader, all at once.
pub(crate) fn unmap_arenas(plan: &Plan<'_>, pids: &Pids) -> Result<(), Error> {
    for (_, task, live) in plan.live() {
        let Some(space) = plan.spaces.get(&task.pid) else { continue };
        let arena = &space.arena;
        let pid = pids.real(task.pid)?;
        let regs = Regs {
            rip: gadget(plan, (task, pid), live, space)?,
            rax: libc::SYS_munmap.cast_unsigned(),
            rdi: arena.start,
            rsi: arena.end - arena.start,
            orig_rax: u64::MAX,
            ..general(task.leader())?
        };
        ptrace::set_regs(pid, &regs)?;
        ptrace::syscall(pid, 0)?;
    }
    let leaders = plan.live().map(|(_, task, _)| pids.real(task.pid));
    let leaders = leaders.collect::<Result<Vec<i32>, Error>>()?;
    for &pid in &leaders {
        expect_stop(pid)?;
        ptrace::syscall(pid, 0)?;
    }
    for &pid in &leaders {
        expect_stop(pid)?;
        let answer = ptrace::regs(pid)?.rax.cast_signed();
        if answer != 0 {
            let errno = i32::try_from(-answer).unwrap_or(0);
            return Err(sys::Error::new(format_args!("munmap of the arena of {pid}"), errno).into());
        }
    }
    Ok(())
}

/// Where the task has a `syscall` instruction that stays.
fn gadget(
    plan: &Plan<'_>,
    (task, pid): (&Task, i32),
    live: &Live,
    space: &Space,
) -> Result<u64, Error> {
    let find = |bytes: &[u8]| bytes.windows(2).position(|w| w == SYSCALL).map(|at| at as u64);
    if let (Some((_, vdso)), Some(at)) = (space.vdso.last(), find(&plan.facts.vdso.bytes)) {
        return Ok(vdso + at);
    }
    let (exec, read) = (libc::PROT_EXEC as u32, libc::PROT_READ as u32);
    for vma in live.mm.vmas.iter().filter(|v| v.prot & exec != 0 && v.prot & read != 0) {
        let mut buf = vec![0; 1 << 16];
        let mut at = vma.start;
        while at < vma.end {
            let n = buf.len().min((vma.end - at) as usize);
            if sys::vm::read_exact(pid, at, &mut buf[..n]).is_err() {
                break;
            }
            if let Some(found) = find(&buf[..n]) {
                return Ok(at + found);
            }
            at += n as u64;
        }
    }
    Err(Error::NoGadget(task.pid))
}

fn general(thread: &Thread) -> Result<Regs, Error> {
    let info = thread.core.thread_info.as_ref().ok_or(Error::Architecture)?;
    Ok(regs::general(info)?)
}

/// Puts registers, vector state, signal mask and what running our code has disturbed.
pub(crate) fn set_registers(plan: &Plan<'_>, pids: &Pids) -> Result<(), Error> {
    for (task, thread) in threads(plan) {
        let tid = pids.real(thread.tid)?;
        let info = thread.core.thread_info.as_ref().ok_or(Error::Architecture)?;
        let area = regs::extended(&info.fpregs, &plan.facts.xsave)?;
        if area.len() > 512 {
            ptrace::set_regset(tid, ptrace::NT_X86_XSTATE, &area)?;
        } else {
            ptrace::set_regset(tid, 2 /* NT_PRFPREG */, &area)?;
        }
        let mut own = general(thread)?;
        let lost = plan.amber_thread(task.pid, thread.tid).and_then(|a| a.restart_call);
        if let Some(nr) = lost {
            regs::call_again(&mut own, nr);
        }
        ptrace::set_regs(tid, &own)?;
        let core = thread.thread_core();
        let mask = match thread.tid == task.pid {
            true => task.tc().blk_sigset,
            false => core.blk_sigset.unwrap_or(0),
        };
        ptrace::set_sigmask(tid, mask)?;
        if let Some(rseq) = &core.rseq_entry
            && let Some(cs) = rseq.rseq_cs_pointer.filter(|_| rseq.rseq_abi_pointer != 0)
        {
            // The kernel cleared it when it saw us outside of the critical section.
            ptrace::poke(tid, rseq.rseq_abi_pointer + 8, cs)?;
        }
    }
    Ok(())
}

/// Stops those that were stopped; they take it before their first instruction.
pub(crate) fn stop_signals(plan: &Plan<'_>, pids: &Pids, request: &Request) -> Result<(), Error> {
    for (pid, signo) in stopped(plan, request) {
        sys::task::kill(pids.real(pid)?, signo)?;
    }
    Ok(())
}

/// Waits until they have taken it, but not for those that somebody lets go on at once: whoever asked
/// for the restore finds them stopped.
pub(crate) fn await_stops(plan: &Plan<'_>, pids: &Pids, request: &Request) {
    let end = Instant::now() + Duration::from_secs(1);
    for (pid, _) in stopped(plan, request) {
        let Ok(pid) = pids.real(pid) else { continue };
        while Stat::read(pid).is_ok_and(|stat| stat.state == b'R') && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Tasks that are to be stopped, with the signals that do it.
fn stopped(plan: &Plan<'_>, request: &Request) -> impl Iterator<Item = (u32, i32)> {
    plan.live().filter_map(|(_, task, _)| {
        let saved = task.tc().stop_signo.unwrap_or(libc::SIGSTOP.cast_unsigned());
        match task.state {
            TaskState::Stopped => Some((task.pid, saved.cast_signed())),
            _ => request.leave_stopped.then_some((task.pid, libc::SIGSTOP)),
        }
    })
}

/// The tree runs.
pub(crate) fn detach_all(plan: &Plan<'_>, pids: &Pids) -> Result<(), Error> {
    // From here on the tree lives whatever becomes of us. Detaching wakes each task, which takes
    // long against this: our death in between would leave half a tree.
    for (_, thread) in threads(plan) {
        if let Err(e) = ptrace::set_options(pids.real(thread.tid)?, 0)
            && e.errno() != libc::ESRCH
        {
            return Err(e.into());
        }
    }
    for (_, thread) in threads(plan) {
        match ptrace::detach(pids.real(thread.tid)?, 0) {
            // Killed from outside in the meantime: nothing to let go.
            Err(e) if e.errno() == libc::ESRCH => {}
            other => other?,
        }
    }
    Ok(())
}
