//! How far a long command is: shown on a terminal once it has taken two seconds.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use promesh_model::Monotonic;

use crate::clock;

const PATIENCE_SECONDS: f64 = 2.0;

/// A bar that shows itself late, and never where nobody looks.
pub(super) struct Progress {
    bar: ProgressBar,
    began: Monotonic,
    is_shown: bool,
}

impl Progress {
    /// Towards so many of something.
    pub(super) fn new(what: &'static str, total: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg}").expect("a template that parses");
        bar.set_style(style);
        bar.set_message(what);
        Progress { bar, began: clock::monotonic(), is_shown: false }
    }

    /// So many more are done.
    pub(super) fn advance(&mut self, count: u64) {
        self.bar.inc(count);
        self.show();
    }

    /// Says something beside the bar.
    pub(super) fn set_note(&mut self, note: String) {
        self.bar.set_message(note);
        self.show();
    }

    fn show(&mut self) {
        let is_late = clock::monotonic().since(self.began).as_secs_f64() > PATIENCE_SECONDS;
        if !self.is_shown && is_late && std::io::stderr().is_terminal() {
            self.is_shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
