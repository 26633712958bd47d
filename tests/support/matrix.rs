// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One subject through all directions: ours to ours, ours to stock, stock to ours.

use super::{Criu, LIMIT, Sandbox, skip, subject, tail};
use std::path::Path;

/// Who dumps and who restores.
#[derive(Clone, Debug)]
pub struct Direction {
    dump: Criu,
    restore: Criu,
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {}", self.dump.name, self.restore.name)
    }
}

/// A subject and what is known of it.
#[derive(Debug)]
pub struct Subject {
    name: &'static str,
    args: Vec<&'static str>,
    dump_args: Vec<&'static str>,
    restore_args: Vec<&'static str>,
    no_stock_dump: Option<&'static str>,
    no_stock_restore: Option<&'static str>,
    prepare: Option<&'static str>,
    meanwhile: Option<fn(&Sandbox)>,
    between: Option<&'static str>,
    refused: Option<&'static str>,
    rounds: usize,
    flavour: Option<String>,
    chain: Option<usize>,
}

impl Subject {
    /// `tests/subjects/NAME.c`
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            args: vec![],
            dump_args: vec![],
            restore_args: vec![],
            no_stock_dump: None,
            no_stock_restore: None,
            prepare: None,
            meanwhile: None,
            between: None,
            refused: None,
            rounds: 1,
            flavour: std::env::var("AMBER_FLAVOUR").ok().filter(|f| f != "host"),
            chain: None,
        }
    }

    /// Further arguments of the subject, after the directory.
    pub fn args(mut self, args: &[&'static str]) -> Self {
        self.args.extend(args);
        self
    }

    /// Options of `dump`.
    pub fn dump_args(mut self, args: &[&'static str]) -> Self {
        self.dump_args.extend(args);
        self
    }

    /// Options of `restore`.
    pub fn restore_args(mut self, args: &[&'static str]) -> Self {
        self.restore_args.extend(args);
        self
    }

    /// Dumps and restores so many times: what was restored must be whole enough for it.
    pub fn rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds;
        self
    }

    /// Runs it in namespaces of its own: see [`Sandbox::start_in`]. `AMBER_FLAVOUR` says the same
    /// for all subjects that do not say it themselves.
    pub fn flavour(mut self, kinds: &str) -> Self {
        self.flavour = (kinds != "host").then(|| kinds.to_owned());
        self
    }

    /// Each dump is the last of so many in an incremental chain.
    pub fn chain(mut self, length: usize) -> Self {
        self.chain = Some(length);
        self
    }

    /// A shell line run in the sandbox before the subject starts.
    pub fn prepare(mut self, line: &'static str) -> Self {
        self.prepare = Some(line);
        self
    }

    /// What somebody else does when the subject has set the mark `made`; it goes on from the mark
    /// `done`.
    pub fn meanwhile(mut self, act: fn(&Sandbox)) -> Self {
        self.meanwhile = Some(act);
        self
    }

    /// A shell line run in the sandbox between a dump and the restore.
    pub fn between(mut self, line: &'static str) -> Self {
        self.between = Some(line);
        self
    }

    /// Lost by stock: its images cannot carry this state, or its dump refuses it.
    pub fn lost_by_stock(mut self, why: &'static str) -> Self {
        self.no_stock_dump = Some(why);
        self.no_stock_restore = Some(why);
        self
    }

    /// Stock refuses to dump this, or forgets it.
    pub fn stock_cannot_dump(mut self, why: &'static str) -> Self {
        self.no_stock_dump = Some(why);
        self
    }

    /// Stock cannot bring this back from any images.
    pub fn stock_cannot_restore(mut self, why: &'static str) -> Self {
        self.no_stock_restore = Some(why);
        self
    }

    /// Ours refuses to dump this, in an error with these words, and the subject runs on.
    pub fn refused(mut self, words: &'static str) -> Self {
        self.refused = Some(words);
        self
    }

    /// Stock refuses tasks of other users where `prlimit` needs a capability we lack.
    pub fn other_user(self) -> Self {
        let can_prlimit = has_capability(24);
        if can_prlimit {
            return self;
        }
        self.stock_cannot_dump("prlimit of another user's task needs CAP_SYS_RESOURCE, not here")
    }

    /// Runs all directions. Panics with the logs if one of them loses state.
    pub fn check(self) {
        let ours = Criu::ours();
        let stock = Criu::stock();
        let mut failures = vec![];
        let mut ran = 0;
        if self.refused.is_some() && !Criu::ours_is_stock() {
            let sandbox = Sandbox::new(self.name);
            return self
                .is_refused(&sandbox)
                .unwrap_or_else(|what| panic!("{}: {what}", self.name));
        }
        for (dump, restore) in directions(&ours, stock.as_ref()) {
            let direction = Direction { dump, restore };
            let by_stock = |criu: &Criu| criu.name == "stock" || Criu::ours_is_stock();
            let cannot = [
                self.no_stock_dump.filter(|_| by_stock(&direction.dump)),
                self.no_stock_restore.filter(|_| by_stock(&direction.restore)),
            ];
            if let Some(why) = cannot.into_iter().flatten().next() {
                skip(&format!("{} ({direction})", self.name), why);
                continue;
            }
            match self.one(&direction) {
                Ok(Outcome::Passed) => ran += 1,
                Ok(Outcome::Skipped(why)) => return skip(self.name, &why),
                Err(what) => failures.push(format!("=== {} ({direction}): {what}", self.name)),
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        let all = std::env::var_os("AMBER_DIRECTION").is_none() && !Criu::ours_is_stock();
        assert!(ran > 0 || !all, "{}: no direction ran", self.name);
    }

    fn one(&self, direction: &Direction) -> Result<Outcome, String> {
        let mut sandbox = Sandbox::new(self.name);
        let done = self.dump_and_restore(&sandbox, direction);
        if done.is_err() && std::env::var_os("AMBER_KEEP_FAILED").is_some() {
            sandbox.keep();
        }
        done
    }

    fn start(&self, sandbox: &Sandbox) -> Result<Started, String> {
        if let Some(line) = self.prepare {
            sandbox.shell(line);
        }
        let dir = sandbox.dir().to_str().expect("utf-8");
        let mut args = vec![dir];
        args.extend(&self.args);
        match &self.flavour {
            Some(kinds) => sandbox.start_in(kinds, &subject(self.name), &args),
            None => sandbox.start(&subject(self.name), &args),
        }
        if let Some(act) = self.meanwhile {
            let made = sandbox.path("made");
            super::wait_for(LIMIT, || made.exists().then_some(())).ok_or("made nothing")?;
            act(sandbox);
            sandbox.shell("touch done");
        }
        let heard = sandbox.hear(&["ready", "bad", "skip"], LIMIT).ok_or("never got ready")?;
        if let Some(why) = heard.strip_prefix("skip: ") {
            return Ok(Started::Skipped(why.to_owned()));
        }
        let pid = heard.strip_prefix("ready ").ok_or_else(|| format!("set-up: {heard}"))?;
        Ok(Started::Ready(sandbox.root_pid().unwrap_or_else(|| pid.to_owned())))
    }

    fn is_refused(&self, sandbox: &Sandbox) -> Result<(), String> {
        let pid = match self.start(sandbox)? {
            Started::Ready(pid) => pid,
            Started::Skipped(why) => {
                skip(self.name, &why);
                return Ok(());
            }
        };
        let images = sandbox.path("images");
        std::fs::create_dir(&images).expect("images directory");
        let Err(said) = dump(sandbox, &Criu::ours(), &pid, &images, &self.dump_args) else {
            return Err("the dump went through: was this built meanwhile?".to_owned());
        };
        let words = self.refused.unwrap_or_default();
        if !said.lines().any(|line| line.contains("Error") && line.contains(words)) {
            return Err(format!("no error with `{words}`: {said}"));
        }
        sandbox.go();
        match sandbox.hear(&["ok", "bad"], LIMIT) {
            Some(heard) if heard == "ok" => sandbox.empty(),
            heard => Err(format!("after the refused dump: {heard:?}")),
        }
    }

    /// The pre-dumps of one round, if there are to be any; the last one's directory as seen from
    /// the next.
    fn pre_dumps(
        &self,
        sandbox: &Sandbox,
        direction: &Direction,
        pid: &str,
        round: usize,
    ) -> Result<Option<String>, String> {
        // Stock needs a kernel with soft-dirty bits.
        if direction.dump.name == "stock" {
            return Ok(None);
        }
        // AMBER_CHAIN=3: every dump is the third of a chain, behind two pre-dumps.
        let asked = std::env::var("AMBER_CHAIN").ok().and_then(|n| n.parse().ok());
        let length = self.chain.or(asked).unwrap_or(1);
        let mut before: Option<String> = None;
        for link in 1..length {
            let dir = format!("before{round}-{link}");
            let images = sandbox.path(&dir);
            std::fs::create_dir(&images).expect("images directory");
            let mut args = vec!["--track-mem"];
            if let Some(previous) = &before {
                args.extend(["--prev-images-dir", previous]);
            }
            pre_dump(sandbox, &direction.dump, pid, &images, &args)?;
            before = Some(format!("../{dir}"));
        }
        Ok(before)
    }

    fn dump_and_restore(
        &self,
        sandbox: &Sandbox,
        direction: &Direction,
    ) -> Result<Outcome, String> {
        let mut pid = match self.start(sandbox)? {
            Started::Ready(pid) => pid,
            Started::Skipped(why) => return Ok(Outcome::Skipped(why)),
        };

        let mut images = sandbox.path("images");
        for round in 0..self.rounds {
            images = sandbox.path(&format!("images{round}"));
            std::fs::create_dir(&images).expect("images directory");
            let before = self.pre_dumps(sandbox, direction, &pid, round)?;
            let mut args = self.dump_args.clone();
            if let Some(previous) = &before {
                args.extend(["--track-mem", "--prev-images-dir", previous]);
            }
            dump(sandbox, &direction.dump, &pid, &images, &args)?;
            sandbox.empty().map_err(|left| format!("after dump {round}: {left}"))?;
            let lines = sandbox.said();
            if lines.len() != 1 {
                return Err(format!("the subject noticed dump {round}: {lines:?}"));
            }
            if let Some(line) = self.between {
                sandbox.shell(line);
            }
            if self.flavour.is_none() {
                restore(sandbox, &direction.restore, &images, &self.restore_args)?;
                continue;
            }
            // In its own pid namespace the root has another number outside each time.
            let pidfile = sandbox.path(&format!("root.pid.{round}"));
            let mut args = vec!["--pidfile", pidfile.to_str().expect("utf-8")];
            args.extend(&self.restore_args);
            let root = sandbox.path("root");
            if root.exists() {
                args.extend(["--root", root.to_str().expect("utf-8")]);
            }
            restore(sandbox, &direction.restore, &images, &args)?;
            pid = std::fs::read_to_string(&pidfile).map_err(|e| format!("pidfile: {e}"))?;
        }
        sandbox.go();
        let logs = || tail(&images.join("dump.log"), 15) + &tail(&images.join("restore.log"), 15);
        let heard = sandbox
            .hear(&["ok", "bad", "skip"], LIMIT)
            .ok_or_else(|| format!("restored, but says nothing\n{}", logs()))?;
        if heard != "ok" {
            return Err(format!("{heard}\n{}", logs()));
        }
        sandbox.empty().map_err(|left| format!("after the end: {left}"))?;
        Ok(Outcome::Passed)
    }
}

enum Started {
    Ready(String),
    Skipped(String),
}

enum Outcome {
    Passed,
    Skipped(String),
}

/// The directions of a matrix, as pairs of who dumps and who restores.
pub fn directions(ours: &Criu, stock: Option<&Criu>) -> Vec<(Criu, Criu)> {
    let mut all = vec![(ours.clone(), ours.clone())];
    if let Some(stock) = stock.filter(|stock| stock.path != ours.path) {
        all.push((ours.clone(), stock.clone()));
        all.push((stock.clone(), ours.clone()));
    }
    // Compressed images are not for stock.
    all.retain(|(dump, restore)| compression().is_none() || dump == restore);
    // AMBER_DIRECTION="stock -> ours" runs only that one.
    if let Ok(only) = std::env::var("AMBER_DIRECTION") {
        all.retain(|(dump, restore)| format!("{} -> {}", dump.name, restore.name) == only);
    }
    all
}

/// `AMBER_COMPRESS=zstd:3`: all dumps by ours are compressed like this.
fn compression() -> Option<String> {
    std::env::var("AMBER_COMPRESS").ok().filter(|codec| codec != "none")
}

/// `criu dump` of the tree of `pid`.
pub fn dump(
    sandbox: &Sandbox,
    criu: &Criu,
    pid: &str,
    images: &Path,
    more: &[&str],
) -> Result<(), String> {
    save(sandbox, criu, "dump", pid, images, more)
}

/// `criu pre-dump` of the tree of `pid`.
pub fn pre_dump(
    sandbox: &Sandbox,
    criu: &Criu,
    pid: &str,
    images: &Path,
    more: &[&str],
) -> Result<(), String> {
    save(sandbox, criu, "pre-dump", pid, images, more)
}

fn save(
    sandbox: &Sandbox,
    criu: &Criu,
    verb: &str,
    pid: &str,
    images: &Path,
    more: &[&str],
) -> Result<(), String> {
    let dir = images.to_str().expect("utf-8");
    let mut args = vec![verb, "-v4", "-o", "dump.log", "-D", dir, "-t", pid];
    let compress = compression().map(|codec| format!("--compress={codec}"));
    if criu.name == "ours" {
        args.extend(compress.as_deref());
    }
    args.extend(more);
    let ended = sandbox.run(&criu.path, &args, "dump.out");
    if ended.success() {
        return Ok(());
    }
    let logs = tail(&images.join("dump.log"), 25) + &tail(&sandbox.path("dump.out"), 10);
    Err(format!("{verb}: {ended:?}\n{logs}"))
}

/// `criu restore`, detached.
pub fn restore(sandbox: &Sandbox, criu: &Criu, images: &Path, more: &[&str]) -> Result<(), String> {
    let dir = images.to_str().expect("utf-8");
    let mut args = vec!["restore", "-v4", "-o", "restore.log", "-D", dir, "-d"];
    args.extend(more);
    let ended = sandbox.run(&criu.path, &args, "restore.out");
    if ended.success() {
        return Ok(());
    }
    let logs = tail(&images.join("restore.log"), 25) + &tail(&sandbox.path("restore.out"), 10);
    Err(format!("restore: {ended:?}\n{logs}"))
}

/// Whether the tests themselves have a capability, by number.
pub fn has_capability(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:")).expect("CapEff");
    let set = u64::from_str_radix(line.trim(), 16).expect("hex");
    set >> number & 1 == 1
}
