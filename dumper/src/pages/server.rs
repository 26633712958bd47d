//! Contents that go to a page server (`--page-server`).
//!
//! One thread reads, one sends: the reader is the tracer's, as some pages are for its eyes only.

use super::copy::{self, Origin, Piece};
use super::dirty::Ranges;
use super::select::Run;
use super::{Control, Error};
use crate::stop::Stop;
use crate::{PageServer, Request};
use images::page_server::{self, Client, HEADER_LEN, Wait};
use images::pages::{PAGE_SIZE, PageFlags, PageRange, PageSet};
use images::proto::AmberSentEntry;
use images::{Dir, Image};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Buffers on their way.
const BUFFERS: usize = 4;
/// How often a wait looks whether the dump should stop.
const TICK: u16 = 500;
/// How many times `--timeout` it may stand still: a slow disk may make it.
const STILL: u64 = 6;
/// How long a server may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// A wait given up when the dump should stop, or when the other end stands still: the tree is
/// frozen all the while.
#[derive(Debug)]
pub struct Patience {
    stop: Stop,
    /// How long the other end may take or say nothing at all.
    limit: Option<Duration>,
}

impl Wait for Patience {
    fn wait(&self, socket: BorrowedFd<'_>, event: PollFlags) -> io::Result<()> {
        let began = Instant::now();
        loop {
            match poll(&mut [PollFd::new(socket, event)], PollTimeout::from(TICK)) {
                Ok(0) | Err(nix::Error::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
            if self.stop.requested() {
                return Err(nix::Error::ECANCELED.into());
            }
            if let Some(limit) = self.limit.filter(|limit| began.elapsed() >= *limit) {
                let what = if event == PollFlags::POLLIN { "said" } else { "took" };
                let secs = limit.as_secs();
                let words = format!("it {what} nothing for {secs} s ({STILL} times --timeout)");
                return Err(io::Error::new(io::ErrorKind::TimedOut, words));
            }
        }
    }
}

type Stream = page_server::Stream<Patience>;

/// A page server that waits for contents.
#[derive(Debug)]
pub struct Server {
    client: Mutex<Option<Client<Stream>>>,
    /// What is sent is written down, for the next dump.
    record: bool,
}

impl Server {
    /// Connects, if the request asks for a page server.
    pub fn connect(request: &Request, record: bool, stop: Stop) -> Result<Option<Self>, Error> {
        let Some(server) = &request.page_server else { return Ok(None) };
        let failed = |source| Error::Server { server: server.to_string(), source };
        let socket = open(server).map_err(failed)?;
        let secs = u64::from(request.timeout_secs);
        let limit = (secs > 0).then(|| Duration::from_secs(secs.saturating_mul(STILL)));
        let client = Client::new(
            Stream::new(socket, Patience { stop, limit }),
            // Whoever gave it may keep it open.
            matches!(server, PageServer::Socket(_)),
        )
        .named(&server.to_string());
        Ok(Some(Self { client: Mutex::new(Some(client)), record }))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Client<Stream>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        act: impl FnOnce(&mut Client<Stream>) -> images::Result<T>,
    ) -> images::Result<T> {
        let mut client = self.lock();
        let gone = || images::Error::invalid("page server", "the connection has ended");
        act(client.as_mut().ok_or_else(gone)?)
    }

    /// Whether its parent images have the memory of task `vpid`.
    pub fn has_parent(&self, vpid: u32) -> images::Result<bool> {
        self.with(|client| client.has_parent(PageSet::Task(vpid)))
    }

    /// Writes down which pages of a task the server has, in this dump's images or in their parents:
    /// the next dump cannot see them.
    pub fn record(&self, dir: &Dir, set: PageSet, ranges: &[(u64, u64)]) -> images::Result<()> {
        let PageSet::Task(vpid) = set else { return Ok(()) };
        if !self.record {
            return Ok(());
        }
        let (starts, ends) = ranges.iter().copied().unzip();
        dir.write_one(Image::AmberSent(vpid), &AmberSentEntry { starts, ends })
    }

    /// Waits until everything is in its images.
    pub fn finish(&self) -> images::Result<()> {
        self.lock().take().map_or(Ok(()), Client::finish)
    }

    /// Sends the memory of `set`: `runs` with contents, `in_parent` without.
    pub fn send(
        &self,
        set: PageSet,
        (origin, runs): (&Origin<'_>, &[Run]),
        in_parent: &[(u64, u64)],
        control: Control<'_>,
    ) -> Result<(), Error> {
        let mut client = self.lock();
        let gone = || images::Error::invalid("page server", "the connection has ended");
        let client = client.as_mut().ok_or_else(gone)?;
        let has_parent = client.open(set)?;
        if !has_parent && !in_parent.is_empty() {
            let reason = format!("it has lost the parent images of {set:?}");
            return Err(images::Error::invalid("page server", reason).into());
        }
        let plan = Plan { set, runs, in_parent };
        let (full, to_send) = sync_channel::<(Piece, Vec<u8>)>(BUFFERS);
        let (empty, to_fill) = sync_channel::<Vec<u8>>(BUFFERS);
        for _ in 0..BUFFERS {
            let _ = empty.send(Vec::new());
        }
        std::thread::scope(|scope| {
            let sender = scope.spawn(move || plan.send(client, &to_send, &empty, control));
            let read = read(set, (origin, runs), &full, &to_fill, control.stop);
            drop(full);
            let sent = sender.join().unwrap_or_else(|_| {
                Err(images::Error::invalid("page server", "the thread that sends died"))
            });
            // A sender that failed is why the reader could not go on.
            sent?;
            read
        })
    }
}

fn open(server: &PageServer) -> io::Result<OwnedFd> {
    let socket: OwnedFd = match server {
        PageServer::Socket(fd) => {
            sys::fd::inherited(*fd).map_err(|e| io::Error::from_raw_os_error(e.errno()))?
        }
        PageServer::Address(host, port) => {
            let host = host.as_deref().unwrap_or("127.0.0.1");
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            let all = (host, *port).to_socket_addrs()?;
            let connected = all.into_iter().find_map(|address| {
                TcpStream::connect_timeout(&address, CONNECT).map_err(|e| last = e).ok()
            });
            connected.ok_or(last)?.into()
        }
    };
    sys::net::keep_alive(socket.as_fd());
    Ok(socket)
}

/// What [`Server::record`] wrote into `dir`, by virtual pid; `None` if its pages are its own.
pub fn recorded(dir: &Dir) -> images::Result<Option<HashMap<u32, Ranges>>> {
    let mut all = None;
    for image in dir.images()? {
        let Image::AmberSent(vpid) = image else { continue };
        let entry: AmberSentEntry = dir.read_one(image)?;
        let ranges = entry.starts.into_iter().zip(entry.ends).collect();
        all.get_or_insert_with(HashMap::new).insert(vpid, ranges);
    }
    Ok(all)
}

/// Takes away what an older dump wrote down in `dir`.
pub fn forget(dir: &Dir) -> images::Result<()> {
    let images = dir.images()?;
    let sent = images.into_iter().filter(|image| matches!(image, Image::AmberSent(_)));
    sent.into_iter().try_for_each(|image| dir.remove_file(&image.file_name()))
}

/// Reads contents, piece after piece.
fn read(
    set: PageSet,
    (origin, runs): (&Origin<'_>, &[Run]),
    full: &SyncSender<(Piece, Vec<u8>)>,
    to_fill: &Receiver<Vec<u8>>,
    stop: Stop,
) -> Result<(), Error> {
    let name = format!("{set:?}");
    let mut spans = Vec::new();
    for piece in copy::cut(0, runs, copy::PIECE) {
        if stop.requested() {
            return Err(Error::Stopped);
        }
        // No sender any more: it says why.
        let Ok(mut buf) = to_fill.recv() else { return Ok(()) };
        buf.resize(piece.len, 0);
        copy::read(origin, runs, &name, &piece, &mut buf, &mut spans)?;
        if full.send((piece, buf)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// What is sent of one set.
#[derive(Clone, Copy)]
struct Plan<'a> {
    set: PageSet,
    runs: &'a [Run],
    in_parent: &'a [(u64, u64)],
}

impl Plan<'_> {
    fn send(
        self,
        client: &mut Client<Stream>,
        to_send: &Receiver<(Piece, Vec<u8>)>,
        empty: &SyncSender<Vec<u8>>,
        control: Control<'_>,
    ) -> images::Result<()> {
        let mut holes = self.in_parent;
        while let Ok((piece, buf)) = to_send.recv() {
            self.send_piece(client, &piece, &buf, &mut holes)?;
            control.progress.done(buf.len() as u64);
            // The reader may have ended.
            let _ = empty.send(buf);
        }
        let headers: Vec<_> = holes.iter().map(|hole| self.hole(*hole)).collect();
        client.send(&headers.iter().map(|header| IoSlice::new(header)).collect::<Vec<_>>())
    }

    fn hole(self, (start, end): (u64, u64)) -> [u8; HEADER_LEN] {
        let pages = (end - start) / PAGE_SIZE;
        Client::<Stream>::header(
            self.set,
            PageRange { vaddr: start, pages, flags: PageFlags::PARENT },
        )
    }

    /// Headers of the runs that begin in the piece, of the holes before them, and contents.
    fn send_piece(
        self,
        client: &mut Client<Stream>,
        piece: &Piece,
        buf: &[u8],
        holes: &mut &[(u64, u64)],
    ) -> images::Result<()> {
        // Headers first, as slices of them are kept.
        let mut headers = Vec::new();
        let mut parts = Vec::new();
        let (mut at, mut skip) = (0, piece.skip);
        for run in &self.runs[piece.run..] {
            if at == buf.len() {
                break;
            }
            if skip == 0 {
                let before = holes.partition_point(|hole| hole.0 < run.start);
                for hole in &holes[..before] {
                    headers.push(self.hole(*hole));
                    parts.push(Part::Header(headers.len() - 1));
                }
                *holes = &holes[before..];
                let lazy = if run.lazy { PageFlags::LAZY } else { PageFlags::empty() };
                let flags = PageFlags::PRESENT | lazy;
                let range = PageRange { vaddr: run.start, pages: run.pages, flags };
                headers.push(Client::<Stream>::header(self.set, range));
                parts.push(Part::Header(headers.len() - 1));
            }
            let len = (((run.pages - skip) * PAGE_SIZE) as usize).min(buf.len() - at);
            parts.push(Part::Contents(at, at + len));
            at += len;
            skip = 0;
        }
        let slices: Vec<_> = parts
            .iter()
            .map(|part| match part {
                Part::Header(i) => IoSlice::new(&headers[*i]),
                Part::Contents(from, to) => IoSlice::new(&buf[*from..*to]),
            })
            .collect();
        client.send(&slices)
    }
}

/// A part of what is sent at once.
enum Part {
    Header(usize),
    Contents(usize, usize),
}
