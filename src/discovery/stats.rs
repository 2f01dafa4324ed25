//! Figures of discovery, for metrics.

use std::time::Duration;

/// What became of a provider's questions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Questions, failed ones among them.
    pub refreshes: u64,
    /// Failed ones.
    pub failures: u64,
    /// How long all of them took.
    pub took: Duration,
}

impl Counters {
    pub(crate) fn refreshed(&mut self, took: Duration) {
        self.refreshes += 1;
        self.took += took;
    }
}

/// One provider.
#[derive(Clone, Debug)]
pub struct ProviderStats {
    /// Its kind.
    pub kind: String,
    /// The first job that has it.
    pub job: String,
    /// Whether this peer asks it.
    pub asks: bool,
    /// What became of this peer's questions.
    pub counters: Counters,
}

/// All of a manager's.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Those that are not written in the configuration.
    pub providers: Vec<ProviderStats>,
    /// Discovered targets by job.
    pub targets: Vec<(String, usize)>,
    /// Times that a provider said something.
    pub updates: u64,
}
