// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pages that go to a page server, of ours and of stock CRIU's, in both directions.

use crate::support::{Criu, LIMIT, Sandbox, dump, pre_dump, restore, tail, wait_for};
use std::fs;
use std::path::PathBuf;

/// Pages go as they are, also where all other dumps of the run are compressed.
const PLAIN: &str = "--compress=none";

/// A subject, and pairs of directories: `imgN` of the dump, `psN` of the page server.
struct Flow {
    sandbox: Sandbox,
    pid: String,
}

impl Flow {
    fn of(name: &str) -> Self {
        let sandbox = Sandbox::new(name);
        sandbox.shell("ip link set lo up; mount -t tmpfs none /run");
        let pid = sandbox.start_subject("", name, &[]);
        Self { sandbox, pid }
    }

    fn dir(&self, name: &str, n: usize) -> PathBuf {
        let dir = self.sandbox.path(&format!("{name}{n}"));
        fs::create_dir_all(&dir).expect("directory");
        dir
    }

    /// Starts a server for directory `n`; it listens when this returns.
    fn serve(&self, by: &Criu, n: usize, more: &[&str]) -> String {
        let dir = self.dir("ps", n);
        let pidfile = format!("ps{n}.pid");
        let dir = dir.to_str().expect("utf-8");
        let port = (9000 + n).to_string();
        let args = ["page-server", "-v4", "-o", "ps.log", "-D", dir, "--port", &port];
        let at = self.sandbox.path(&pidfile);
        let daemon = ["--address", "127.0.0.1", "-d", "--pidfile", at.to_str().expect("utf-8")];
        let all = [&args[..], &daemon, more].concat();
        let ended = self.sandbox.run(&by.path, &all, "ps.out");
        assert!(ended.success(), "{ended:?} {}", self.log("ps", n));
        port
    }

    fn log(&self, name: &str, n: usize) -> String {
        let log = if name == "ps" { "ps.log" } else { "dump.log" };
        tail(&self.dir(name, n).join(log), 20) + &tail(&self.sandbox.path("ps.out"), 5)
    }

    /// Waits for a server to end.
    fn served(&self, n: usize) {
        let pid = fs::read_to_string(self.sandbox.path(&format!("ps{n}.pid"))).expect("pidfile");
        let pid: u32 = pid.trim().parse().expect("pid");
        let gone = || (!self.sandbox.pids().contains(&pid)).then_some(());
        wait_for(LIMIT, gone)
            .unwrap_or_else(|| panic!("the server is still there: {}", self.log("ps", n)));
    }

    fn save(&self, by: &Criu, verb: &str, n: usize, more: &[&str]) -> Result<(), String> {
        let images = self.dir("img", n);
        let port = (9000 + n).to_string();
        let mut args = vec!["--page-server", "--address", "127.0.0.1", "--port", &port];
        if by.name == "ours" {
            args.push(PLAIN);
        }
        args.extend(more);
        let run = if verb == "dump" { dump } else { pre_dump };
        run(&self.sandbox, by, &self.pid, &images, &args)
    }

    /// Brings both halves together, restores, and lets the subject check itself.
    fn restore(&self, by: &Criu, n: usize, more: &[&str]) {
        for i in 0..=n {
            self.sandbox.shell(&format!("[ ! -d img{i} ] || cp -n img{i}/*.img ps{i}/"));
        }
        restore(&self.sandbox, by, &self.dir("ps", n), more).expect("restore");
        self.sandbox.finish();
    }

    /// Bytes of contents that a directory holds.
    fn size(&self, name: &str, n: usize) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let entries = fs::read_dir(self.dir(name, n)).expect("images").filter_map(Result::ok);
        let pages = entries.filter(|e| e.file_name().to_string_lossy().starts_with("pages-"));
        pages.map(|e| e.metadata().expect("pages").blocks() * 512).sum()
    }
}

/// Who dumps, who serves, who restores.
fn triples() -> Vec<[Criu; 3]> {
    let ours = Criu::ours();
    let mut all = vec![[ours.clone(), ours.clone(), ours.clone()]];
    if let Some(stock) = Criu::stock().filter(|_| !Criu::ours_is_stock()) {
        all.push([ours.clone(), stock.clone(), ours.clone()]);
        all.push([ours.clone(), stock.clone(), stock.clone()]);
        all.push([stock.clone(), ours.clone(), ours.clone()]);
        all.push([stock.clone(), ours.clone(), stock.clone()]);
        all.push([ours.clone(), ours, stock]);
    }
    all
}

