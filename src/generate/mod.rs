//! `criu generate`: the manual page and the completions of shells, from the table of options.

mod complete;
mod man;

use crate::options::{HasValue, Opt, Takes};

type Text = fn() -> String;

/// What can be generated, by name.
const KINDS: [(&str, Text); 4] = [
    ("man", man::page),
    ("bash", complete::bash),
    ("zsh", complete::zsh),
    ("fish", complete::fish),
];

/// The text called `kind`; the error names what there is.
pub(crate) fn text(kind: &str) -> Result<String, String> {
    match KINDS.iter().find(|(name, _)| *name == kind) {
        Some((_, text)) => Ok(text()),
        None => Err(format!("generate: one of {} is needed", KINDS.map(|(n, _)| n).join(", "))),
    }
}

/// Commands that people type, and what they do.
const COMMANDS: [(&str, &str); 9] = [
    ("dump", "save a process tree"),
    ("pre-dump", "save its memory only, and let it run on"),
    ("restore", "bring a saved process tree back"),
    ("check", "find out whether this kernel has what is needed"),
    ("page-server", "receive pages from another machine"),
    ("service", "serve requests on a socket"),
    ("lazy-pages", "deliver pages on demand"),
    ("dedup", "free pages that later images have, too"),
    ("cpuinfo", "write or check what the processor can do"),
];

/// What an option's value may be.
enum Values {
    Nothing,
    Directory,
    File,
    Pid,
    Words(Vec<String>),
    Any,
}

fn values(opt: &Opt) -> Values {
    if opt.has_value() == HasValue::Never {
        return Values::Nothing;
    }
    if opt.name == "feature" {
        return Values::Words(crate::check::names().map(str::to_owned).collect());
    }
    match (opt.takes, opt.value) {
        (_, "DIR") => Values::Directory,
        (Takes::Path(_) | Takes::Paths(_), _) => Values::File,
        (_, "PID") => Values::Pid,
        // The help has words that are values in quotes.
        _ => match quoted(opt.help) {
            words if words.is_empty() => Values::Any,
            words => Values::Words(words),
        },
    }
}

fn quoted(help: &str) -> Vec<String> {
    let word = |w: &&str| {
        !w.is_empty() && w.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    help.split('\'').skip(1).step_by(2).filter(word).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{OPTIONS, Section};

    #[test]
    fn every_option_is_in_the_manual() {
        let page = man::page();
        for opt in OPTIONS.iter().filter(|o| !o.help.is_empty()) {
            let name = format!("\\-\\-{}", opt.name.replace('-', "\\-"));
            assert!(page.contains(&name), "--{}", opt.name);
        }
        assert!(!page.contains('@'), "a place was not filled");
    }

    #[test]
    fn every_shown_option_is_completed() {
        for (shell, text) in
            [("bash", complete::bash()), ("zsh", complete::zsh()), ("fish", complete::fish())]
        {
            for opt in OPTIONS.iter().filter(|o| o.section != Section::Hidden) {
                assert!(text.contains(opt.name), "{shell}: --{}", opt.name);
            }
        }
    }

    #[test]
    fn values_are_taken_from_the_help() {
        assert_eq!(quoted("'splice' (default) or 'read'"), ["splice", "read"]);
        assert_eq!(quoted("needs 'criu lazy-pages -D DIR' to run"), [""; 0]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        assert!(text("tcsh").is_err());
    }
}
