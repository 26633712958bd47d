//! The end of a connection where images are written.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;

use super::{Command, HEADER_LEN, Header, NAME};
use crate::pages::{
    Chain, LocalSink, Origin, PAGE_SIZE, PageFlags, PageImages, PageSet, PageSource, dedup_set,
};
use crate::{Dir, Error, Result, manifest};

/// Bytes that are received and written at once.
const PIECE: u64 = 1 << 20;

/// How a server works.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    /// What newer images have is punched out of the parent images (`--auto-dedup`).
    pub auto_dedup: bool,
}

/// A page server for one connection.
#[derive(Debug)]
pub struct Server<S> {
    stream: S,
    images: PageImages,
    chain: Chain,
    settings: Settings,
    current: Option<Current>,
    /// What the parent images have of sets that were asked for.
    parents: HashMap<PageSet, Option<PageSource>>,
    buf: Vec<u8>,
    pages: u64,
}

/// A set that is being received.
#[derive(Debug)]
struct Current {
    set: PageSet,
    sink: LocalSink,
}

impl<S: Read + Write> Server<S> {
    /// Will write what comes from `stream` into `dir`.
    pub fn new(stream: S, dir: &Dir, settings: Settings) -> Result<Self> {
        let chain = Chain::open(dir)?;
        // Whatever was here before, it is something else from now on.
        manifest::remove(dir)?;
        Ok(Self {
            stream,
            images: PageImages::of_server(dir.clone()),
            chain,
            settings,
            current: None,
            parents: HashMap::new(),
            buf: Vec::new(),
            pages: 0,
        })
    }

    /// Serves to the end of the connection; the number of pages received. All of it is in the
    /// images then, or it failed.
    pub fn serve(mut self) -> Result<u64> {
        let mut complete = false;
        while let Some(header) = self.next()? {
            complete = matches!(header.command, Command::Close | Command::ForceClose);
            if complete {
                self.close()?;
                if header.command == Command::ForceClose {
                    break;
                }
                continue;
            }
            self.obey(&header)?;
        }
        if !complete {
            return Err(Error::invalid(NAME, "the connection ended before all had come"));
        }
        Ok(self.pages)
    }

