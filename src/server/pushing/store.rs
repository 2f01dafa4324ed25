//! Storing pushed samples here, as the owner of their shards or as one who keeps a copy.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use promesh_api::backend::{BackendError, Push, PushOutcome};
use promesh_model::codec::{self, BULK_BYTES_MAX};
use promesh_model::ingest::{Batch, HistogramSample, IngestError, SeriesIndex};
use promesh_model::shard::shard_of;
use promesh_model::{Now, PeerId, ShardId, Timestamp};
use promesh_replication::framing::KIND_PUSH;
use promesh_replication::{BatchHeader, Framing, SourceId, Vanishing};
use promesh_tsdb::{Db, SampleIndex};
use tokio::sync::oneshot;

use super::REFUSED_MAX;
use crate::ahead::{Ahead, is_ahead};
use crate::ingest::{Ingest, StoreError};

/// A batch that is in this peer's log and, as far as is known, in no other's.
pub struct Unconfirmed {
    header: BatchHeader,
    batch: Batch,
    /// Who has it; none while nobody said so. `Err` when no stream took it.
    confirmed: Option<oneshot::Receiver<PeerId>>,
    done: bool,
}

impl Unconfirmed {
    /// Its number.
    pub fn sequence(&self) -> u64 {
        self.header.sequence
    }

    /// Its shard.
    pub fn shard(&self) -> ShardId {
        self.header.shard
    }

    /// Whether another peer has it.
    pub fn is_confirmed(&self) -> bool {
        self.done
    }

    /// Waits for a holder's word, or until `until` is over.
    pub async fn wait<F: Future<Output = ()>>(&mut self, until: &mut Pin<&mut F>) {
        let Some(mut confirmed) = self.confirmed.take() else { return };
        if let Ok(_peer) = confirmed.try_recv() {
            self.done = true;
            return;
        }
        tokio::select! {
            biased;
            said = &mut confirmed => self.done = said.is_ok(),
            () = until => {}
        }
    }

    /// The batch as a frame's payload that stands alone; none when a series of it is gone meanwhile.
    pub fn payload(&self, db: &Db) -> Option<Vec<u8>> {
        let mut payload = Vec::new();
        let mut batch = self.batch.clone();
        Framing::new().encode(&self.header, &mut batch, None, Vanishing::Unmarked, db, &mut payload).ok()?;
        Some(payload)
    }
}

/// Stores a push, a batch for each shard, each shard a source of its own; samples after `latest` are refused.
///
/// # Errors
/// `Unavailable` when the disk refuses: all of it is to be repeated.
pub fn store(
    ingest: &Ingest,
    push: &Push,
    wants_copies: bool,
    latest: Timestamp,
) -> Result<(PushOutcome, Vec<Unconfirmed>), BackendError> {
    let db = ingest.db();
    let mut outcome = PushOutcome::default();
    let mut batches: BTreeMap<ShardId, Batch> = BTreeMap::new();
    for pushed in &push.series {
        let is_ahead = push.samples[pushed.samples.clone()].iter().any(|(at, _)| *at > latest)
            || push.histograms[pushed.histograms.clone()].iter().any(|(at, _)| *at > latest);
        if is_ahead {
            // Whoever took the push has another clock than this one: as it refuses what is too far ahead of its own.
            if outcome.refused.len() < REFUSED_MAX {
                outcome.refused.push((pushed.labels.clone(), IngestError::OutOfBounds));
            }
            continue;
        }
        let series = match db.resolve(&pushed.labels) {
            Ok(series) => series,
            Err(error @ IngestError::Disk(_)) => return Err(BackendError::Unavailable(error.to_string())),
            Err(error) => {
                if outcome.refused.len() < REFUSED_MAX {
                    outcome.refused.push((pushed.labels.clone(), error));
                }
                continue;
            }
        };
        let batch = batches.entry(shard_of(&pushed.labels)).or_default();
        for &(at, value) in &push.samples[pushed.samples.clone()] {
            let place = batch.series.len() as u32;
            batch.timestamps.push((place, at));
            if pushed.start.ms() != 0 {
                batch.start_timestamps.push((place, pushed.start));
            }
            batch.series.push(series);
            batch.values.push(value);
            batch.slot = batch.slot.max(at);
        }
        for (at, value) in &push.histograms[pushed.histograms.clone()] {
            let (timestamp, start) = (*at, pushed.start);
            batch.histograms.push(HistogramSample { series, timestamp, value: value.clone(), start });
            batch.slot = batch.slot.max(timestamp);
        }
        for exemplar in &push.exemplars[pushed.exemplars.clone()] {
            batch.exemplars.push((series, exemplar.clone()));
        }
    }
    let mut unconfirmed = Vec::new();
    for (shard, mut batch) in batches {
        batch.metadata = push.metadata.clone();
        write(ingest, shard, batch, wants_copies, &mut outcome, &mut unconfirmed)?;
    }
    Ok((outcome, unconfirmed))
}

