//! A line on the terminal for work that takes long.

use std::io::{self, IsTerminal};
use std::sync::Once;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work that is done sooner shows nothing.
const SHOW_AFTER: Duration = Duration::from_millis(500);

/// Bytes done of bytes to do, drawn on standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    /// Nobody watches, or the log is written to the same terminal.
    unwatched: bool,
    shown: Once,
    bar: ProgressBar,
}

impl Progress {
    /// Nothing done of nothing.
    pub(crate) fn new(what: &'static str) -> Self {
        let template = "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
        let style = ProgressStyle::with_template(template);
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(what);
        Self {
            started: Instant::now(),
            unwatched: !io::stderr().is_terminal() || !crate::log::is_a_file(),
            shown: Once::new(),
            bar,
        }
    }

    fn more(&self, bytes: u64) {
        if self.unwatched {
            return;
        }
        self.bar.inc(bytes);
        if self.started.elapsed() >= SHOW_AFTER {
            let target = || ProgressDrawTarget::stderr_with_hz(10);
            self.shown.call_once(|| self.bar.set_draw_target(target()));
        }
        // The process that draws may end without dropping anything.
        if self.bar.length().is_some_and(|length| self.bar.position() >= length) {
            self.bar.finish_and_clear();
        }
    }
}

impl dumper::Progress for Progress {
    fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    fn done(&self, bytes: u64) {
        self.more(bytes);
    }
}

impl restorer::Progress for Progress {
    fn expect(&self, bytes: u64) {
        self.bar.inc_length(bytes);
    }

    fn done(&self, bytes: u64) {
        self.more(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
