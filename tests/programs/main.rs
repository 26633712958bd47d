// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that people run, checkpointed and restored, asked before and after.

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;
use support::{
    Criu, LIMIT, Sandbox, directions, dump, has_capability, in_ci, restore, skip, tail, tool,
    wait_for,
};

/// A program and how to talk to it; all are bash scripts run in the sandbox, in its directory.
#[derive(Debug, Default)]
struct Program {
    name: &'static str,
    /// Must be in `PATH`.
    needs: &'static [&'static str],
    /// Files it needs, with content.
    files: &'static [(&'static str, &'static str)],
    /// Ends with `exec` of the program; its pid is the root of the tree.
    start: &'static str,
    /// Succeeds once the program is up; puts state into it.
    before: &'static str,
    /// Succeeds if the restored program still has it, and does new work.
    after: &'static str,
    /// Words of the error with which ours refuses it; it must run on. Stock has no part then.
    refused: Option<&'static str>,
    /// Namespaces of its own: see [`Sandbox::start_in`].
    flavour: Option<&'static str>,
    /// A system call that does not exist for it, by number (io_uring_setup is 425).
    denied: Option<&'static str>,
    /// It runs as another user, whom stock cannot dump without CAP_SYS_RESOURCE.
    other_user: bool,
}

impl Program {
    fn check(&self) {
        if let Some(missing) = self.needs.iter().find(|n| !installed(n)) {
            assert!(!in_ci(), "{missing} is not installed");
            return skip(self.name, &format!("{missing} is not installed"));
        }
        let stock = Criu::stock();
        let mut failures = vec![];
        for (by, to) in directions(&Criu::ours(), stock.as_ref()) {
            let direction = format!("{} ({} -> {})", self.name, by.name, to.name);
            let stock_takes_part =
                [&by, &to].iter().any(|c| c.name == "stock") || Criu::ours_is_stock();
            if self.refused.is_some() && stock_takes_part {
                continue;
            }
            let by_stock = by.name == "stock" || Criu::ours_is_stock();
            if self.other_user && by_stock && !has_capability(24) {
                skip(&direction, "prlimit of another user's task needs CAP_SYS_RESOURCE");
                continue;
            }
            if let Err(what) = self.one(&by, &to) {
                failures.push(format!("=== {direction}: {what}"));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    fn one(&self, by: &Criu, to: &Criu) -> Result<(), String> {
        let sandbox = Sandbox::new(self.name);
        for (name, content) in self.files {
            fs::write(sandbox.path(name), content).expect("file of the program");
        }
        let start = format!(
            "exec </dev/null >out.log 2>&1; echo $$ >pid.new; mv pid.new pid; {}",
            self.start
        );
        let bash = Path::new("/bin/bash");
        match (self.flavour, self.denied) {
            (Some(kinds), _) => sandbox.start_in(kinds, bash, &["-c", &start]),
            (None, None) => sandbox.start(bash, &["-c", &start]),
            (None, Some(call)) => {
                sandbox.start(&tool("refuse"), &[call, "/bin/bash", "-c", &start]);
            }
        }
        self.ask(&sandbox, "before", self.before)?;
        let pid = fs::read_to_string(sandbox.path("pid")).expect("pid");
        let pid = sandbox.root_pid().unwrap_or(pid);
        let images = sandbox.path("images");
        fs::create_dir(&images).expect("images");
        let dumped = dump(&sandbox, by, pid.trim(), &images, &[]);
        if let Some(words) = self.refused {
            return match dumped {
                Ok(()) => Err("the dump went through: was this built meanwhile?".to_owned()),
                Err(said) if said.contains(words) => self.ask(&sandbox, "after", self.after),
                Err(said) => Err(format!("no error with `{words}`: {said}")),
            };
        }
        dumped?;
        sandbox.empty().map_err(|left| format!("after the dump: {left}"))?;
        restore(&sandbox, to, &images, &[])?;
        self.ask(&sandbox, "after", self.after)
            .map_err(|e| format!("{e}\n{}", tail(&images.join("restore.log"), 10)))
    }

    /// Repeats a script until it succeeds.
    fn ask(&self, sandbox: &Sandbox, when: &str, script: &str) -> Result<(), String> {
        let log = format!("{when}.log");
        let asked = wait_for(LIMIT / 2, || {
            std::thread::sleep(Duration::from_millis(50));
            let script = format!("set -eo pipefail; {script}");
            sandbox.run(Path::new("/bin/bash"), &["-c", &script], &log).success().then_some(())
        });
        let logs = || tail(&sandbox.path(&log), 10) + &tail(&sandbox.path("out.log"), 10);
        asked.ok_or_else(|| format!("no answer {when}: {}", logs()))
    }
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(extra).any(|dir| dir.join(program).exists())
}

#[test]
fn python_with_threads_goes_on_counting() {
    Program {
        name: "python",
        needs: &["python3"],
        files: &[("count.py", include_str!("count.py"))],
        start: "exec /usr/bin/python3 count.py",
        before: "test $(cat count.0) -gt 5 && test $(cat count.3) -gt 5",
        after: r#"for i in 0 1 2 3; do [ -e seen.$i ] || cp count.$i seen.$i; done
            for i in 0 1 2 3; do test $(cat count.$i) -gt $(cat seen.$i); done
            test "$(cat memory)" = intact && ! [ -e broken ]"#,
        ..Program::default()
    }
    .check();
}

#[test]
fn redis_keeps_its_data() {
    Program {
        name: "redis",
        needs: &["redis-server", "redis-cli"],
        start: r#"exec redis-server --port 6400 --bind 127.0.0.1 --save "" --appendonly no --daemonize no"#,
        before: r#"redis-cli -p 6400 set planet earth | grep -q OK
            seq 1 2000 | sed 's/.*/set key:& value&/' | redis-cli -p 6400 >/dev/null"#,
        after: r#"test "$(redis-cli -p 6400 get planet)" = earth
            test "$(redis-cli -p 6400 get key:1234)" = value1234
            redis-cli -p 6400 incr visits | grep -q '[0-9]'"#,
        ..Program::default()
    }
    .check();
}

fn postgres(start: &'static str) -> Program {
    Program {
        name: "postgres",
        needs: &["pg_config", "setpriv"],
        start,
        other_user: true,
        before: r#"psql="setpriv --reuid postgres --regid postgres --clear-groups $(pg_config --bindir)/psql -h $PWD/db -At"
            $psql -c "create table if not exists t(n int); insert into t select generate_series(1,1000)" postgres"#,
        after: r#"psql="setpriv --reuid postgres --regid postgres --clear-groups $(pg_config --bindir)/psql -h $PWD/db -At"
            test $($psql -c "select sum(n)/count(*) from t" postgres) = 500
            $psql -c "insert into t values (500),(501)" -c checkpoint postgres | grep -q CHECKPOINT"#,
        ..Program::default()
    }
}

macro_rules! postgres {
    ($shm:literal) => {
        postgres(concat!(
            r#"bin=$(pg_config --bindir); mkdir db; chown postgres db
            as="setpriv --reuid postgres --regid postgres --clear-groups"
            $as $bin/initdb -D db -A trust -N >/dev/null
            exec $as $bin/postgres -D db -k "$PWD/db" -c listen_addresses= -c shared_memory_type="#,
            $shm,
            " -c dynamic_shared_memory_type=",
            $shm,
            " -c huge_pages=off -c fsync=off"
        ))
    };
}

/// Even with `shared_memory_type=mmap` it keeps a small System V segment as a lock on its
/// directory. Such segments belong to an ipc namespace, which is saved as a whole or not at all.
#[test]
fn postgres_is_refused_for_its_sysv_segment_and_runs_on() {
    Program { refused: Some("System V"), ..postgres!("mmap") }.check();
}

#[test]
fn postgres_goes_on_in_ipc_and_pid_namespaces_of_its_own() {
    Program { flavour: Some("pid,ipc"), ..postgres!("mmap") }.check();
}

#[test]
fn postgres_keeps_its_buffers_in_system_v_segments() {
    Program { flavour: Some("pid,ipc"), ..postgres!("sysv") }.check();
}

#[test]
fn a_java_machine_goes_on() {
    Program {
        name: "java",
        needs: &["java"],
        files: &[("Count.java", include_str!("Count.java"))],
        start: "exec java -Xmx64m -XX:+UseSerialGC Count.java",
        before: "test $(cat count.0) -gt 5 && test $(cat count.1) -gt 5",
        after: r#"for i in 0 1; do [ -e seen.$i ] || cp count.$i seen.$i; done
            for i in 0 1; do test $(cat count.$i) -gt $(cat seen.$i); done
            test "$(cat map)" = intact"#,
        ..Program::default()
    }
    .check();
}

#[test]
fn node_serves_on() {
    Program {
        name: "node",
        needs: &["node"],
        files: &[("serve.js", include_str!("serve.js")), ("ask.js", include_str!("ask.js"))],
        start: "exec node serve.js",
        // On Debian 13 it makes rings, which nobody can save; in containers it may not.
        denied: Some("425"),
        before: "node ask.js | grep -q '^visits [1-9]'",
        after: "n=$(node ask.js); test ${n#visits } -ge 2",
        ..Program::default()
    }
    .check();
}

#[test]
fn nginx_serves_with_its_workers() {
    Program {
        name: "nginx",
        needs: &["nginx"],
        files: &[("nginx.conf", include_str!("nginx.conf")), ("index.html", "a page\n")],
        start: r#"exec nginx -p "$PWD" -e error.log -c nginx.conf"#,
        before: r#"exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET / HTTP/1.0\r\n\r\n' >&3; grep -q '^a page' <&3
            test $(wc -w </proc/$(cat pid)/task/$(cat pid)/children) = 2"#,
        after: r#"for i in 1 2 3 4 5 6; do
                exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET / HTTP/1.0\r\n\r\n' >&3; grep -q '^a page' <&3
            done
            test $(wc -w </proc/$(cat pid)/task/$(cat pid)/children) = 2"#,
        ..Program::default()
    }
    .check();
}

#[test]
fn a_shell_with_a_pipeline_goes_on() {
    Program {
        name: "shell",
        needs: &["bash"],
        start: r#"i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done | sed -u 's/^/line /' |
            while read -r word n; do echo "$word $n" >last.new; mv last.new last; done"#,
        before: "read -r _ n <last; test $n -gt 5",
        after: "[ -e seen ] || cp last seen; read -r _ a <seen; read -r _ b <last; test $b -gt $((a+20))",
        ..Program::default()
    }
    .check();
}
