//! `crit x`: what tasks, descriptors and memory a checkpoint has.
//!
//! Works with what is there: a checkpoint that cannot be restored can still be looked at.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Write;

use prost::{Message, Name};

use crate::checkpoint::VmaStatus;
use crate::crit::{Error, text};
use crate::pages::{PAGE_SIZE, PageSet, PagemapReader};
use crate::proto::{
    CoreEntry, FdTypes, FdinfoEntry, FileEntry, FsEntry, MmEntry, PipeEntry, PstreeEntry,
    RegFileEntry, TaskKobjIdsEntry, UnixSkEntry, VmaEntry,
};
use crate::{Dir, Image};

const MAP_GROWSDOWN: u32 = 0x100;

/// What to look at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum What {
    Ps,
    Fds,
    Mems,
    Rss,
}

impl What {
    pub(crate) fn parse(name: &OsStr) -> Option<Self> {
        match name.to_str()? {
            "ps" => Some(Self::Ps),
            "fds" => Some(Self::Fds),
            "mems" => Some(Self::Mems),
            "rss" => Some(Self::Rss),
            _ => None,
        }
    }
}

/// Prints what is asked for.
pub(crate) fn explore(dir: &Dir, what: What, out: &mut dyn Write) -> Result<(), Error> {
    let tasks: Vec<PstreeEntry> = dir.read_all(Image::Pstree)?;
    if let What::Ps = what {
        return ps(dir, &tasks, out);
    }
    let files = Names::load(dir)?;
    let mut segments = HashMap::new();
    for task in &tasks {
        writeln!(out, "{}", task.pid).map_err(Error::Io)?;
        match what {
            What::Ps | What::Fds => fds(dir, &files, task.pid, out)?,
            What::Mems => mems(dir, &files, &mut segments, task.pid, out)?,
            What::Rss => rss(dir, &files, task.pid, out)?,
        }
    }
    Ok(())
}

fn ps(dir: &Dir, tasks: &[PstreeEntry], out: &mut dyn Write) -> Result<(), Error> {
    writeln!(out, "{:>7}{:>7}{:>7}   COMM", "PID", "PGID", "SID").map_err(Error::Io)?;
    let mut children: HashMap<u32, Vec<&PstreeEntry>> = HashMap::new();
    for task in tasks {
        children.entry(task.ppid).or_default().push(task);
    }
    // Taken out when visited, so that a circle of parents comes to an end.
    let mut queue: Vec<(usize, &PstreeEntry)> = Vec::new();
    let mut next = |ppid: u32, depth: usize, queue: &mut Vec<_>| {
        let mut list = children.remove(&ppid).unwrap_or_default();
        list.reverse();
        queue.extend(list.into_iter().map(|task| (depth, task)));
    };
    next(0, 0, &mut queue);
    while let Some((depth, task)) = queue.pop() {
        let core: CoreEntry = dir.read_one(Image::Core(task.pid))?;
        let comm = core.tc.map(|tc| tc.comm).unwrap_or_default();
        let PstreeEntry { pid, pgid, sid, .. } = task;
        write!(out, "{pid:>7}{pgid:>7}{sid:>7}   {:1$}", "", depth * 4).map_err(Error::Io)?;
        out.write_all(&comm).and_then(|()| writeln!(out)).map_err(Error::Io)?;
        next(*pid, depth + 1, &mut queue);
    }
    Ok(())
}

/// How files are called, by type and id.
struct Names(HashMap<(i32, u32), Vec<u8>>);

impl Names {
    fn load(dir: &Dir) -> Result<Self, Error> {
        let mut names = Self(HashMap::new());
        let files: Vec<FileEntry> = dir.read_all(Image::Files)?;
        for file in files {
            names.reg(file.reg.as_ref());
            names.pipe(file.pipe.as_ref());
            names.unix(file.usk.as_ref());
        }
        if names.0.is_empty() {
            dir.read_all(Image::RegFiles)?.iter().for_each(|f| names.reg(Some(f)));
            dir.read_all(Image::Pipes)?.iter().for_each(|f| names.pipe(Some(f)));
            dir.read_all(Image::Unixsk)?.iter().for_each(|f| names.unix(Some(f)));
        }
        Ok(names)
    }

