//! Collects epolls.
//!
//! `fdinfo` shows a target by the number it was added under, which may be closed or in use for
//! something else by now: `kcmp` tells what it really is.

use super::error::Why;
use super::parse::{self, Target};
use super::{FileTable, Open, entry};
use images::proto::{EventpollFileEntry, EventpollTfdEntry, FdTypes};
use std::collections::HashMap;
use std::os::fd::AsRawFd;

impl FileTable {
    pub(crate) fn eventpoll(&mut self, open: &Open<'_>) -> Result<(), Why> {
        let targets = parse::epoll(open.text).ok_or_else(|| Why::field("tfd"))?;
        let mut seen: HashMap<u32, u32> = HashMap::new();
        let mut tfd = Vec::with_capacity(targets.len());
        for target in &targets {
            // The how-manieth target of this number it is.
            let nth = seen.entry(target.tfd).or_default();
            let number = self.target(open, target, *nth)?;
            *nth += 1;
            tfd.push(EventpollTfdEntry {
                id: open.id,
                tfd: number,
                events: target.events,
                data: target.data,
                dev: Some(target.sdev),
                inode: Some(target.ino),
                pos: Some(target.pos),
            });
        }
        let mut file = entry(FdTypes::Eventpoll, open.id);
        file.epfd =
            Some(EventpollFileEntry { id: open.id, flags: open.info.flags, fown: open.fown, tfd });
        self.files.push(file);
        Ok(())
    }

    /// The only task that can get an epoll which is in a queue.
    fn receiver(&self, open: &Open<'_>) -> Result<i32, Why> {
        let via = self.unix.via.get(&open.desc).map(|&via| &self.walk.descs[via].holders[..]);
        match via.unwrap_or_default() {
            [] => Err(Why::yet("an epoll in the queue of a socket that is in a queue")),
            [first, more @ ..] if more.iter().all(|h| h.1 == first.1) => Ok(first.1),
            _ => Err(Why::yet("an epoll that is only in the queue of a socket of several tasks")),
        }
    }

    /// A number under which the task that will restore the epoll has the target.
    fn target(&self, open: &Open<'_>, target: &Target, nth: u32) -> Result<u32, Why> {
        let holders = &self.walk.descs[open.desc].holders;
        // Whoever restores it is the holder with the lowest virtual pid.
        let (pid, epoll) = match holders.iter().min_by_key(|h| (h.0, h.2)) {
            Some(&(_, pid, efd)) => (pid, (pid, efd)),
            None => (self.receiver(open)?, (std::process::id() as i32, open.own.as_raw_fd())),
        };
        let is = |fd: i32| {
            sys::fd::kcmp_epoll_tfd(pid, fd as u32, epoll.0, epoll.1 as u32, target.tfd, nth)
        };
        let here = |at: &usize| {
            let desc = &self.walk.descs[*at];
            desc.holders.iter().filter(|h| h.1 == pid).map(|h| h.2)
        };
        // Kernels before 4.13 do not show the inode.
        let candidates: Vec<i32> = match self.walk.by_ino.get(&target.ino) {
            Some(descs) if target.ino != 0 => descs.iter().flat_map(here).collect(),
            _ => (0..self.walk.descs.len()).collect::<Vec<_>>().iter().flat_map(here).collect(),
        };
        let same = candidates.contains(&(target.tfd as i32)).then_some(target.tfd as i32);
        for fd in same.into_iter().chain(candidates) {
            if is(fd)? {
                return Ok(fd as u32);
            }
        }
        Err(Why::refused(format!(
            "epoll target {} (inode {}) is open no more in task {pid}: it can only be \
             watched, not named",
            target.tfd, target.ino
        )))
    }
}
