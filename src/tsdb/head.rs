//! The head: the series of the open window in memory, and their samples.
//!
//! A series is a slot on a [`pages`] page; a [`SeriesRef`] is the slot and how often it was reused. Labels are
//! [`symbols`]; [`postings`] lead from labels to slots; full chunks lie in [`spill`] files. What is taken and what is
//! refused is decided in [`series`].
//!
//! Locks, in the order in which they may be held together: a lookup shard, a page, the index, the spill files. No
//! lock is held while another series' page is waited for, and appending known series takes page locks only.

mod append;
mod cut;
mod delete;
mod exemplars;
mod gc;
mod judge;
pub mod late;
mod pages;
mod postings;
mod read;
mod selections;
pub mod series;
pub mod spill;
mod starts;
mod stats;
mod symbols;
mod transfer;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashTable;
use parking_lot::{Mutex, RwLock};
use promesh_model::ingest::{IngestError, Metadata, SeriesIndex, SeriesRef};
use promesh_model::labels::{Labels, METRIC_NAME};
use promesh_model::shard::shard_of;
use promesh_model::time::Timestamp;
use xxhash_rust::xxh3::xxh3_64;

pub(crate) use append::validate as validate_histogram;
pub use append::{AppendOutcome, Rejected, SampleIndex};
pub use cut::{CutKind, SortedSeries, encode as encode_chunks, join as join_samples};
pub use delete::HeadTombstone;
pub use exemplars::ExemplarSeries;
pub use gc::Collected;
pub use read::Span;
pub use selections::SelectedSeries;
pub use stats::{HeadCounts, Ranked, TsdbStats};
pub use transfer::{HeadChunk, ImportError};

use crate::fs::Fs;
use exemplars::Exemplars;
use pages::{PAGE_SLOTS, Pages};
use postings::Postings;
use series::Series;
use spill::Spill;
use symbols::{Symbol, Symbols};

/// What a head is made for.
#[derive(Clone, Debug)]
pub struct HeadOptions {
    /// Length of a window in ms: chunks end where windows do, and windows become blocks. Default 2 h, as in Prometheus.
    pub window_ms: i64,
    /// How far back of the newest sample samples are taken out of order, in ms. Default 0: not at all.
    pub out_of_order_ms: i64,
    /// The largest label set, in bytes. A set of a few hundred is usual. Default 64 KiB.
    pub labels_bytes_max: usize,
    /// How many exemplars are kept; 0 for none. Default 100,000, as in Prometheus.
    pub exemplars_max: usize,
}

impl Default for HeadOptions {
    fn default() -> Self {
        HeadOptions {
            window_ms: 2 * 3600 * 1000,
            out_of_order_ms: 0,
            labels_bytes_max: 64 << 10,
            exemplars_max: 100_000,
        }
    }
}

/// The head.
#[derive(Debug)]
pub struct Head {
    options: HeadOptions,
    pages: Pages,
    lookup: Box<[Mutex<HashTable<Entry>>]>,
    index: RwLock<Index>,
    selections: selections::Selections,
    spill: Spill,
    /// Samples before this are in blocks.
    min: AtomicI64,
    /// Samples before this are being written into a block.
    sealing: AtomicI64,
    /// The newest sample; `i64::MIN` before the first.
    max: AtomicI64,
    /// The oldest in-order sample ever taken; `i64::MAX` before the first.
    oldest: AtomicI64,
    series: AtomicUsize,
    created: AtomicU64,
    removed: AtomicU64,
    /// Grows when slots are freed for reuse: a reader that evaluated matchers before has to look at the labels again.
    reuse_epoch: AtomicU64,
    late_samples: AtomicU64,
    /// Grows before samples that are in a block leave: a reader that listed the blocks before may miss them.
    departures: AtomicU64,
    out_of_order_ms: AtomicI64,
    /// Deleted spans of series, by the hash of their labels.
    tombstones: RwLock<HashMap<u128, Vec<(i64, i64)>>>,
    has_tombstones: AtomicBool,
    counters: stats::Counters,
    exemplars: Mutex<Exemplars>,
    metadata: Mutex<BTreeMap<String, Metadata>>,
}

/// Symbols and postings: read together by queries, written when series come and go.
#[derive(Debug, Default)]
struct Index {
    symbols: Symbols,
    postings: Postings,
    /// How many series came or went.
    changes: u64,
    /// That count when a series of this metric name last did.
    changed: HashMap<Symbol, u64>,
}

