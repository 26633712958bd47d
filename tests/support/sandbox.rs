// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Namespaces and a directory for one run, gone with the value.

use super::{LIMIT, subject, tail, tool, wait_for};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How a command in a sandbox ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// It did not, and was killed with the whole sandbox.
    TimedOut,
}

impl Ended {
    /// Exit code 0.
    pub fn success(self) -> bool {
        self == Self::Exit(0)
    }

    /// An error told by exit code: no signal, no panic (101, 134), no hang.
    pub fn clean_failure(self) -> bool {
        matches!(self, Self::Exit(code) if code != 0 && code != 101 && code < 128)
    }
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        status.code().map_or_else(|| Self::Signal(status.signal().unwrap_or(0)), Self::Exit)
    }
}

/// Namespaces with an init of their own, and a directory seen inside and outside.
#[derive(Debug)]
pub struct Sandbox {
    dir: tempfile::TempDir,
    unshare: Child,
    init: u32,
}

/// Where sandboxes are: on the file system of `/`, so that a subject that gets a bind mount of it
/// as its root still sees its directory.
pub fn tmp() -> &'static str {
    let device = |path: &str| fs::metadata(path).expect("a directory").dev();
    let same = |tmp: &&str| device(tmp) == device("/");
    ["/tmp", "/var/tmp"].into_iter().find(same).unwrap_or("/tmp")
}

