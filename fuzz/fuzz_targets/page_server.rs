//! Anything that a client may send to a page server; the first byte are the server's settings.
#![no_main]

use std::fs;
use std::io::{Read, Result, Write};

use images::Dir;
use images::page_server::{Server, Settings};

struct Client<'a>(&'a [u8]);

impl Read for Client<'_> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Client<'_> {
    fn write(&mut self, buf: &[u8]) -> Result<usize> {
        Ok(buf.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [settings, bytes @ ..] = input else { return };
    let base = tempfile::tempdir_in("/dev/shm").unwrap();
    let [new, old] = ["new", "old"].map(|n| base.path().join(n));
    for (dir, bytes) in [(&old, bytes), (&new, bytes)] {
        fs::create_dir(dir).unwrap();
        let dir = Dir::open(dir).unwrap();
        if settings & 2 != 0 && dir.path() == new {
            dir.set_parent(std::path::Path::new("../old")).unwrap();
        }
        let settings = Settings { auto_dedup: settings & 1 != 0 };
        drop(Server::new(Client(bytes), &dir, settings).map(Server::serve));
    }
});
