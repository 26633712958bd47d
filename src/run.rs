//! The commands.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use images::pages::{Codec, Compression};
use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::hooks::{Hooks, Scripts};
use crate::options::{CpuCap, Raw};
use crate::place::Place;
use crate::request::{self, Command};
use crate::rpc::Client;
use crate::{FAILURE, check, cpuinfo, report, stats};

/// What a command came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// An exit code.
    Code(u8),
    /// A tree that runs, by the pid of its root.
    Restored(i32),
}

/// A failure of which the log tells already.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("failed with exit code {code}, errno {errno}")]
pub(crate) struct Failed {
    /// What to end with.
    pub(crate) code: u8,
    /// What an RPC client is told.
    pub(crate) errno: i32,
}

/// Runs a command, for an RPC client or for whoever called this program.
pub(crate) fn run(
    command: Command,
    raw: &Raw,
    place: &Place,
    client: Option<&Client>,
) -> anyhow::Result<Done> {
    match command {
        Command::Dump => dump(raw, place, client).map(|()| Done::Code(0)),
        Command::PreDump => pre_dump(raw, place, client).map(|()| Done::Code(0)),
        Command::Dedup => dedup(place).map(|()| Done::Code(0)),
        Command::Compress => convert(raw, place, true).map(|()| Done::Code(0)),
        Command::Decompress => convert(raw, place, false).map(|()| Done::Code(0)),
        Command::Verify => verify(raw, place).map(|()| Done::Code(0)),
        Command::Restore => restore(raw, place, client).map(Done::Restored),
        Command::Check => Ok(Done::Code(check(raw))),
        Command::CpuinfoDump => cpuinfo::dump(&place.dirs.images).map(|()| Done::Code(0)),
        Command::CpuinfoCheck => check_cpu(raw, place).map(|()| Done::Code(0)),
        _ => anyhow::bail!("not supported yet: {}", command.name()),
    }
}

/// Whether a dump and a restore care about the processor: only if asked to.
fn compares_cpu(raw: &Raw) -> bool {
    raw.cpu_cap.is_some_and(|cap| cap != CpuCap::NONE)
}

fn check_cpu(raw: &Raw, place: &Place) -> anyhow::Result<()> {
    let CpuCap { cpu, fpu, ins } = raw.cpu_cap.unwrap_or(CpuCap::DEFAULT);
    cpuinfo::check(&place.dirs.images, cpuinfo::Compare { fpu, ins, cpu })
}

fn check(raw: &Raw) -> u8 {
    let groups = check::Groups {
        extra: raw.check_extra,
        experimental: raw.check_experimental,
        unprivileged: raw.unprivileged,
    };
    let code = match &raw.feature {
        Some(feature) => check::check_feature(feature),
        None => check::check(groups),
    };
    u8::try_from(code).unwrap_or(FAILURE)
}

fn dump(raw: &Raw, place: &Place, client: Option<&Client>) -> anyhow::Result<()> {
    let mut request = request::dump(raw, &place.dirs)?;
    request.service_socket = client.and_then(Client::inode);
    if compares_cpu(raw) {
        cpuinfo::dump(&place.dirs.images)?;
    }
    let mut hooks = Hooks::for_dump(Scripts::new(&raw.action_scripts, &place.images), client);
    let result = dumper::dump(&request, &mut hooks);
    drop(hooks);
    let stats = match result {
        Ok(stats) => stats,
        Err(e) => {
            let failed = Failed { code: exit_code(&e), errno: e.errno() };
            report(&e.into());
            log::error!("Dumping FAILED.");
            return Err(failed.into());
        }
    };
    stats::write_dump(&place.dirs.work, &stats)?;
    if raw.display_stats {
        crate::say(&stats::show_dump(&stats));
    }
    log::info!("Dumping finished successfully");
    Ok(())
}

fn pre_dump(raw: &Raw, place: &Place, client: Option<&Client>) -> anyhow::Result<()> {
    let request = request::dump(raw, &place.dirs)?;
    // No script is run, no client notified.
    let mut hooks = Hooks::for_dump(Scripts::new(&[], &place.images), client);
    let result = dumper::pre_dump(&request, &mut hooks);
    drop(hooks);
    let stats = match result {
        Ok(stats) => stats,
        Err(e) => {
            let failed = Failed { code: FAILURE, errno: e.errno() };
            report(&e.into());
            log::error!("Pre-dumping FAILED.");
            return Err(failed.into());
        }
    };
    stats::write_dump(&place.dirs.work, &stats)?;
    if raw.display_stats {
        crate::say(&stats::show_dump(&stats));
    }
    log::info!("Pre-dumping finished successfully");
    Ok(())
}

