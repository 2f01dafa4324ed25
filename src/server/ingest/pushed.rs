//! Which windows of which shards were pushed to: noted for every batch whose instants are not its slot, cheaply, and taken
//! by whoever looks which of them are late (`history/late.rs`). And which shards old samples came for, and when: a peer that
//! was away then is given more than what is younger than its loss.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use promesh_model::ingest::Batch;
use promesh_model::shard::ShardSet;
use promesh_model::{ShardId, Timestamp};
use promesh_node::{Belated, Span};

/// What was pushed since it was last taken, and what came long after its time.
#[derive(Debug)]
pub struct Pushed {
    window_ms: i64,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    windows: BTreeMap<i64, ShardSet>,
    belated: Belated,
    /// The newest slot of the log, as far as it was read back.
    replayed: Option<Timestamp>,
}

impl Pushed {
    /// Nothing yet; windows are so long.
    pub fn new(window_ms: i64) -> Pushed {
        Pushed { window_ms, noted: Mutex::default() }
    }

    /// Notes a pushed batch that came at an instant.
    pub fn note(&self, shard: ShardId, batch: &Batch, came: Timestamp) {
        self.note_in(&mut self.noted.lock(), shard, batch, came);
    }

    fn note_in(&self, noted: &mut Noted, shard: ShardId, batch: &Batch, came: Timestamp) {
        if batch.series.is_empty() && batch.histograms.is_empty() {
            return;
        }
        let own = batch.timestamps.iter().map(|(_, at)| *at);
        let histograms = batch.histograms.iter().map(|sample| sample.timestamp);
        // Nearly always all of a batch lies in one window.
        let mut window = self.start_of(batch.slot);
        let mut oldest = batch.slot;
        noted.windows.entry(window).or_default().insert(shard);
        for at in own.chain(histograms) {
            oldest = oldest.min(at);
            if at.ms() < window || at.ms() - window >= self.window_ms {
                window = self.start_of(at);
                noted.windows.entry(window).or_default().insert(shard);
            }
        }
        noted.belated.note(shard, came, oldest);
    }

    /// Notes a scraped batch, if samples of it have instants of their own, or it was long on its way.
    pub fn note_scraped(&self, shard: ShardId, batch: &Batch, came: Timestamp) {
        if !batch.timestamps.is_empty() {
            self.note(shard, batch, came);
        } else if Belated::is_old(came, batch.slot) {
            self.noted.lock().belated.note(shard, came, batch.slot);
        }
    }

    /// Notes a batch of the log, which does not say when it came: about when what lies beside it happened.
    pub fn note_replayed(&self, shard: ShardId, batch: &Batch, is_scraped: bool) {
        let mut noted = self.noted.lock();
        let came = noted.replayed.map_or(batch.slot, |newest| newest.max(batch.slot));
        noted.replayed = Some(came);
        match is_scraped && batch.timestamps.is_empty() {
            true => noted.belated.note(shard, came, batch.slot),
            false => self.note_in(&mut noted, shard, batch, came),
        }
    }

    /// Of some shards, those in which older samples than `since` came at or after it, each with the instant of the oldest.
    pub fn reaches(&self, shards: &ShardSet, since: Timestamp) -> BTreeMap<ShardId, Timestamp> {
        self.noted.lock().belated.reaches(shards, since)
    }

    /// What was noted since this was last asked.
    pub fn take(&self) -> Vec<(Span, ShardSet)> {
        let noted = std::mem::take(&mut self.noted.lock().windows);
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
        pushed.note(ShardId(7), &batch, Timestamp(310));
        pushed.note(ShardId(8), &Batch { slot: Timestamp(399), timestamps: Vec::new(), ..batch }, Timestamp(400));
        let shown = |(span, shards): (Span, ShardSet)| (span.0.ms(), span.1.ms(), shards.len());
        let taken: Vec<_> = pushed.take().into_iter().map(shown).collect();
        assert_eq!(taken, [(-100, 0, 1), (100, 200, 1), (300, 400, 2)]);
        assert!(pushed.take().is_empty());
    }

    #[test]
    fn what_came_long_after_its_time_is_known_by_when_it_came_also_from_the_log() {
        let shards: ShardSet = [ShardId(7)].into_iter().collect();
        let at = |seconds: i64| Timestamp(seconds * 1000);
        let batch = |slot, own: &[i64]| Batch {
            slot: at(slot),
            series: vec![SeriesRef(1)],
            values: vec![1.0],
            timestamps: own.iter().map(|own| (0, at(*own))).collect(),
            ..Batch::default()
        };
        let live = Pushed::new(7_200_000);
        live.note(ShardId(7), &batch(1000, &[600]), at(1000));
        let replayed = Pushed::new(7_200_000);
        replayed.note_replayed(ShardId(3), &batch(1000, &[]), true);
        replayed.note_replayed(ShardId(7), &batch(600, &[]), false);
        let scraped = Pushed::new(7_200_000);
        scraped.note_scraped(ShardId(7), &batch(600, &[]), at(1000));
        assert!(scraped.take().is_empty(), "it is compared like all that is scraped");
        for pushed in [live, replayed, scraped] {
            assert_eq!(pushed.reaches(&shards, at(950)), BTreeMap::from([(ShardId(7), at(600))]));
            assert!(pushed.reaches(&shards, at(1001)).is_empty());
        }
    }
}