fn write(
    ingest: &Ingest,
    shard: ShardId,
    batch: Batch,
    wants_copies: bool,
    outcome: &mut PushOutcome,
    unconfirmed: &mut Vec<Unconfirmed>,
) -> Result<(), BackendError> {
    let (floats, histograms, exemplars) = (batch.series.clone(), batch.histograms.len(), batch.exemplars.len());
    let histogram_series: Vec<_> = batch.histograms.iter().map(|sample| sample.series).collect();
    let written =
        ingest.write_pushed(pushed_source(shard), shard, batch, wants_copies).map_err(|error| match error {
            StoreError::Series(error) => BackendError::Failed(error.to_string()),
            StoreError::Write(error) => BackendError::Unavailable(error.to_string()),
        })?;
    let (mut floats_refused, mut histograms_refused) = (0, 0);
    for rejected in &written.rejected {
        let series = match rejected.index {
            SampleIndex::Float(place) => {
                floats_refused += 1;
                floats.get(place as usize)
            }
            SampleIndex::Histogram(place) => {
                histograms_refused += 1;
                histogram_series.get(place as usize)
            }
            SampleIndex::Exemplar(_) => None,
        };
        if outcome.refused.len() < REFUSED_MAX
            && let Some(labels) = series.and_then(|series| ingest.db().labels(*series))
        {
            outcome.refused.push((labels, rejected.reason.clone()));
        }
    }
    outcome.samples += floats.len() - floats_refused;
    outcome.histograms += histograms - histograms_refused;
    outcome.exemplars += exemplars;
    if let Some((header, batch, confirmed)) = written.written.filter(|_| wants_copies) {
        unconfirmed.push(Unconfirmed { header, batch, confirmed, done: false });
    }
    Ok(())
}

/// Keeps batches that their owner sent in a request.
///
/// # Errors
/// What is wrong with them, or with the disk.
pub fn keep_copies(ingest: &Ingest, bytes: &[u8], now: Now, ahead: &Ahead) -> Result<(), String> {
    let payloads = codec::decode::<Vec<Vec<u8>>, BULK_BYTES_MAX>(bytes).map_err(|error| error.to_string())?;
    for payload in payloads {
        let decoded = Framing::new().decode(&payload, &**ingest.db()).map_err(|error| error.to_string())?;
        if is_ahead(KIND_PUSH, &decoded, now.wall) {
            let (writer, slot) = (decoded.header.order.origin.writer, decoded.header.slot);
            ahead.refused(writer, slot, now);
            return Err(format!("{slot} is too far ahead of the clock here, {}: one of the two is wrong", now.wall));
        }
        ingest.write_received_push(decoded).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Pushed samples of a shard are one source; the high half keeps it apart from targets' hashes.
fn pushed_source(shard: ShardId) -> SourceId {
    SourceId(u128::from_be_bytes(*b"promesh pushed\0\0") | u128::from(shard.0))
}
