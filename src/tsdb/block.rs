//! Blocks: the samples of a span of time in files that never change, in Prometheus' format.
//!
//! ```text
//! 01J…/meta.json     what it is (meta)
//! 01J…/index         symbols, series, postings (index)
//! 01J…/chunks/000001 the samples (chunk_files)
//! 01J…/tombstones    what of it was deleted (tombstones)
//! ```
//! A block is made under a temporary name and renamed when all of it is on disk. Bytes from disk are believed only as
//! far as their checksums reach: what is damaged is named in the answer's warnings, the rest is answered.
//!
//! Source: prometheus `tsdb/docs/format`.

pub mod chunk_files;
pub(crate) mod codec;
pub mod index;
pub mod index_writer;
pub mod meta;
mod series;
pub mod tombstones;
pub mod ulid;
pub mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use promesh_model::labels::Labels;
use promesh_model::matcher::Matcher;
use promesh_model::storage::{Budget, SeriesColumns, StorageError};
use roaring::RoaringBitmap;
use thiserror::Error;

pub use chunk_files::ChunkMeta;
pub use index::Index;
pub use meta::BlockMeta;
pub use series::BlockSeries;
pub use tombstones::Tombstones;

use crate::columns;
use crate::fs::Fs;
use chunk_files::ChunkFiles;

/// Why a block does not open.
#[derive(Debug, Error)]
pub enum BlockError {
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: damaged at byte {}: {}", path.display(), damage.at, damage.what)]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        damage: Damage,
    },
}

/// Where bytes stopped making sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("damaged at byte {at}: {what}")]
pub struct Damage {
    /// The byte in its file.
    pub at: usize,
    /// What was expected there.
    pub what: String,
}

impl Damage {
    /// Damage.
    pub fn new(at: usize, what: impl Into<String>) -> Damage {
        Damage { at, what: what.into() }
    }

    /// Says in which file.
    pub fn of(self, path: &Path) -> BlockError {
        BlockError::Damaged { path: path.to_owned(), damage: self }
    }
}

/// An open block.
#[derive(Debug)]
pub struct Block {
    dir: PathBuf,
    meta: BlockMeta,
    index: Index,
    chunks: ChunkFiles,
    tombstones: RwLock<Arc<Tombstones>>,
    bytes: u64,
}

