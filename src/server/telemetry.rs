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
    /// Inputs the mesh mind took.
    pub handled: AtomicU64,
    /// Nanoseconds it took over them.
    pub handled_ns: AtomicU64,
    /// Batches received from other peers.
    pub batches_received: AtomicU64,
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
    /// Failed reloads of the configuration leave 0, successful ones 1.
    pub reload_successful: AtomicU64,
    /// When the configuration was last loaded, in seconds since the epoch.
    pub reload_success_at: AtomicU64,
}

impl Telemetry {
    /// Takes note of one input of the mesh mind.
    pub fn handled(&self, took: Duration) {
        self.handled.fetch_add(1, Ordering::Relaxed);
        self.handled_ns.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
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
