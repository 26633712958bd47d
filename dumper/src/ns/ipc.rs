//! IPC namespaces: sysctls (`ipcns-var`), System V segments, queues and semaphore sets.
//!
//! Contents of segments go to `pagemap-shmem-ID` with all other shared memory: [`segments`] opens
//! them for that.

use super::{Cx, Namespace};
use crate::Error;
use crate::pages::Shmem;
use crate::task::sem_undo;
use images::Image;
use images::checkpoint::NsKind;
use images::proto::{
    IpcDescEntry, IpcMsg, IpcMsgEntry, IpcSemEntry, IpcShmEntry, IpcVarEntry, VmaEntry,
};
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use parasite::proc;
use std::fs::File;
use std::os::fd::AsFd;

const SHM_HUGETLB: u32 = 0o4000;

/// Whatever an IPC namespace holds can be saved, but for the message queues of POSIX, which are
/// files.
pub(crate) fn check(_ns: &Namespace, _cx: &Cx<'_>) -> Result<(), Error> {
    Ok(())
}

/// A segment and its content.
#[derive(Debug)]
pub(crate) struct Segment {
    entry: IpcShmEntry,
    content: File,
}

impl Segment {
    /// For saving its pages.
    pub(crate) fn shmem(&self) -> Shmem<'_> {
        Shmem { shmid: self.entry.desc.id.into(), fd: self.content.as_fd() }
    }
}

/// All segments of the tree's own IPC namespace.
pub(crate) fn segments(cx: &Cx<'_>) -> Result<Vec<Segment>, Error> {
    let Some(ns) = cx.all.root(NsKind::Ipc) else { return Ok(Vec::new()) };
    let map = &cx.all.maps;
    ns.inside(|| {
        let one = |row: Row| -> Result<Segment, Error> {
            let size = row.number("size")?;
            let desc = row.desc(map)?;
            let content = open(desc.id.cast_signed(), size as usize)?;
            let fs = fstatfs(&content).map_err(|e| sys::Error::new("fstatfs()", e as i32))?;
            let huge = fs.filesystem_type() == HUGETLBFS_MAGIC;
            let page = (fs.block_size() as u64).trailing_zeros();
            let hugetlb_flag = huge.then_some(SHM_HUGETLB | page << 26);
            let entry = IpcShmEntry { desc, size, in_pagemaps: Some(true), hugetlb_flag };
            Ok(Segment { entry, content })
        };
        table("shm")?.into_iter().map(one).collect()
    })
}

/// The file behind a segment: attached for a moment, as only a mapping leads to it.
fn open(id: i32, size: usize) -> Result<File, Error> {
    let attached = sys::ipc::attach(id, size, true)?;
    let start = attached.address();
    let len = (size as u64).next_multiple_of(images::pages::PAGE_SIZE);
    let path = format!("/proc/self/map_files/{start:x}-{:x}", start + len);
    let file = File::open(&path).or_else(|e| {
        // Of a huge segment the mapping is longer.
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let begin = format!("{start:x}-");
        let range = maps.lines().find(|l| l.starts_with(&begin)).and_then(|l| l.split(' ').next());
        range.map_or(Err(e), |range| File::open(format!("/proc/self/map_files/{range}")))
    });
    Ok(file.map_err(|e| sys::Error::io(format_args!("open({path})"), &e))?)
}

/// Refuses segments that are not mapped whole, or not of the tree's namespace.
pub(crate) fn check_mapped(pid: i32, vmas: &[VmaEntry], segments: &[Segment]) -> Result<(), Error> {
    const SYSVIPC: u32 = 1 << 10;
    let refused = |v: &VmaEntry, why: &str| {
        Err(Error::Refused(format!("task {pid}: {:#x}-{:#x}: {why}", v.start, v.end)))
    };
    let all: Vec<&VmaEntry> = vmas.iter().filter(|v| v.status & SYSVIPC != 0).collect();
    let mut expected: Option<(u64, u64, u64)> = None;
    for (i, v) in all.iter().enumerate() {
        let known = segments.iter().find(|s| u64::from(s.entry.desc.id) == v.shmid);
        let Some(segment) = known else {
            return refused(v, "System V shared memory of another IPC namespace than the task's");
        };
        let page = segment.entry.hugetlb_flag.map_or(12, |flag| flag >> 26);
        let size = segment.entry.size.next_multiple_of(1 << page);
        let starts = expected.take().unwrap_or((v.shmid, v.start, 0));
        if starts != (v.shmid, v.start, v.pgoff) {
            return refused(v, "System V shared memory of which parts are unmapped");
        }
        let end = v.pgoff + (v.end - v.start);
        if end < size {
            expected = Some((v.shmid, v.end, end));
            if i + 1 == all.len() {
                return refused(v, "System V shared memory of which parts are unmapped");
            }
        }
    }
    Ok(())
}