/// Whether there is what some of the tests need at the other end.
fn python() -> bool {
    let there = std::path::Path::new("/usr/bin/python3").exists();
    if !there {
        crate::support::skip("page server", "no /usr/bin/python3");
    }
    there
}

#[test]
fn pages_go_over_the_wire_and_come_back() {
    for name in ["bulk", "maps", "shm", "cow", "tree"] {
        for [by, server, to] in triples() {
            // Segments of the host's ipc namespace are not for stock.
            if name == "shm" && (by.name == "stock" || to.name == "stock") {
                continue;
            }
            let flow = Flow::of(name);
            flow.serve(&server, 0, &[]);
            let said = flow.save(&by, "dump", 0, &[]);
            let who = format!("{name}: {} => {} -> {}", by.name, server.name, to.name);
            assert!(said.is_ok(), "{who}: {said:?}{}", flow.log("ps", 0));
            flow.served(0);
            assert_eq!(flow.size("img", 0), 0, "{who}");
            assert!(flow.dir("ps", 0).join("pages-65537.img").exists(), "{who}");
            flow.restore(&to, 0, &[]);
        }
    }
}

/// What did not change is in the parent images of the server, which only it can see.
#[test]
fn a_chain_grows_at_the_server() {
    let ours = Criu::ours();
    let stock = Criu::stock().unwrap_or_else(Criu::ours);
    for (server, to, dedup) in [
        (&ours, &ours, false),
        (&ours, &stock, true),
        (&stock, &stock, false),
        (&stock, &ours, true),
    ] {
        let flow = Flow::of("bulk");
        let more: &[&str] = if dedup { &["--auto-dedup"] } else { &[] };
        for n in 0..3usize {
            let parent = n.checked_sub(1).map(|p| (format!("../ps{p}"), format!("../img{p}")));
            let (at_server, here) = match &parent {
                Some((a, b)) => (vec!["--prev-images-dir", a], vec!["--prev-images-dir", b]),
                None => (vec![], vec![]),
            };
            flow.serve(server, n, &[&at_server[..], more].concat());
            let verb = if n < 2 { "pre-dump" } else { "dump" };
            let said = flow.save(&ours, verb, n, &[&["--track-mem"], &here[..]].concat());
            assert!(said.is_ok(), "{verb} {n}: {said:?}{}", flow.log("ps", n));
            flow.served(n);
        }
        let sizes = [flow.size("ps", 0), flow.size("ps", 1), flow.size("ps", 2)];
        assert!(sizes[0] > 50 << 20 && sizes[1] < 1 << 20 && sizes[2] < 1 << 20, "{sizes:?}");
        flow.restore(to, 2, &[]);
    }
}

