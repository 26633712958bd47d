//! criu(8).

use crate::options::{HasValue, OPTIONS, Opt, Section};

/// All of it but the options.
const PAGE: &str = include_str!("../../debian/criu.8.in");

/// The manual page, in roff.
pub(super) fn page() -> String {
    let mut options = String::new();
    for (section, heading) in Section::SHOWN {
        let heading = heading.rsplit('\n').next().unwrap_or(heading);
        let heading = heading.trim_start_matches("* ").trim_end_matches(':');
        options += &format!(".SS {}\n", escape(heading));
        options += &entries(section);
    }
    options += ".SS Old spellings\n";
    options += &entries(Section::Hidden);
    PAGE.replace("@VERSION@", env!("CARGO_PKG_VERSION")).replace("@OPTIONS@\n", &options)
}

fn entries(section: Section) -> String {
    let shown = OPTIONS.iter().filter(|o| o.section == section && !o.help.is_empty());
    shown.map(entry).collect()
}

fn entry(opt: &Opt) -> String {
    let short = opt.short.map(|c| format!("\\-{}, ", char::from(c))).unwrap_or_default();
    let name = escape(opt.name);
    let value = escape(opt.value);
    let value = match opt.has_value() {
        HasValue::Never => String::new(),
        HasValue::Maybe => format!("\\fR[=\\fI{value}\\fR]"),
        HasValue::Always => format!(" \\fI{value}\\fR"),
    };
    let names = match opt.name {
        "feature" => crate::check::names().collect::<Vec<_>>().join(", "),
        _ => String::new(),
    };
    format!(
        ".TP\n\\fB{short}\\-\\-{name}{value}\\fR\n{}\n",
        escape(&format!("{} {names}", opt.help))
    )
}

/// Text as roff shows it unchanged.
fn escape(text: &str) -> String {
    let text = text.trim().replace('\\', "\\e").replace('-', "\\-").replace('@', "\\[at]");
    match text.as_bytes().first() {
        Some(b'.' | b'\'') => format!("\\&{text}"),
        _ => text,
    }
}