    /// The next header; `None` at the end of the connection.
    fn next(&mut self) -> Result<Option<Header>> {
        let mut bytes = [0; HEADER_LEN];
        let mut got = 0;
        while got < HEADER_LEN {
            match self.stream.read(&mut bytes[got..]) {
                Ok(0) if got == 0 => return Ok(None),
                Ok(0) => return Err(Error::invalid(NAME, "the connection ended in a request")),
                Ok(n) => got += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(NAME, "recv")(e)),
            }
        }
        Header::decode(&bytes).map(Some)
    }

    fn obey(&mut self, header: &Header) -> Result<()> {
        match header.command {
            Command::Open => self.open(header.set()?),
            Command::Open2 => {
                self.open(header.set()?)?;
                let has_parent = self.parent(header.set()?)?.is_some();
                self.answer(&[u8::from(has_parent)])
            }
            Command::Parent => {
                let has_parent = self.parent(header.set()?)?.is_some();
                self.answer(&i32::from(has_parent).to_ne_bytes())
            }
            Command::Add | Command::Hole | Command::AddFlags => self.add(header),
            Command::Get => {
                Err(Error::invalid(NAME, "not supported yet: requests for pages (lazy-pages)"))
            }
            // Seen to by the caller.
            Command::Close | Command::ForceClose => Ok(()),
        }
    }

    fn answer(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
        sent.map_err(Error::io(NAME, "send"))
    }

    fn open(&mut self, set: PageSet) -> Result<()> {
        self.end_set()?;
        self.current = Some(Current { set, sink: self.images.create(set)? });
        Ok(())
    }

    /// What the parent images have of `set`, if anything.
    fn parent(&mut self, set: PageSet) -> Result<Option<&PageSource>> {
        if !self.parents.contains_key(&set) {
            let source = match self.chain.parents() {
                Some(parents) => parents.load(set)?,
                None => None,
            };
            self.parents.insert(set, source);
        }
        Ok(self.parents.get(&set).and_then(Option::as_ref))
    }

    fn add(&mut self, header: &Header) -> Result<()> {
        let Header { flags, pages, vaddr, .. } = *header;
        let set = header.set()?;
        match &self.current {
            Some(current) if current.set == set => {}
            _ => return Err(Error::invalid(NAME, "pages of a set that was not opened")),
        }
        if flags.contains(PageFlags::PRESENT) {
            return self.contents(vaddr, pages, flags);
        }
        if flags.contains(PageFlags::PARENT) {
            self.check_parent(set, vaddr, pages)?;
        } else if !flags.contains(PageFlags::LAZY) {
            return Err(Error::invalid(NAME, format!("flags {flags:?} tell of no contents")));
        }
        let current = self.current.as_mut();
        current.map_or(Ok(()), |current| current.sink.push_hole(vaddr, pages, flags))
    }

    /// The parent images have all of these pages.
    fn check_parent(&mut self, set: PageSet, vaddr: u64, pages: u64) -> Result<()> {
        let len = pages.checked_mul(PAGE_SIZE);
        let end = len.and_then(|len| vaddr.checked_add(len));
        let end = end.ok_or_else(|| Error::invalid(NAME, "pages beyond the end of memory"))?;
        let mut at = vaddr;
        if let Some(parent) = self.parent(set)? {
            for segment in parent.within(vaddr..end) {
                if segment.vaddr > at || !matches!(segment.origin, Origin::File { .. }) {
                    break;
                }
                at = segment.end();
            }
        }
        if at >= end {
            return Ok(());
        }
        let reason = format!("{set:?}: page {at:#x} is said to be in a parent image, and is not");
        Err(Error::invalid(NAME, reason))
    }

    /// Receives contents.
    fn contents(&mut self, vaddr: u64, pages: u64, flags: PageFlags) -> Result<()> {
        let Some(Current { sink, .. }) = &mut self.current else { return Ok(()) };
        let mut at = sink.reserve(vaddr, pages, flags)?;
        let mut left = pages * PAGE_SIZE;
        let most = usize::try_from(left.min(PIECE)).unwrap_or(0);
        if self.buf.len() < most {
            self.buf.resize(most, 0);
        }
        while left > 0 {
            let len = usize::try_from(left.min(PIECE)).unwrap_or(0);
            let piece = &mut self.buf[..len];
            self.stream.read_exact(piece).map_err(Error::io(NAME, "recv"))?;
            let written = sink.file().write_all_at(piece, at);
            written.map_err(Error::io(sink.pages_name(), "pwrite"))?;
            at += len as u64;
            left -= len as u64;
        }
        self.pages += pages;
        Ok(())
    }

    /// Writes out the set at hand.
    fn end_set(&mut self) -> Result<()> {
        let Some(Current { set, sink }) = self.current.take() else { return Ok(()) };
        sink.close()?;
        if self.settings.auto_dedup && self.chain.layers().len() > 1 {
            dedup_set(&self.chain, set)?;
        }
        Ok(())
    }

    /// Writes out everything, and says how that went.
    fn close(&mut self) -> Result<()> {
        let ended = self.end_set();
        let status = if ended.is_ok() { 0i32 } else { -1 };
        let told = self.answer(&status.to_ne_bytes());
        ended.and(told)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Client;
    use super::*;
    use crate::pages::PageRange;
    use std::io::IoSlice;
    use std::os::unix::net::UnixStream;

    const SET: PageSet = PageSet::Task(7);
    const AT: u64 = 0x10_0000;

    /// Has `client` speak with a server that writes into `dir`.
    fn served(dir: &Dir, client: impl FnOnce(Client<UnixStream>) + Send) -> Result<u64> {
        let (near, far) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || client(Client::new(near, false)));
            Server::new(far, dir, Settings { auto_dedup: true })?.serve()
        })
    }

    fn page(client: &mut Client<UnixStream>, n: u64, byte: u8) {
        let range = PageRange { vaddr: AT + n * PAGE_SIZE, pages: 1, flags: PageFlags::PRESENT };
        let header = Client::<UnixStream>::header(SET, range);
        let contents = [byte; PAGE_SIZE as usize];
        client.send(&[IoSlice::new(&header), IoSlice::new(&contents)]).unwrap();
    }

    /// A parent with three pages, and the directory of its child.
    fn chain() -> (tempfile::TempDir, Dir) {
        let temp = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            std::fs::create_dir(temp.path().join(name)).unwrap();
        }
        let parent = Dir::open(temp.path().join("a")).unwrap();
        let pages = served(&parent, |mut client| {
            assert!(!client.open(SET).unwrap());
            (0..3).for_each(|n| page(&mut client, n, b'a'));
            client.finish().unwrap();
        });
        assert_eq!(pages.unwrap(), 3);
        let dir = Dir::open(temp.path().join("b")).unwrap();
        dir.set_parent("../a".as_ref()).unwrap();
        (temp, dir)
    }

    #[test]
    fn what_is_sent_is_read_through_the_chain() {
        let (_temp, dir) = chain();
        let pages = served(&dir, |mut client| {
            assert!(client.has_parent(SET).unwrap());
            assert!(!client.has_parent(PageSet::Task(8)).unwrap());
            assert!(client.open(SET).unwrap());
            client.hole(SET, AT, 1, PageFlags::PARENT).unwrap();
            page(&mut client, 1, b'b');
            client.hole(SET, AT + 2 * PAGE_SIZE, 1, PageFlags::PARENT).unwrap();
            client.finish().unwrap();
        });
        assert_eq!(pages.unwrap(), 1);
        let source = Chain::open(&dir).unwrap().load(SET).unwrap().unwrap();
        let mut buf = [0; 3 * PAGE_SIZE as usize];
        source.read_at(AT, &mut buf).unwrap();

        assert_eq!(
            (buf[0], buf[PAGE_SIZE as usize], buf[3 * PAGE_SIZE as usize - 1]),
            (b'a', b'b', b'a')
        );
    }

    #[test]
    fn pages_that_the_parent_lacks_are_not_believed() {
        let (_temp, dir) = chain();
        let failed = served(&dir, |mut client| {
            client.open(SET).unwrap();
            let _ = client.hole(SET, AT, 4, PageFlags::PARENT);
            client.finish().unwrap_err();
        });
        let words = failed.unwrap_err().to_string();
        assert!(words.contains("page 0x103000 is said to be in a parent image"), "{words}");
    }

    #[test]
    fn what_nobody_opened_and_what_goes_backwards_is_refused() {
        for backwards in [false, true] {
            let (_temp, dir) = chain();
            let failed = served(&dir, |mut client| {
                if backwards {
                    client.open(SET).unwrap();
                    page(&mut client, 1, 0);
                }
                let range = PageRange { vaddr: AT, pages: 1, flags: PageFlags::PRESENT };
                let _ = client.send(&[IoSlice::new(&Client::<UnixStream>::header(SET, range))]);
                client.finish().unwrap_err();
            });
            assert!(failed.is_err());
        }
    }

    #[test]
    fn an_end_without_close_is_a_failure() {
        let (_temp, dir) = chain();
        let failed = served(&dir, |mut client| {
            client.open(SET).unwrap();
            page(&mut client, 1, 0);
        });
        assert!(failed.unwrap_err().to_string().contains("ended before all had come"));
    }
}
