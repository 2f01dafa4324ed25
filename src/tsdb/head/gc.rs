//! Forgetting what is in blocks: chunks first, then series without samples.
//!
//! A page at a time, under its lock only; the labels leave the index in small groups. A slot is free for another
//! series only when nothing leads to it any more.

use std::sync::atomic::Ordering;

use promesh_model::time::Timestamp;

use super::pages::PAGE_SLOTS;
use super::series::Series;
use super::{Head, LOOKUP_SHARDS, spread_hash};

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Series removed.
    pub series: u64,
    /// Series left.
    pub left: u64,
}

impl Head {
    /// Samples before `t` are in blocks: they are answered from there, and are taken in order no more.
    pub fn set_min_time(&self, t: Timestamp) {
        self.departures.fetch_add(1, Ordering::AcqRel);
        self.min.fetch_max(t.ms(), Ordering::AcqRel);
    }

    /// How often samples have left that are in blocks now.
    pub fn departures(&self) -> u64 {
        self.departures.load(Ordering::Acquire)
    }

    /// Drops the chunks before the head's minimum, and the series that have no sample left. A series that was made but
    /// got no sample goes the second time it is met.
    pub fn collect(&self) -> Collected {
        let min = self.min.load(Ordering::Acquire);
        self.spill.drop_before(min);
        let mut collected = Collected::default();
        let mut emptied = Vec::new();
        for (first, page) in self.pages.iter() {
            let dead = {
                let mut page = page.lock();
                let mut dead: Vec<(u32, Series)> = Vec::new();
                for (offset, slot) in page.iter_mut().enumerate() {
                    let Some(series) = &mut slot.series else { continue };
                    if is_dead(series, min) {
                        slot.generation = slot.generation.wrapping_add(1);
                        dead.extend(slot.series.take().map(|series| (first + offset as u32, series)));
                    } else {
                        series.drop_open_before(min, &self.spill);
                        if !series.has_late() {
                            series.drop_starts_before(min);
                        }
                        collected.left += 1;
                    }
                }
                dead
            };
            self.forget(&dead);
            collected.series += dead.len() as u64;
            emptied.extend(dead.iter().map(|(slot, _)| *slot));
        }
        if !emptied.is_empty() {
            self.series.fetch_sub(emptied.len(), Ordering::Relaxed);
            self.removed.fetch_add(collected.series, Ordering::Relaxed);
            self.reuse_epoch.fetch_add(1, Ordering::AcqRel);
            self.pages.free(&mut emptied);
        }
        collected
    }

    fn forget(&self, dead: &[(u32, Series)]) {
        for (slot, series) in dead {
            let mut table = self.lookup[series.hash as usize % LOOKUP_SHARDS].lock();
            if let Ok(entry) = table.find_entry(spread_hash(series.hash), |entry| entry.slot == *slot) {
                entry.remove();
            }
        }
        if dead.is_empty() {
            return;
        }
        let mut index = self.index.write();
        for (slot, series) in dead {
            index.leave(*slot, &series.labels);
        }
    }
}

fn is_dead(series: &mut Series, min: i64) -> bool {
    if series.has_late() || series.reaches(min.max(i64::MIN + 1)) {
        series.unused = false;
        return false;
    }
    let never_had_one = series.newest() == i64::MIN;
    !never_had_one || std::mem::replace(&mut series.unused, true)
}

const _: () = assert!(PAGE_SLOTS <= 1 << 16);
