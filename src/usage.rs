//! The usage text and the help.

use crate::options::{HasValue, OPTIONS, Opt, Section};

/// Where descriptions begin.
const INDENT: usize = 24;
const WIDTH: usize = 79;

const HEAD: &str = "
Usage:
  criu dump|pre-dump -t PID [<options>]
  criu restore [<options>]
  criu check [--feature FEAT]
  criu page-server
  criu service [<options>]
  criu dedup
  criu lazy-pages -D DIR [<options>]
  criu crit decode|encode|info|x|show [<options>]

Commands:
  dump           save a process tree, by the pid of its root
  pre-dump       save its memory only, and let it run on
  restore        bring a saved process tree back
  check          find out whether this kernel has what is needed
  page-server    receive pages from another machine
  service        serve requests on a socket
  dedup          free pages that later images have, too
  crit           show images as text, and make images of text
  cpuinfo dump   write what this processor can do into an image
  cpuinfo check  find out whether this processor can do what the image says
";

/// What is shown when a command line makes no sense.
pub(crate) fn short() -> String {
    format!("{HEAD}\nTry -h|--help for more info\n")
}

/// What `--help` shows.
pub(crate) fn full() -> String {
    let mut text = format!(
        "{HEAD}\nOptions without a value have a --no-X form that takes them back\n\
         (example: --display-stats and --no-display-stats).\n"
    );
    for (section, heading) in Section::SHOWN {
        text += &format!("\n{heading}\n");
        for opt in OPTIONS.iter().filter(|o| o.section == section) {
            text += &entry(opt);
        }
    }
    text
}

fn entry(opt: &Opt) -> String {
    let short = match opt.short {
        Some(c) => format!("-{}|", char::from(c)),
        None => "   ".into(),
    };
    let value = match opt.has_value() {
        HasValue::Never => String::new(),
        HasValue::Maybe => format!("[={}]", opt.value),
        HasValue::Always => format!(" {}", opt.value),
    };
    let head = format!("  {short}--{}{value}", opt.name);
    let mut lines = wrap(opt.help, WIDTH - INDENT).into_iter();
    let first = if head.len() < INDENT { lines.next().unwrap_or_default() } else { String::new() };
    let mut text = format!("{head:INDENT$}{first}").trim_end().to_owned() + "\n";
    for line in lines {
        text += &format!("{:INDENT$}{line}\n", "");
    }
    text
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
