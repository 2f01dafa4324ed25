//! Sealed windows and the digests of their samples, by which peers find what one of them lacks.
//!
//! A window is a span of the head's window length, counted from the epoch. Half an hour after its end it is **sealed**:
//! what still comes is late data and seals it again. Its samples are read canonically (blocks and head joined, each
//! instant once, the better of two values, without what was deleted), so that two peers with the same samples get the
//! same digests, however their blocks and chunks are cut.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use promesh_model::digest::{SampleDigest, SeriesDigester};
use promesh_model::labels::Labels;
use promesh_model::shard::{ShardSet, shard_of};
use promesh_model::storage::{Budget, SeriesColumns, StorageError};
use promesh_model::time::{Now, ms_of};
use promesh_model::{ShardId, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::block::{Block, ChunkMeta};
use crate::columns;
use crate::db::Db;
use crate::head::SortedSeries;

/// How long after its end a window is sealed: a shorter wait than the half window after which it becomes a block.
/// Source: design.md section 7.
pub const SEAL_AFTER: Duration = Duration::from_secs(30 * 60);

/// A span of time: `start` inclusive, `end` exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Window {
    /// Its first instant.
    pub start: Timestamp,
    /// The first instant after it.
    pub end: Timestamp,
}

/// Why there is no digest.
#[derive(Debug, Error)]
pub enum DigestError {
    /// Something of the window cannot be read: nothing can be said of what is held.
    #[error("the window cannot be read whole: {0}")]
    Damaged(String),
    /// The budget ended or the request was cancelled.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Db {
    /// The window that an instant lies in.
    pub fn window_of(&self, at: Timestamp) -> Window {
        let length = self.head.window_ms();
        let start = at.ms().div_euclid(length).saturating_mul(length);
        Window { start: Timestamp(start), end: Timestamp(start.saturating_add(length)) }
    }

    /// The sealed windows of which anything is held here, oldest first.
    pub fn sealed_windows(&self, now: Now) -> Vec<Window> {
        let sealed_before = now.wall.before(SEAL_AFTER).ms();
        let length = self.head.window_ms();
        let blocks = self.blocks.list();
        let spans = blocks.iter().map(|block| (block.meta().min_time, block.meta().max_time - 1));
        let head = (self.head.oldest_time().ms(), self.head.max_time().ms());
        let mut windows = std::collections::BTreeSet::new();
        for (first, last) in spans.chain([head]) {
            let mut start = first.div_euclid(length).saturating_mul(length);
            while start <= last && start.saturating_add(length) <= sealed_before {
                windows.insert(start);
                start += length;
            }
        }
        // Late samples wait in the head until a window is cut.
        windows.extend(self.head.late_windows(sealed_before).iter().filter(|start| **start + length <= sealed_before));
        let window = |start| Window { start: Timestamp(start), end: Timestamp(start + length) };
        windows.into_iter().map(window).collect()
    }

    /// Whether a window is sealed.
    pub fn is_sealed(&self, window: Window, now: Now) -> bool {
        ms_of(SEAL_AFTER).saturating_add(window.end.ms()) <= now.wall.ms()
    }

    /// The digests of all samples of some shards in a window; shards without samples are not named. Blocks and head are
    /// read series by series, so memory is bounded by the largest series; the caller's thread works for as long as it
    /// takes to decode the window, and maintenance waits.
    ///
    /// # Errors
    /// As [`DigestError`] says.
    pub fn shard_digests(
        &self,
        shards: &ShardSet,
        window: Window,
        budget: &Budget,
    ) -> Result<BTreeMap<ShardId, SampleDigest>, DigestError> {
        let mut digests: BTreeMap<ShardId, SampleDigest> = BTreeMap::new();
        self.each_series(shards, window, budget, |shard, columns| {
            digests.entry(shard).or_default().add(digest_of(columns));
        })?;
        Ok(digests)
    }

    /// The digests of each series of some shards in a window, by the hash of its labels.
    ///
    /// # Errors
    /// As [`DigestError`] says.
    pub fn series_digests(
        &self,
        shards: &ShardSet,
        window: Window,
        budget: &Budget,
    ) -> Result<BTreeMap<u128, SampleDigest>, DigestError> {
        let mut digests = BTreeMap::new();
        self.each_series(shards, window, budget, |_, columns| {
            digests.insert(columns.labels.stable_hash(), digest_of(columns));
        })?;
        Ok(digests)
    }

    /// Calls `each` with the canonical samples of every series of some shards that has any in a window, in label order.
    /// What a repair sends is made of these.
    ///
    /// # Errors
    /// As [`DigestError`] says.
    pub fn each_series(
        &self,
        shards: &ShardSet,
        window: Window,
        budget: &Budget,
        mut each: impl FnMut(ShardId, &SeriesColumns),
    ) -> Result<(), DigestError> {
        let mut columns = SeriesColumns::default();
        self.walk(shards, window, budget, |labels, sources, warnings| {
            read_canonical(labels, sources, window, &mut columns, warnings);
            if !columns.timestamps.is_empty() || !columns.histograms.is_empty() {
                each(shard_of(labels), &columns);
            }
            Ok(true)
        })
    }