    fn reg(&mut self, file: Option<&RegFileEntry>) {
        self.0.extend(file.map(|f| ((FdTypes::Reg as i32, f.id), f.name.clone())));
    }

    fn pipe(&mut self, pipe: Option<&PipeEntry>) {
        let name = |p: &PipeEntry| format!("pipe[{}]", p.pipe_id).into_bytes();
        self.0.extend(pipe.map(|p| ((FdTypes::Pipe as i32, p.id), name(p))));
    }

    fn unix(&mut self, socket: Option<&UnixSkEntry>) {
        let name = |s: &UnixSkEntry| {
            let mut name = format!("unix[{} ({})", s.ino, s.peer).into_bytes();
            if !s.name.is_empty() {
                name.push(b' ');
                name.extend(text::quoted(&s.name));
            }
            name.push(b']');
            name
        };
        self.0.extend(socket.map(|s| ((FdTypes::Unixsk as i32, s.id), name(s))));
    }

    fn file(&self, kind: i32, id: u32) -> Vec<u8> {
        match (self.0.get(&(kind, id)), FdTypes::try_from(kind)) {
            (Some(name), _) => name.clone(),
            (None, Ok(FdTypes::Reg)) => b"unknown path".to_vec(),
            (None, Ok(kind)) => format!("{}.{id}", kind.as_str_name()).into_bytes(),
            (None, Err(_)) => format!("{kind}.{id}").into_bytes(),
        }
    }

    fn path(&self, id: u64) -> Vec<u8> {
        self.file(FdTypes::Reg as i32, u32::try_from(id).unwrap_or(u32::MAX))
    }
}

/// The one entry of an image; `None` for zombies, which have no such image.
fn opt<M: Message + Name + Default>(dir: &Dir, image: Image) -> Result<Option<M>, Error> {
    Ok(dir.read_opt(image)?)
}

fn line(out: &mut dyn Write, name: impl std::fmt::Display, file: &[u8]) -> Result<(), Error> {
    write!(out, "\t{name:>7}: ").map_err(Error::Io)?;
    out.write_all(file).and_then(|()| writeln!(out)).map_err(Error::Io)
}

