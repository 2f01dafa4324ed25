//! Sealed windows on their way to another peer: series by series as chunks, and blocks made of them.
//!
//! A series whose chunks lie in one block, and whole within the window, goes as it is; any other is encoded anew. What is
//! taken in becomes a block of its own, overlapping with others of its window until these are merged: so it goes past the
//! log and the head, whatever its size.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use promesh_model::digest::SampleDigest;
use promesh_model::ingest::HistogramValue;
use promesh_model::labels::Labels;
use promesh_model::shard::ShardSet;
use promesh_model::storage::{Budget, SeriesColumns};
use promesh_model::time::Now;
use thiserror::Error;

use crate::block::meta::{BlockCompaction, BlockMeta, HINT_OUT_OF_ORDER};
use crate::block::writer::BlockWriter;
use crate::block::{Block, BlockError, ChunkMeta};
use crate::chunk::{self, Chunk};
use crate::db::Db;
use crate::digest::{DigestError, Source, Window, digest_of, read_canonical};
use crate::head::encode_chunks;
use crate::head::series::Value;

/// A series of a window: its labels and its chunks, in time order.
pub type WindowSeries = (Labels, Vec<Chunk>);

/// Why a copied window was not taken. Nothing of it is stored.
#[derive(Debug, Error)]
pub enum WindowError {
    /// Not what an honest peer sends.
    #[error("series {labels:?}: {what}")]
    Malformed {
        /// Of which series.
        labels: Labels,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The block could not be made.
    #[error(transparent)]
    Block(#[from] BlockError),
}

impl Db {
    /// Calls `each` with the series of some shards in a window, in label order, until it answers false. Those of which
    /// `known` has the digest, by the hash of their labels, are left out.
    ///
    /// # Errors
    /// As [`DigestError`] says.
    pub fn export_window(
        &self,
        shards: &ShardSet,
        window: Window,
        known: &HashMap<u128, SampleDigest>,
        budget: &Budget,
        mut each: impl FnMut(WindowSeries) -> bool,
    ) -> Result<(), DigestError> {
        let mut columns = SeriesColumns::default();
        self.walk(shards, window, budget, |labels, sources, warnings| {
            let theirs = known.get(&labels.stable_hash());
            let raw = match (&sources[..], theirs) {
                ([source], None) => source.whole_chunks(window),
                _ => None,
            };
            if let Some(chunks) = raw {
                return Ok(chunks.is_empty() || each((labels.clone(), chunks)));
            }
            read_canonical(labels, sources, window, &mut columns, warnings);
            if !warnings.is_empty() || theirs.is_some_and(|theirs| *theirs == digest_of(&columns)) {
                return Ok(true);
            }
            let chunks = encode_chunks(values_of(&columns));
            Ok(chunks.is_empty() || each((labels.clone(), chunks)))
        })
    }

    /// Makes a block of series of a sealed window that came from another peer, in label order. Answers how many samples it
    /// has; what is here already is there twice until blocks are merged, and read once.
    ///
    /// # Errors
    /// As [`WindowError`] says.
    pub fn add_window(&self, window: Window, series: &[WindowSeries], now: Now) -> Result<u64, WindowError> {
        check(window, series)?;
        let _one_at_a_time = self.maintenance.lock();
        let ulid = self.next_ulid(now);
        let meta = BlockMeta {
            ulid,
            min_time: window.start.ms(),
            max_time: window.end.ms(),
            version: 1,
            // As for late samples: its end says nothing about where the head begins.
            compaction: BlockCompaction {
                level: 1,
                sources: vec![ulid],
                hints: vec![HINT_OUT_OF_ORDER.to_owned()],
                ..BlockCompaction::default()
            },
            ..BlockMeta::default()
        };
        let disk = |source| BlockError::Disk { path: self.dir.join(ulid.to_string()), source };
        let symbols: BTreeSet<&str> =
            series.iter().flat_map(|(labels, _)| labels.iter()).flat_map(|(name, value)| [name, value]).collect();
        let mut writer = BlockWriter::new(&*self.options.fs, &self.dir, meta, symbols).map_err(disk)?;
        for (labels, chunks) in series {
            writer.push(labels, chunks).map_err(disk)?;
        }
        match self.not_left_behind(ulid, writer.finish().map_err(disk))? {
            Some(meta) => {
                self.blocks.add(meta.ulid)?;
                Ok(meta.stats.samples)
            }
            None => Ok(0),
        }
    }
}

/// Label sets rise, chunks lie within the window one after the other, and each reads whole.
fn check(window: Window, series: &[WindowSeries]) -> Result<(), WindowError> {
    let (start, end) = window.bounds();
    for (place, (labels, chunks)) in series.iter().enumerate() {
        let malformed = |what| WindowError::Malformed { labels: labels.clone(), what };
        if place > 0 && series[place - 1].0 >= *labels {
            return Err(malformed("not in label order"));
        }
        let mut last = start.saturating_sub(1);
        for chunk in chunks {
            let (before, mut rising) = (last, true);
            let mut first = None;
            let read = chunk::for_each_value(chunk.encoding, &chunk.bytes, |at, value| {
                rising &= last < at;
                if let Value::Histogram(value) = value() {
                    rising &= crate::head::validate_histogram(&value).is_ok();
                }
                first = first.or(Some(at));
                last = at;
                true
            });
            read.map_err(|_| malformed("no chunk"))?;
            let stated = first == Some(chunk.min) && last == chunk.max;
            if !rising || !stated || chunk.min <= before || chunk.max > end {
                return Err(malformed("its samples are not where they are said to be"));
            }
        }
    }
    Ok(())
}

fn values_of(columns: &SeriesColumns) -> Vec<(i64, Value)> {
    let floats = columns.timestamps.iter().zip(&columns.values).map(|(at, value)| (*at, Value::Float(value.to_bits())));
    let histogram = |value: &std::sync::Arc<_>| Value::Histogram(HistogramValue::Float(std::sync::Arc::clone(value)));
    let histograms = columns.histograms.iter().map(|point| (point.timestamp, histogram(&point.value)));
    let mut all: Vec<(i64, Value)> = floats.chain(histograms).collect();
    all.sort_by_key(|(at, _)| *at);
    all
}

impl Source<'_> {
    /// The chunks of the series at hand in a window as they are in a block; nothing when they have to be written anew.
    fn whole_chunks(&self, window: Window) -> Option<Vec<Chunk>> {
        match self {
            Source::Block { block, next: Some((number, _, metas)), .. } => whole_chunks(block, *number, metas, window),
            Source::Block { .. } | Source::Head { .. } => None,
        }
    }
}

fn whole_chunks(block: &Block, number: u32, metas: &[ChunkMeta], window: Window) -> Option<Vec<Chunk>> {
    let (start, end) = window.bounds();
    let inside: Vec<&ChunkMeta> = metas.iter().filter(|meta| meta.max >= start && meta.min <= end).collect();
    let whole = inside.iter().all(|meta| meta.min >= start && meta.max <= end);
    let rising = inside.windows(2).all(|pair| pair[0].max < pair[1].min);
    if !whole || !rising || !block.tombstones().of(block.index().series_ref(number)).is_empty() {
        return None;
    }
    let copy = |meta: &ChunkMeta| {
        let chunk = block.chunk(meta).ok()?;
        Some(Chunk { encoding: chunk.encoding, min: meta.min, max: meta.max, bytes: chunk.bytes.to_vec() })
    };
    inside.into_iter().map(copy).collect()
}
