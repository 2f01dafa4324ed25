//! What this peer counts about itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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

    /// Adds one.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
