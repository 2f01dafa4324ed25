//! The typed, length-prefixed parts of a batch. A reader skips types it does not know.

use std::sync::Arc;

use promesh_model::codec;
use promesh_model::ingest::{Batch, Exemplar, HistogramSample, HistogramValue, IngestError, Metadata, SeriesIndex};
use promesh_model::labels::Labels;
use promesh_model::{FloatHistogram, Histogram, Timestamp};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::encode::push_times;
use super::wire::{Reader, push_bytes, push_varint};
use super::{DEFINITIONS_BYTES_MAX, FramingError};

/// The types of sections. Numbers are for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Section {
    Definitions = 1,
    Layout = 2,
    Vanished = 3,
    /// Written by releases before `ScaledValues`.
    Values = 4,
    Timestamps = 5,
    StartTimestamps = 6,
    Histograms = 7,
    Exemplars = 8,
    Metadata = 9,
    ScaledValues = 10,
}

impl Section {
    pub(super) fn of(number: u8) -> Option<Section> {
        use Section::*;
        let early =
            [Definitions, Layout, Vanished, Values, Timestamps, StartTimestamps, Histograms, Exemplars, Metadata];
        early.into_iter().chain([ScaledValues]).find(|section| *section as u8 == number)
    }
}

pub(super) fn push(out: &mut Vec<u8>, section: Section, payload: &[u8]) {
    out.push(section as u8);
    push_bytes(out, payload);
}

/// Guards a base: two ends that disagree about it disagree about this.
pub(super) fn values_checksum(values: &[f64]) -> u32 {
    let mut hash = 0u64;
    let mut buffer = [0u8; 512];
    for chunk in values.chunks(64) {
        for (slot, value) in buffer.chunks_exact_mut(8).zip(chunk) {
            slot.copy_from_slice(&value.to_bits().to_le_bytes());
        }
        hash = hash.rotate_left(17) ^ xxh3_64(&buffer[..chunk.len() * 8]);
    }
    (hash ^ hash >> 32) as u32
}

/// Definitions are written twice an hour and are most of a key frame: worth some effort.
const DEFINITIONS_LEVEL: i32 = 5;

/// Label sets one after another, compressed: neighbours share most of their text.
pub(super) fn pack_definitions(definitions: &[Labels]) -> Vec<u8> {
    let mut plain = Vec::new();
    for labels in definitions {
        push_bytes(&mut plain, labels.as_packed());
    }
    let mut payload = Vec::new();
    push_varint(&mut payload, definitions.len() as u64);
    push_varint(&mut payload, plain.len() as u64);
    payload.extend_from_slice(
        &zstd::bulk::compress(&plain, DEFINITIONS_LEVEL).expect("compressing to memory cannot fail"),
    );
    payload
}

pub(super) fn unpack_definitions(payload: &[u8]) -> Result<Vec<Labels>, FramingError> {
    let mut reader = Reader(payload);
    let count = reader.varint()? as usize;
    let bytes = reader.varint()? as usize;
    if bytes > DEFINITIONS_BYTES_MAX || count > bytes {
        return Err(FramingError::Malformed("definitions too large"));
    }
    let plain = zstd::bulk::decompress(reader.0, bytes).map_err(|_| FramingError::Malformed("definitions"))?;
    let mut reader = Reader(&plain);
    let mut definitions = Vec::with_capacity(count.min(1 << 16));
    while !reader.is_empty() {
        let labels = Labels::from_packed(reader.bytes()?).map_err(|_| FramingError::Malformed("labels"))?;
        definitions.push(labels);
    }
    if definitions.len() == count { Ok(definitions) } else { Err(FramingError::Malformed("count of definitions")) }
}

pub(super) fn push_sparse_times(out: &mut Vec<u8>, section: Section, times: &[(u32, Timestamp)], slot: Timestamp) {
    if !times.is_empty() {
        let mut payload = Vec::with_capacity(times.len() * 3);
        push_times(&mut payload, times, slot);
        push(out, section, &payload);
    }
}

pub(super) fn take_sparse_times(payload: &[u8], slot: Timestamp) -> Result<Vec<(u32, Timestamp)>, FramingError> {
    let mut reader = Reader(payload);
    let count = reader.count(1)?;
    let mut times = Vec::with_capacity(count);
    let mut index = 0u64;
    for position in 0..count {
        let step = reader.varint()?;
        if position > 0 && step == 0 {
            return Err(FramingError::Malformed("indexes must rise"));
        }
        index = index.saturating_add(step);
        let index = u32::try_from(index).map_err(|_| FramingError::Malformed("index"))?;
        times.push((index, Timestamp(slot.ms().wrapping_add(reader.signed()?))));
    }
    Ok(times)
}

