//! A framing for tests: each frame is one batch with its labels, whole.

use std::path::Path;
use std::sync::Arc;

use promesh_model::codec;
use promesh_model::frame;
use promesh_model::ingest::{Batch, SeriesIndex};
use promesh_model::labels::Labels;
use promesh_model::matcher::Matcher;
use promesh_model::storage::{Budget, Queryable, SelectHints, SelectRequest, SeriesColumns};
use promesh_model::time::{Monotonic, Now, Timestamp};

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
    for (place, (labels, at, bits)) in plain.iter().enumerate() {
        batch.series.push(index.resolve(labels).expect("labels are fine"));
        batch.values.push(f64::from_bits(*bits));
        // As most producers do, one instant is said once.
        if *at != batch.slot.ms() {
            batch.timestamps.push((place as u32, Timestamp(*at)));
        }
    }
    batch
}

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

/// Everything that is stored, as (labels, instant, value bits).
pub fn dump(db: &Db) -> Vec<(Labels, i64, u64)> {
    let mut all = Vec::new();
    for columns in select(db, Vec::new(), i64::MIN, i64::MAX) {
        for (at, value) in columns.timestamps.iter().zip(&columns.values) {
            all.push((columns.labels.clone(), *at, value.to_bits()));
        }
    }
    all
}