    /// Calls `each` with the labels of every series of some shards and the sources that have it, in label order, until it
    /// answers false. While the head has anything of the window, nothing moves into blocks and nothing is deleted.
    pub(crate) fn walk(
        &self,
        shards: &ShardSet,
        window: Window,
        budget: &Budget,
        mut each: impl FnMut(&Labels, &mut [&mut Source<'_>], &mut Vec<String>) -> Result<bool, DigestError>,
    ) -> Result<(), DigestError> {
        let mut still = Some((self.maintenance.lock(), self.deleting.lock()));
        let (start, end) = window.bounds();
        let blocks = self.blocks.overlapping(start, end);
        let sorted = self.head.may_overlap(start, end).then(|| self.head.sorted_series());
        if sorted.is_none() {
            // Blocks do not change, and are read to the end even if they are merged or removed meanwhile.
            still.take();
        }
        let mut sources = Vec::with_capacity(blocks.len() + 1);
        for block in &blocks {
            sources.push(Source::of_block(block, shards)?);
        }
        if let Some(sorted) = &sorted {
            sources.push(Source::of_head(self, sorted, shards));
        }
        let mut warnings = Vec::new();
        let mut count = 0usize;
        while let Some(labels) = sources.iter().filter_map(Source::labels).min().cloned() {
            count += 1;
            if count.is_multiple_of(256) {
                budget.check()?;
            }
            let mut having: Vec<&mut Source<'_>> =
                sources.iter_mut().filter(|source| source.labels() == Some(&labels)).collect();
            let goes_on = each(&labels, &mut having, &mut warnings)?;
            if let Some(warning) = warnings.pop() {
                return Err(DigestError::Damaged(warning));
            }
            if !goes_on {
                return Ok(());
            }
            for source in having {
                source.advance()?;
            }
        }
        Ok(())
    }
}

impl Window {
    /// Its first and last instant, in ms.
    pub(crate) fn bounds(self) -> (i64, i64) {
        (self.start.ms(), self.end.ms().saturating_sub(1))
    }
}

/// Reads the samples of one series in a window from all that have it, each instant once.
pub(crate) fn read_canonical(
    labels: &Labels,
    sources: &mut [&mut Source<'_>],
    window: Window,
    all: &mut SeriesColumns,
    warnings: &mut Vec<String>,
) {
    let (start, end) = window.bounds();
    *all = SeriesColumns { labels: labels.clone(), ..SeriesColumns::default() };
    for source in sources {
        let mut columns = SeriesColumns::default();
        source.read(start, end, &mut columns, warnings);
        columns::join(all, &mut columns);
    }
}

pub(crate) fn digest_of(columns: &SeriesColumns) -> SampleDigest {
    let mut digester = SeriesDigester::new(&columns.labels);
    for (at, value) in columns.timestamps.iter().zip(&columns.values) {
        digester.push_float(*at, *value);
    }
    for point in &columns.histograms {
        digester.push_histogram(point.timestamp, &point.value);
    }
    digester.digest()
}

/// The head or a block, whose series are met in label order.
pub(crate) enum Source<'a> {
    Block {
        block: &'a Arc<Block>,
        shards: &'a ShardSet,
        series: std::vec::IntoIter<u32>,
        next: Option<(u32, Labels, Vec<ChunkMeta>)>,
    },
    Head {
        db: &'a Db,
        sorted: &'a SortedSeries,
        shards: &'a ShardSet,
        place: usize,
        next: Option<(u32, Labels)>,
    },
}

impl<'a> Source<'a> {
    fn of_block(block: &'a Arc<Block>, shards: &'a ShardSet) -> Result<Source<'a>, DigestError> {
        let series = block.all_series().map_err(|damage| damaged(block, &damage))?;
        let mut source = Source::Block { block, shards, series: series.into_iter(), next: None };
        source.advance()?;
        Ok(source)
    }

    fn of_head(db: &'a Db, sorted: &'a SortedSeries, shards: &'a ShardSet) -> Source<'a> {
        let mut source = Source::Head { db, sorted, shards, place: 0, next: None };
        source.advance().expect("the head has no damage");
        source
    }

    fn labels(&self) -> Option<&Labels> {
        match self {
            Source::Block { next, .. } => next.as_ref().map(|(_, labels, _)| labels),
            Source::Head { next, .. } => next.as_ref().map(|(_, labels)| labels),
        }
    }

    /// Steps to the next series in the wanted shards.
    fn advance(&mut self) -> Result<(), DigestError> {
        match self {
            Source::Block { block, shards, series, next } => {
                *next = None;
                for number in series.by_ref() {
                    let (labels, chunks) = block.read_series(number).map_err(|damage| damaged(block, &damage))?;
                    if shards.contains(shard_of(&labels)) {
                        *next = Some((number, labels, chunks));
                        break;
                    }
                }
            }
            Source::Head { db, sorted, shards, place, next } => {
                *next = None;
                while next.is_none() && *place < sorted.len() {
                    *next = db.head.sorted_at(sorted, *place, |shard| shards.contains(shard));
                    *place += 1;
                }
            }
        }
        Ok(())
    }

    fn read(&self, start: i64, end: i64, columns: &mut SeriesColumns, warnings: &mut Vec<String>) {
        match self {
            Source::Block { block, next: Some((number, _, chunks)), .. } => {
                block.read_span(*number, chunks, start, end, columns, warnings);
            }
            Source::Head { db, next: Some((slot, labels)), .. } => {
                db.head.read_slot(*slot, labels, start, end, columns, warnings);
            }
            Source::Block { .. } | Source::Head { .. } => {}
        }
    }
}

fn damaged(block: &Block, damage: &crate::block::Damage) -> DigestError {
    DigestError::Damaged(format!("{}: {damage}", block.dir().display()))
}
