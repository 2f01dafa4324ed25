//! Making a block: all its files under a temporary name, then one rename.

use std::io;
use std::path::{Path, PathBuf};

use promesh_model::labels::Labels;

use super::chunk_files::{ChunkFilesWriter, ChunkMeta};
use super::index_writer::IndexWriter;
use super::meta::{BlockMeta, BlockStats};
use super::tombstones::Tombstones;
use super::ulid::Ulid;
use crate::chunk::{Chunk, Encoding, sample_count};
use crate::fs::Fs;

/// The end of the name of a block that is being made; a folder with it is removed at start.
pub const TEMPORARY_SUFFIX: &str = ".tmp-for-creation";

/// Makes a block.
pub struct BlockWriter<'a> {
    fs: &'a dyn Fs,
    parent: PathBuf,
    temporary: PathBuf,
    meta: BlockMeta,
    chunks: ChunkFilesWriter<'a>,
    index: IndexWriter,
    metas: Vec<ChunkMeta>,
}

impl<'a> BlockWriter<'a> {
    /// Begins a block in `parent`; `meta` says all but the counts, `symbols` are all names and values to come, sorted.
    pub fn new<'s>(
        fs: &'a dyn Fs,
        parent: &Path,
        meta: BlockMeta,
        symbols: impl IntoIterator<Item = &'s str>,
    ) -> io::Result<BlockWriter<'a>> {
        let temporary = parent.join(format!("{}{TEMPORARY_SUFFIX}", meta.ulid));
        if fs.exists(&temporary) {
            fs.remove_dir_all(&temporary)?;
        }
        fs.create_dir_all(&temporary)?;
        let chunks = ChunkFilesWriter::new(fs, &temporary.join("chunks"))?;
        let index = IndexWriter::new(fs, &temporary.join("index"), symbols)?;
        let meta = BlockMeta { stats: BlockStats::default(), version: 1, ..meta };
        Ok(BlockWriter { fs, parent: parent.to_owned(), temporary, meta, chunks, index, metas: Vec::new() })
    }

    /// Appends a series with its chunks in time order; label sets rise from call to call. Nothing for no chunks.
    pub fn push(&mut self, labels: &Labels, chunks: &[Chunk]) -> io::Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        self.metas.clear();
        for chunk in chunks {
            let reference = self.chunks.push(chunk)?;
            self.metas.push(ChunkMeta { min: chunk.min, max: chunk.max, reference });
            let samples = u64::from(sample_count(&chunk.bytes).unwrap_or(0));
            let stats = &mut self.meta.stats;
            stats.samples += samples;
            match chunk.encoding {
                Encoding::Xor => stats.float_samples += samples,
                Encoding::Histogram | Encoding::FloatHistogram => stats.histogram_samples += samples,
            }
        }
        self.meta.stats.chunks += chunks.len() as u64;
        self.meta.stats.series += 1;
        self.index.push(labels, &self.metas)
    }

    /// Makes the block appear under its name, all of it on disk; nothing if it is empty.
    pub fn finish(mut self) -> io::Result<Option<BlockMeta>> {
        if self.meta.stats.samples == 0 {
            self.fs.remove_dir_all(&self.temporary)?;
            return Ok(None);
        }
        self.chunks.close()?;
        self.index.finish()?;
        for (name, content) in [("meta.json", self.meta.to_json()), ("tombstones", Tombstones::default().to_bytes())] {
            let mut file = self.fs.create(&self.temporary.join(name))?;
            file.append(&content)?;
            file.sync()?;
        }
        self.fs.sync_dir(&self.temporary)?;
        self.fs.rename(&self.temporary, &block_dir(&self.parent, self.meta.ulid))?;
        self.fs.sync_dir(&self.parent)?;
        Ok(Some(self.meta))
    }
}

/// Where a block lies.
pub fn block_dir(parent: &Path, ulid: Ulid) -> PathBuf {
    parent.join(ulid.to_string())
}
