// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What engines hand to containers: a console, standard descriptors.

use super::ok;
use crate::client::{Client, Images, dir, request, with};
use images::proto::{CriuOpts, CriuReq, CriuReqType, InheritFd};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use std::fs;

/// Starts the subject on a terminal whose master stays with us, as an engine does.
fn on_a_terminal(program: &std::path::Path) -> (std::process::Child, std::os::fd::OwnedFd) {
    use std::process::Stdio;
    let pty = nix::pty::openpty(None, None).expect("openpty");
    for end in [&pty.master, &pty.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("F_SETFD");
    }
    let path = nix::unistd::ttyname(&pty.slave).expect("ttyname");
    let open = || fs::File::options().read(true).write(true).open(&path).expect("slave");
    // Nothing else of ours is to be seen in it.
    let line = r#"for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ "$fd" -lt 3 ] || eval "exec $fd>&-"; done
        exec setsid --ctty --wait "$@""#;
    let mut command = std::process::Command::new("bash");
    command.args(["-c", line, "bash"]).arg(program).arg(dir());
    command.stdin(open()).stdout(open()).stderr(Stdio::from(open()));
    (command.spawn().expect("setsid"), pty.master)
}

pub(crate) fn the_console_of_a_container() {
    use nix::unistd::{read, write};
    let subject = std::path::PathBuf::from(std::env::var_os(crate::CONSOLE).expect("console"));
    let (mut setsid, master) = on_a_terminal(&subject);
    let heard = loop {
        let text = fs::read_to_string(dir().join("state")).unwrap_or_default();
        if text.ends_with('\n') {
            break text;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let pid: i32 = heard.trim().strip_prefix("ready ").expect("ready").parse().expect("pid");
    let images = Images::open();
    let opts =
        CriuOpts { pid: Some(pid), orphan_pts_master: Some(true), ..images.opts("dump.log") };
    let client = Client::start();
    ok(&client.ask(&request(CriuReqType::Dump, opts)), CriuReqType::Dump);
    drop(client);
    setsid.wait().expect("setsid ends");
    // The number of the terminal is free again.
    drop(master);
    let client = Client::start();
    client.send(&with(images.restore(), |o| {
        (o.orphan_pts_master, o.notify_scripts) = (Some(true), Some(true));
    }));
    let mut master = None;
    let response = loop {
        let (response, fd) = client.receive_fd();
        let Some(notify) = &response.notify else { break response };
        if notify.script() == "orphan-pts-master" {
            assert!(fd.is_some(), "no descriptor came");
            master = fd;
        }
        let agreed = CriuReq {
            r#type: CriuReqType::Notify.into(),
            notify_success: Some(true),
            ..CriuReq::default()
        };
        client.send(&agreed);
    };
    ok(&response, CriuReqType::Restore);
    let master = master.expect("a master was handed over");
    write(&master, b"hello\n").expect("write");
    let mut heard = Vec::new();
    let mut buf = [0u8; 256];
    while !contains(&heard, b"got hello\r\n") {
        let n = read(&master, &mut buf).expect("read");
        heard.extend(&buf[..n]);
    }
    // In the foreground of its controlling terminal: the terminal's interrupt reaches it.
    write(&master, b"\x03").expect("write");
    while !contains(&heard, b"interrupted\r\n") {
        let n = read(&master, &mut buf).expect("read");
        heard.extend(&buf[..n]);
    }
}

fn contains(heard: &[u8], words: &[u8]) -> bool {
    heard.windows(words.len()).any(|w| w == words)
}

/// Both ends of what the subject shares with us.
struct Shared {
    to: std::os::fd::OwnedFd,
    from: std::os::fd::OwnedFd,
    both: std::os::unix::net::UnixStream,
}

/// Gives a command its halves as standard descriptors.
fn share(command: &mut std::process::Command) -> Shared {
    let cloexec = nix::fcntl::OFlag::O_CLOEXEC;
    let (input, to) = nix::unistd::pipe2(cloexec).expect("pipe");
    let (from, output) = nix::unistd::pipe2(cloexec).expect("pipe");
    let (both, theirs) = std::os::unix::net::UnixStream::pair().expect("socketpair");
    command.stdin(input).stdout(output).stderr(std::os::fd::OwnedFd::from(theirs));
    Shared { to, from, both }
}

pub(crate) fn standard_descriptors_of_an_engine() {
    use std::io::{Read, Write};
    let program = std::env::var_os(crate::INHERITED).expect("subject");
    let line = r#"for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ "$fd" -lt 3 ] || eval "exec $fd>&-"; done
        exec setsid --fork "$@""#;
    let mut command = std::process::Command::new("bash");
    command.args(["-c", line, "bash"]).arg(program).arg(dir());
    let old = share(&mut command);
    let mut shell = command.spawn().expect("bash");
    drop(command);
    shell.wait().expect("bash ends");
    let said = loop {
        let text = fs::read_to_string(dir().join("state")).unwrap_or_default();
        if text.lines().count() == 4 {
            break text;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let numbers: Vec<u32> =
        said.lines().map(|l| l.split(' ').nth(1).expect("word").parse().expect("number")).collect();
    let [pid, input, output, both] = numbers[..] else { panic!("{said}") };
    let images = Images::open();
    let opts = CriuOpts {
        pid: Some(pid.cast_signed()),
        external: vec![format!("unix[{both}]")],
        ..images.opts("dump.log")
    };
    let client = Client::start();
    ok(&client.ask(&request(CriuReqType::Dump, opts)), CriuReqType::Dump);
    drop(client);
    drop(old);
    let mut new = None;
    let client = Client::start_with(|command| new = Some(share(command)));
    let restore = with(images.restore(), |o| {
        let keys =
            [format!("pipe:[{input}]"), format!("pipe:[{output}]"), format!("socket:[{both}]")];
        o.inherit_fd = keys.into_iter().zip(0..).map(|(key, fd)| InheritFd { key, fd }).collect();
    });
    ok(&client.ask(&restore), CriuReqType::Restore);
    client.end();
    let Shared { to, from, mut both } = new.expect("started");
    nix::unistd::write(&to, b"hello\n").expect("write");
    let mut buf = [0u8; 6];
    assert_eq!(nix::unistd::read(&from, &mut buf), Ok(6));
    assert_eq!(&buf, b"hello\n");
    both.write_all(b"again\n").expect("write");
    both.read_exact(&mut buf).expect("read");
    assert_eq!(&buf, b"again\n");
}
