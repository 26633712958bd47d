//! The network lock of a restore.
//!
//! What the dump has locked stays so until all is done, as a restore that fails may be tried
//! again. Besides, the restore locks the same connections itself: there may be nothing left of
//! the dump's lock, on another machine or after a boot.

use super::{Error, FilesPlan, Result, failed_io, tcp_stream};
use crate::Request;
use images::Checkpoint;
use std::fs::File;
use sys::net_lock::{Connection, Guard, Method, Place, What};
use sys::tcp::state;

/// The lock of one restore.
#[derive(Debug)]
pub struct Lock {
    /// The restore's own.
    guard: Option<Guard>,
    dump: Place,
    what: What,
    /// Rules of the tree's own would have stood in the way of segments that we forge.
    passed: bool,
}

fn place(cp: &Checkpoint) -> Result<Place> {
    let method = match cp.inventory.network_lock_method() {
        0 => Method::Iptables,
        1 => Method::Nftables,
        2 => Method::Skip,
        other => {
            let text = format!("inventory.img: network_lock_method {other} is not known");
            return Err(Error::Refused(text));
        }
    };
    let id = cp.inventory.dump_criu_run_id.clone();
    let id = id.unwrap_or_else(|| cp.root().pid.to_string());
    Ok(Place { ns: None, name: Place::name(&id), method })
}

impl Lock {
    /// Locks the connections that are restored. Before any of them is made. With `own`, the
    /// tree gets a net namespace of its own, which [`Lock::enter`] locks.
    pub fn new(cp: &Checkpoint, plan: &FilesPlan, request: &Request, own: bool) -> Result<Self> {
        let dump = place(cp)?;
        if own {
            return Ok(Self { guard: None, dump, what: What::Everything, passed: false });
        }
        let sockets = plan.set.files.values().filter_map(|f| f.isk.as_ref());
        let (mut all, mut alive) = (Vec::new(), Vec::new());
        for entry in sockets.filter(|e| tcp_stream::is_connection(e)) {
            let (own, peer) = tcp_stream::addresses(entry)?;
            let connection = Connection::new(own, peer);
            // CRIU locks those that are at their end too.
            all.push(connection);
            if entry.state != u32::from(state::CLOSE) {
                alive.push(connection);
            }
        }
        let mut guard = None;
        if !alive.is_empty() && !request.tcp_close {
            guard = own_guard(place(cp)?, What::Connections(alive));
        }
        Ok(Self { guard, dump, what: What::Connections(all), passed: false })
    }

    /// Locks the net namespace of process `root`, before packets come and sockets are made.
    pub fn enter(&mut self, root: i32) -> Result<()> {
        if self.what != What::Everything {
            return Ok(());
        }
        let open = || {
            let path = format!("/proc/{root}/ns/net");
            File::open(&path).map_err(|e| failed_io(format_args!("open({path})"), &e))
        };
        self.dump.ns = Some(open()?.into());
        let ns = Some(open()?.into());
        let place = Place { ns, name: self.dump.name.clone(), method: self.dump.method };
        self.guard = own_guard(place, What::Everything);
        Ok(())
    }

    /// The namespace is filled: lets segments that we forge pass the rules that are in it now.
    pub fn pass_rules(&mut self, plan: &FilesPlan, request: &Request) -> Result<()> {
        if self.is_whole() && tcp_stream::forges(&plan.set, request) {
            self.passed = self.dump.pass_rules()?;
        }
        Ok(())
    }

    /// Whether a namespace of the tree's own is locked.
    pub fn is_whole(&self) -> bool {
        self.what == What::Everything
    }

    /// Removes the lock of the dump and our own: packets flow again.
    pub fn unlock(mut self) {
        let none = self.what == What::Connections(Vec::new());
        if !none && let Err(e) = self.dump.unlock(&self.what) {
            log::error!("the network stays locked: {e}");
        }
        if self.passed
            && let Err(e) = self.dump.forget_rules()
        {
            log::error!("the network stays locked: {e}");
        }
        drop(self.guard.take());
    }
}

/// A lock of our own; without one it is as with CRIU.
fn own_guard(place: Place, what: What) -> Option<Guard> {
    Guard::own(place, what)
        .inspect_err(|e| log::warn!("only the lock of the dump, if any, keeps packets away: {e}"))
        .ok()
}
