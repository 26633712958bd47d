// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Virtual machines with Debian's kernels, made by `vm-tests/assets`, run by QEMU without KVM.
//!
//! A [`Machine`] is booted for one script: the files it needs are put at the very paths they
//! have here, it runs as root in a session of its own, what it prints comes back with its exit
//! code, and the machine is gone. Nothing of this machine but those files can be touched.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// The kernels: of Debian 12, of Debian 13, and the newest that is backported to it.
pub const KERNELS: [&str; 3] = ["6.1", "6.12", "newest"];

/// What one run printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code of the script; `None`: the machine went away, or its time was over, before.
    pub code: Option<i32>,
    /// Everything on the console, the kernel's own words among it.
    pub console: String,
}

/// A virtual machine to be booted.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// One of [`KERNELS`].
    pub kernel: &'static str,
    /// Its processors. They share those of this machine, emulated.
    pub processors: u32,
    /// Its memory in MiB.
    pub memory: u32,
    /// More for the kernel's command line.
    pub append: &'static str,
}

/// The directory with kernels and root, made on the first call; the error says what is missing.
pub fn assets() -> Result<&'static Path, &'static str> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let make = || {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
        let out = Command::new(&script).stdin(Stdio::null()).output();
        let out = out.map_err(|e| format!("{}: {e}", script.display()))?;
        if out.status.success() {
            return Ok(PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()));
        }
        let all = String::from_utf8_lossy(&out.stderr).into_owned();
        let from = all.lines().count().saturating_sub(12);
        Err(all.lines().skip(from).collect::<Vec<_>>().join("\n"))
    };
    MADE.get_or_init(make).as_deref().map_err(String::as_str)
}

impl Machine {
    /// Boots, runs `script` (for bash) with `files` (absolute paths, directories whole) in place,
    /// and ends the machine after `limit` at the latest.
    ///
    /// # Errors
    /// What kept QEMU from being started; a machine that dies is told by [`Output::code`].
    pub fn run(&self, script: &str, files: &[&Path], limit: Duration) -> io::Result<Output> {
        let assets = assets().map_err(io::Error::other)?;
        let disk = disk(script, files)?;
        let mut qemu = self.qemu(assets, disk.path()).spawn()?;
        let console = qemu.stdout.take().map(BufReader::new);
        let (told, heard) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut all = String::new();
            for line in console.into_iter().flat_map(|c| c.split(b'\n')).map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                let end =
                    line.strip_prefix("amber-exit ").and_then(|code| code.parse::<i32>().ok());
                all.push_str(&line);
                all.push('\n');
                if end.is_some() {
                    let _ = told.send(end);
                    return all;
                }
            }
            let _ = told.send(None);
            all
        });
        let code = heard.recv_timeout(limit).ok().flatten();
        end(&mut qemu);
        let console =
            reader.join().map_err(|_| io::Error::other("the console's reader panicked"))?;
        Ok(Output { code, console })
    }

    fn qemu(&self, assets: &Path, disk: &Path) -> Command {
        let at = |what: &str| assets.join(format!("{}.{what}", self.kernel));
        let drive = |id: &str, path: &Path, how: &str| {
            format!("file={},if=none,id={id},format=raw,{how}", path.display())
        };
        let mut qemu = Command::new("qemu-system-x86_64");
        // KVM is not asked for: it may be there and not work, and a hang is dearer than emulation.
        qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]);
        qemu.args(["-smp", &self.processors.to_string(), "-m", &self.memory.to_string()]);
        qemu.arg("-kernel").arg(at("vmlinuz")).arg("-initrd").arg(at("initrd"));
        let line =
            "console=ttyS0 panic=-1 quiet mitigations=off nokaslr tsc=reliable no_timer_check";
        qemu.args(["-append", &format!("{line} {}", self.append)]);
        qemu.args(["-display", "none", "-no-reboot", "-nodefaults", "-serial", "stdio"]);
        let root = drive("root", &assets.join("root.ext4"), "snapshot=on,cache=unsafe");
        let files = drive("files", disk, "readonly=on");
        qemu.args(["-drive", &root, "-device", "virtio-blk-pci,drive=root"]);
        qemu.args(["-drive", &files, "-device", "virtio-blk-pci,drive=files"]);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        qemu
    }
}

/// The second disk: an archive of the script and the files.
fn disk(script: &str, files: &[&Path]) -> io::Result<tempfile::NamedTempFile> {
    let disk = tempfile::Builder::new().prefix("amber-vm-").suffix(".tar").tempfile()?;
    let mut tar = tar::Builder::new(File::create(disk.path())?);
    tar.follow_symlinks(false);
    let mut head = tar::Header::new_gnu();
    head.set_mode(0o755);
    head.set_size(script.len() as u64);
    tar.append_data(&mut head, "amber-run", script.as_bytes())?;
    for file in files {
        let inside = file.strip_prefix("/").map_err(io::Error::other)?;
        if file.is_dir() {
            tar.append_dir_all(inside, file)?;
        } else {
            tar.append_path_with_name(file, inside)?;
        }
    }
    let mut file = tar.into_inner()?;
    file.flush()?;
    // A disk is made of whole sectors.
    let size = file.metadata()?.len();
    file.set_len(size.next_multiple_of(1 << 20))?;
    Ok(disk)
}

fn end(qemu: &mut Child) {
    let _ = qemu.kill();
    let _ = qemu.wait();
}
