use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use promesh_model::ingest::{Batch, IngestError, SeriesIndex};
use promesh_model::storage::{Budget, SeriesColumns};
use promesh_model::{Labels, Matcher, ShardId, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::fs::FaultyFs;

fn head(out_of_order_ms: i64) -> Head {
    let options = HeadOptions { out_of_order_ms, ..HeadOptions::default() };
    Head::new(Arc::new(FaultyFs::new()), Path::new("head"), options).expect("an empty folder")
}

fn labels(host: usize) -> Labels {
    Labels::from_pairs([("__name__", "up"), ("instance", &format!("h{host}")), ("job", "node")])
}

fn batch(head: &Head, slot: i64, samples: &[(usize, f64)]) -> Batch {
    Batch {
        slot: Timestamp(slot),
        series: samples.iter().map(|(host, _)| head.resolve(&labels(*host)).expect("resolves")).collect(),
        values: samples.iter().map(|(_, value)| *value).collect(),
        ..Batch::default()
    }
}

fn read(head: &Head, host: usize) -> SeriesColumns {
    let matchers = [Matcher::equal("instance", format!("h{host}"))];
    let mut warnings = Vec::new();
    let mut found = head.select(&matchers, i64::MIN, i64::MAX, &Budget::unlimited(), &mut warnings).expect("reads");
    assert_eq!(warnings, Vec::<String>::new());
    found.pop().unwrap_or_default()
}

#[test]
fn repeated_samples_are_duplicates_and_contradictions_are_refused() {
    let head = head(0);
    for slot in [1000, 2000, 3000] {
        head.append(&batch(&head, slot, &[(1, 1.0)]));
    }
    assert_eq!(head.append(&batch(&head, 3000, &[(1, 1.0)])).duplicates, 1);
    assert_eq!(head.append(&batch(&head, 1000, &[(1, 1.0)])).duplicates, 1);
    assert_eq!(head.append(&batch(&head, 3000, &[(1, 2.0)])).rejected[0].reason, IngestError::Duplicate);
    assert_eq!(head.append(&batch(&head, 1500, &[(1, 2.0)])).rejected[0].reason, IngestError::OutOfOrder);
    let far = 10_000_000;
    head.append(&batch(&head, far, &[(1, 1.0)]));
    assert_eq!(head.append(&batch(&head, 2500, &[(2, 2.0)])).rejected[0].reason, IngestError::OutOfBounds);
    assert_eq!(read(&head, 1).timestamps, [1000, 2000, 3000, far]);
}

#[test]
fn of_two_values_that_peers_kept_the_better_stays_and_is_counted() {
    let head = head(0);
    for slot in [1000, 2000, 3000] {
        head.append(&batch(&head, slot, &[(1, 2.0)]));
    }
    let again = head.append_late(&batch(&head, 2000, &[(1, 2.0)]));
    assert_eq!((again.settled, again.duplicates), (0, 1));
    let better = head.append_late(&batch(&head, 2000, &[(1, 3.0)]));
    assert_eq!((better.settled, better.late), (1, 1));
    let worse = head.append_late(&batch(&head, 2000, &[(1, 1.0)]));
    assert_eq!((worse.settled, worse.duplicates), (1, 1));
    assert_eq!(head.append_late(&batch(&head, 1500, &[(1, 1.0)])).settled, 0, "nothing stood there");
    assert_eq!(head.counts().settled, 2);
    assert_eq!(read(&head, 1).values, [2.0, 1.0, 3.0, 2.0]);
}

#[test]
fn the_out_of_order_window_takes_late_samples_and_names_older_ones() {
    let head = head(10_000);
    for slot in [20_000, 40_000] {
        head.append(&batch(&head, slot, &[(1, 1.0)]));
    }
    assert_eq!(head.append(&batch(&head, 35_000, &[(1, 2.0)])).late, 1);
    assert_eq!(head.append(&batch(&head, 35_000, &[(1, 2.0)])).duplicates, 1);
    assert_eq!(head.append(&batch(&head, 35_000, &[(1, 3.0)])).rejected[0].reason, IngestError::Duplicate);
    assert_eq!(head.append(&batch(&head, 10_000, &[(1, 2.0)])).rejected[0].reason, IngestError::TooOld);
    assert_eq!(head.append_late(&batch(&head, 10_000, &[(1, 2.0)])).late, 1);
    assert_eq!(read(&head, 1).timestamps, [10_000, 20_000, 35_000, 40_000]);
}

#[test]
fn the_winner_of_a_slot_takes_the_losers_place() {
    let head = head(0);
    head.append(&batch(&head, 1000, &[(1, 1.0), (2, 1.0)]));
    let loser = batch(&head, 2000, &[(1, 5.0), (2, 5.0)]);
    head.append(&loser);
    let outcome = head.replace(&loser.series, Timestamp(2000), &batch(&head, 2000, &[(1, 6.0), (3, 6.0)]));
    assert_eq!(outcome.appended, 2);
    assert_eq!(read(&head, 1).values, [1.0, 6.0]);
    assert_eq!(read(&head, 2).values, [1.0]);
    assert_eq!(read(&head, 3).values, [6.0]);
    head.append(&batch(&head, 3000, &[(1, 7.0), (2, 7.0)]));
    assert_eq!(read(&head, 1).values, [1.0, 6.0, 7.0]);
    assert_eq!(read(&head, 2).timestamps, [1000, 3000]);
}

#[test]
fn a_better_batch_takes_the_place_of_one_that_later_slots_have_closed() {
    let head = head(0);
    for slot in 1..=9 {
        head.append(&batch(&head, slot * 1000, &[(1, slot as f64), (2, slot as f64)]));
    }
    for slot in [1, 5, 8] {
        let at = slot * 1000;
        head.replace(&batch(&head, at, &[(1, 0.0), (2, 0.0)]).series, Timestamp(at), &batch(&head, at, &[(1, 0.5)]));
    }
    assert_eq!(read(&head, 1).values, [0.5, 2.0, 3.0, 4.0, 0.5, 6.0, 7.0, 0.5, 9.0]);
    assert_eq!(read(&head, 2).values, [2.0, 3.0, 4.0, 6.0, 7.0, 9.0]);
    // Again, now that the first winner stands among the late samples.
    head.replace(&[], Timestamp(5000), &batch(&head, 5000, &[(1, 0.25)]));
    assert_eq!(read(&head, 1).values[4], 0.25);
    head.append(&batch(&head, 10_000, &[(1, 10.0), (2, 10.0)]));
    assert_eq!(read(&head, 2).values.last(), Some(&10.0));
}

#[test]
fn a_collected_series_is_refused_not_mistaken() {
    let head = head(0);
    let old = batch(&head, 1000, &[(1, 1.0)]);
    head.append(&old);
    head.append(&batch(&head, 9000, &[(2, 1.0)]));
    head.set_min_time(Timestamp(5000));
    assert_eq!(head.collect(), Collected { series: 1, left: 1 });
    let (collected, reused) = (old.series[0], head.resolve(&labels(3)).expect("resolves"));
    assert_eq!(slot_of(reused), slot_of(collected), "the slot serves again");
    assert_eq!(head.append(&Batch { slot: Timestamp(9000), ..old }).rejected[0].reason, IngestError::UnknownSeries);
    assert_eq!(head.label_values("instance", &[]), ["h2", "h3"].map(str::to_owned));
    let mut columns = SeriesColumns::default();
    head.read_resolved(collected, i64::MIN, i64::MAX, &mut columns, &mut Vec::new());
    assert_eq!(columns, SeriesColumns::default(), "of one that was collected there is nothing");
    let kept = head.resolve(&labels(2)).expect("resolves");
    head.read_resolved(kept, 9000, 9000, &mut columns, &mut Vec::new());
    assert_eq!((columns.timestamps, columns.values), (vec![9000], vec![1.0]));
    assert_eq!(head.collect().series, 0, "a series that waits for its first sample is spared once");
    assert_eq!(head.collect().series, 1);
    assert_eq!(head.series_count(), 1);
}

#[test]
fn a_label_set_beyond_the_limit_is_refused() {
    let head = head(0);
    let huge = Labels::from_pairs([("__name__", "up"), ("x", &"y".repeat(1 << 20))]);
    assert!(matches!(head.resolve(&huge), Err(IngestError::InvalidLabels(_))));
    assert!(head.resolve(&Labels::empty()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// A selection that is asked for again after series came and went, and slots changed hands, is what a new one would be.
    #[test]
    fn a_selection_follows_the_series(steps in proptest::collection::vec((0usize..12, any::<bool>(), any::<bool>()), 1..60)) {
        let head = head(0);
        let mut newest = BTreeMap::new();
        for (number, (host, collects, looks)) in steps.into_iter().enumerate() {
            let at = 1000 * (number as i64 + 10);
            head.append(&batch(&head, at, &[(host, number as f64)]));
            newest.insert(host, (at, number as f64));
            if collects {
                head.set_min_time(Timestamp(at - 4000));
                head.collect();
                newest.retain(|_, (newest, _)| *newest >= at - 4000);
            }
            if !looks {
                continue;
            }
            let mut expected: Vec<_> = newest.iter().map(|(host, (_, value))| (labels(*host), Some(*value))).collect();
            expected.sort_by(|a, b| a.0.cmp(&b.0));
            let matchers = [Matcher::equal("job", "node")];
            let found = head.select(&matchers, i64::MIN, i64::MAX, &Budget::unlimited(), &mut Vec::new()).expect("reads");
            let found: Vec<_> = found.into_iter().map(|one| (one.labels, one.values.last().copied())).collect();
            prop_assert_eq!(found, expected);
        }
    }

    /// Any samples in any order through the late path give each instant once, and a copy of the open window equals it.
    #[test]
    fn late_samples_sort_themselves_and_copies_equal_their_source(
        samples in proptest::collection::vec((0usize..3, 0i64..2000, 0u32..3), 1..400),
        live in proptest::collection::vec((0usize..3, 2000i64..2010), 0..3),
        after in proptest::collection::vec((0usize..3, 1995i64..2015, 0u32..3), 0..6),
    ) {
        let (source, copy) = (head(0), head(0));
        let mut expected = BTreeMap::new();
        for (host, step, value) in samples {
            let (at, value) = (step * 60_000, f64::from(value));
            source.append_late(&batch(&source, at, &[(host, value)]));
            let best = expected.entry((host, at)).or_insert(value);
            *best = value.max(*best);
        }
        for (host, step) in live {
            if copy.append(&batch(&copy, step * 60_000, &[(host, 9.0)])).appended == 1 {
                expected.insert((host, step * 60_000), 9.0);
            }
        }
        for (_, chunk) in source.export_open(&|_: ShardId| Some(Timestamp::MIN)) {
            copy.import_open(chunk).expect("it was just exported");
        }
        for (host, step, value) in after {
            let (at, value) = (step * 60_000, f64::from(value));
            copy.append_late(&batch(&copy, at, &[(host, value)]));
            let best = expected.entry((host, at)).or_insert(value);
            *best = value.max(*best);
        }
        for host in 0..3 {
            let wanted: Vec<(i64, f64)> =
                expected.iter().filter(|entry| entry.0.0 == host).map(|((_, at), value)| (*at, *value)).collect();
            let columns = read(&copy, host);
            let found: Vec<(i64, f64)> = columns.timestamps.iter().copied().zip(columns.values).collect();
            prop_assert_eq!(found, wanted);
        }
        // A part of it, whole or the newest of it only.
        let selected = copy.selected_series(&[Matcher::equal("job", "node")]);
        let spans = [(0, 3000), (500, 1500), (1990, 2005), (2003, 2012)].map(|(from, to)| (from * 60_000, to * 60_000));
        for (start, end) in spans {
            for (place, one) in selected.series.iter().enumerate() {
                let is_within = |host: usize, at: i64| labels(host) == one.labels && (start..=end).contains(&at);
                let wanted: Vec<(i64, f64)> = expected
                    .iter()
                    .filter(|((host, at), _)| is_within(*host, *at))
                    .map(|((_, at), value)| (*at, *value))
                    .collect();
                let read = |newest_only: bool| {
                    let (mut columns, span) = (SeriesColumns::default(), Span { start, end, newest_only });
                    copy.read_selected(&selected, place, span, &mut columns, &mut Vec::new());
                    columns.timestamps.into_iter().zip(columns.values).collect::<Vec<(i64, f64)>>()
                };
                prop_assert_eq!(read(true).pop(), wanted.last().copied());
                prop_assert_eq!(read(false), wanted);
            }
        }
    }

    #[test]
    fn forged_chunks_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100), encoding in 1u8..4) {
        let head = head(0);
        let encoding = crate::chunk::Encoding::from_byte(encoding).expect("known");
        let chunk = HeadChunk { labels: labels(1), encoding, min: 0, max: 0, bytes };
        let _ = head.import_open(chunk);
    }
}

#[test]
fn start_timestamps_come_back_with_their_samples() {
    let head = head(HOUR_MS);
    let with_starts = |slot: i64, starts: [i64; 3]| {
        let named = starts.iter().enumerate().filter(|(_, start)| **start != 0);
        Batch {
            start_timestamps: named.map(|(place, start)| (place as u32, Timestamp(*start))).collect(),
            ..batch(&head, slot, &[(0, slot as f64), (1, slot as f64), (2, slot as f64)])
        }
    };
    let starts = |host| read(&head, host).start_timestamps;
    head.append(&with_starts(1000, [0, 5, 7]));
    head.append(&with_starts(2000, [0, 5, 0]));
    head.append(&with_starts(3000, [0, 2500, 7]));
    assert_eq!((starts(0), starts(1), starts(2)), (vec![], vec![5, 5, 2500], vec![7, 0, 7]));
    // One that comes late has its own, or none.
    head.append(&with_starts(1500, [1200, 0, 1200]));
    assert_eq!((starts(0), starts(1)), (vec![0, 1200, 0, 0], vec![5, 0, 5, 2500]));
    // The batch that stands says nothing of the loser's.
    let loser = with_starts(4000, [0, 3500, 3500]);
    head.append(&loser);
    head.replace(&loser.series, Timestamp(4000), &with_starts(4000, [0, 3900, 0]));
    assert_eq!((starts(1), starts(2)), (vec![5, 0, 5, 2500, 3900], vec![7, 1200, 0, 7, 0]));
    head.set_min_time(Timestamp(2000));
    head.collect();
    // The late ones wait for a block of their own.
    assert_eq!((starts(0), starts(1)), (vec![1200, 0, 0, 0], vec![0, 5, 2500, 3900]));
}

const HOUR_MS: i64 = 3_600_000;
