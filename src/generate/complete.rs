//! What shells complete.

use super::{COMMANDS, Values, values};
use crate::options::{HasValue, OPTIONS, Opt, Section};

fn shown() -> impl Iterator<Item = &'static Opt> {
    OPTIONS.iter().filter(|o| o.section != Section::Hidden)
}

/// `-x|--long`, for those options that `wanted` takes.
fn pattern(wanted: impl Fn(&Opt) -> bool) -> String {
    let spellings = shown().filter(|o| wanted(o)).flat_map(|o| {
        let short = o.short.map(|c| format!("-{}", char::from(c)));
        short.into_iter().chain([format!("--{}", o.name)])
    });
    spellings.collect::<Vec<_>>().join("|")
}

/// For `/usr/share/bash-completion/completions/criu`.
pub(super) fn bash() -> String {
    let commands = COMMANDS.map(|(name, _)| name).join(" ");
    let options: Vec<_> = shown().map(|o| format!("--{}", o.name)).collect();
    let mut cases = String::new();
    let mut case = |pattern: String, what: &str| {
        if !pattern.is_empty() {
            cases += &format!("        {pattern}) {what}; return ;;\n");
        }
    };
    let is = |o: &Opt, wanted: fn(&Values) -> bool| wanted(&values(o));
    // A value that may be left out is never a word of its own.
    let apart = |o: &Opt| o.has_value() == HasValue::Always;
    case(
        pattern(|o| apart(o) && is(o, |v| matches!(v, Values::Directory))),
        "COMPREPLY=($(compgen -d -- \"$cur\"))",
    );
    case(
        pattern(|o| apart(o) && is(o, |v| matches!(v, Values::File))),
        "COMPREPLY=($(compgen -f -- \"$cur\"))",
    );
    case(
        pattern(|o| apart(o) && is(o, |v| matches!(v, Values::Pid))),
        "COMPREPLY=($(compgen -W \"$(ps -eo pid=)\" -- \"$cur\"))",
    );
    case(pattern(|o| apart(o) && is(o, |v| matches!(v, Values::Any))), "COMPREPLY=()");
    for opt in shown().filter(|o| apart(o)) {
        if let Values::Words(words) = values(opt) {
            let words = words.join(" ");
            case(
                pattern(|o| o.name == opt.name),
                &format!("COMPREPLY=($(compgen -W \"{words}\" -- \"$cur\"))"),
            );
        }
    }
    format!(
        "# bash completion for criu; made by `criu generate bash`\n\
         _criu() {{\n    \
         local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} word\n    \
         COMPREPLY=()\n    \
         compopt -o filenames 2>/dev/null\n    \
         case $prev in\n{cases}        \
         cpuinfo) COMPREPLY=($(compgen -W \"dump check\" -- \"$cur\")); return ;;\n    \
         esac\n    \
         if [[ $cur != -* ]]; then\n        \
         for word in \"${{COMP_WORDS[@]:1:COMP_CWORD-1}}\"; do\n            \
         [[ \" {commands} \" == *\" $word \"* ]] && return\n        \
         done\n        \
         COMPREPLY=($(compgen -W \"{commands}\" -- \"$cur\"))\n        \
         return\n    \
         fi\n    \
         COMPREPLY=($(compgen -W \"{}\" -- \"$cur\"))\n\
         }}\n\
         complete -F _criu criu\n",
        options.join(" ")
    )
}

/// For `/usr/share/zsh/vendor-completions/_criu`.
pub(super) fn zsh() -> String {
    let quote = |text: &str| {
        let text = text.replace('\'', "'\\''").replace('[', "\\[").replace(']', "\\]");
        text.replace(':', "\\:")
    };
    let commands = COMMANDS.map(|(name, what)| format!("'{name}:{}'", quote(what))).join(" ");
    let mut specs = String::new();
    for opt in shown() {
        let action = match values(opt) {
            Values::Nothing => String::new(),
            Values::Directory => ":directory:_files -/".into(),
            Values::File => ":file:_files".into(),
            Values::Pid => ":pid:_pids".into(),
            Values::Words(words) => format!(":value:({})", words.join(" ")),
            Values::Any => format!(":{}: ", quote(&opt.value.to_lowercase())),
        };
        let (sign, colon) = match opt.has_value() {
            HasValue::Never => ("", ""),
            HasValue::Always => ("=", ""),
            HasValue::Maybe => ("=-", ":"),
        };
        let help = quote(opt.help);
        specs += &format!("    '*--{}{sign}[{help}]{colon}{action}' \\\n", opt.name);
        if let Some(short) = opt.short {
            let sign = if opt.has_value() == HasValue::Maybe { "-" } else { "" };
            specs += &format!("    '*-{}{sign}[{help}]{colon}{action}' \\\n", char::from(short));
        }
    }
    format!(
        "#compdef criu\n# made by `criu generate zsh`\n\
         _criu_commands() {{\n    local -a commands=({commands})\n    \
         _describe command commands\n}}\n\
         _arguments -S \\\n{specs}    '1:command:_criu_commands' \\\n    '*:: : '\n"
    )
}

/// For `/usr/share/fish/vendor_completions.d/criu.fish`.
pub(super) fn fish() -> String {
    let quote = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let mut text = "# made by `criu generate fish`\ncomplete -c criu -f\n".to_owned();
    for (name, what) in COMMANDS {
        let what = quote(what);
        text += &format!("complete -c criu -n __fish_use_subcommand -a {name} -d '{what}'\n");
    }
    text += "complete -c criu -n '__fish_seen_subcommand_from cpuinfo' -a 'dump check'\n";
    for opt in shown() {
        let value = match values(opt) {
            Values::Nothing => String::new(),
            _ if opt.has_value() == HasValue::Maybe => String::new(),
            Values::Directory => " -x -a '(__fish_complete_directories)'".into(),
            Values::File => " -r -F".into(),
            Values::Pid => " -x -a '(__fish_complete_pids)'".into(),
            Values::Words(words) => format!(" -x -a '{}'", words.join(" ")),
            Values::Any => " -x".into(),
        };
        let short = opt.short.map(|c| format!(" -s {}", char::from(c))).unwrap_or_default();
        text +=
            &format!("complete -c criu{short} -l {}{value} -d '{}'\n", opt.name, quote(opt.help));
    }
    text
}
