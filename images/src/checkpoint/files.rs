//! `files.img` (or its old parts) and the images behind its entries.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use prost::{Message, Name};

use crate::checkpoint::loader::{Loader, Options, invalid};
use crate::checkpoint::{Checkpoint, range};
use crate::proto::{
    self, AmberGhostEntry, AmberXattrEntry, BpfmapDataEntry, EventpollTfdEntry, FanotifyMarkEntry,
    FdTypes, FileEntry, GhostChunkEntry, GhostFileEntry, InotifyWdEntry, PipeDataEntry,
    RegFileEntry, RemapFilePathEntry, RemapType, SkPacketEntry, TcpStreamEntry, TtyInfoEntry,
    UnixSkEntry,
};
use crate::{Error, Extent, Image, Reader, Result};

/// Number of control characters of a terminal.
const NCCS: usize = 19;
/// Set in `remap_id` of old images for a ghost.
const OLD_GHOST: u32 = 1 << 31;
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const SOCK_STREAM: u32 = 1;
const IPPROTO_MPTCP: u32 = 262;

/// All open file descriptions.
///
/// Ids are unique over all types but for a tun, which has a regular file of the same id for its
/// device node; in old images each type had ids of its own.
#[derive(Debug, Default)]
pub struct Files {
    entries: Vec<FileEntry>,
    index: HashMap<(FdTypes, u32), usize>,
    any: HashMap<u32, usize>,
}

impl Files {
    /// The file of this type and id.
    #[must_use]
    pub fn get(&self, kind: FdTypes, id: u32) -> Option<&FileEntry> {
        self.index.get(&(kind, id)).map(|i| &self.entries[*i])
    }

    /// The file with this id, of whatever type but the regular file that belongs to a tun.
    #[must_use]
    pub fn any(&self, id: u32) -> Option<&FileEntry> {
        self.any.get(&id).map(|i| &self.entries[*i])
    }

    /// The regular file with this id.
    #[must_use]
    pub fn reg(&self, id: u32) -> Option<&RegFileEntry> {
        self.get(FdTypes::Reg, id)?.reg.as_ref()
    }

