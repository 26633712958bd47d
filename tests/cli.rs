//! The binary as scripts and clients meet it: exit codes, texts, log files, config files.
//!
//! What is expected here was seen in CRIU 4.2.1.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

struct Criu {
    dir: TempDir,
}

#[derive(Debug)]
struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Criu {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap()
    }

    /// Runs with arguments separated by blanks, in a directory and home of its own.
    fn run(&self, line: &str) -> Ended {
        self.run_with(line, &[])
    }

    fn run_with(&self, line: &str, env: &[(&str, &str)]) -> Ended {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_criu"))
            .args(line.split_whitespace())
            .current_dir(self.path())
            .env("HOME", self.path())
            .env_remove("CRIU_CONFIG_FILE")
            .envs(env.iter().copied())
            .output()
            .unwrap();
        Ended {
            code: status.code().expect("ended by a signal"),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Expects exit code 1 and `why` as the whole of the last error.
    fn fails(&self, line: &str, why: &str) {
        let ended = self.run(line);
        assert_eq!(ended.code, 1, "{line}: {ended:?}");
        let last = ended.err.lines().last().unwrap_or_default();
        let text = last.split_once("): ").map_or(last, |(_, text)| text);
        assert_eq!(text, why, "{line}");
    }
}

#[test]
fn help_and_version_succeed_on_standard_output() {
    let criu = Criu::new();
    for line in ["-h", "--help", "check -h", "-V -h"] {
        let ended = criu.run(line);
        assert_eq!(ended.code, 0, "{line}");
        assert!(ended.out.contains("--images-dir DIR") && ended.err.is_empty(), "{line}");
    }
    for line in ["-V", "--version", "dump --version"] {
        let ended = criu.run(line);
        assert_eq!((ended.code, ended.out.as_str()), (0, "Version: 4.2\n"), "{line}");
    }
}

#[test]
fn the_help_names_every_option_scripts_look_for() {
    let help = Criu::new().run("--help").out;
    for option in ["--tree", "--lazy-pages", "--pre-dump-mode", "--inherit-fd", "--cgroup-props"] {
        assert!(help.contains(option), "{option}");
    }
    assert!(help.lines().all(|l| l.len() < 80));
}

#[test]
fn bad_usage_shows_the_usage_and_fails() {
    let criu = Criu::new();
    for (line, err) in [
        ("", ""),
        ("--no-such", "criu: unrecognized option '--no-such'"),
        ("foo", "unknown command: foo"),
        ("dump -t 9 extra", "excessive parameter for command dump"),
        ("cpuinfo", "cpuinfo requires an action: dump or check"),
        ("cpuinfo foo", "unknown cpuinfo sub-command: foo"),
        ("restore --exec-cmd", "--exec-cmd requires a command"),
        ("check --stream", "--stream cannot be used with the check command"),
        (
            "restore --exec-cmd -d -- ls",
            "--restore-detached and --exec-cmd cannot be used together",
        ),
    ] {
        let ended = criu.run(line);
        assert_eq!(ended.code, 1, "{line}");
        assert!(ended.out.starts_with("\nUsage:\n"), "{line}: {ended:?}");
        assert!(ended.err.trim_end().ends_with(err), "{line}: {ended:?}");
    }
}

#[test]
fn refusals_are_in_crius_words() {
    let criu = Criu::new();
    criu.fails("dump", "pid not specified");
    criu.fails("dump -t 0", "invalid argument for -t: 0");
    criu.fails("dump --tree abc", "invalid argument for --tree: abc");
    criu.fails("restore -S", "--restore-sibling only makes sense with --restore-detached");
    criu.fails("dump -t 1 --inherit-fd fd[1]:foo", "--inherit-fd is restore-only option");
    criu.fails("restore --inherit-fd foo", "Invalid inherit fd argument: foo");
    criu.fails("pre-dump -t 1 --lazy-pages", "Cannot pre-dump with --lazy-pages");
    criu.fails("dump -t 1 --network-lock foo", "Invalid value for --network-lock: foo");
    criu.fails("dump -t 1 --pre-dump-mode x", "Unable to parse value of --pre-dump-mode");
    criu.fails("restore -J net:1 --empty-ns net", "Conflicting flags: --join-ns and --empty-ns");
    criu.fails("check --ms", "--ms is deprecated; see \"Check options\" of criu --help");
    criu.fails("check --feature list", "Unknown feature list");
    criu.fails(
        "dump -t 1 -D /nonexistent",
        "Couldn't open image dir /nonexistent: No such file or directory (os error 2)",
    );
    criu.fails("swrk", "Usage: criu swrk <fd>");
}

#[test]
fn deprecated_commands_end_with_minus_one() {
    let criu = Criu::new();
    let exec = criu.run("exec");
    assert_eq!(exec.code, 255);
    assert!(exec.err.contains("The \"exec\" action is deprecated by the Compel library."));
    let show = criu.run("show");
    assert_eq!(show.code, 255);
    assert!(show.err.contains("The \"show\" action is deprecated by the CRIT utility."));
}

#[test]
fn what_is_not_built_is_refused_and_the_log_says_so() {
    let criu = Criu::new();
    let ended = criu.run("dump -t 1 --stream -o dump.log -v4");
    assert_eq!((ended.code, ended.err.as_str()), (1, ""));
    let log = criu.read("dump.log");
    let mut lines = log.lines();
    assert!(lines.next().unwrap().ends_with(") Version: 4.2 (gitid 0)"), "{log}");
    assert!(lines.any(|l| l.contains(") Running on ")), "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.starts_with("(00.") && last.contains(") Error (src/"), "{last}");
    assert!(last.ends_with("): not supported yet: --stream"), "{last}");
}

#[test]
fn the_log_is_private_made_anew_and_in_the_work_directory() {
    use std::os::unix::fs::PermissionsExt as _;
    let criu = Criu::new();
    fs::create_dir(criu.path().join("work")).unwrap();
    for _ in 0..2 {
        criu.run("restore --stream -D . -W work -o x.log -v1");
        let log = criu.read("work/x.log");
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.starts_with("Error (src/"), "{log}");
    }
    let mode = fs::metadata(criu.path().join("work/x.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    criu.fails(
        "check -o no/such",
        "Can't create log file no/such: No such file or directory (os error 2)",
    );
}

#[test]
fn a_dash_logs_to_standard_output() {
    let ended = Criu::new().run("check --feature mnt_id -v3 -o -");
    assert_eq!(ended.code, 0);
    assert!(ended.out.contains("Running on ") && ended.err.is_empty(), "{ended:?}");
}

#[test]
fn later_configuration_wins() {
    let criu = Criu::new();
    let level = |ended: Ended| {
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.err.contains("Version:")
    };
    fs::create_dir(criu.path().join(".criu")).unwrap();
    criu.write(".criu/default.conf", "verbosity 4\n# comment\n");
    criu.write("quiet", "verbosity=1\n");
    let check = "check --feature mnt_id";
    assert!(level(criu.run(check)));
    assert!(!level(criu.run(&format!("{check} --no-default-config"))));
    assert!(!level(criu.run(&format!("{check} -v1"))));
    assert!(!level(criu.run_with(check, &[("CRIU_CONFIG_FILE", "quiet")])));
    assert!(!level(criu.run(&format!("{check} --config quiet"))));
    criu.write("loud", "verbosity=4\n");
    let env = [("CRIU_CONFIG_FILE", "quiet")];
    assert!(level(criu.run_with(&format!("{check} --config loud"), &env)));
}

#[test]
fn config_files_hold_options_only() {
    let criu = Criu::new();
    let format = "Unsupported configuration file format. Please consult man page criu(8)";
    for (text, why) in [("tree \"5\n", format), ("tree 5 6\n", format)] {
        criu.write("c", text);
        criu.fails("check --config c", why);
    }
    criu.write("c", "check\n");
    let ended = criu.run("check --config c");
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("unrecognized option '--check'"), "{ended:?}");
}

#[test]
fn check_answers_by_exit_code() {
    let criu = Criu::new();
    let yes = criu.run("check --feature mnt_id");
    assert_eq!((yes.code, yes.out.as_str()), (0, "mnt_id is supported\n"));
    // As zdtm.py calls it.
    let zdtm = criu.run("check --no-default-config -verbosity=0 --feature mem_dirty_track");
    let answer = (zdtm.code, zdtm.out.as_str());
    let known = [(0, "mem_dirty_track is supported\n"), (1, "")];
    assert!(known.contains(&answer) && zdtm.err.is_empty(), "{zdtm:?}");
}

#[test]
fn cpuinfo_is_checked_against_its_own_dump() {
    let criu = Criu::new();
    assert_eq!(criu.run("cpuinfo dump").code, 0);
    assert_eq!(criu.run("cpuinfo check --cpu-cap").code, 0);
    fs::remove_file(criu.path().join("cpuinfo.img")).unwrap();
    assert_eq!(criu.run("cpuinfo check").code, 1);
}

#[test]
fn the_binary_is_crit_by_that_name_and_verb() {
    let criu = Criu::new();
    assert_eq!(criu.run("cpuinfo dump").code, 0);
    let crit = criu.path().join("crit");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_criu"), &crit).unwrap();
    let image = criu.path().join("cpuinfo.img");
    let mut by_name = Command::new(crit);
    let mut by_verb = Command::new(env!("CARGO_BIN_EXE_criu"));
    for command in [&mut by_name, by_verb.arg("crit")] {
        let ended = command.args(["decode", "-i"]).arg(&image).output().unwrap();
        let text = String::from_utf8(ended.stdout).unwrap();
        assert!(ended.status.success() && text.contains("\"CPUINFO\""), "{text}");
    }
}
