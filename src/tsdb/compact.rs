//! Merging blocks: small ones into larger ones, overlapping ones into one, deleted samples out.
//!
//! Levels are the window's length times 1, 3, 9 … up to a largest span. Blocks that overlap are merged first: late
//! samples make them. The newest block is left alone, because what overlaps it may still come.
//!
//! Source: prometheus `tsdb/compact.go` (`LeveledCompactor.plan`).

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use promesh_model::labels::Labels;

use crate::block::meta::{BlockCompaction, BlockMeta, HINT_OUT_OF_ORDER};
use crate::block::ulid::Ulid;
use crate::block::writer::BlockWriter;
use crate::block::{Block, BlockError, ChunkMeta, Damage};
use crate::chunk::{self, Chunk};
use crate::fs::Fs;
use crate::head::series::Value;
use crate::head::{encode_chunks, join_samples};

/// The spans of the levels in ms, each three times the one before, up to `largest_ms`.
pub fn level_spans(window_ms: i64, largest_ms: i64) -> Vec<i64> {
    let mut spans = vec![window_ms.max(1)];
    while let Some(next) = spans.last().and_then(|last| last.checked_mul(3)).filter(|next| *next <= largest_ms) {
        spans.push(next);
    }
    spans
}

/// The blocks to merge next; empty if none are due. `blocks` are by their first instant.
pub fn plan(blocks: &[Arc<Block>], spans: &[i64]) -> Vec<Arc<Block>> {
    let overlapping = plan_overlapping(blocks);
    if !overlapping.is_empty() {
        return overlapping;
    }
    let Some((_, older)) = blocks.split_last() else { return Vec::new() };
    let Some(high) = older.last().map(|block| block.meta().min_time) else { return Vec::new() };
    for span in spans.iter().skip(1) {
        for group in groups(older, *span) {
            let (first, last) = (group[0].meta().min_time, group[group.len() - 1].meta().max_time);
            // Whole, perhaps with gaps, or too old to become so.
            let is_whole = last - first == *span || last <= high;
            if group.len() > 1 && is_whole && !group.iter().any(|block| block.meta().compaction.failed) {
                return group.to_vec();
            }
        }
    }
    plan_deleted(older, spans)
}

fn plan_overlapping(blocks: &[Arc<Block>]) -> Vec<Arc<Block>> {
    let mut group: Vec<Arc<Block>> = Vec::new();
    let mut end = i64::MIN;
    for block in blocks {
        if block.meta().min_time < end {
            group.push(Arc::clone(block));
        } else if group.len() > 1 {
            break;
        } else {
            group = vec![Arc::clone(block)];
        }
        end = end.max(block.meta().max_time);
    }
    if group.len() > 1 { group } else { Vec::new() }
}

/// Runs of blocks within one multiple of `span`.
fn groups(blocks: &[Arc<Block>], span: i64) -> impl Iterator<Item = &[Arc<Block>]> {
    let multiple = move |block: &Arc<Block>| block.meta().min_time.div_euclid(span);
    blocks
        .chunk_by(move |a, b| multiple(a) == multiple(b) && b.meta().max_time <= (multiple(b) + 1) * span)
        .filter(move |group| group[0].meta().max_time <= (multiple(&group[0]) + 1) * span)
}

/// A block of which more than a twentieth was deleted, if it is an old one.
fn plan_deleted(blocks: &[Arc<Block>], spans: &[i64]) -> Vec<Arc<Block>> {
    let half = spans[spans.len() / 2];
    let due = |block: &&Arc<Block>| {
        let meta = block.meta();
        meta.max_time - meta.min_time >= half && block.tombstones().len() as u64 * 20 > meta.stats.series + 20
    };
    blocks.iter().rev().find(due).cloned().into_iter().collect()
}

/// Merges blocks into a new one in `dir`; nothing when all of it was deleted.
///
/// # Errors
/// When a block is damaged or the disk refuses; the blocks are as they were.
pub fn compact(fs: &dyn Fs, dir: &Path, blocks: &[Arc<Block>], ulid: Ulid) -> Result<Option<BlockMeta>, BlockError> {
    let disk = |source: io::Error| BlockError::Disk { path: dir.join(ulid.to_string()), source };
    let mut symbols: BTreeSet<&str> = BTreeSet::new();
    let mut sources = Vec::new();
    for block in blocks {
        let index = block.dir().join("index");
        for symbol in block.index().all_symbols().map_err(|damage| damage.of(&index))? {
            symbols.insert(symbol);
        }
        sources.push(Source::new(block).map_err(|damage| damage.of(&index))?);
    }
    let meta = merged_meta(blocks, ulid);
    let mut writer = BlockWriter::new(fs, dir, meta, symbols.iter().copied()).map_err(disk)?;
    while let Some(labels) = sources.iter().filter_map(Source::labels).min().cloned() {
        let mut parts = Vec::new();
        for source in &mut sources {
            if source.labels() == Some(&labels) {
                parts.extend(source.take().map_err(|damage| damage.of(source.block.dir()))?);
            }
        }
        writer.push(&labels, &merge_series(parts)).map_err(disk)?;
    }
    writer.finish().map_err(disk)
}