    /// All files, as they lie in the image.
    pub fn iter(&self) -> impl Iterator<Item = &FileEntry> {
        self.entries.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn insert(&mut self, reader: &Reader, entry: FileEntry) -> Result<()> {
        let id = entry.id;
        let Some(kind) = kind(entry.r#type) else {
            let reason = format_args!("id {id}: type {} is not known", entry.r#type);
            return Err(reader.invalid(reason));
        };
        let name = kind.as_str_name();
        match parts(&entry)[..] {
            [(k, i)] if k == kind && i == id => {}
            [(k, _)] if k != kind => {
                let other = k.as_str_name();
                let reason = format_args!("id {id}: type is {name}, contents are {other}");
                return Err(reader.invalid(reason));
            }
            [(_, i)] => {
                let reason = format_args!("id {id} of type {name} has contents with id {i}");
                return Err(reader.invalid(reason));
            }
            [] => {
                return Err(reader.invalid(format_args!("id {id} of type {name} has no contents")));
            }
            _ => {
                let reason = format_args!("id {id} of type {name} has contents of several types");
                return Err(reader.invalid(reason));
            }
        }
        let at = self.entries.len();
        if self.index.insert((kind, id), at).is_some() {
            let reason = format_args!("id {id} of type {name} for the second time");
            return Err(reader.invalid(reason));
        }
        if kind != FdTypes::Reg || !self.any.contains_key(&id) {
            self.any.insert(id, at);
        }
        self.entries.push(entry);
        Ok(())
    }
}

/// The type, if it is one that a file can have.
pub(super) fn kind(number: i32) -> Option<FdTypes> {
    use FdTypes::{AutofsPipe, CtlTty, Und};
    FdTypes::try_from(number).ok().filter(|k| ![Und, CtlTty, AutofsPipe].contains(k))
}

impl Files {
    /// Looks up a descriptor's file; see [`Files::get`].
    #[must_use]
    pub fn of_fd(&self, fd: &crate::proto::FdinfoEntry) -> Option<&FileEntry> {
        self.get(kind(fd.r#type)?, fd.id)
    }
}

/// Type and id of each part of the union that is there.
fn parts(e: &FileEntry) -> Vec<(FdTypes, u32)> {
    let all = [
        (FdTypes::Reg, e.reg.as_ref().map(|x| x.id)),
        (FdTypes::Inetsk, e.isk.as_ref().map(|x| x.id)),
        (FdTypes::Ns, e.nsf.as_ref().map(|x| x.id)),
        (FdTypes::Packetsk, e.psk.as_ref().map(|x| x.id)),
        (FdTypes::Netlinksk, e.nlsk.as_ref().map(|x| x.id)),
        (FdTypes::Eventfd, e.efd.as_ref().map(|x| x.id)),
        (FdTypes::Eventpoll, e.epfd.as_ref().map(|x| x.id)),
        (FdTypes::Signalfd, e.sgfd.as_ref().map(|x| x.id)),
        (FdTypes::Tunf, e.tunf.as_ref().map(|x| x.id)),
        (FdTypes::Timerfd, e.tfd.as_ref().map(|x| x.id)),
        (FdTypes::Inotify, e.ify.as_ref().map(|x| x.id)),
        (FdTypes::Fanotify, e.ffy.as_ref().map(|x| x.id)),
        (FdTypes::Ext, e.ext.as_ref().map(|x| x.id)),
        (FdTypes::Unixsk, e.usk.as_ref().map(|x| x.id)),
        (FdTypes::Fifo, e.fifo.as_ref().map(|x| x.id)),
        (FdTypes::Pipe, e.pipe.as_ref().map(|x| x.id)),
        (FdTypes::Tty, e.tty.as_ref().map(|x| x.id)),
        (FdTypes::Memfd, e.memfd.as_ref().map(|x| x.id)),
        (FdTypes::Bpfmap, e.bpf.as_ref().map(|x| x.id)),
        (FdTypes::Pidfd, e.pidfd.as_ref().map(|x| x.id)),
    ];
    all.into_iter().filter_map(|(kind, id)| Some((kind, id?))).collect()
}

/// Reads all files; those of before CRIU 3.0 from one image for each type.
pub(super) fn load(loader: &Loader) -> Result<Files> {
    let mut files = Files::default();
    let mut reader = loader.reader(Image::Files)?;
    while let Some(entry) = reader.read_opt()? {
        files.insert(&reader, entry)?;
    }
    if !files.is_empty() {
        return Ok(files);
    }
    macro_rules! parts {
        ($($image:ident, $message:ident, $kind:ident, $field:ident;)*) => {
            $(part(loader, &mut files, Image::$image, |x: proto::$message, e| {
                (e.r#type, e.id, e.$field) = (FdTypes::$kind as i32, x.id, Some(x));
            })?;)*
        };
    }
    parts! {
        RegFiles, RegFileEntry, Reg, reg;
        ExtFiles, ExtFileEntry, Ext, ext;
        NsFiles, NsFileEntry, Ns, nsf;
        Eventfd, EventfdFileEntry, Eventfd, efd;
        Eventpoll, EventpollFileEntry, Eventpoll, epfd;
        Signalfd, SignalfdEntry, Signalfd, sgfd;
        Inotify, InotifyFileEntry, Inotify, ify;
        Fanotify, FanotifyFileEntry, Fanotify, ffy;
        Tunfile, TunfileEntry, Tunf, tunf;
        Timerfd, TimerfdEntry, Timerfd, tfd;
        Unixsk, UnixSkEntry, Unixsk, usk;
        Inetsk, InetSkEntry, Inetsk, isk;
        Packetsk, PacketSockEntry, Packetsk, psk;
        Netlinksk, NetlinkSkEntry, Netlinksk, nlsk;
        Pipes, PipeEntry, Pipe, pipe;
        Fifo, FifoEntry, Fifo, fifo;
        Tty, TtyFileEntry, Tty, tty;
        BpfmapFile, BpfmapFileEntry, Bpfmap, bpf;
        Pidfd, PidfdEntry, Pidfd, pidfd;
    }
    watches(loader, &mut files)?;
    Ok(files)
}

fn part<M: Message + Name + Default>(
    loader: &Loader,
    files: &mut Files,
    image: Image,
    put: impl Fn(M, &mut FileEntry),
) -> Result<()> {
    let mut reader = loader.reader(image)?;
    while let Some(part) = reader.read_opt::<M>()? {
        let mut entry = FileEntry::default();
        put(part, &mut entry);
        files.insert(&reader, entry)?;
    }
    Ok(())
}

/// Hangs watches that had images of their own on the files they belong to.
fn watches(loader: &Loader, files: &mut Files) -> Result<()> {
    macro_rules! watches {
        ($($image:ident, $message:ty, $kind:ident, $file:ident, $field:ident;)*) => {
            $(let mut reader = loader.reader(Image::$image)?;
            while let Some(watch) = reader.read_opt::<$message>()? {
                loader.deprecated(Image::$image, "the image")?;
                let at = files.index.get(&(FdTypes::$kind, watch.id));
                let file = at.and_then(|i| files.entries[*i].$file.as_mut());
                match file {
                    Some(file) => file.$field.push(watch),
                    None => return Err(reader.invalid("belongs to no file")),
                }
            })*
        };
    }
    watches! {
        EventpollTfd, EventpollTfdEntry, Eventpoll, epfd, tfd;
        InotifyWd, InotifyWdEntry, Inotify, ify, wd;
        FanotifyMark, FanotifyMarkEntry, Fanotify, ffy, mark;
    }
    Ok(())
}

/// A file has no path any more, or never had one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remap {
    /// A link to it was made at dump: this regular file's name.
    Linked(u32),
    /// Its body is in the image of this ghost.
    Ghost(u32),
    /// It is in `/proc` of this pid, which is dead.
    Procfs(u32),
}

/// Reads `remap-fpath.img`.
pub(super) fn remaps(loader: &Loader, files: &Files) -> Result<HashMap<u32, Remap>> {
    let mut reader = loader.reader(Image::RemapFpath)?;
    let mut remaps = HashMap::new();
    while let Some(entry) = reader.read_opt::<RemapFilePathEntry>()? {
        let RemapFilePathEntry { orig_id, remap_id, remap_type } = entry;
        let remap = match remap_type {
            None if remap_id & OLD_GHOST != 0 => Remap::Ghost(remap_id & !OLD_GHOST),
            None => Remap::Linked(remap_id),
            Some(number) => match RemapType::try_from(number) {
                Ok(RemapType::Linked) => Remap::Linked(remap_id),
                Ok(RemapType::Ghost) => Remap::Ghost(remap_id),
                Ok(RemapType::Procfs) => Remap::Procfs(remap_id),
                Err(_) => {
                    return Err(reader.invalid(format_args!("remap_type {number} is not known")));
                }
            },
        };
        let linked = matches!(remap, Remap::Linked(_)).then_some(("remap_id", remap_id));
        for (field, id) in [("orig_id", orig_id)].into_iter().chain(linked) {
            if files.reg(id).is_none() {
                let reason = format_args!("{field}: no regular file has id {id}");
                return Err(reader.invalid(reason));
            }
        }
        if remaps.insert(orig_id, remap).is_some_and(|old| old != remap) {
            return Err(reader.invalid(format_args!("orig_id {orig_id} is remapped twice")));
        }
    }
    Ok(remaps)
}

/// `XATTR_NAME_MAX`.
const XATTR_NAME: usize = 255;
/// `XATTR_SIZE_MAX`.
const XATTR_SIZE: usize = 1 << 16;

/// A file without a path.
#[derive(Debug)]
pub struct Ghost {
    /// What kind of file it is.
    pub entry: GhostFileEntry,
    /// Its contents, if it is a regular file.
    pub body: GhostBody,
    /// Its extended attributes.
    pub xattrs: Vec<AmberXattrEntry>,
}

/// Contents of a ghost.
#[derive(Debug, PartialEq, Eq)]
pub enum GhostBody {
    /// Not a regular file.
    None,
    /// All of it.
    Whole(Extent),
    /// `(offset in the file, bytes)`; between them are holes, and the size is in the entry.
    Chunks(Vec<(u64, Extent)>),
}

/// Reads the heads of all ghosts.
pub(super) fn ghosts(
    loader: &Loader,
    remaps: &HashMap<u32, Remap>,
) -> Result<BTreeMap<u32, Ghost>> {
    let mut ghosts = BTreeMap::new();
    for remap in remaps.values() {
        let Remap::Ghost(id) = *remap else { continue };
        if let Entry::Vacant(ghost) = ghosts.entry(id) {
            let (entry, body) = read_ghost(loader, id)?;
            ghost.insert(Ghost { entry, body, xattrs: read_xattrs(loader, id)? });
        }
    }
    Ok(ghosts)
}

/// What the kernel takes is checked here: it is set when the file is made already.
fn read_xattrs(loader: &Loader, id: u32) -> Result<Vec<AmberXattrEntry>> {
    let image = Image::AmberGhost(id);
    let entry: Option<AmberGhostEntry> = loader.opt(image)?;
    let xattrs = entry.unwrap_or_default().xattrs;
    let longest = |x: &&AmberXattrEntry| x.name.len() > XATTR_NAME || x.value.len() > XATTR_SIZE;
    let wrong = |x: &&AmberXattrEntry| x.name.is_empty() || x.name.contains(&0) || longest(x);
    match xattrs.iter().find(wrong) {
        Some(x) => {
            let (name, len) = (x.name.escape_ascii(), x.value.len());
            let reason = format!("extended attribute {name} of {len} bytes");
            Err(Error::invalid(image.file_name(), reason))
        }
        None => Ok(xattrs),
    }
}

fn read_ghost(loader: &Loader, id: u32) -> Result<(GhostFileEntry, GhostBody)> {
    let mut reader = loader.reader(Image::GhostFile(id))?;
    let entry: GhostFileEntry = reader.read_one()?;
    if entry.mode & S_IFMT != S_IFREG {
        reader.expect_end()?;
        return Ok((entry, GhostBody::None));
    }
    if entry.chunks != Some(true) {
        let body = GhostBody::Whole(reader.skip_rest()?);
        return Ok((entry, body));
    }
    let Some(size) = entry.size else { return Err(reader.invalid("chunks and no `size`")) };
    let mut chunks = Vec::new();
    while let Some(GhostChunkEntry { len, off }) = reader.read_opt()? {
        if off.checked_add(len).is_none_or(|end| end > size) {
            let reason = format_args!("off {off}, len {len}: beyond the size of {size}");
            return Err(reader.invalid(reason));
        }
        chunks.push((off, reader.skip_payload(len)?));
    }
    Ok((entry, GhostBody::Chunks(chunks)))
}

/// Contents of a pipe or FIFO.
#[derive(Debug)]
pub struct PipeData {
    /// Its id and the size of its buffer.
    pub entry: PipeDataEntry,
    /// What is in it.
    pub data: Extent,
}

/// Reads `pipes-data.img` or `fifo-data.img`.
pub(super) fn pipe_data(loader: &Loader, image: Image) -> Result<BTreeMap<u32, PipeData>> {
    let mut reader = loader.reader(image)?;
    let mut all = BTreeMap::new();
    while let Some(entry) = reader.read_opt::<PipeDataEntry>()? {
        let (pipe_id, len) = (entry.pipe_id, u64::from(entry.bytes));
        let data = reader.skip_payload(len)?;
        if all.insert(pipe_id, PipeData { entry, data }).is_some() {
            return Err(reader.invalid(format_args!("pipe_id {pipe_id} for the second time")));
        }
    }
    Ok(all)
}

/// A packet in the queue of a unix socket.
#[derive(Debug)]
pub struct SkPacket {
    /// Descriptors that travel with it.
    pub entry: SkPacketEntry,
    /// Its bytes.
    pub data: Extent,
}

/// Reads `sk-queues.img`.
pub(super) fn sk_queues(loader: &Loader, files: &Files) -> Result<BTreeMap<u32, Vec<SkPacket>>> {
    let mut reader = loader.reader(Image::SkQueues)?;
    let mut queues: BTreeMap<u32, Vec<SkPacket>> = BTreeMap::new();
    while let Some(entry) = reader.read_opt::<SkPacketEntry>()? {
        let (id, len) = (entry.id_for, u64::from(entry.length));
        if files.get(FdTypes::Unixsk, id).is_none() {
            return Err(reader.invalid(format_args!("id_for: no unix socket has id {id}")));
        }
        for right in entry.scm.iter().flat_map(|scm| &scm.rights) {
            if files.any(*right).is_none() {
                return Err(reader.invalid(format_args!("scm.rights: no file has id {right}")));
            }
        }
        let data = reader.skip_payload(len)?;
        queues.entry(id).or_default().push(SkPacket { entry, data });
    }
    Ok(queues)
}

/// State of a TCP connection.
#[derive(Clone, Debug)]
pub struct TcpStream {
    /// Sequence numbers and options.
    pub entry: TcpStreamEntry,
    /// Received and not read.
    pub inq: Extent,
    /// Sent and not acknowledged, then not sent.
    pub outq: Extent,
}

/// Reads the connections of all TCP sockets. Whether one has to have it depends on the options of
/// the restore.
pub(super) fn tcp_streams(loader: &Loader, files: &Files) -> Result<BTreeMap<u32, TcpStream>> {
    let mut streams = BTreeMap::new();
    for socket in files.iter().filter_map(|f| f.isk.as_ref()).filter(|s| s.r#type == SOCK_STREAM) {
        let mut reader = loader.reader(Image::TcpStream(socket.ino))?;
        let Some(entry) = reader.read_opt::<TcpStreamEntry>()? else { continue };
        if entry.unsq_len.is_some_and(|len| len > entry.outq_len) {
            return Err(reader.invalid("unsq_len is more than outq_len"));
        }
        let inq = reader.skip_payload(entry.inq_len.into())?;
        let outq = reader.skip_payload(entry.outq_len.into())?;
        reader.expect_end()?;
        streams.insert(socket.ino, TcpStream { entry, inq, outq });
    }
    Ok(streams)
}

/// Reads `tty-info.img`.
pub(super) fn tty_infos(loader: &Loader) -> Result<BTreeMap<u32, TtyInfoEntry>> {
    let infos = loader.map(Image::TtyInfo, |i: &TtyInfoEntry| i.id)?;
    for (id, info) in &infos {
        for termios in info.termios.iter().chain(&info.termios_locked) {
            let n = termios.c_cc.len();
            if n < NCCS {
                let reason = format_args!("id {id}: c_cc has {n} characters, not {NCCS}");
                return invalid(Image::TtyInfo, reason);
            }
        }
    }
    Ok(infos)
}

/// Contents of a BPF map.
#[derive(Debug)]
pub struct BpfmapData {
    /// How many elements there are.
    pub entry: BpfmapDataEntry,
    /// All keys.
    pub keys: Extent,
    /// All values.
    pub values: Extent,
}

/// Reads `bpfmap-data.img`.
pub(super) fn bpfmap_data(loader: &Loader) -> Result<BTreeMap<u32, BpfmapData>> {
    let mut reader = loader.reader(Image::BpfmapData)?;
    let mut all = BTreeMap::new();
    while let Some(entry) = reader.read_opt::<BpfmapDataEntry>()? {
        let id = entry.map_id;
        let keys = reader.skip_payload(entry.keys_bytes.into())?;
        let values = reader.skip_payload(entry.values_bytes.into())?;
        if all.insert(id, BpfmapData { entry, keys, values }).is_some() {
            return Err(reader.invalid(format_args!("map_id {id} for the second time")));
        }
    }
    Ok(all)
}

/// References of files to each other and to what is behind them.
pub(super) fn check(checkpoint: &Checkpoint, options: Options) -> Result<()> {
    let files = &checkpoint.files;
    let sockets: HashMap<u32, &UnixSkEntry> =
        files.iter().filter_map(|f| f.usk.as_ref()).map(|s| (s.ino, s)).collect();
    for file in files.iter() {
        if let Err(reason) = check_one(checkpoint, &sockets, file, options) {
            return invalid(Image::Files, format_args!("id {}: {reason}", file.id));
        }
    }
    for task in &checkpoint.tasks {
        let Some(live) = &task.live else { continue };
        if let Some(umask) = live.fs.umask.filter(|umask| *umask > 0o777) {
            return invalid(Image::Fs(task.pid), format_args!("umask is {umask:#o}"));
        }
        for (field, id) in [("cwd_id", live.fs.cwd_id), ("root_id", live.fs.root_id)] {
            if files.reg(id).is_none() {
                let reason = format_args!("{field}: no regular file has id {id}");
                return invalid(Image::Fs(task.pid), reason);
            }
        }
    }
    let pipes = files.iter().filter_map(|f| f.pipe.as_ref()).map(|p| p.pipe_id).collect();
    check_data(Image::PipesData, &checkpoint.pipe_data, &pipes)?;
    let fifos = files.iter().filter_map(|f| f.fifo.as_ref()).map(|f| f.pipe_id).collect();
    check_data(Image::FifoData, &checkpoint.fifo_data, &fifos)?;
    for data in &checkpoint.tty_data {
        if !checkpoint.tty_infos.contains_key(&data.tty_id) {
            let reason = format_args!("tty_id: no terminal has id {}", data.tty_id);
            return invalid(Image::TtyData, reason);
        }
    }
    Ok(())
}

/// Contents belong to a pipe, and its buffer can be made.
fn check_data(image: Image, all: &BTreeMap<u32, PipeData>, pipes: &HashSet<u32>) -> Result<()> {
    for (id, PipeData { entry, .. }) in all {
        if !pipes.contains(id) {
            return invalid(image, format_args!("pipe_id: no file has id {id}"));
        }
        if let Some(size) = entry.size.filter(|size| i32::try_from(*size).is_err()) {
            return invalid(image, format_args!("pipe_id {id}: size is {size:#x}"));
        }
    }
    Ok(())
}

fn check_one(
    checkpoint: &Checkpoint,
    sockets: &HashMap<u32, &UnixSkEntry>,
    file: &FileEntry,
    options: Options,
) -> Result<(), String> {
    let reg = |field: &str, id: u32| match checkpoint.files.reg(id) {
        Some(_) => Ok(()),
        None => Err(format!("{field}: no regular file has id {id}")),
    };
    if let Some(fifo) = &file.fifo {
        reg("fifo.regf_id", fifo.regf_id.unwrap_or(fifo.id))?;
    }
    if let Some(tun) = &file.tunf {
        reg("tunf.id", tun.id)?;
    }
    if let Some(tty) = &file.tty {
        if !checkpoint.tty_infos.contains_key(&tty.tty_info_id) {
            return Err(format!("tty.tty_info_id: no terminal has id {}", tty.tty_info_id));
        }
        match tty.regf_id {
            Some(id) => reg("tty.regf_id", id)?,
            None if options.deprecated => {}
            None => return Err("tty without `regf_id` is deprecated; --deprecated reads it".into()),
        }
    }
    if let Some(memfd) = &file.memfd
        && !checkpoint.memfds.contains_key(&memfd.inode_id.into())
    {
        return Err(format!("memfd.inode_id: memfd.img has no {}", memfd.inode_id));
    }
    if let Some(socket) = &file.usk
        && socket.peer != 0
        && !sockets.contains_key(&socket.peer)
    {
        return Err(format!("usk.peer: no unix socket has ino {}", socket.peer));
    }
    if let Some(socket) = &file.isk {
        let words = match socket.family {
            2 => 1,
            10 => 4,
            family => return Err(format!("isk.family {family} is not known")),
        };
        for (field, addr) in [("src_addr", &socket.src_addr), ("dst_addr", &socket.dst_addr)] {
            if addr.len() != words {
                return Err(format!("isk.{field} has {} words, not {words}", addr.len()));
            }
        }
        if socket.proto == IPPROTO_MPTCP && socket.dst_port != 0 {
            return Err("isk.dst_port: MPTCP connections are not known".to_owned());
        }
    }
    range::file(file)
}
