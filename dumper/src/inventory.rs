//! `inventory.img`, which makes a directory a complete dump.

use crate::ns::Namespaces;
use crate::task::cgroup::OWN_SET;
use crate::task::lsm::Lsm;
use crate::{Error, PreDumpMode, Request};
use images::pages::COMPRESSED_VERSION;
use images::proto::{InventoryEntry, Lsmtype, PluginsEntry};
use images::{Dir, Image};
use parasite::proc;
use sys::net_lock::Method;

const IMG_VERSION: u32 = 2;

/// A new name for a dump.
pub(crate) fn run_id() -> Result<String, Error> {
    let id = proc::read("/proc/sys/kernel/random/uuid")?;
    Ok(String::from_utf8_lossy(&id).trim().to_owned())
}

/// Microseconds since boot, as the start times of tasks are counted: tells the next dump which
/// tasks are younger than these images.
fn uptime() -> Result<u64, Error> {
    use nix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME);
    let now = now.map_err(|e| sys::Error::io("clock_gettime(CLOCK_BOOTTIME)", &e.into()))?;
    Ok(now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1000)
}

/// Writes the inventory of a pre-dump, of images that can be parents and nothing else. Gives the
/// name of this run.
pub(crate) fn write_pre_dump(dir: &Dir, request: &Request) -> Result<String, Error> {
    let run_id = run_id()?;
    let entry = InventoryEntry {
        img_version: 0,
        dump_uptime: Some(uptime()?),
        pre_dump_mode: Some(match request.pre_dump_mode {
            PreDumpMode::Splice => 1,
            PreDumpMode::Read => 2,
        }),
        dump_criu_run_id: Some(run_id.clone()),
        ..InventoryEntry::default()
    };
    dir.write_one(Image::Inventory, &entry)?;
    Ok(run_id)
}

/// Writes the inventory: the last thing of a dump.
pub(crate) fn write(dir: &Dir, request: &Request, run_id: &str, lock: Method) -> Result<(), Error> {
    let lsmtype = match Lsm::detect() {
        Lsm::None => Lsmtype::NoLsm,
        Lsm::Selinux => Lsmtype::Selinux,
        Lsm::Apparmor => Lsmtype::Apparmor,
    };
    let entry = InventoryEntry {
        img_version: match request.storing.compression {
            None => IMG_VERSION,
            Some(_) => COMPRESSED_VERSION,
        },
        fdinfo_per_id: Some(true),
        root_ids: Some(Namespaces::own_ids()),
        ns_per_id: Some(true),
        root_cg_set: Some(OWN_SET),
        lsmtype: Some(lsmtype.into()),
        network_lock_method: Some(match lock {
            Method::Iptables => 0,
            Method::Nftables => 1,
            Method::Skip => 2,
        }),
        tcp_close: request.tcp_close.then_some(true),
        // Absent would mean "any plugin"; empty means that none took part.
        plugins_entry: Some(PluginsEntry::default()),
        dump_uptime: if request.track_mem { Some(uptime()?) } else { None },
        dump_criu_run_id: Some(run_id.to_owned()),
        allow_uprobes: request.allow_uprobes.then_some(true),
        ..InventoryEntry::default()
    };
    dir.write_one(Image::Inventory, &entry)?;
    Ok(())
}