fn fds(dir: &Dir, names: &Names, pid: u32, out: &mut dyn Write) -> Result<(), Error> {
    let ids = opt::<CoreEntry>(dir, Image::Core(pid))?.and_then(|c| c.ids);
    let ids = match ids {
        Some(ids) => Some(ids),
        None => opt::<TaskKobjIdsEntry>(dir, Image::Ids(pid))?,
    };
    if let Some(ids) = ids {
        let table: Vec<FdinfoEntry> = dir.read_all(Image::Fdinfo(ids.files_id))?;
        for fd in table {
            line(out, fd.fd, &names.file(fd.r#type, fd.id))?;
        }
    }
    let Some(fs) = opt::<FsEntry>(dir, Image::Fs(pid))? else { return Ok(()) };
    line(out, "cwd", &names.path(fs.cwd_id.into()))?;
    line(out, "root", &names.path(fs.root_id.into()))
}

fn mm(dir: &Dir, pid: u32) -> Result<Option<MmEntry>, Error> {
    let Some(mut mm) = opt::<MmEntry>(dir, Image::Mm(pid))? else { return Ok(None) };
    if mm.vmas.is_empty() {
        mm.vmas = dir.read_all(Image::Vmas(pid))?;
    }
    Ok(Some(mm))
}

fn mems(
    dir: &Dir,
    names: &Names,
    segments: &mut HashMap<u64, usize>,
    pid: u32,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let Some(mm) = mm(dir, pid)? else { return Ok(()) };
    let put = |out: &mut dyn Write, range: &str, prot: &str, name: &[u8]| {
        // Only the name may be no UTF-8.
        write!(out, "\t{range:<36}{prot}")
            .and_then(|()| if name.is_empty() { Ok(()) } else { out.write_all(b" ") })
            .and_then(|()| out.write_all(name))
            .and_then(|()| writeln!(out))
            .map_err(Error::Io)
    };
    put(out, "exe", "   ", &names.path(mm.exe_file_id.into()))?;
    for vma in &mm.vmas {
        let range = format!("{:08x}-{:08x}", vma.start, vma.end);
        let bit = |bit, c| if vma.prot & bit != 0 { c } else { '-' };
        let prot = String::from_iter([bit(1, 'r'), bit(2, 'w'), bit(4, 'x')]);
        put(out, &range, &prot, &mapping(names, vma, segments))?;
    }
    Ok(())
}

/// What is mapped. Shared segments are numbered as they come up; `segments` keeps the numbers.
fn mapping(names: &Names, vma: &VmaEntry, segments: &mut HashMap<u64, usize>) -> Vec<u8> {
    let status = vma.kind();
    let mut segment = |kind: &str| {
        let next = segments.len() + 1;
        let number = *segments.entry(vma.shmid).or_insert(next);
        format!("{kind}[{number}]").into_bytes()
    };
    let mut name = if status.contains(VmaStatus::SYSVIPC) {
        segment("ips")
    } else if status.contains(VmaStatus::ANON_SHARED) {
        segment("shmem")
    } else if status.contains(VmaStatus::SOCKET) {
        segment("packet")
    } else if status.intersects(VmaStatus::FILE_PRIVATE | VmaStatus::FILE_SHARED) {
        let mut name = names.path(vma.shmid);
        if vma.pgoff != 0 {
            name.extend(format!(" + {:#x}", vma.pgoff).bytes());
        }
        if status.contains(VmaStatus::FILE_SHARED) {
            name.extend(b" (s)");
        }
        name
    } else if status.contains(VmaStatus::STACK) {
        b"[stack]".to_vec()
    } else if status.contains(VmaStatus::VSYSCALL) {
        b"[vsyscall]".to_vec()
    } else if status.contains(VmaStatus::VDSO) {
        b"[vdso]".to_vec()
    } else if vma.flags & MAP_GROWSDOWN != 0 {
        b"[stack?]".to_vec()
    } else {
        Vec::new()
    };
    if !status.contains(VmaStatus::REGULAR) {
        name.extend(if name.is_empty() { &b"*"[..] } else { b" *" });
    }
    name
}

fn rss(dir: &Dir, names: &Names, pid: u32, out: &mut dyn Write) -> Result<(), Error> {
    let Some(pagemap) = PagemapReader::open(dir, PageSet::Task(pid))? else { return Ok(()) };
    let Some(mm) = mm(dir, pid)? else { return Ok(()) };
    let mut shown = None;
    for range in pagemap {
        let range = range?;
        let mut head = format!("{:x} / {:<8}", range.vaddr, range.pages);
        let first = mm.vmas.partition_point(|v| v.end <= range.vaddr);
        for (i, vma) in mm.vmas.iter().enumerate().skip(first) {
            if vma.start >= range.end() {
                break;
            }
            write!(out, "\t{head:<24}").map_err(Error::Io)?;
            head.clear();
            if shown == Some(i) {
                writeln!(out, "~").map_err(Error::Io)?;
                continue;
            }
            shown = Some(i);
            let pages = vma.end.saturating_sub(vma.start) / PAGE_SIZE;
            write!(out, "{:08x} / {pages:<8}", vma.start).map_err(Error::Io)?;
            if vma.kind().intersects(VmaStatus::FILE_PRIVATE | VmaStatus::FILE_SHARED) {
                let path = names.path(vma.shmid);
                out.write_all(b" ").and_then(|()| out.write_all(&path)).map_err(Error::Io)?;
            }
            writeln!(out).map_err(Error::Io)?;
        }
        if !head.is_empty() {
            writeln!(out, "\t{head:<24}").map_err(Error::Io)?;
        }
        writeln!(out, "\t{:23}", "").map_err(Error::Io)?;
    }
    Ok(())
}
