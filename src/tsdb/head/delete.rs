//! Deleting from the head: spans of series that reading and cutting leave out.

use std::sync::atomic::Ordering;

use promesh_model::labels::Labels;
use promesh_model::matcher::{Matcher, matches_all};

use super::{Head, labels_of};

/// A deleted span of one series.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HeadTombstone {
    /// Whose.
    pub labels: Labels,
    /// First instant, inclusive.
    pub min: i64,
    /// Last instant, inclusive.
    pub max: i64,
}

impl Head {
    /// What deleting `start ..= end` of the series that satisfy all matchers means now: samples that come later stay.
    pub fn plan_delete(&self, matchers: &[Matcher], start: i64, end: i64) -> Vec<HeadTombstone> {
        let selected = self.select_slots(matchers);
        let mut planned = Vec::new();
        for slot in selected.iter() {
            let found = self.with_series(slot, |series| {
                let late = series.late().and_then(|late| late.newest()).unwrap_or(i64::MIN);
                (labels_of(&self.index.read().symbols, &series.labels), series.newest().max(late))
            });
            let Some((labels, newest)) = found else { continue };
            let max = end.min(newest);
            if matches_all(matchers, &labels) && start <= max {
                planned.push(HeadTombstone { labels, min: start, max });
            }
        }
        planned
    }

    /// Leaves these spans out from now on.
    pub fn apply_tombstones(&self, tombstones: &[HeadTombstone]) {
        let mut known = self.tombstones.write();
        for tombstone in tombstones {
            known.entry(tombstone.labels.stable_hash()).or_default().push((tombstone.min, tombstone.max));
        }
        self.has_tombstones.store(!known.is_empty(), Ordering::Relaxed);
    }

    /// Forgets the spans before the head's minimum: the blocks there were written without them.
    pub fn drop_old_tombstones(&self) {
        let min = self.min.load(Ordering::Acquire);
        let mut known = self.tombstones.write();
        known.retain(|_, spans| {
            spans.retain(|(_, max)| *max >= min);
            !spans.is_empty()
        });
        self.has_tombstones.store(!known.is_empty(), Ordering::Relaxed);
    }
}