fn merged_meta(blocks: &[Arc<Block>], ulid: Ulid) -> BlockMeta {
    let metas = || blocks.iter().map(|block| block.meta());
    let sources: BTreeSet<Ulid> = metas().flat_map(|meta| meta.compaction.sources.iter().copied()).collect();
    let all_late = metas().all(BlockMeta::is_out_of_order);
    BlockMeta {
        ulid,
        min_time: metas().map(|meta| meta.min_time).min().unwrap_or(0),
        max_time: metas().map(|meta| meta.max_time).max().unwrap_or(0),
        version: 1,
        compaction: BlockCompaction {
            level: metas().map(|meta| meta.compaction.level).max().unwrap_or(0) + 1,
            sources: sources.into_iter().collect(),
            parents: metas().map(BlockMeta::desc).collect(),
            hints: if all_late { vec![HINT_OUT_OF_ORDER.to_owned()] } else { Vec::new() },
            ..BlockCompaction::default()
        },
        ..BlockMeta::default()
    }
}

/// A block whose series are taken in label order.
struct Source<'a> {
    block: &'a Block,
    series: std::vec::IntoIter<u32>,
    next: Option<(u32, Labels, Vec<ChunkMeta>)>,
}

/// The chunks of one series from one block.
enum Part {
    /// As they are.
    Chunks(Vec<Chunk>),
    /// Decoded, because some samples were deleted or chunks overlap.
    Samples(Vec<(i64, Value)>),
}

impl<'a> Source<'a> {
    fn new(block: &'a Block) -> Result<Source<'a>, Damage> {
        let mut source = Source { block, series: block.all_series()?.into_iter(), next: None };
        source.advance()?;
        Ok(source)
    }

    fn labels(&self) -> Option<&Labels> {
        self.next.as_ref().map(|(_, labels, _)| labels)
    }

    fn advance(&mut self) -> Result<(), Damage> {
        self.next = match self.series.next() {
            Some(series) => {
                let (labels, chunks) = self.block.read_series(series)?;
                Some((series, labels, chunks))
            }
            None => None,
        };
        Ok(())
    }

    fn take(&mut self) -> Result<Option<Part>, Damage> {
        let Some((series, _, metas)) = self.next.take() else { return Ok(None) };
        self.advance()?;
        let tombstones = self.block.tombstones();
        let deleted = tombstones.of(self.block.index().series_ref(series));
        let rising = metas.windows(2).all(|pair| pair[0].max < pair[1].min);
        if rising && deleted.is_empty() {
            let chunks: Result<Vec<Chunk>, Damage> = metas.iter().map(|meta| self.copy(meta)).collect();
            return Ok(Some(Part::Chunks(chunks?)));
        }
        let mut samples = Vec::new();
        for meta in &metas {
            let more = decode(&self.copy(meta)?)?;
            samples = join_samples(samples, more);
        }
        samples.retain(|(at, _)| !deleted.iter().any(|(min, max)| (*min..=*max).contains(at)));
        Ok(Some(Part::Samples(samples)))
    }

    fn copy(&self, meta: &ChunkMeta) -> Result<Chunk, Damage> {
        let chunk = self.block.chunk(meta)?;
        Ok(Chunk { encoding: chunk.encoding, min: meta.min, max: meta.max, bytes: chunk.bytes.to_vec() })
    }
}

fn decode(chunk: &Chunk) -> Result<Vec<(i64, Value)>, Damage> {
    let mut samples = Vec::new();
    chunk::for_each_value(chunk.encoding, &chunk.bytes, |at, value| {
        samples.push((at, value()));
        true
    })
    .map_err(|error| Damage::new(0, error.to_string()))?;
    Ok(samples)
}

/// One series' chunks from several blocks: one after the other if they do not overlap, else written anew.
fn merge_series(parts: Vec<Part>) -> Vec<Chunk> {
    let chunks_only = parts.iter().all(|part| matches!(part, Part::Chunks(_)));
    if chunks_only {
        let mut chunks: Vec<Chunk> = parts
            .iter()
            .flat_map(|part| match part {
                Part::Chunks(chunks) => chunks.as_slice(),
                Part::Samples(_) => &[],
            })
            .cloned()
            .collect();
        chunks.sort_by_key(|chunk| chunk.min);
        if chunks.windows(2).all(|pair| pair[0].max < pair[1].min) {
            return chunks;
        }
    }
    let mut samples = Vec::new();
    for part in parts {
        let more = match part {
            Part::Samples(samples) => samples,
            // The blocks' checksums held; what cannot be decoded was never written by us.
            Part::Chunks(chunks) => chunks.iter().flat_map(|chunk| decode(chunk).unwrap_or_default()).collect(),
        };
        samples = join_samples(samples, more);
    }
    encode_chunks(samples)
}
