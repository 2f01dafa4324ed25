//! A framing for tests: each frame is one batch with its labels, whole.

use std::path::Path;
use std::sync::Arc;

use promesh_model::codec;
use promesh_model::frame;
use promesh_model::histogram::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Histogram, Span};
use promesh_model::ingest::{Batch, HistogramSample, HistogramValue, SeriesIndex};
use promesh_model::labels::Labels;
use promesh_model::matcher::Matcher;
use promesh_model::storage::{Budget, Queryable, SelectHints, SelectRequest, SeriesColumns};
use promesh_model::time::{Monotonic, Now, Timestamp};
use promesh_model::value::is_stale;

use crate::fs::FaultyFs;
use crate::{Db, DbOptions, OpenReport, ReplayDecoder, Replayed, WriteError, Written};

pub type Plain = Vec<(Labels, i64, u64)>;

pub struct PlainDecoder;

impl ReplayDecoder for PlainDecoder {
    fn lane(&self, kind: u8, _payload: &[u8]) -> u64 {
        u64::from(kind)
    }

    fn decode(&mut self, _kind: u8, payload: &[u8], index: &dyn SeriesIndex) -> Result<Option<Replayed>, String> {
        let plain: Plain = codec::decode::<_, { codec::BULK_BYTES_MAX }>(payload).map_err(|error| error.to_string())?;
        Ok(Some(Replayed::Append(batch_of(&plain, index))))
    }
}

pub fn batch_of(plain: &Plain, index: &dyn SeriesIndex) -> Batch {
    let mut batch = Batch { slot: Timestamp(plain.first().map_or(0, |sample| sample.1)), ..Batch::default() };
    for (labels, at, bits) in plain {
        let series = index.resolve(labels).expect("labels are fine");
        if let Some(value) = histogram_of(labels, *bits) {
            let (timestamp, start) = (Timestamp(*at), Timestamp(0));
            batch.histograms.push(HistogramSample { series, timestamp, value, start });
            continue;
        }
        // As most producers do, one instant is said once.
        if *at != batch.slot.ms() {
            batch.timestamps.push((batch.series.len() as u32, Timestamp(*at)));
        }
        batch.series.push(series);
        batch.values.push(f64::from_bits(*bits));
    }
    batch
}

/// The histogram that stands for some bits in a series of histograms: its sum, and buckets that follow from it. Which
/// kind of histograms it has depends on the series' instance.
pub fn histogram_of(labels: &Labels, bits: u64) -> Option<HistogramValue> {
    if labels.metric_name() != Some(HISTOGRAMS) {
        return None;
    }
    let sum = f64::from_bits(bits);
    if is_stale(sum) {
        return Some(HistogramValue::Integer(Arc::new(Histogram { sum, ..Histogram::default() })));
    }
    // A bucket more every second time, and fewer now and then: counters that are reset.
    let filled = (bits >> 20) % 7 + 1;
    let whole = Histogram {
        sum,
        count: 2 * filled,
        zero_threshold: 0.001,
        positive_spans: vec![Span { offset: 0, length: filled as u32 }],
        positive_buckets: std::iter::once(2).chain(std::iter::repeat_n(0, filled as usize - 1)).collect(),
        ..Histogram::default()
    };
    Some(match labels.value("instance") {
        "host-0:9100" => HistogramValue::Integer(Arc::new(whole)),
        "host-1:9100" => HistogramValue::Float(Arc::new(whole.to_float())),
        _ => HistogramValue::Integer(Arc::new(Histogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            zero_threshold: 0.0,
            custom_values: (0..filled).map(|bound| bound as f64).collect(),
            ..whole
        })),
    })
}

/// The name of series of histograms.
pub const HISTOGRAMS: &str = "latency";

pub fn now(wall: i64) -> Now {
    Now { monotonic: Monotonic(wall as u64 * 1_000_000), wall: Timestamp(wall) }
}

pub fn open(fs: &FaultyFs, options: impl FnOnce(&mut DbOptions)) -> (Db, OpenReport) {
    let mut opened = DbOptions { fs: Arc::new(fs.clone()), ..DbOptions::default() };
    options(&mut opened);
    Db::open(Path::new("data"), opened, &|| Box::new(PlainDecoder), now(0)).expect("opens")
}

pub fn write(db: &Db, lane: u8, plain: &Plain) -> Result<Written, WriteError> {
    let mut frames = Vec::new();
    frame::write(&mut frames, lane, &codec::encode(plain));
    db.write(&frames, &batch_of(plain, db))
}

pub fn series(name: &str, instance: usize) -> Labels {
    Labels::from_pairs([("__name__", name), ("instance", &format!("host-{instance}:9100")), ("job", "node")])
}

pub fn select(db: &Db, matchers: Vec<Matcher>, start: i64, end: i64) -> Vec<SeriesColumns> {
    let request =
        SelectRequest { matchers, start: Timestamp(start), end: Timestamp(end), hints: SelectHints::default() };
    let mut answer = db.select(&[request], &Budget::unlimited()).expect("answers");
    let answer = answer.remove(0);
    assert_eq!(answer.warnings, Vec::<String>::new());
    answer.series
}

fn as_float(value: &HistogramValue) -> FloatHistogram {
    match value {
        HistogramValue::Integer(value) => value.to_float(),
        HistogramValue::Float(value) => FloatHistogram::clone(value),
    }
}

/// Everything that is stored, as (labels, instant, value bits).
pub fn dump(db: &Db) -> Vec<(Labels, i64, u64)> {
    let mut all = Vec::new();
    for columns in select(db, Vec::new(), i64::MIN, i64::MAX) {
        for (at, value) in columns.timestamps.iter().zip(&columns.values) {
            all.push((columns.labels.clone(), *at, value.to_bits()));
        }
        for point in &columns.histograms {
            let bits = point.value.sum.to_bits();
            let expected = histogram_of(&columns.labels, bits).expect("a series of histograms");
            // Neighbours in a chunk have each other's buckets, empty.
            let mut found = FloatHistogram::clone(&point.value);
            let same = found.compact(0).same_data(as_float(&expected).compact(0));
            assert!(same, "{} {}: {found} instead of {expected:?}", columns.labels, point.timestamp);
            all.push((columns.labels.clone(), point.timestamp, bits));
        }
    }
    all
}