/// Saves sysctls and objects.
pub(crate) fn dump(ns: &Namespace, cx: &Cx<'_>) -> Result<(), Error> {
    let map = &cx.all.maps;
    let (var, queues, sets) = ns.inside(|| Ok((variables()?, queues(map)?, sets(map)?)))?;
    cx.dir.write_one(Image::IpcnsVar(ns.id), &var)?;
    let mut out = cx.dir.writer(Image::IpcnsShm(ns.id))?;
    for segment in cx.segments {
        out.write(&segment.entry)?;
    }
    out.finish()?;
    let mut out = cx.dir.writer(Image::IpcnsMsg(ns.id))?;
    for (entry, messages) in &queues {
        out.write(entry)?;
        for (mtype, body) in messages {
            let head = IpcMsg { mtype: mtype.cast_unsigned(), msize: body.len() as u32 };
            out.write(&head)?;
            out.write_payload(&padded(body))?;
        }
    }
    out.finish()?;
    let mut out = cx.dir.writer(Image::IpcnsSem(ns.id))?;
    for (entry, values) in &sets {
        out.write(entry)?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        out.write_payload(&padded(&bytes))?;
    }
    out.finish()?;
    Ok(())
}

/// Payloads end at multiples of eight.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out.resize(bytes.len().next_multiple_of(8), 0);
    out
}

type Queue = (IpcMsgEntry, Vec<(i64, Vec<u8>)>);

fn queues(map: &super::user::Maps) -> Result<Vec<Queue>, Error> {
    let one = |row: Row| -> Result<Queue, Error> {
        let desc = row.desc(map)?;
        let id = desc.id.cast_signed();
        let qnum = row.number("qnum")? as u32;
        // No message is longer than all of them together.
        let max = row.number("cbytes")? as usize;
        let messages = (0..qnum as usize).map(|i| sys::ipc::peek_message(id, i, max));
        let messages = messages.collect::<Result<Vec<_>, _>>()?;
        let qbytes = sys::ipc::queue_bytes(id)? as u32;
        Ok((IpcMsgEntry { desc, qbytes, qnum }, messages))
    };
    table("msg")?.into_iter().map(one).collect()
}

