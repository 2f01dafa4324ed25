//! Figures about rule groups, under upstream's names: of what this peer evaluated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Entry, Ruling};
use crate::exposition::Page;

/// What is counted of one group.
#[derive(Debug, Default)]
pub struct Counters {
    /// Slots evaluated.
    pub evaluated: AtomicU64,
    /// Slots not evaluated.
    pub missed: AtomicU64,
    /// Those of them that were counted when they were missed, since the newest that was evaluated.
    told: AtomicU64,
    /// Rules evaluated.
    pub evaluations: AtomicU64,
    /// Rules whose evaluation failed.
    pub failures: AtomicU64,
    /// Samples of the newest slot.
    pub samples: AtomicU64,
}

impl Counters {
    /// Counts slots that were begun and could not be evaluated.
    pub fn miss(&self, slots: u64) {
        self.missed.fetch_add(slots, Ordering::Relaxed);
        self.told.fetch_add(slots, Ordering::Relaxed);
    }

    /// Counts slots that passed before one that was evaluated, but for those that were counted as they passed.
    pub fn passed(&self, slots: u64) {
        let told = self.told.swap(0, Ordering::Relaxed);
        self.missed.fetch_add(slots.saturating_sub(told), Ordering::Relaxed);
    }

    /// Goes on from what a group counted before a reload changed it.
    pub fn continued(before: &Counters) -> Counters {
        let copy = |counter: &AtomicU64| AtomicU64::new(counter.load(Ordering::Relaxed));
        Counters {
            evaluated: copy(&before.evaluated),
            missed: copy(&before.missed),
            told: copy(&before.told),
            evaluations: copy(&before.evaluations),
            failures: copy(&before.failures),
            samples: copy(&before.samples),
        }
    }
}

/// A family: its name without `prometheus_rule_`, its type, its help, and where its value is.
type Family = (&'static str, &'static str, &'static str, fn(&Entry) -> f64);

fn load(counter: &AtomicU64) -> f64 {
    counter.load(Ordering::Relaxed) as f64
}

const FAMILIES: [Family; 9] = [
    ("group_iterations_total", "counter", "Slots of a group that this peer evaluated.", |entry| {
        load(&entry.counters.evaluated)
    }),
    (
        "group_iterations_missed_total",
        "counter",
        "Slots of a group that this peer began and could not evaluate.",
        |entry| load(&entry.counters.missed),
    ),
    ("evaluations_total", "counter", "Evaluations of a group's rules.", |entry| load(&entry.counters.evaluations)),
    ("evaluation_failures_total", "counter", "Evaluations that failed.", |entry| load(&entry.counters.failures)),
    ("group_last_evaluation_samples", "gauge", "Samples of the last evaluation.", |entry| {
        load(&entry.counters.samples)
    }),
    ("group_last_duration_seconds", "gauge", "How long the last evaluation took.", |entry| {
        entry.shown.lock().as_ref().map_or(0.0, |shown| shown.duration_seconds())
    }),
    ("group_last_evaluation_timestamp_seconds", "gauge", "The slot of the last evaluation.", |entry| {
        entry.shown.lock().as_ref().map_or(0.0, |shown| shown.slot_seconds())
    }),
    ("group_interval_seconds", "gauge", "Between two evaluations.", |entry| entry.planned.spec.interval.as_secs_f64()),
    ("group_rules", "gauge", "Rules of a group.", |entry| entry.planned.spec.rules.len() as f64),
];

impl Ruling {
    /// All families, each with all groups in the order of the files.
    pub fn metrics(&self, page: &mut Page) {
        let table = self.table.load();
        let entries: Vec<&Arc<Entry>> = table.order.iter().filter_map(|source| table.entries.get(source)).collect();
        for (name, kind, help, read) in FAMILIES {
            let values: Vec<(String, f64)> = entries.iter().map(|entry| (entry.name(), read(entry))).collect();
            page.labelled(&format!("prometheus_rule_{name}"), kind, help, "rule_group", &values);
        }
    }
}