impl Index {
    fn changes(&self) -> u64 {
        self.changes
    }

    fn changed(&self, name: Symbol) -> u64 {
        self.changed.get(&name).copied().unwrap_or(0)
    }

    /// Enters a new series.
    fn enter(&mut self, slot: u32, labels: &[Symbol]) {
        self.postings.insert(slot, labels);
        self.note_change(labels);
    }

    /// Takes a series out.
    fn leave(&mut self, slot: u32, labels: &[Symbol]) {
        self.postings.remove(slot, labels);
        self.note_change(labels);
        labels.iter().for_each(|symbol| self.symbols.release(*symbol));
    }

    fn note_change(&mut self, labels: &[Symbol]) {
        self.changes += 1;
        let Some(name_label) = self.symbols.find(METRIC_NAME) else { return };
        if let Some(pair) = labels.chunks_exact(2).find(|pair| pair[0] == name_label) {
            self.changed.insert(pair[1], self.changes);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    slot: u32,
}

const LOOKUP_SHARDS: usize = 64;

impl Head {
    /// An empty head whose full chunks go to files in `dir`, which is emptied.
    ///
    /// # Errors
    /// As the system says.
    pub fn new(fs: Arc<dyn Fs>, dir: &Path, options: HeadOptions) -> io::Result<Head> {
        let exemplars = Mutex::new(Exemplars::new(options.exemplars_max));
        Ok(Head {
            out_of_order_ms: AtomicI64::new(options.out_of_order_ms),
            options,
            pages: Pages::default(),
            lookup: std::iter::repeat_with(Mutex::default).take(LOOKUP_SHARDS).collect(),
            index: RwLock::default(),
            selections: selections::Selections::default(),
            spill: Spill::open(fs, dir)?,
            min: AtomicI64::new(i64::MIN),
            sealing: AtomicI64::new(i64::MIN),
            max: AtomicI64::new(i64::MIN),
            oldest: AtomicI64::new(i64::MAX),
            series: AtomicUsize::new(0),
            created: AtomicU64::new(0),
            removed: AtomicU64::new(0),
            reuse_epoch: AtomicU64::new(0),
            late_samples: AtomicU64::new(0),
            departures: AtomicU64::new(0),
            tombstones: RwLock::default(),
            has_tombstones: AtomicBool::new(false),
            counters: stats::Counters::default(),
            exemplars,
            metadata: Mutex::default(),
        })
    }

    /// How many series there are.
    pub fn series_count(&self) -> usize {
        self.series.load(Ordering::Relaxed)
    }

    /// How many series were ever made and removed.
    pub fn series_created_and_removed(&self) -> (u64, u64) {
        (self.created.load(Ordering::Relaxed), self.removed.load(Ordering::Relaxed))
    }

    /// Samples before this are in blocks; `Timestamp::MIN` before the first block.
    pub fn min_time(&self) -> Timestamp {
        Timestamp(self.min.load(Ordering::Acquire))
    }

    /// The newest sample; `Timestamp::MIN` before the first.
    pub fn max_time(&self) -> Timestamp {
        Timestamp(self.max.load(Ordering::Acquire))
    }

    /// The oldest sample that is not in a block, roughly; `Timestamp::MAX` when there is none.
    pub fn oldest_time(&self) -> Timestamp {
        Timestamp(self.oldest.load(Ordering::Acquire).max(self.min.load(Ordering::Acquire)))
    }

    /// Sets how far back samples are taken out of order.
    pub fn set_out_of_order(&self, window_ms: i64) {
        self.out_of_order_ms.store(window_ms.max(0), Ordering::Relaxed);
    }

    /// Sets how many exemplars are kept.
    pub fn set_exemplars_max(&self, max: usize) {
        self.exemplars.lock().set_max(max);
    }

    /// The length of a window, in ms.
    pub fn window_ms(&self) -> i64 {
        self.options.window_ms
    }

    /// Takes in metadata that a checkpoint kept.
    pub fn restore_metadata(&self, metadata: BTreeMap<String, Metadata>) {
        self.metadata.lock().extend(metadata);
    }

    /// The metadata of metric families, by name.
    pub fn metadata(&self) -> BTreeMap<String, Metadata> {
        self.metadata.lock().clone()
    }

    /// The metadata of the family that a metric belongs to.
    pub fn metadata_of(&self, metric: &str) -> Option<Metadata> {
        let known = self.metadata.lock();
        let bases = ["_total", "_bucket", "_sum", "_count"].iter().filter_map(|suffix| metric.strip_suffix(suffix));
        std::iter::once(metric).chain(bases).find_map(|name| known.get(name).cloned())
    }

    /// Symbols in use and the bytes of their texts.
    pub fn symbols(&self) -> (usize, usize) {
        let index = self.index.read();
        (index.symbols.len(), index.symbols.bytes())
    }

    /// The bytes of full chunks that are not in blocks yet.
    pub fn spilled_bytes(&self) -> u64 {
        self.spill.bytes()
    }

    /// Late samples waiting in memory.
    pub fn late_samples(&self) -> u64 {
        self.late_samples.load(Ordering::Relaxed)
    }

    fn find(&self, table: &HashTable<Entry>, hash: u32, labels: &Labels) -> Option<SeriesRef> {
        let mut found = None;
        table.find(spread_hash(hash), |entry| {
            if entry.hash != hash {
                return false;
            }
            let Some(page) = self.pages.page(entry.slot) else { return false };
            let page = page.lock();
            let slot = &page[entry.slot as usize % PAGE_SLOTS];
            let Some(series) = &slot.series else { return false };
            let same = same_labels(&self.index.read().symbols, &series.labels, labels);
            if same {
                found = Some(series_ref(entry.slot, slot.generation));
            }
            same
        });
        found
    }
}

fn same_labels(symbols: &Symbols, packed: &[Symbol], labels: &Labels) -> bool {
    let mut pairs = labels.iter();
    for pair in packed.chunks_exact(2) {
        match pairs.next() {
            Some((name, value)) if symbols.text(pair[1]) == value && symbols.text(pair[0]) == name => {}
            _ => return false,
        }
    }
    pairs.next().is_none()
}

fn labels_of(symbols: &Symbols, packed: &[Symbol]) -> Labels {
    Labels::from_sorted(packed.chunks_exact(2).map(|pair| (symbols.text(pair[0]), symbols.text(pair[1]))))
}

/// A series in the table of tombstones: its labels' stable hash, so that it is found again after a restart.
fn series_key(symbols: &Symbols, series: &Series) -> u128 {
    labels_of(symbols, &series.labels).stable_hash()
}

fn series_ref(slot: u32, generation: u32) -> SeriesRef {
    SeriesRef(u64::from(generation) << 32 | u64::from(slot))
}

fn slot_of(series: SeriesRef) -> u32 {
    series.0 as u32
}

fn generation_of(series: SeriesRef) -> u32 {
    (series.0 >> 32) as u32
}

/// The table wants its top bits mixed; the kept half of the hash picks shard and place.
fn spread_hash(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl SeriesIndex for Head {
    fn resolve(&self, labels: &Labels) -> Result<SeriesRef, IngestError> {
        let hash = xxh3_64(labels.as_packed()) as u32;
        let mut table = self.lookup[hash as usize % LOOKUP_SHARDS].lock();
        if let Some(found) = self.find(&table, hash, labels) {
            return Ok(found);
        }
        if labels.is_empty() {
            return Err(IngestError::InvalidLabels("the label set is empty".to_owned()));
        }
        let (bytes, limit) = (labels.as_packed().len(), self.options.labels_bytes_max);
        if bytes > limit {
            return Err(IngestError::InvalidLabels(format!("{bytes} bytes are over the limit of {limit}")));
        }
        let packed: Box<[Symbol]> = {
            let mut index = self.index.write();
            labels.iter().flat_map(|(name, value)| [name, value]).map(|text| index.symbols.acquire(text)).collect()
        };
        let series = Series::new(packed.clone(), hash, shard_of(labels));
        let (slot, generation) = self
            .pages
            .insert(series)
            .ok_or_else(|| IngestError::Disk("the head has no room for another series".to_owned()))?;
        self.index.write().enter(slot, &packed);
        table.insert_unique(spread_hash(hash), Entry { hash, slot }, |entry| spread_hash(entry.hash));
        self.series.fetch_add(1, Ordering::Relaxed);
        self.created.fetch_add(1, Ordering::Relaxed);
        Ok(series_ref(slot, generation))
    }

    fn labels(&self, series: SeriesRef) -> Option<Labels> {
        let page = self.pages.page(slot_of(series))?.lock();
        let slot = &page[slot_of(series) as usize % PAGE_SLOTS];
        let found = slot.series.as_ref().filter(|_| slot.generation == generation_of(series))?;
        Some(labels_of(&self.index.read().symbols, &found.labels))
    }
}

#[cfg(test)]
mod tests;