/// Semaphore sets of the caller's namespace that we may read, with their values.
pub(crate) fn semaphore_sets() -> Result<Vec<sem_undo::Set>, Error> {
    let mut all = Vec::new();
    for row in table("sem")? {
        let (id, count) = (row.number("semid")? as i32, row.number("nsems")? as usize);
        match sys::ipc::semaphores(id, count) {
            Ok(values) => all.push(sem_undo::Set { id, values }),
            // Gone meanwhile, where others use them too; or not for us, nor then for the tasks.
            Err(e) if matches!(e.errno(), libc::EINVAL | libc::EIDRM | libc::EACCES) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(all)
}

fn sets(map: &super::user::Maps) -> Result<Vec<(IpcSemEntry, Vec<u16>)>, Error> {
    let one = |row: Row| -> Result<(IpcSemEntry, Vec<u16>), Error> {
        let desc = row.desc(map)?;
        let nsems = row.number("nsems")? as u32;
        let values = sys::ipc::semaphores(desc.id.cast_signed(), nsems as usize)?;
        Ok((IpcSemEntry { desc, nsems }, values))
    };
    table("sem")?.into_iter().map(one).collect()
}

/// A line of `/proc/sysvipc`, with the names of its columns.
#[derive(Debug)]
pub(super) struct Row {
    kind: &'static str,
    fields: Vec<(String, String)>,
}

impl Row {
    fn text(&self, name: &str) -> Result<&str, Error> {
        let found = self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let field = "a column";
        let path = format!("/proc/sysvipc/{}", self.kind).into();
        found.ok_or(Error::Proc(proc::Error::Field { path, field }))
    }

    fn number(&self, name: &str) -> Result<u64, Error> {
        self.text(name)?.parse().map_err(|_| {
            let path = format!("/proc/sysvipc/{}", self.kind).into();
            Error::Proc(proc::Error::Field { path, field: "a number" })
        })
    }

    fn desc(&self, map: &super::user::Maps) -> Result<IpcDescEntry, Error> {
        let id = if self.kind == "shm" {
            "shmid"
        } else if self.kind == "msg" {
            "msqid"
        } else {
            "semid"
        };
        let key: i32 = self.text("key")?.parse().unwrap_or(0);
        let uid = |name| Ok::<u32, Error>(map.uid(self.number(name)? as u32));
        let gid = |name| Ok::<u32, Error>(map.gid(self.number(name)? as u32));
        Ok(IpcDescEntry {
            key: key.cast_unsigned(),
            uid: uid("uid")?,
            gid: gid("gid")?,
            cuid: uid("cuid")?,
            cgid: gid("cgid")?,
            mode: u32::from_str_radix(self.text("perms")?, 8).unwrap_or(0),
            id: self.number(id)? as u32,
        })
    }
}

/// Reads `/proc/sysvipc/KIND`: of the reader's namespace.
fn table(kind: &'static str) -> Result<Vec<Row>, Error> {
    let text = proc::read(format!("/proc/sysvipc/{kind}"))?;
    Ok(parse(kind, &String::from_utf8_lossy(&text)))
}

pub(super) fn parse(kind: &'static str, text: &str) -> Vec<Row> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or("").split_ascii_whitespace().collect();
    let row = |line: &str| {
        let values = line.split_ascii_whitespace();
        let both = names.iter().zip(values).map(|(n, v)| ((*n).to_owned(), v.to_owned()));
        Row { kind, fields: both.collect() }
    };
    lines.map(row).collect()
}

fn variables() -> Result<IpcVarEntry, Error> {
    let text = |name: &str| -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&proc::read(format!("/proc/sys/{name}"))?).trim().to_owned())
    };
    let number = |name: &str| -> Result<i64, Error> {
        text(name)?.parse().map_err(|_| {
            let path = format!("/proc/sys/{name}").into();
            Error::Proc(proc::Error::Field { path, field: "a number" })
        })
    };
    // Absent where the kernel is built without.
    let maybe = |name: &str| number(name).ok();
    let word = |name: &str| Ok::<u32, Error>(number(name)? as u32);
    // Beyond i64.
    let long = |name: &str| Ok::<u64, Error>(text(name)?.parse().unwrap_or(u64::MAX));
    let next = |name: &str| maybe(name).filter(|n| *n >= 0).map(|n| n as u32);
    let sem = text("kernel/sem")?;
    Ok(IpcVarEntry {
        sem_ctls: sem.split_ascii_whitespace().filter_map(|w| w.parse().ok()).collect(),
        msg_ctlmax: word("kernel/msgmax")?,
        msg_ctlmnb: word("kernel/msgmnb")?,
        msg_ctlmni: word("kernel/msgmni")?,
        auto_msgmni: maybe("kernel/auto_msgmni").unwrap_or(0) as u32,
        shm_ctlmax: long("kernel/shmmax")?,
        shm_ctlall: long("kernel/shmall")?,
        shm_ctlmni: word("kernel/shmmni")?,
        shm_rmid_forced: maybe("kernel/shm_rmid_forced").unwrap_or(0) as u32,
        mq_queues_max: maybe("fs/mqueue/queues_max").unwrap_or(256) as u32,
        mq_msg_max: maybe("fs/mqueue/msg_max").unwrap_or(10) as u32,
        mq_msgsize_max: maybe("fs/mqueue/msgsize_max").unwrap_or(8192) as u32,
        mq_msg_default: maybe("fs/mqueue/msg_default").map(|n| n as u32),
        mq_msgsize_default: maybe("fs/mqueue/msgsize_default").map(|n| n as u32),
        msg_next_id: next("kernel/msg_next_id"),
        sem_next_id: next("kernel/sem_next_id"),
        shm_next_id: next("kernel/shm_next_id"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_their_names() {
        let text = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid\n\
                    -1234567          5  1600                 65536   100   100      1     0     7\n";
        let rows = parse("shm", text);
        assert_eq!(rows[0].number("size").unwrap(), 65536);
        assert_eq!((rows[0].text("key").unwrap(), rows[0].number("gid").unwrap()), ("-1234567", 7));
        assert!(rows[0].number("nothing").is_err());
    }
}