impl Sandbox {
    /// A new empty sandbox. `ipc`: with an ipc namespace of its own too.
    pub fn new(name: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix(&format!("amber-{name}-"))
            .tempdir_in(tmp())
            .expect("a temporary directory");
        // Subjects change their uid and still write here.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
        let mut unshare = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "unshare",
                "--pid",
                "--mount",
                "--net",
                "--ipc",
                "--fork",
            ])
            .args(["--mount-proc", "--kill-child"])
            .arg(tool("init"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("setpriv and unshare of util-linux");
        let mut up = [0; 3];
        let heard = unshare.stdout.take().expect("piped").read_exact(&mut up);
        heard.expect("unshare needs root, or CAP_SYS_ADMIN");
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let children = fs::read_to_string(children).expect("children of unshare");
        let init = children.trim().parse().expect("one child of unshare");
        Self { dir, unshare, init }
    }

    /// The directory of this run.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `name` in the directory of this run.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// A path as seen from inside, for what is mounted only there.
    pub fn inside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// A command that will run inside. Output goes to DIR/`log`.
    pub fn command(&self, program: &Path, log: &str) -> Command {
        let log = File::create(self.path(log)).expect("log file");
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.init.to_string(), "--pid", "--mount", "--net", "--ipc"])
            // Not nsenter's --wd: that directory would be of the outer mount namespace.
            .args(["--", "env", "--default-signal", "-C"])
            .args([self.dir(), program])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log file"))
            .stderr(log);
        command
    }

    /// Runs a command inside to its end.
    pub fn run(&self, program: &Path, args: &[&str], log: &str) -> Ended {
        let child = self.command(program, log).args(args).spawn().expect("nsenter");
        self.wait(child, LIMIT)
    }

    /// Waits for a command of [`Self::command`]; past the limit the whole sandbox is killed.
    pub fn wait(&self, mut child: Child, limit: Duration) -> Ended {
        let ended = wait_for(limit, || child.try_wait().expect("wait"));
        if let Some(status) = ended {
            return status.into();
        }
        self.kill_all();
        drop(child.kill());
        drop(child.wait());
        Ended::TimedOut
    }

    /// A shell command inside, its output back.
    pub fn shell(&self, script: &str) -> String {
        let out = Command::new("nsenter")
            .args(["-t", &self.init.to_string(), "--pid", "--mount", "--net", "--ipc"])
            .args(["--", "env", "--default-signal", "-C"])
            .arg(self.dir())
            .args(["bash", "-c", script])
            .stdin(Stdio::null())
            .output()
            .expect("nsenter");
        assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Starts a program in a session of its own, in DIR, its standard descriptors
    /// at `/dev/null`, opened inside: nothing of it belongs to the world outside.
    pub fn start(&self, program: &Path, args: &[&str]) {
        // By way of a shell, because what nsenter opened would be of the outer mount namespace.
        // It also closes what we may have inherited ourselves.
        let line = r#"for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ "$fd" -lt 3 ] || eval "exec $fd>&-"; done
            exec setsid --fork "$@" </dev/null >/dev/null 2>&1"#;
        let mut all = vec!["-c", line, "sh"];
        let program = program.to_str().expect("utf-8");
        all.push(program);
        all.extend(args);
        let ended = self.run(Path::new("/bin/bash"), &all, "start.log");
        assert!(
            ended.success(),
            "start of {program}: {ended:?} {}",
            tail(&self.path("start.log"), 20)
        );
    }

    /// The same in further namespaces of its own: `kinds` is a list of `pid`, `uts`, `ipc`, `net`,
    /// `mnt`, `user`, `time`, `cgroup`, with commas; `ns` and `uns` are those of a container,
    /// without and with a user namespace. With `pid` an init is the root of the tree; what `mnt`
    /// makes is restored with `--root DIR/root`.
    pub fn start_in(&self, kinds: &str, program: &Path, args: &[&str]) {
        let kinds = match kinds {
            "ns" => "pid,mnt,net,uts,ipc",
            "uns" => "user,pid,mnt,net,uts,ipc",
            kinds => kinds,
        };
        if kinds.split(',').any(|kind| kind == "mnt") {
            self.shell(
                "mkdir root dev dev/pts dev/shm; mount --bind / root
                ln -s pts/ptmx dev/ptmx
                for fd in stdin:0 stdout:1 stderr:2; do ln -s /proc/self/fd/${fd#*:} dev/${fd%:*}; done
                ln -s /proc/self/fd dev/fd
                mknod -m 666 dev/null c 1 3; mknod -m 666 dev/zero c 1 5; mknod -m 666 dev/full c 1 7
                mknod -m 666 dev/random c 1 8; mknod -m 666 dev/urandom c 1 9
                mknod -m 666 dev/tty c 5 0; mknod -m 600 dev/console c 5 1",
            );
        }
        let (dir, program) = (self.dir().to_str().expect("utf-8"), program.to_str());
        let mut all = vec![dir, kinds, program.expect("utf-8")];
        all.extend(args);
        self.start(&tool("flavour"), &all);
        // The program may be ready before its parent has written down who it is from here.
        let ended = || self.said().iter().any(|line| !line.starts_with("ready"));
        wait_for(LIMIT, || self.root_pid().or_else(|| ended().then(String::new)));
    }

    /// The root of the tree that [`Self::start_in`] made, as seen inside.
    pub fn root_pid(&self) -> Option<String> {
        fs::read_to_string(self.path("root.pid")).ok().filter(|pid| !pid.is_empty())
    }

    /// Starts `tests/subjects/NAME.c` on DIR and waits until it is ready: the pid to dump, as seen
    /// inside. `kinds` are as in [`Self::start_in`], none for the sandbox's own namespaces.
    pub fn start_subject(&self, kinds: &str, name: &str, more: &[&str]) -> String {
        let mut args = vec![self.dir().to_str().expect("utf-8")];
        args.extend(more);
        match kinds {
            "" => self.start(&subject(name), &args),
            kinds => self.start_in(kinds, &subject(name), &args),
        }
        self.ready()
    }

    /// The same for a subject that was started in another way.
    pub fn ready(&self) -> String {
        let heard = self.hear(&["ready", "bad", "skip"], LIMIT).expect("never got ready");
        let pid = heard.strip_prefix("ready ").unwrap_or_else(|| panic!("{heard}"));
        self.root_pid().unwrap_or_else(|| pid.to_owned())
    }

    /// DIR/images, made now.
    pub fn make_images(&self) -> PathBuf {
        let images = self.path("images");
        fs::create_dir(&images).expect("images");
        images
    }

    /// What the subject has said, line by line.
    pub fn said(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("state")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until the subject says a line with one of these first words.
    pub fn hear(&self, words: &[&str], limit: Duration) -> Option<String> {
        let first = |line: &String| {
            let word = line.split([' ', ':']).next().unwrap_or_default().to_owned();
            words.contains(&word.as_str())
        };
        wait_for(limit, || self.said().into_iter().find(first))
    }

    /// Lets the subject check itself, and waits until all have ended. Panics with what it said.
    pub fn finish(&self) {
        self.go();
        let heard = self.hear(&["ok", "bad"], LIMIT);
        assert_eq!(heard.as_deref(), Some("ok"), "{:?}", self.said());
        self.empty().expect("all ended");
    }

    /// Lets the subject go on.
    pub fn go(&self) {
        File::create(self.path("go")).expect("DIR/go");
    }

    /// Pids alive inside, as seen inside, process 1 left out. Zombies count.
    pub fn pids(&self) -> Vec<u32> {
        let entries = fs::read_dir(self.inside("/proc")).expect("/proc inside");
        let names = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        let mut pids: Vec<u32> = names.filter(|pid| *pid != 1).collect();
        pids.sort_unstable();
        pids
    }

    /// Those that are called so (`comm`): a program that was started is its parent's until it is executed.
    pub fn called(&self, name: &str) -> Vec<u32> {
        let comm = |pid: &u32| fs::read_to_string(self.inside(&format!("/proc/{pid}/comm")));
        let is_it = |pid: &u32| comm(pid).is_ok_and(|comm| comm.trim_end() == name);
        self.pids().into_iter().filter(is_it).collect()
    }

    /// Whether all is gone but process 1, within the time that reaping needs (on a machine that is
    /// emulated, too).
    pub fn empty(&self) -> Result<(), String> {
        let gone = wait_for(Duration::from_secs(30), || self.pids().is_empty().then_some(()));
        gone.ok_or_else(|| {
            let left = self.pids().into_iter().map(|pid| {
                let stat = self.inside(&format!("/proc/{pid}/stat"));
                fs::read_to_string(stat).unwrap_or_default()
            });
            format!("processes left: {}", left.collect::<String>())
        })
    }

    /// Ends everything inside.
    pub fn kill_all(&self) {
        let init = i32::try_from(self.init).expect("pid");
        _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(init), nix::sys::signal::SIGKILL);
    }

    /// Keeps the directory, for a look after a failure.
    pub fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill_all();
        drop(self.unshare.kill());
        drop(self.unshare.wait());
        if std::env::var_os("AMBER_KEEP").is_some() {
            self.keep();
        }
    }
}
