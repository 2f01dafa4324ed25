//! Which windows of which shards were pushed to: noted for every batch whose instants are not its slot, cheaply, and taken
//! by whoever looks which of them are late (`history/late.rs`).

use std::collections::BTreeMap;

use parking_lot::Mutex;
use promesh_model::ingest::Batch;
use promesh_model::shard::ShardSet;
use promesh_model::{ShardId, Timestamp};
use promesh_node::Span;

/// What was pushed since it was last taken.
#[derive(Debug)]
pub struct Pushed {
    window_ms: i64,
    noted: Mutex<BTreeMap<i64, ShardSet>>,
}

impl Pushed {
    /// Nothing yet; windows are so long.
    pub fn new(window_ms: i64) -> Pushed {
        Pushed { window_ms, noted: Mutex::default() }
    }

    /// Notes a pushed batch.
    pub fn note(&self, shard: ShardId, batch: &Batch) {
        if batch.series.is_empty() && batch.histograms.is_empty() {
            return;
        }
        let own = batch.timestamps.iter().map(|(_, at)| *at);
        let histograms = batch.histograms.iter().map(|sample| sample.timestamp);
        let mut noted = self.noted.lock();
        // Nearly always all of a batch lies in one window.
        let mut window = self.start_of(batch.slot);
        noted.entry(window).or_default().insert(shard);
        for at in own.chain(histograms) {
            if at.ms() < window || at.ms() - window >= self.window_ms {
                window = self.start_of(at);
                noted.entry(window).or_default().insert(shard);
            }
        }
    }

    /// Notes a scraped batch, if samples of it have instants of their own.
    pub fn note_scraped(&self, shard: ShardId, batch: &Batch) {
        if !batch.timestamps.is_empty() {
            self.note(shard, batch);
        }
    }

    /// What was noted since this was last asked.
    pub fn take(&self) -> Vec<(Span, ShardSet)> {
        let noted = std::mem::take(&mut *self.noted.lock());
        let span = |start: i64| (Timestamp(start), Timestamp(start.saturating_add(self.window_ms)));
        noted.into_iter().map(|(start, shards)| (span(start), shards)).collect()
    }

    fn start_of(&self, at: Timestamp) -> i64 {
        at.ms().div_euclid(self.window_ms).saturating_mul(self.window_ms)
    }
}

#[cfg(test)]
mod tests {
    use promesh_model::ingest::SeriesRef;

    use super::*;

    #[test]
    fn every_window_of_a_batch_is_noted_once() {
        let pushed = Pushed::new(100);
        let series = vec![SeriesRef(1); 3];
        let timestamps = vec![(0, Timestamp(-1)), (1, Timestamp(120))];
        let batch = Batch { slot: Timestamp(310), series, values: vec![1.0; 3], timestamps, ..Batch::default() };
        pushed.note(ShardId(7), &batch);
        pushed.note(ShardId(8), &Batch { slot: Timestamp(399), timestamps: Vec::new(), ..batch });
        let shown = |(span, shards): (Span, ShardSet)| (span.0.ms(), span.1.ms(), shards.len());
        let taken: Vec<_> = pushed.take().into_iter().map(shown).collect();
        assert_eq!(taken, [(-100, 0, 1), (100, 200, 1), (300, 400, 2)]);
        assert!(pushed.take().is_empty());
    }
}
