//! A line on the terminal for work that takes long.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is done sooner shows nothing.
const SHOW_AFTER: Duration = Duration::from_millis(500);

/// Bytes done of bytes to do, drawn on standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    what: &'static str,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// `None` when nobody watches, or when the log is written to the same terminal.
    pub(crate) fn new(what: &'static str) -> Option<Self> {
        let watched = io::stderr().is_terminal() && crate::log::is_a_file();
        watched.then(|| Self { started: Instant::now(), what, bar: None })
    }

    /// Moves the line along.
    pub(crate) fn set(&mut self, done: u64, total: u64) {
        if self.started.elapsed() < SHOW_AFTER {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| bar(self.what, total));
        bar.set_length(total);
        bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &'static str, total: u64) -> ProgressBar {
    let template = "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(style.progress_chars("=> "));
    bar.set_prefix(what);
    bar
}