/// The rarer sections carry labels with each entry: simple, and compressed as a whole.
#[derive(Serialize, Deserialize)]
struct WireHistogram {
    labels: Labels,
    timestamp: i64,
    start: i64,
    integer: Option<Histogram>,
    float: Option<FloatHistogram>,
}

#[derive(Serialize, Deserialize)]
struct WireExemplar {
    series: Labels,
    labels: Labels,
    value: f64,
    timestamp: i64,
}

fn push_compressed<T: Serialize>(out: &mut Vec<u8>, section: Section, entries: &T) {
    let plain = codec::encode(entries);
    let mut payload = Vec::new();
    push_varint(&mut payload, plain.len() as u64);
    payload.extend_from_slice(&zstd::bulk::compress(&plain, 1).expect("compressing to memory cannot fail"));
    push(out, section, &payload);
}

fn take_compressed<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, FramingError> {
    let mut reader = Reader(payload);
    let bytes = reader.varint()? as usize;
    if bytes > codec::BULK_BYTES_MAX {
        return Err(FramingError::Malformed("section too large"));
    }
    let plain = zstd::bulk::decompress(reader.0, bytes).map_err(|_| FramingError::Malformed("section"))?;
    codec::decode::<T, { codec::BULK_BYTES_MAX }>(&plain).map_err(|_| FramingError::Malformed("section"))
}

pub(super) fn push_histograms(out: &mut Vec<u8>, batch: &Batch, index: &dyn SeriesIndex) -> Result<(), IngestError> {
    if batch.histograms.is_empty() {
        return Ok(());
    }
    let wire = |sample: &HistogramSample| {
        let (integer, float) = match &sample.value {
            HistogramValue::Integer(histogram) => (Some(Histogram::clone(histogram)), None),
            HistogramValue::Float(histogram) => (None, Some(FloatHistogram::clone(histogram))),
        };
        Ok(WireHistogram {
            labels: index.labels(sample.series).ok_or(IngestError::UnknownSeries)?,
            timestamp: sample.timestamp.ms(),
            start: sample.start.ms(),
            integer,
            float,
        })
    };
    let entries = batch.histograms.iter().map(wire).collect::<Result<Vec<_>, IngestError>>()?;
    push_compressed(out, Section::Histograms, &entries);
    Ok(())
}

pub(super) fn take_histograms(payload: &[u8], index: &dyn SeriesIndex) -> Result<Vec<HistogramSample>, FramingError> {
    let sample = |wire: WireHistogram| {
        let value = match (wire.integer, wire.float) {
            (Some(histogram), None) => HistogramValue::Integer(Arc::new(histogram)),
            (None, Some(histogram)) => HistogramValue::Float(Arc::new(histogram)),
            _ => return Err(FramingError::Malformed("histogram of no kind")),
        };
        let (timestamp, start) = (Timestamp(wire.timestamp), Timestamp(wire.start));
        Ok(HistogramSample { series: index.resolve(&wire.labels)?, timestamp, value, start })
    };
    take_compressed::<Vec<WireHistogram>>(payload)?.into_iter().map(sample).collect()
}

pub(super) fn push_exemplars(out: &mut Vec<u8>, batch: &Batch, index: &dyn SeriesIndex) -> Result<(), IngestError> {
    if batch.exemplars.is_empty() {
        return Ok(());
    }
    let mut entries = Vec::with_capacity(batch.exemplars.len());
    for (series, exemplar) in &batch.exemplars {
        entries.push(WireExemplar {
            series: index.labels(*series).ok_or(IngestError::UnknownSeries)?,
            labels: exemplar.labels.clone(),
            value: exemplar.value,
            timestamp: exemplar.timestamp.ms(),
        });
    }
    push_compressed(out, Section::Exemplars, &entries);
    Ok(())
}

type SeriesExemplar = (promesh_model::ingest::SeriesRef, Exemplar);

pub(super) fn take_exemplars(payload: &[u8], index: &dyn SeriesIndex) -> Result<Vec<SeriesExemplar>, FramingError> {
    let exemplar = |wire: WireExemplar| {
        let timestamp = Timestamp(wire.timestamp);
        Ok((index.resolve(&wire.series)?, Exemplar { labels: wire.labels, value: wire.value, timestamp }))
    };
    take_compressed::<Vec<WireExemplar>>(payload)?.into_iter().map(exemplar).collect()
}

pub(super) fn push_metadata(out: &mut Vec<u8>, batch: &Batch) {
    if !batch.metadata.is_empty() {
        push_compressed(out, Section::Metadata, &batch.metadata);
    }
}

pub(super) fn take_metadata(payload: &[u8]) -> Result<Vec<(String, Metadata)>, FramingError> {
    take_compressed(payload)
}