#[test]
fn memory_that_changes_comes_back_through_servers() {
    let ours = Criu::ours();
    let seed = std::env::var("AMBER_SEED").unwrap_or_else(|_| std::process::id().to_string());
    println!("AMBER_SEED={seed}");
    let sandbox = Sandbox::new("mutate");
    sandbox.shell("ip link set lo up; mount -t tmpfs none /run");
    let pid = sandbox.start_subject("", "mutate", &[&seed]);
    let flow = Flow { sandbox, pid };
    for n in 0..5 {
        let (mut at_server, mut here) =
            (vec!["--auto-dedup".to_owned()], vec!["--track-mem".to_owned()]);
        if n > 0 {
            at_server.extend(["--prev-images-dir".into(), format!("../ps{}", n - 1)]);
            here.extend(["--prev-images-dir".into(), format!("../img{}", n - 1)]);
        }
        let words = |all: &[String]| all.to_vec();
        let at_server = words(&at_server);
        flow.serve(&ours, n, &at_server.iter().map(|s| &**s).collect::<Vec<_>>());
        let verb = if n < 4 { "pre-dump" } else { "dump" };
        let here: Vec<_> = here.iter().map(|s| &**s).collect();
        flow.save(&ours, verb, n, &here).expect(verb);
        flow.served(n);
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    flow.restore(&ours, 4, &[]);
}

/// A server that has no parents is sent everything.
#[test]
fn a_server_without_the_parent_gets_all() {
    let ours = Criu::ours();
    let flow = Flow::of("bulk");
    flow.serve(&ours, 0, &[]);
    flow.save(&ours, "pre-dump", 0, &[]).expect("pre-dump");
    flow.served(0);
    flow.serve(&ours, 1, &[]);
    flow.save(&ours, "dump", 1, &["--track-mem", "--prev-images-dir", "../img0"]).expect("dump");
    flow.served(1);
    assert!(flow.size("ps", 1) > 50 << 20);
    assert!(flow.log("img", 1).contains("Dumping finished successfully"));
    flow.restore(&ours, 1, &[]);
}

/// Images here do not have what is at a server: a dump into images here saves all.
#[test]
fn pages_at_a_server_are_no_parent_for_a_dump_here() {
    let ours = Criu::ours();
    let flow = Flow::of("bulk");
    flow.serve(&ours, 0, &[]);
    flow.save(&ours, "pre-dump", 0, &[]).expect("pre-dump");
    flow.served(0);
    let images = flow.dir("ps", 1);
    let args = ["--track-mem", "--prev-images-dir", "../img0"];
    dump(&flow.sandbox, &ours, &flow.pid, &images, &args).expect("dump");
    flow.restore(&ours, 1, &[]);
}

#[test]
fn a_server_that_is_not_there_or_dies_harms_nobody() {
    if !python() {
        return;
    }
    let ours = Criu::ours();
    let flow = Flow::of("bulk");
    let said = flow.save(&ours, "dump", 0, &[]).expect_err("nobody listens");
    assert!(said.contains("page server 127.0.0.1:9000: Connection refused"), "{said}");
    // Takes some of it, and hangs up.
    let script = "import socket\ns = socket.socket()\n\
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
        s.bind(('127.0.0.1', 9001)); s.listen()\nopen('up', 'w')\nc = s.accept()[0]\n\
        c.recv(32); c.send(b'\\0')\nn = 0\nwhile n < 10 << 20: n += len(c.recv(1 << 20))\n";
    fs::write(flow.sandbox.path("bad.py"), script).expect("script");
    let mut python = flow.sandbox.command("/usr/bin/python3".as_ref(), "bad.out");
    let bad = python.arg("bad.py").spawn().expect("python3");
    wait_for(LIMIT, || flow.sandbox.path("up").exists().then_some(())).expect("listens");
    let said = flow.save(&ours, "dump", 1, &[]).expect_err("it hangs up");
    assert!(said.contains("page server 127.0.0.1:9001: "), "{said}");
    assert!(!flow.dir("img", 1).join("inventory.img").exists());
    flow.sandbox.wait(bad, LIMIT);
    flow.sandbox.finish();
}

/// The tree would be frozen as long as the server stands still.
#[test]
fn a_server_that_stands_still_is_given_up() {
    if !python() {
        return;
    }
    let ours = Criu::ours();
    let flow = Flow::of("bulk");
    // One accepts, and answers nothing; one begins well, and then takes no more. By address, and
    // by a descriptor that blocks.
    for (n, answer) in [(0, ""), (1, "\\0"), (2, "\\0")] {
        let port = 9000 + n;
        let script = format!(
            "import os, socket, subprocess, time\ns = socket.socket()\n\
             s.bind(('127.0.0.1', {port})); s.listen()\nopen('up{n}', 'w')\n\
             if {n} == 2:\n  c, d = socket.socketpair(); os.dup2(d.fileno(), 77)\n\
             \x20 p = subprocess.Popen(['{}', 'dump', '-v4', '-o', 'dump.log', '-D', 'img2', '-t', '{}', \
             '--page-server', '--ps-socket', '77', '--timeout', '1'], close_fds=False)\n\
             else: c = s.accept()[0]\n\
             c.recv(32); c.send(b'{answer}')\n\
             if {n} == 2: p.wait(); open('ended2', 'w')\n\
             while not os.path.exists('end{n}'): time.sleep(0.02)\n",
            ours.path.display(),
            flow.pid,
        );
        let images = flow.dir("img", n);
        fs::write(flow.sandbox.path("still.py"), script).expect("script");
        let mut python = flow.sandbox.command("/usr/bin/python3".as_ref(), "still.out");
        let still = python.arg("still.py").spawn().expect("python3");
        let there =
            |name: String| wait_for(LIMIT, || flow.sandbox.path(&name).exists().then_some(()));
        there(format!("up{n}")).expect("listens");
        let (name, said) = if n == 2 {
            there("ended2".to_owned()).unwrap_or_else(|| panic!("{}", flow.log("img", n)));
            ("at descriptor 77".to_owned(), flow.log("img", n))
        } else {
            let said = flow.save(&ours, "dump", n, &["--timeout", "1"]).expect_err("still");
            (format!("127.0.0.1:{port}"), said)
        };
        let what = if n == 0 { "recv: it said" } else { "send: it took" };
        let error = format!("page server {name}: {what} nothing for 6 s (6 times --timeout)");
        assert!(said.contains(&error), "{said}");
        assert!(!images.join("inventory.img").exists());
        fs::write(flow.sandbox.path(&format!("end{n}")), "").expect("end");
        assert!(flow.sandbox.wait(still, LIMIT).success());
    }
    flow.sandbox.finish();
}

/// A dump that is killed leaves the server with an error, and no one waiting.
#[test]
fn a_server_ends_when_its_client_does() {
    let flow = Flow::of("bare");
    let bin = Criu::ours().path;
    let dir = flow.dir("ps", 0);
    let dir = dir.to_str().expect("utf-8");
    let mut server = flow.sandbox.command(&bin, "ps.out");
    server.args(["page-server", "-v4", "-o", "ps.log", "-D", dir, "--port", "9000"]);
    for half in ["", "nothing", "\\x04\\0\\0\\0"] {
        let server = server.spawn().expect("page-server");
        let line = format!(
            "for i in $(seq 200); do exec 9<>/dev/tcp/127.0.0.1/9000 && break; sleep 0.02; done; \
             printf '{half}' >&9"
        );
        flow.sandbox.shell(&line);
        let ended = flow.sandbox.wait(server, LIMIT);
        assert!(ended.clean_failure(), "{half:?}: {ended:?} {}", flow.log("ps", 0));
    }
    flow.sandbox.finish();
}

#[test]
fn a_connected_descriptor_and_a_status_descriptor() {
    if !python() {
        return;
    }
    for server in [Some(Criu::ours()), Criu::stock()].into_iter().flatten() {
        let flow = Flow::of("bulk");
        let (ps, img) = (flow.dir("ps", 0), flow.dir("img", 0));
        let bin = Criu::ours().path;
        let script = format!(
            "import os, socket, subprocess, sys\n\
             a, b = socket.socketpair()\nr, w = os.pipe()\n\
             for fd in (a.fileno(), b.fileno(), w): os.set_inheritable(fd, True)\n\
             s = subprocess.Popen(['{}', 'page-server', '-v4', '-o', 'ps.log', '-D', '{}', \
             '--ps-socket', str(a.fileno()), '--status-fd', str(w)], close_fds=False)\n\
             os.close(w); a.close()\n\
             assert os.read(r, 2) == b'\\0'\n\
             d = subprocess.run(['{}', 'dump', '-v4', '-o', 'dump.log', '-D', '{}', '-t', '{}', \
             '--page-server', '--ps-socket', str(b.fileno())], close_fds=False)\n\
             sys.exit(d.returncode or s.wait())\n",
            server.path.display(),
            ps.display(),
            bin.display(),
            img.display(),
            flow.pid
        );
        fs::write(flow.sandbox.path("pair.py"), script).expect("script");
        let ended = flow.sandbox.run("/usr/bin/python3".as_ref(), &["pair.py"], "ps.out");
        let logs = || flow.log("ps", 0) + &flow.log("img", 0);
        assert!(ended.success(), "{}: {ended:?} {}", server.name, logs());
        flow.restore(&Criu::ours(), 0, &[]);
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let flow = Flow::of("bare");
    let said = flow.save(&Criu::ours(), "dump", 0, &["--tls"]).expect_err("TLS");
    assert!(said.contains("not supported yet: --tls"), "{said}");
    for option in ["--tls", "--lazy-pages"] {
        let dir = flow.dir("ps", 0);
        let args = ["page-server", "-D", dir.to_str().expect("utf-8"), option];
        let ended = flow.sandbox.run(&Criu::ours().path, &args, "ps.out");
        assert!(ended.clean_failure(), "{ended:?}");
        let said = fs::read_to_string(flow.sandbox.path("ps.out")).expect("output");
        assert!(said.contains("not supported yet: ") && said.contains(option), "{said}");
    }
    flow.sandbox.finish();
}
