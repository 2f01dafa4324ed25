//! The open window as chunks: what a joining peer fetches.

use promesh_model::ingest::{IngestError, SeriesIndex, SeriesRef};
use promesh_model::labels::Labels;
use promesh_model::{ShardId, Timestamp};
use std::sync::atomic::Ordering;
use thiserror::Error;

use super::pages::PAGE_SLOTS;
use super::series::{Appended, Bounds, Series, Value};
use super::spill::{ChunkBytes, SpilledChunk};
use super::{Head, labels_of, series_ref, slot_of};
use crate::chunk::histogram::HistogramAppender;
use crate::chunk::xor::XorAppender;
use crate::chunk::{self, ChunkError, Encoding};

/// A run of samples of one series on its way to another peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadChunk {
    /// Whose they are.
    pub labels: Labels,
    /// How the bytes are to be read.
    pub encoding: Encoding,
    /// Instant of the first sample.
    pub min: i64,
    /// Instant of the last sample.
    pub max: i64,
    /// The chunk.
    pub bytes: Vec<u8>,
}

/// Why a chunk from another peer was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ImportError {
    /// The bytes are no chunk.
    #[error("chunk of {labels:?}: {source}")]
    Chunk {
        /// Whose.
        labels: Labels,
        /// What is wrong.
        source: ChunkError,
    },
    /// Instants that do not rise, or other bounds than stated.
    #[error("chunk of {0:?}: its instants are not as stated")]
    Bounds(Labels),
    /// The head refuses the series.
    #[error("series {labels:?}: {source}")]
    Series {
        /// Whose.
        labels: Labels,
        /// Why.
        source: IngestError,
    },
}

impl Head {
    /// The chunks that are not in blocks of some shards, series by series, which have samples at or after the instant that
    /// is `since` of their shard; a page at a time, so that appending goes on meanwhile. What is appended meanwhile may or
    /// may not be among them.
    pub fn export_open<'a>(
        &'a self,
        since: &'a dyn Fn(ShardId) -> Option<Timestamp>,
    ) -> impl Iterator<Item = (SeriesRef, HeadChunk)> + 'a {
        self.pages.iter().flat_map(move |(first, page)| {
            let page = page.lock();
            let mut chunks = Vec::new();
            for (slot, place) in (first..).zip(page.iter()) {
                let wanted = place.series.as_ref().and_then(|series| Some((series, since(series.shard)?)));
                if let Some((series, since)) = wanted {
                    let mut own = Vec::new();
                    self.export_series(series, since, &mut own);
                    let reference = series_ref(slot, place.generation);
                    chunks.extend(own.into_iter().map(|chunk| (reference, chunk)));
                }
            }
            chunks
        })
    }

    fn export_series(&self, series: &Series, since: Timestamp, out: &mut Vec<HeadChunk>) {
        let min = self.min.load(Ordering::Acquire);
        let labels = labels_of(&self.index.read().symbols, &series.labels);
        for chunk in series.chunks(min, i64::MAX, &self.spill).into_iter().filter(|chunk| chunk.max >= since.ms()) {
            let bytes = chunk.bytes.to_vec();
            out.push(HeadChunk {
                labels: labels.clone(),
                encoding: chunk.encoding,
                min: chunk.min,
                max: chunk.max,
                bytes,
            });
        }
        let pending = series.pending();
        let late = series.late().map(|late| late.range(i64::MIN, i64::MAX)).into_iter().flatten().flatten();
        for (at, value) in pending.iter().chain(late).filter(|(at, _)| *at >= since.ms()) {
            out.push(single(&labels, *at, value));
        }
    }

    /// Takes in a chunk from another peer; samples that are here already are duplicates, those between others go among
    /// them. Answers how many samples were new.
    ///
    /// # Errors
    /// When the bytes are not what they should be or the series is refused; the head is unchanged.
    pub fn import_open(&self, chunk: HeadChunk) -> Result<u64, ImportError> {
        check(&chunk)?;
        let HeadChunk { labels, encoding, min, max, bytes } = chunk;
        let series = self.resolve(&labels).map_err(|source| ImportError::Series { labels: labels.clone(), source })?;
        let bounds = Bounds {
            late_min: i64::MIN,
            replicated: true,
            in_order_min: self.min.load(Ordering::Acquire),
            ..self.bounds()
        };
        let Some(page) = self.pages.page(slot_of(series)) else { return Ok(0) };
        let mut page = page.lock();
        let Some(series) = page[slot_of(series) as usize % PAGE_SLOTS].series.as_mut() else { return Ok(0) };
        let chunk = SpilledChunk { min, max, encoding, bytes: ChunkBytes::owned(bytes) };
        let mut taken = 0;
        if min >= bounds.in_order_min && series.adopt(&chunk, &self.spill) {
            taken = u64::from(chunk::sample_count(&chunk.bytes).unwrap_or(0));
        } else {
            let _ = chunk::for_each_value(encoding, &chunk.bytes, |at, value| {
                let appended = match value() {
                    Value::Float(bits) => series.append_float(at, bits, &bounds, &self.spill),
                    Value::Histogram(value) => series.append_histogram(at, &value, &bounds, &self.spill),
                };
                match appended {
                    Ok(Appended::InOrder) => taken += 1,
                    Ok(kind @ (Appended::Late | Appended::Settled(true))) => {
                        taken += 1;
                        self.late_samples.fetch_add(1, Ordering::Relaxed);
                        self.counters.note_settled(u64::from(kind != Appended::Late));
                    }
                    Ok(Appended::Settled(false)) => self.counters.note_settled(1),
                    Ok(Appended::Duplicate) | Err(_) => {}
                }
                true
            });
        }
        drop(page);
        self.max.fetch_max(max, Ordering::AcqRel);
        self.oldest.fetch_min(min, Ordering::AcqRel);
        Ok(taken)
    }
}

/// Reads the whole chunk before anything is changed.
fn check(chunk: &HeadChunk) -> Result<(), ImportError> {
    let (mut first, mut last, mut rising) = (None, None, true);
    chunk::for_each_value(chunk.encoding, &chunk.bytes, |at, value| {
        rising &= last.is_none_or(|last| last < at);
        if let Value::Histogram(value) = value() {
            rising &= super::append::validate(&value).is_ok();
        }
        first = first.or(Some(at));
        last = Some(at);
        true
    })
    .map_err(|source| ImportError::Chunk { labels: chunk.labels.clone(), source })?;
    if rising && first == Some(chunk.min) && last == Some(chunk.max) {
        Ok(())
    } else {
        Err(ImportError::Bounds(chunk.labels.clone()))
    }
}

fn single(labels: &Labels, at: i64, value: &Value) -> HeadChunk {
    let mut bytes = Vec::new();
    let encoding = match value {
        Value::Float(bits) => {
            XorAppender::begin(&mut bytes, at, *bits);
            Encoding::Xor
        }
        Value::Histogram(value) => HistogramAppender::begin(&mut bytes, at, value, Default::default()).encoding(),
    };
    HeadChunk { labels: labels.clone(), encoding, min: at, max: at, bytes }
}
