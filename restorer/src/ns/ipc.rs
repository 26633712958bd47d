//! IPC namespaces: sysctls, System V segments with their contents, queues, semaphore sets.

use super::{Cx, make, own, write_proc};
use crate::{Error, Request};
use images::checkpoint::{Checkpoint, Ipc, NsKind, VmaStatus};
use images::proto::{IpcDescEntry, IpcVarEntry};
use std::collections::HashMap;
use sys::ipc::{self, Kind};

/// Bits of a segment's mode in the images.
const SHM_DEST: u32 = 0o1000;
const SHM_LOCKED: u32 = 0o2000;
const SHM_HUGETLB: u32 = 0o4000;
/// What is filled at a time.
const CHUNK: u64 = 1 << 20;

/// What will be made.
#[derive(Debug)]
pub(crate) struct IpcPlan {
    id: u32,
}

/// Decides what is made.
pub(crate) fn plan(cp: &Checkpoint, _request: &Request) -> Result<Option<IpcPlan>, Error> {
    let Some(id) = own(cp, NsKind::Ipc) else { return Ok(None) };
    let Some(ipc) = cp.ns.ipc.get(&id) else { return Ok(None) };
    let descs = ipc.shm.iter().map(|s| &s.entry.desc);
    let descs = descs.chain(ipc.msg.iter().map(|m| &m.entry.desc));
    for desc in descs.chain(ipc.sem.iter().map(|s| &s.entry.desc)) {
        if desc.id > i32::MAX as u32 {
            return Err(Error::Field { what: "ipc id", value: desc.id.into() });
        }
    }
    for shm in &ipc.shm {
        if shm.entry.size > i64::MAX as u64 {
            return Err(Error::Field { what: "ipc_shm_entry.size", value: shm.entry.size });
        }
    }
    check_mapped(cp, ipc)?;
    Ok(Some(IpcPlan { id }))
}

/// Segments are attached whole, or not at all.
fn check_mapped(cp: &Checkpoint, ipc: &Ipc) -> Result<(), Error> {
    let size = |s: &images::checkpoint::IpcShm| {
        let page = s.entry.hugetlb_flag.map_or(12, |flag| (flag >> 26).clamp(12, 40));
        s.entry.size.next_multiple_of(1 << page)
    };
    let sizes: HashMap<u64, u64> =
        ipc.shm.iter().map(|s| (s.entry.desc.id.into(), size(s))).collect();
    for task in &cp.tasks {
        let Some(live) = &task.live else { continue };
        let vmas = live.mm.vmas.iter().filter(|v| v.kind().contains(VmaStatus::SYSVIPC));
        let mut next: Option<(u64, u64, u64)> = None;
        let torn = |at: u64| Error::Sysv { pid: task.pid, at };
        for v in vmas {
            let at = (v.shmid, v.start, v.pgoff);
            if next.take().unwrap_or((v.shmid, v.start, 0)) != at {
                return Err(torn(v.start));
            }
            let end = v.pgoff + (v.end - v.start);
            if end < sizes.get(&v.shmid).copied().unwrap_or(0) {
                next = Some((v.shmid, v.end, end));
            }
        }
        if let Some((_, at, _)) = next {
            return Err(torn(at));
        }
    }
    Ok(())
}

impl IpcPlan {
    /// Makes and fills it, in the root task.
    pub(crate) fn prepare(&self, cx: &mut Cx<'_>) -> Result<(), Error> {
        make(NsKind::Ipc)?;
        let Some(ipc) = cx.cp.ns.ipc.get(&self.id) else { return Ok(()) };
        variables(cx, &ipc.var, true)?;
        for shm in &ipc.shm {
            let entry = &shm.entry;
            let huge = entry.hugetlb_flag.map_or(0, |flag| flag | SHM_HUGETLB);
            let id = object(cx, Kind::Shm, &entry.desc, entry.size as usize, huge, 0)?;
            fill(cx, shm, id)?;
        }
        for msg in &ipc.msg {
            let entry = &msg.entry;
            let id = object(cx, Kind::Msg, &entry.desc, 0, 0, entry.qbytes.into())?;
            for (mtype, body) in &msg.messages {
                ipc::send_message(id, mtype.cast_signed(), &cx.cp.dir.read_extent(*body)?)?;
            }
        }
        for sem in &ipc.sem {
            let entry = &sem.entry;
            let id = object(cx, Kind::Sem, &entry.desc, entry.nsems as usize, 0, 0)?;
            let bytes = cx.cp.dir.read_extent(sem.values)?;
            let values: Vec<u16> =
                bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
            if values.len() != entry.nsems as usize {
                return Err(Error::Field { what: "nsems", value: entry.nsems.into() });
            }
            ipc::set_semaphores(id, &values)?;
        }
        variables(cx, &ipc.var, false)
    }
}

