//! Start timestamps of a series' samples: since when a counter has counted.
//!
//! A start changes when the counter is reset, not with every sample: what is kept is runs of samples with one start.
//! Blocks in Prometheus' format have no place for starts, so that they are known as long as samples are in the head.

use promesh_model::storage::SeriesColumns;

/// The starts of one series; rising runs that do not overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Starts(Vec<Run>);

/// Samples in `first ..= last` have this start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: i64,
    last: i64,
    start: i64,
}

impl Starts {
    /// The newest sample, at `at`, has this start; `before` is the instant of the one before it.
    pub fn push(&mut self, at: i64, start: i64, before: i64) {
        if let Some(run) = self.0.last_mut()
            && run.start == start
            && before <= run.last
            && at >= run.first
        {
            run.last = run.last.max(at);
            return;
        }
        self.set(at, start);
    }

    /// The sample at `at` has this start, whatever those around it have; 0: it has none.
    pub fn set(&mut self, at: i64, start: i64) {
        let place = self.0.partition_point(|run| run.last < at);
        let hit = self.0.get(place).copied().filter(|run| run.first <= at);
        if hit.is_some_and(|run| run.start == start) {
            return;
        }
        let own = (start != 0).then_some(Run { first: at, last: at, start });
        let Some(run) = hit else {
            self.0.splice(place..place, own);
            return;
        };
        let left = (run.first < at).then_some(Run { last: at - 1, ..run });
        let right = (run.last > at).then_some(Run { first: at + 1, ..run });
        self.0.splice(place..=place, [left, own, right].into_iter().flatten());
    }

    /// The start of the sample at `at`; 0 if it has none.
    pub fn of(&self, at: i64) -> i64 {
        let place = self.0.partition_point(|run| run.last < at);
        self.0.get(place).filter(|run| run.first <= at).map_or(0, |run| run.start)
    }

    /// Forgets those of samples before `t`.
    pub fn drop_before(&mut self, t: i64) {
        let gone = self.0.partition_point(|run| run.last < t);
        if gone > 0 {
            self.0.drain(..gone);
            self.0.shrink_to_fit();
        }
    }

    /// Whether no sample has one.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the starts to columns of the series' samples.
    pub fn fill(&self, columns: &mut SeriesColumns) {
        for point in &mut columns.histograms {
            if point.start == 0 {
                point.start = self.of(point.timestamp);
            }
        }
        let (Some(&first), Some(&last)) = (columns.timestamps.first(), columns.timestamps.last()) else { return };
        let from = self.0.partition_point(|run| run.last < first);
        let mut runs = self.0[from..].iter().take_while(|run| run.first <= last).peekable();
        if runs.peek().is_none() {
            return;
        }
        columns.start_timestamps.resize(columns.timestamps.len(), 0);
        for (at, start) in columns.timestamps.iter().zip(&mut columns.start_timestamps) {
            while runs.next_if(|run| run.last < *at).is_some() {}
            if let Some(run) = runs.peek().filter(|run| run.first <= *at) {
                *start = run.start;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn one_run_holds_an_hour_of_samples() {
        let mut starts = Starts::default();
        for at in 1..=240 {
            starts.push(at * 15, 7, (at - 1) * 15);
        }
        assert_eq!(starts.0, [Run { first: 15, last: 3600, start: 7 }]);
        starts.push(3615, 3610, 3600);
        assert_eq!((starts.0.len(), starts.of(3600), starts.of(3615)), (2, 7, 3610));
        starts.drop_before(3601);
        assert_eq!((starts.0.len(), starts.of(3600)), (1, 0));
    }

    #[test]
    fn a_sample_without_a_start_between_two_with_one_stays_without() {
        let mut starts = Starts::default();
        starts.push(10, 7, i64::MIN);
        starts.push(30, 7, 20);
        assert_eq!([10, 20, 30].map(|at| starts.of(at)), [7, 0, 7]);
    }

    proptest! {
        /// Whatever comes in whatever order, each sample has the start it came with.
        #[test]
        fn every_sample_keeps_its_own_start(
            samples in proptest::collection::vec((0i64..40, 0i64..4), 1..60),
        ) {
            let (mut starts, mut expected) = (Starts::default(), BTreeMap::new());
            for (at, start) in samples {
                let newest = expected.last_key_value().map_or(i64::MIN, |(at, _)| *at);
                match at > newest && start != 0 {
                    true => starts.push(at, start, newest),
                    false => starts.set(at, start),
                }
                expected.insert(at, start);
            }
            for (at, start) in &expected {
                prop_assert_eq!(starts.of(*at), *start);
            }
            prop_assert!(starts.0.windows(2).all(|pair| pair[0].last < pair[1].first));
            let timestamps: Vec<i64> = expected.keys().copied().collect();
            let values = vec![0.0; timestamps.len()];
            let mut columns = SeriesColumns { timestamps, values, ..SeriesColumns::default() };
            starts.fill(&mut columns);
            columns.start_timestamps.resize(expected.len(), 0);
            prop_assert_eq!(columns.start_timestamps, expected.values().copied().collect::<Vec<_>>());
        }
    }
}
