//! Batches of the same series, held back and taken in together, series by series.
//!
//! A log is batch after batch of the same thousands of series. Taken in one by one, each sample finds its series' memory
//! cold; a series at a time, only the first does: that is most of what a start costs. Batches are held back only as
//! long as no other that names one of their series comes between them, so that every series sees its samples in the
//! order of the log.

use hashbrown::HashSet;
use promesh_model::ingest::{Batch, SeriesRef};
use promesh_model::time::Timestamp;

use crate::head::{AppendOutcome, Head};

/// At least so many samples are held back before they are taken in.
const SAMPLES_MIN: usize = 256 << 10;
/// At most so many: 16 MiB a thread.
const SAMPLES_MAX: usize = 2 << 20;
/// Between the two, so many for each series.
const SAMPLES_PER_SERIES: usize = 16;

/// What is held back by one thread.
#[derive(Debug, Default)]
pub struct Runs {
    runs: Vec<Run>,
    /// The series of all runs; each is in one.
    series: HashSet<SeriesRef, foldhash::fast::FixedState>,
    samples: usize,
}

#[derive(Debug)]
struct Run {
    series: Vec<SeriesRef>,
    late: bool,
    slots: Vec<Timestamp>,
    values: Vec<Vec<f64>>,
}

/// Whether a batch can be held back: floats of one instant, nothing else.
pub fn is_plain(batch: &Batch) -> bool {
    batch.timestamps.is_empty()
        && batch.start_timestamps.is_empty()
        && batch.histograms.is_empty()
        && batch.exemplars.is_empty()
        && batch.metadata.is_empty()
}

impl Runs {
    /// Holds a plain batch back; `late` says how it is taken in. What had to be taken in for it is added to `outcome`.
    pub fn hold(&mut self, batch: Batch, late: bool, head: &Head, outcome: &mut AppendOutcome) {
        debug_assert!(is_plain(&batch), "nothing but floats of one instant");
        let known = self.runs.iter().position(|run| run.late == late && run.series == batch.series);
        let place = match known {
            Some(place) => place,
            None if self.begin(&batch.series, late, head, outcome) => self.runs.len() - 1,
            None => {
                outcome.add(if late { head.append_late(&batch) } else { head.append_replayed(&batch) });
                return;
            }
        };
        self.samples += batch.values.len();
        self.runs[place].slots.push(batch.slot);
        self.runs[place].values.push(batch.values);
        if self.samples >= (self.series.len() * SAMPLES_PER_SERIES).clamp(SAMPLES_MIN, SAMPLES_MAX) {
            self.take_in(head, outcome);
        }
    }

    /// A list of series not seen before. One that shares a series with another ends all: the next batch of the other
    /// would be taken in before what came between. Answers false for a list that names a series twice: it overlaps with
    /// itself.
    fn begin(&mut self, series: &[SeriesRef], late: bool, head: &Head, outcome: &mut AppendOutcome) -> bool {
        let before = self.series.len();
        self.series.extend(series.iter().copied());
        if self.series.len() != before + series.len() {
            self.take_in(head, outcome);
            self.runs.clear();
            self.series = series.iter().copied().collect();
            if self.series.len() != series.len() {
                self.series.clear();
                return false;
            }
        }
        self.runs.push(Run { series: series.to_vec(), late, slots: Vec::new(), values: Vec::new() });
        true
    }

    /// Takes in all that is held back.
    pub fn take_in(&mut self, head: &Head, outcome: &mut AppendOutcome) {
        for run in self.runs.iter_mut().filter(|run| !run.slots.is_empty()) {
            outcome.add(head.append_run(&run.series, &run.slots, &run.values, run.late));
            run.slots.clear();
            run.values.clear();
        }
        self.samples = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use promesh_model::ingest::SeriesIndex;
    use promesh_model::storage::{Budget, SeriesColumns};
    use proptest::prelude::*;

    use super::*;
    use crate::fs::FaultyFs;
    use crate::head::HeadOptions;
    use crate::tests::support::series;

    fn head(out_of_order_ms: i64) -> Head {
        let options = HeadOptions { out_of_order_ms, ..HeadOptions::default() };
        Head::new(Arc::new(FaultyFs::new()), Path::new("head"), options).expect("opens")
    }

    fn all(head: &Head) -> Vec<SeriesColumns> {
        let mut all = head.select(&[], i64::MIN, i64::MAX, &Budget::unlimited(), &mut Vec::new()).expect("answers");
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        all
    }

    /// Lists that overlap and lists that do not; one names a series twice.
    const LISTS: [&[usize]; 6] = [&[0, 1, 2], &[3, 4], &[2, 3], &[5], &[0, 1, 2, 6], &[7, 7]];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Held back or not, every sample finds the same fate and every series ends the same.
        #[test]
        fn holding_back_changes_nothing(
            steps in proptest::collection::vec((0usize..6, -3i64..40, any::<bool>(), 0u8..12), 1..300),
            window in prop_oneof![Just(0i64), Just(i64::MAX)],
        ) {
            let (one_by_one, held_back) = (head(window), head(window));
            let (mut runs, mut outcome, mut expected) =
                (Runs::default(), AppendOutcome::default(), AppendOutcome::default());
            let mut slot = 1_700_000_000_000;
            for (step, (list, delta, late, what)) in steps.into_iter().enumerate() {
                slot += delta * 1000;
                let batch = |head: &Head| {
                    let resolved = LISTS[list].iter().map(|host| head.resolve(&series("up", *host)).expect("is fine"));
                    let values = (0..LISTS[list].len()).map(|place| (step * 10 + place) as f64).collect();
                    Batch { slot: Timestamp(slot), series: resolved.collect(), values, ..Batch::default() }
                };
                let plain = batch(&one_by_one);
                expected.add(if late { one_by_one.append_late(&plain) } else { one_by_one.append_replayed(&plain) });
                runs.hold(batch(&held_back), late, &held_back, &mut outcome);
                if what == 0 {
                    runs.take_in(&held_back, &mut outcome);
                }
            }
            runs.take_in(&held_back, &mut outcome);
            prop_assert_eq!(all(&held_back), all(&one_by_one));
            let counts = |outcome: &AppendOutcome| {
                (outcome.appended, outcome.late, outcome.duplicates, outcome.rejected.len())
            };
            prop_assert_eq!(counts(&outcome), counts(&expected));
            prop_assert_eq!(held_back.max_time(), one_by_one.max_time());
        }
    }
}