/// Makes an object with its id, creator, owner and permissions.
fn object(
    cx: &Cx<'_>,
    kind: Kind,
    desc: &IpcDescEntry,
    size: usize,
    flags: u32,
    qbytes: u64,
) -> Result<i32, Error> {
    const KEEP: u32 = u32::MAX;
    let name = match kind {
        Kind::Shm => "shm_next_id",
        Kind::Msg => "msg_next_id",
        Kind::Sem => "sem_next_id",
    };
    write_proc(cx.proc, &format!("sys/kernel/{name}"), &desc.id.to_string())?;
    let mode = (desc.mode & ipc::MODE | flags).cast_signed();
    // The creator is whoever calls.
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let other = (uid, gid) != (desc.cuid, desc.cgid);
    if other {
        sys::path::set_thread_gids(KEEP, desc.cgid, KEEP)?;
        sys::path::set_thread_uids(KEEP, desc.cuid, KEEP)?;
    }
    let made = ipc::create(kind, desc.key.cast_signed(), size, mode);
    if other {
        sys::path::set_thread_uids(KEEP, uid, KEEP)?;
        sys::path::set_thread_gids(KEEP, gid, KEEP)?;
    }
    let id = made?;
    if id.cast_unsigned() != desc.id {
        return Err(Error::IpcId { kind: name, wanted: desc.id, got: id });
    }
    ipc::set(kind, id, desc.uid, desc.gid, desc.mode & ipc::MODE, qbytes)?;
    Ok(id)
}

fn fill(cx: &Cx<'_>, shm: &images::checkpoint::IpcShm, id: i32) -> Result<(), Error> {
    let size = shm.entry.size;
    let mut segment = ipc::attach(id, size as usize, false)?;
    if let Some(body) = shm.body {
        let bytes = cx.cp.dir.read_extent(body)?;
        segment.write(0, &bytes[..bytes.len().min(size as usize)]);
        return Ok(());
    }
    let Some(saved) = cx.cp.shmem.get(&u64::from(shm.entry.desc.id)) else { return Ok(()) };
    let mut buf = vec![0; CHUNK as usize];
    for s in saved.pages.segments() {
        let mut at = s.vaddr;
        let end = s.end().min(size);
        while at < end {
            let piece = &mut buf[..CHUNK.min(end - at) as usize];
            saved.pages.read_at(at, piece)?;
            segment.write(at as usize, piece);
            at += piece.len() as u64;
        }
    }
    Ok(())
}

/// Segments that were removed and lived on in those who had them attached.
pub(crate) fn removed(cp: &Checkpoint) -> impl Iterator<Item = u32> {
    let shm = own(cp, NsKind::Ipc).and_then(|id| cp.ns.ipc.get(&id)).into_iter();
    let descs = shm.flat_map(|ipc| &ipc.shm).map(|s| &s.entry.desc);
    descs.filter(|d| d.mode & SHM_DEST != 0).map(|d| d.id)
}

/// Segments that were locked in memory.
pub(crate) fn locked(cp: &Checkpoint) -> impl Iterator<Item = u32> {
    let shm = own(cp, NsKind::Ipc).and_then(|id| cp.ns.ipc.get(&id)).into_iter();
    let descs = shm.flat_map(|ipc| &ipc.shm).map(|s| &s.entry.desc);
    descs.filter(|d| d.mode & SHM_LOCKED != 0).map(|d| d.id)
}

/// Sets the sysctls which differ. `first`: only what has to be raised for the objects to come.
fn variables(cx: &Cx<'_>, var: &IpcVarEntry, first: bool) -> Result<(), Error> {
    let sem: Vec<String> = var.sem_ctls.iter().map(u32::to_string).collect();
    let limits = [
        ("kernel/msgmax", u64::from(var.msg_ctlmax)),
        ("kernel/msgmnb", var.msg_ctlmnb.into()),
        ("kernel/msgmni", var.msg_ctlmni.into()),
        ("kernel/shmmax", var.shm_ctlmax),
        ("kernel/shmall", var.shm_ctlall),
        ("kernel/shmmni", var.shm_ctlmni.into()),
    ];
    for (name, value) in limits {
        set(cx, name, &value.to_string(), first)?;
    }
    set(cx, "kernel/sem", &sem.join("\t"), false)?;
    if first {
        return Ok(());
    }
    let rest = [
        ("kernel/auto_msgmni", Some(var.auto_msgmni)),
        // Removes what nobody has attached: nobody has yet.
        ("fs/mqueue/queues_max", Some(var.mq_queues_max)),
        ("fs/mqueue/msg_max", Some(var.mq_msg_max)),
        ("fs/mqueue/msgsize_max", Some(var.mq_msgsize_max)),
        ("fs/mqueue/msg_default", var.mq_msg_default),
        ("fs/mqueue/msgsize_default", var.mq_msgsize_default),
        ("kernel/msg_next_id", var.msg_next_id),
        ("kernel/sem_next_id", var.sem_next_id),
        ("kernel/shm_next_id", var.shm_next_id),
        ("kernel/shm_rmid_forced", Some(var.shm_rmid_forced)),
    ];
    for (name, value) in rest {
        if let Some(value) = value {
            set(cx, name, &value.to_string(), false)?;
        }
    }
    Ok(())
}

fn set(cx: &Cx<'_>, name: &str, value: &str, raise: bool) -> Result<(), Error> {
    let path = format!("sys/{name}");
    // Absent where the kernel is built without; a wish for nothing else is then met.
    let Ok(fd) = super::open_proc(cx.proc, &path) else { return Ok(()) };
    let now = std::io::read_to_string(std::fs::File::from(fd))
        .map_err(|e| sys::Error::io(format_args!("read(/proc/{path})"), &e))?;
    let (now, wanted) = (now.trim(), value.trim());
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    if now == wanted || raise && number(now) >= number(wanted) {
        return Ok(());
    }
    write_proc(cx.proc, &path, value)
}