impl Block {
    /// Opens a block: maps its files, checks the checksums of the tables of its index.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn open(fs: &dyn Fs, dir: &Path) -> Result<Block, BlockError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs.map(&path).map_err(|source| BlockError::Disk { path, source })
        };
        let meta_path = dir.join("meta.json");
        let meta = BlockMeta::parse(&read("meta.json")?).map_err(|damage| damage.of(&meta_path))?;
        let index_bytes = read("index")?;
        let mut bytes = index_bytes.len() as u64;
        let index = Index::open(index_bytes).map_err(|damage| damage.of(&dir.join("index")))?;
        let chunks = ChunkFiles::open(fs, &dir.join("chunks"))?;
        bytes += chunks.bytes();
        let tombstones = if fs.exists(&dir.join("tombstones")) {
            Tombstones::parse(&read("tombstones")?).map_err(|damage| damage.of(&dir.join("tombstones")))?
        } else {
            Tombstones::default()
        };
        Ok(Block { dir: dir.to_owned(), meta, index, chunks, tombstones: RwLock::new(Arc::new(tombstones)), bytes })
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it is.
    pub fn meta(&self) -> &BlockMeta {
        &self.meta
    }

    /// Its index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The bytes of its index and chunks.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What of it was deleted.
    pub fn tombstones(&self) -> Arc<Tombstones> {
        Arc::clone(&self.tombstones.read())
    }

    /// Deletes samples in `start ..= end` of the series that satisfy all matchers; answers of how many series.
    ///
    /// # Errors
    /// When the tombstones cannot be written; nothing is deleted then.
    pub fn delete(&self, fs: &dyn Fs, matchers: &[Matcher], start: i64, end: i64) -> Result<u64, BlockError> {
        let path = self.dir.join("tombstones");
        let slots = self.index.select(matchers).map_err(|damage| damage.of(&self.dir.join("index")))?;
        let (start, end) = (start.max(self.meta.min_time), end.min(self.meta.max_time - 1));
        if slots.is_empty() || start > end {
            return Ok(0);
        }
        let mut tombstones = self.tombstones.write();
        let mut more = (**tombstones).clone();
        for series in &slots {
            more.add(self.index.series_ref(series), start, end);
        }
        crate::fs::replace_file(fs, &path, &more.to_bytes()).map_err(|source| BlockError::Disk { path, source })?;
        *tombstones = Arc::new(more);
        Ok(slots.len())
    }

    /// Whether any sample may lie in `start ..= end`.
    pub fn overlaps(&self, start: i64, end: i64) -> bool {
        self.meta.min_time <= end && start < self.meta.max_time
    }

    fn read_chunks(
        &self,
        metas: &[ChunkMeta],
        start: i64,
        end: i64,
        columns: &mut SeriesColumns,
        warnings: &mut Vec<String>,
    ) {
        let mut last = columns::last_instant(columns).unwrap_or(i64::MIN);
        for meta in metas.iter().filter(|meta| meta.min <= end && meta.max >= start) {
            let chunk = match self.chunks.get(meta.reference) {
                Ok(chunk) => chunk,
                Err(damage) => {
                    warnings.push(format!("{}: {damage}, some samples are missing", self.dir.display()));
                    continue;
                }
            };
            let pushed = if meta.min > last {
                columns::push_chunk(columns, chunk.encoding, chunk.bytes, start, end)
            } else {
                // Chunks that overlap: only of blocks that Prometheus made out of order.
                let mut more = SeriesColumns::default();
                let pushed = columns::push_chunk(&mut more, chunk.encoding, chunk.bytes, start, end);
                columns::join(columns, &mut more);
                pushed
            };
            if let Err(error) = pushed {
                warnings.push(format!("{}: {error}, some samples are missing", self.dir.display()));
            }
            last = last.max(meta.max);
        }
    }

    /// The label sets of the series that satisfy all matchers and have chunks in `start ..= end`.
    ///
    /// # Errors
    /// When the query is cancelled.
    pub fn series_labels(
        &self,
        matchers: &[Matcher],
        start: i64,
        end: i64,
        budget: &Budget,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<Labels>, StorageError> {
        let mut answer = Vec::new();
        let mut metas = Vec::new();
        for (count, series) in self.slots(matchers, warnings).iter().enumerate() {
            if count % 1024 == 0 {
                budget.check()?;
            }
            let found = self.index.series(series, &mut metas).and_then(|labels| {
                let inside = metas.iter().any(|meta| meta.min <= end && meta.max >= start);
                if inside { labels.resolve(&self.index).map(Some) } else { Ok(None) }
            });
            match found {
                Ok(labels) => answer.extend(labels),
                Err(damage) => self.warn(&damage, warnings),
            }
        }
        Ok(answer)
    }

    /// Names of labels of the series that satisfy all matchers of one of the sets; of all series for no sets.
    pub fn label_names(&self, matcher_sets: &[Vec<Matcher>], warnings: &mut Vec<String>) -> Vec<String> {
        let Some(slots) = self.any_of(matcher_sets, warnings) else {
            return self.index.names().map(str::to_owned).collect();
        };
        let mut names = std::collections::BTreeSet::new();
        let mut metas = Vec::new();
        for series in &slots {
            match self.index.series(series, &mut metas).and_then(|labels| labels.resolve(&self.index)) {
                Ok(labels) => {
                    for (name, _) in &labels {
                        if !names.contains(name) {
                            names.insert(name.to_owned());
                        }
                    }
                }
                Err(damage) => self.warn(&damage, warnings),
            }
        }
        names.into_iter().collect()
    }

    /// Values of a label, as [`Block::label_names`].
    pub fn label_values(&self, name: &str, matcher_sets: &[Vec<Matcher>], warnings: &mut Vec<String>) -> Vec<String> {
        let slots = self.any_of(matcher_sets, warnings);
        match self.index.values_of(name, slots.as_ref()) {
            Ok(values) => values,
            Err(damage) => {
                self.warn(&damage, warnings);
                Vec::new()
            }
        }
    }

    fn any_of(&self, matcher_sets: &[Vec<Matcher>], warnings: &mut Vec<String>) -> Option<RoaringBitmap> {
        let mut sets = matcher_sets.iter().map(|matchers| self.slots(matchers, warnings));
        let first = sets.next()?;
        Some(sets.fold(first, |all, set| all | set))
    }

    fn slots(&self, matchers: &[Matcher], warnings: &mut Vec<String>) -> RoaringBitmap {
        match self.index.select(matchers) {
            Ok(slots) => slots,
            Err(damage) => {
                self.warn(&damage, warnings);
                RoaringBitmap::new()
            }
        }
    }

    fn warn(&self, damage: &Damage, warnings: &mut Vec<String>) {
        warnings.push(format!("{}: {damage}, some series are missing", self.dir.join("index").display()));
    }

    /// All series in label order with their chunks, for compaction. Series that cannot be read are passed to `damaged`.
    pub fn all_series(&self) -> Result<Vec<u32>, Damage> {
        Ok(self.index.select(&[])?.into_iter().collect())
    }

    /// One series: its labels, its chunks with their bytes, without what was deleted wholly.
    ///
    /// # Errors
    /// When index or chunks are damaged.
    pub fn read_series(&self, series: u32) -> Result<(Labels, Vec<ChunkMeta>), Damage> {
        let mut metas = Vec::new();
        let labels = self.index.series(series, &mut metas)?.resolve(&self.index)?;
        Ok((labels, metas))
    }

    /// Appends the samples of a series within `start ..= end`, without what was deleted.
    pub fn read_span(
        &self,
        series: u32,
        chunks: &[ChunkMeta],
        start: i64,
        end: i64,
        columns: &mut SeriesColumns,
        warnings: &mut Vec<String>,
    ) {
        self.read_chunks(chunks, start, end, columns, warnings);
        self.tombstones().apply(self.index.series_ref(series), columns);
    }

    /// A chunk's bytes.
    ///
    /// # Errors
    /// When they are damaged.
    pub fn chunk(&self, meta: &ChunkMeta) -> Result<chunk_files::ChunkRef<'_>, Damage> {
        self.chunks.get(meta.reference)
    }
}
