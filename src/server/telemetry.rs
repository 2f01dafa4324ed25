//! What this peer counts about itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Limits of scrapes: what a failure by them says, and the counter's name.
pub const LIMITS: [(&str, &str); 4] = [
    ("sample limit exceeded", "prometheus_target_scrapes_exceeded_sample_limit_total"),
    ("body size limit exceeded", "prometheus_target_scrapes_exceeded_body_size_limit_total"),
    ("limit exceeded (metric:", "prometheus_target_scrape_pool_exceeded_label_limits_total"),
    ("bucket limit exceeded", "prometheus_target_scrapes_exceeded_native_histogram_bucket_limit_total"),
];

/// Counters of the mesh.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// Inputs the mesh mind took, by how long it took over each, as [`HANDLE_BUCKETS_NS`], the rest last.
    pub handle_buckets: [AtomicU64; HANDLE_BUCKETS_NS.len() + 1],
    /// Nanoseconds it took over all of them.
    pub handled_ns: AtomicU64,
    /// Batches received from other peers.
    pub batches_received: AtomicU64,
    /// What came from too far in the future.
    pub ahead: crate::ahead::Ahead,
    /// Batches that could not be decoded for want of a base: a key frame was asked for.
    pub key_frames_wanted: AtomicU64,
    /// Bytes of chunks copied from other peers.
    pub copied_bytes: AtomicU64,
    /// Appends that the log refused.
    pub append_failures: AtomicU64,
    /// Samples written by scrapes of this peer.
    pub samples_appended: AtomicU64,
    /// Scrapes begun.
    pub scrapes: AtomicU64,
    /// Scrapes that failed.
    pub scrapes_failed: AtomicU64,
    /// Scrapes that failed by a limit: of samples, bytes, labels and histogram buckets.
    pub exceeded_limits: [AtomicU64; 4],
    /// Samples left out because another of the same scrape had the same series and instant.
    pub samples_repeated: AtomicU64,
    /// Samples too far in the future.
    pub samples_ahead: AtomicU64,
    /// Slots that this peer began too late to stamp: they were not scraped.
    pub slots_missed: AtomicU64,
    /// How often the wall clock was set by more than a second.
    pub clock_jumps: AtomicU64,
    /// How long after their slots scrapes began.
    pub slot_delay: DelayHistogram,
    /// Failed reloads of the configuration leave 0, successful ones 1.
    pub reload_successful: AtomicU64,
    /// When the configuration was last loaded, in seconds since the epoch.
    pub reload_success_at: AtomicU64,
}

/// Upper bounds of the buckets of how long a mind took over an input, in nanoseconds.
pub const HANDLE_BUCKETS_NS: [u64; 5] = [100_000, 1_000_000, 5_000_000, 25_000_000, 100_000_000];

/// The bucket of so many nanoseconds; the last for more than all bounds.
pub fn handle_bucket(ns: u64) -> usize {
    HANDLE_BUCKETS_NS.partition_point(|bound| *bound < ns)
}

/// Bounds of [`DelayHistogram`], in ms. The promise is 99 % within 100 ms.
pub const DELAY_BOUNDS_MS: [u64; 8] = [5, 10, 25, 50, 100, 250, 1000, 5000];

/// Delays, counted by how long they were.
#[derive(Debug, Default)]
pub struct DelayHistogram {
    /// One more than there are bounds: the last is for what is longer than all of them.
    counts: [AtomicU64; DELAY_BOUNDS_MS.len() + 1],
    sum_ms: AtomicU64,
}

impl DelayHistogram {
    /// Takes note of one.
    pub fn observe(&self, ms: u64) {
        let bucket = DELAY_BOUNDS_MS.partition_point(|bound| *bound < ms);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// How many were at most as long as each bound, then how many there were, then their sum in ms.
    pub fn cumulative(&self) -> (Vec<(u64, u64)>, u64, u64) {
        let mut total = 0;
        let mut buckets = Vec::with_capacity(DELAY_BOUNDS_MS.len());
        for (index, count) in self.counts.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            if let Some(bound) = DELAY_BOUNDS_MS.get(index) {
                buckets.push((*bound, total));
            }
        }
        (buckets, total, self.sum_ms.load(Ordering::Relaxed))
    }
}

impl Telemetry {
    /// Takes note of one input of the mesh mind.
    pub fn handled(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.handled_ns.fetch_add(ns, Ordering::Relaxed);
        self.handle_buckets[handle_bucket(ns)].fetch_add(1, Ordering::Relaxed);
    }

    /// Takes note of why a scrape failed, when it was a limit.
    pub fn limit_exceeded(&self, why: &str) {
        let limit = LIMITS.iter().position(|(text, _)| why.contains(text));
        if let Some(counter) = limit.and_then(|limit| self.exceeded_limits.get(limit)) {
            Telemetry::count(counter);
        }
    }

    /// Adds one.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_counted_up_to_their_bound() {
        let delays = DelayHistogram::default();
        for ms in [0, 5, 6, 100, 101, 9_000] {
            delays.observe(ms);
        }
        let (buckets, count, sum) = delays.cumulative();
        let expected = [(5, 2), (10, 3), (25, 3), (50, 3), (100, 4), (250, 5), (1000, 5), (5000, 5)];
        assert_eq!((buckets, count, sum), (expected.to_vec(), 6, 9_212));
    }
}
