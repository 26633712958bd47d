// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a user is told meanwhile: the progress line.
use crate::support::{Criu, LIMIT, Sandbox, subject, tail};
use std::fs;
use std::path::Path;

/// Long work draws a line on a terminal and takes it away again; the log stays free of it.
#[test]
fn long_work_shows_a_line_on_a_terminal() {
    let criu = Criu::ours();
    if Criu::ours_is_stock() {
        return crate::support::skip("progress line", "stock has none");
    }
    for more in ["", "--compress=lz4"] {
        let sandbox = Sandbox::new("bulk");
        let dir = sandbox.dir().display().to_string();
        sandbox.start(&subject("bulk"), &[&dir]);
        let heard = sandbox.hear(&["ready", "bad"], LIMIT).expect("ready");
        let pid = heard.strip_prefix("ready ").expect("ready");
        // What begins late is long work already.
        let late = r#"case $CRTOOLS_SCRIPT_ACTION in pre-*) sleep 0.6;; esac"#;
        fs::write(sandbox.path("late.sh"), format!("#!/bin/sh\n{late}\n")).expect("script");
        fs::create_dir(sandbox.path("images")).expect("images");
        sandbox.shell("chmod +x late.sh");
        let on_terminal = |verb: &str, options: &str| {
            let line = format!(
                "{} {verb} -v4 -o {verb}.log -D images --action-script {dir}/late.sh {options}",
                criu.path.display()
            );
            let typescript = format!("{verb}.typescript");
            let args = ["-qec", &line, &typescript];
            let ended = sandbox.run(Path::new("script"), &args, "script.out");
            let log = sandbox.path(&format!("images/{verb}.log"));
            assert!(ended.success(), "{verb} {ended:?} {}", tail(&log, 20));
            assert!(!fs::read_to_string(log).expect("log").contains(" left"), "{verb}");
            fs::read_to_string(sandbox.path(&typescript)).expect("typescript")
        };
        let dumped = on_terminal("dump", &format!("-t {pid} {more}"));
        sandbox.empty().expect("dumped");
        let restored = on_terminal("restore", "-d");
        for (verb, said) in [("dump", dumped), ("restore", restored)] {
            let line = said.rsplit(&format!("{verb} [")).next().expect("a part");
            assert!(line.len() < said.len(), "{verb}: no line in {said:?}");
            assert!(line.contains("MiB") && line.contains(" left"), "{said:?}");
            assert!(line.contains("\u{1b}[2K"), "{verb}: the line stays: {said:?}");
        }
        sandbox.finish();
    }
}