/// Gives back the room of pages in parent images that newer ones have, too.
fn dedup(place: &Place) -> anyhow::Result<()> {
    let chain = images::pages::Chain::open(&images::Dir::open(&place.dirs.images)?)?;
    let pages = images::pages::dedup(&chain)?;
    log::info!("Deduplicated {pages} pages");
    Ok(())
}

/// Compresses the pages of images, as `--compress` says (zstd if it says nothing), or decompresses.
fn convert(raw: &Raw, place: &Place, compress: bool) -> anyhow::Result<()> {
    let dir = images::Dir::open(&place.dirs.images)?;
    let given = raw.compress.map_or_else(|| Some(Compression::of(Codec::Zstd)), |c| c.0);
    let to = given.filter(|_| compress);
    let threads = raw.compress_threads.filter(|n| *n > 0).unwrap_or_else(sys::worker::cpus);
    let images = images::pages::convert(&dir, to, threads)?;
    log::info!("{images} pages images converted");
    Ok(())
}

/// Compares images with their manifest.
fn verify(raw: &Raw, place: &Place) -> anyhow::Result<()> {
    let dir = images::Dir::open(&place.dirs.images)?;
    let threads = raw.compress_threads.filter(|n| *n > 0).unwrap_or_else(sys::worker::cpus);
    let (files, bad) = images::manifest::verify(&dir, threads)?;
    for bad in &bad {
        log::error!("{bad}");
    }
    anyhow::ensure!(bad.is_empty(), "{} of {files} images are not what they were", bad.len());
    log::info!("{files} images are what they were");
    Ok(())
}

/// A post-dump script decides what a dump ends with: the images are complete all the same.
fn exit_code(e: &dumper::Error) -> u8 {
    match e {
        dumper::Error::Hook { action, code } if *action == dumper::Action::PostDump.name() => {
            u8::try_from(*code).unwrap_or(FAILURE)
        }
        _ => FAILURE,
    }
}

/// The answer is the pid of the root task.
fn restore(raw: &Raw, place: &Place, client: Option<&Client>) -> anyhow::Result<i32> {
    if raw.tree.is_some() {
        log::warn!("Using -t with criu restore is obsoleted");
    }
    let request = request::restore(raw, &place.dirs)?;
    if compares_cpu(raw) {
        check_cpu(raw, place)?;
    }
    let scripts = Scripts::new(&raw.action_scripts, &place.images);
    let mut hooks = Hooks::for_restore(scripts, client, raw.pidfile.clone());
    crate::log::name_children();
    if let Some(path) = raw.log_file.as_ref().filter(|_| raw.log_pid) {
        crate::log::per_task(path)?;
    }
    let result = restorer::restore(&request, &mut hooks);
    drop(hooks);
    let restored = match result {
        Ok(restored) => restored,
        Err(e) => {
            let failed = Failed { code: FAILURE, errno: e.errno() };
            report(&e.into());
            log::error!("Restoring FAILED.");
            return Err(failed.into());
        }
    };
    log::info!("Restore finished successfully. Tasks resumed.");
    // The tree runs: nothing that fails from here on may say that it does not.
    if let Err(e) = stats::write_restore(&place.dirs.work, &restored.stats) {
        log::warn!("stats-restore: {e}");
    }
    if raw.display_stats {
        crate::say(&stats::show_restore(&restored.stats));
    }
    Ok(restored.pid)
}

/// What `criu restore` does once the tree runs: becomes `--exec-cmd`, or waits for the root.
pub(crate) fn after_restore(raw: &Raw, root: i32, operands: &[OsString]) -> u8 {
    if let [program, arguments @ ..] = operands {
        let e = std::process::Command::new(program).args(arguments).exec();
        log::error!("Failed to exec command {}: {e}", program.display());
        return FAILURE;
    }
    if !raw.detached {
        wait_for(root);
    }
    0
}

/// Waits for the root task, as its parent. How it ends is its own business.
fn wait_for(pid: i32) {
    while waitpid(Pid::from_raw(pid), None) == Err(Errno::EINTR) {}
}
