//! What has to be done from time to time: cutting windows into blocks, merging blocks, dropping what is past retention,
//! dropping what of the log is in blocks.

use std::io;
use std::path::Path;

use promesh_model::time::{Now, ms_of};
use thiserror::Error;

use crate::block::BlockError;
use crate::block::meta::{BlockCompaction, BlockMeta, HINT_OUT_OF_ORDER};
use crate::block::ulid::Ulid;
use crate::block::writer::BlockWriter;
use crate::checkpoint::Checkpoint;
use crate::compact::{compact, level_spans, plan};
use crate::db::Db;
use crate::head::{CutKind, SortedSeries};
use crate::import::{ImportReport, PendingImport};
use crate::log::LogError;
use crate::replay::Flushed;

/// Why maintenance stopped. What was done stands, the rest is tried again.
#[derive(Debug, Error)]
pub enum MaintainError {
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A block could not be made, merged or removed.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The disk refused something else.
    #[error("{what}: {source}")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// What one round of maintenance did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Windows that became blocks.
    pub windows_cut: u64,
    /// Blocks made of late samples.
    pub late_blocks: u64,
    /// Merged blocks made.
    pub compactions: u64,
    /// Blocks removed by retention.
    pub blocks_removed: u64,
    /// Segments of the log removed.
    pub segments_removed: u64,
    /// Series that left the head.
    pub series_collected: u64,
}

impl Db {
    /// Does what is due. Call it every few seconds, from a thread of its own: it may take a while, and appending and
    /// reading go on.
    ///
    /// # Errors
    /// When the disk refuses; the next call tries again.
    pub fn maintain(&self, now: Now) -> Result<Maintained, MaintainError> {
        let _one_at_a_time = self.maintenance.lock();
        let mut done = Maintained::default();
        self.cut_log_if_due(now)?;
        while let Some((start, end)) = self.window_due() {
            self.cut_window(start, end, now)?;
            done.windows_cut += 1;
        }
        let cut = *self.cut.lock();
        if cut != *self.flushed.lock() {
            done.late_blocks = self.cut_late(now)?;
            // Not before: replay takes all that came before this for written, late samples too.
            *self.flushed.lock() = cut;
            done.series_collected = self.head.collect().series;
            self.head.drop_old_tombstones();
            let min = self.head.min_time().ms();
            self.head_tombstones.lock().retain(|tombstone| tombstone.max >= min);
            self.save_checkpoint()?;
        }
        done.segments_removed = self.drop_log(now)?;
        done.compactions = self.compact_blocks(now)?;
        done.blocks_removed = self.apply_retention()?;
        Ok(done)
    }

    /// The oldest window that can become a block: half a window after its end samples may still come for it.
    fn window_due(&self) -> Option<(i64, i64)> {
        let (window, newest) = (self.head.window_ms(), self.head.max_time().ms());
        let oldest = self.head.oldest_time().ms();
        if newest == i64::MIN || oldest > newest {
            return None;
        }
        let start = oldest.div_euclid(window) * window;
        let end = start + window;
        (newest >= end + window / 2).then_some((start, end))
    }

    pub(crate) fn next_ulid(&self, now: Now) -> Ulid {
        let mut count = self.ulids.lock();
        loop {
            *count += 1;
            let ulid = Ulid::new(now.wall.ms(), self.options.seed, *count);
            // The clock may stand still across a restart. A name that was a block's once would make a new one look as if
            // it had been merged into that block's heir.
            let was_used = self.blocks.list().iter().any(|block| {
                let made_of = &block.meta().compaction;
                made_of.sources.contains(&ulid) || made_of.parents.iter().any(|parent| parent.ulid == ulid)
            });
            if !was_used && !self.options.fs.exists(&self.dir.join(ulid.to_string())) {
                return ulid;
            }
        }
    }

    fn cut_window(&self, start: i64, end: i64, now: Now) -> Result<(), MaintainError> {
        let through = {
            // With no append under way, what is in the log is in the head, and what comes after is not before `end`.
            let _nobody_writes = self.gate.write();
            self.head.seal_before(end);
            self.log.end()
        };
        let sorted = self.head.sorted_series();
        let block = self.write_head_block(&self.dir, &sorted, (start, end), CutKind::Window, now);
        let added = block.and_then(|meta| match meta {
            Some(meta) => self.blocks.add(meta.ulid).map(drop),
            None => Ok(()),
        });
        if added.is_ok() {
            self.head.set_min_time(promesh_model::Timestamp(end));
        }
        self.head.end_cut(added.is_ok());
        added?;
        *self.cut.lock() = Flushed { through, before: promesh_model::Timestamp(end) };
        Ok(())
    }

    /// Takes over the logs of a Prometheus that used this directory before, as blocks.
    pub(crate) fn import_prometheus(&self, now: Now) -> Result<Option<ImportReport>, MaintainError> {
        let fs = &*self.options.fs;
        let disk = |source| MaintainError::Disk { what: "read the logs of Prometheus", source };
        let Some(pending) = PendingImport::find(fs, &self.dir).map_err(disk)? else { return Ok(None) };
        let report = pending.read(fs, &self.head).map_err(disk)?;
        let window = self.head.window_ms();
        let newest = self.head.max_time().ms();
        let mut start = self.head.oldest_time().ms();
        let sorted = self.head.sorted_series();
        while start <= newest {
            let end = ((start.div_euclid(window) + 1) * window).min(newest + 1);
            if let Some(meta) = self.write_head_block(&self.dir, &sorted, (start, end), CutKind::Window, now)? {
                self.blocks.add(meta.ulid)?;
            }
            self.head.end_cut(true);
            self.head.set_min_time(promesh_model::Timestamp(end));
            start = end;
        }
        self.cut_late(now)?;
        self.head.collect();
        self.save_checkpoint()?;
        pending.done(fs, &self.dir).map_err(disk)?;
        Ok(Some(report))
    }

    /// Makes blocks of the late samples of windows that are in blocks.
    fn cut_late(&self, now: Now) -> Result<u64, MaintainError> {
        let min = self.head.min_time().ms();
        let windows = self.head.late_windows(min);
        if windows.is_empty() {
            return Ok(0);
        }
        let sorted = self.head.sorted_series();
        let mut made = 0;
        for start in windows {
            let span = (start, (start + self.head.window_ms()).min(min));
            let block = self.write_head_block(&self.dir, &sorted, span, CutKind::LateOnly, now);
            let added = block.and_then(|meta| meta.map(|meta| self.blocks.add(meta.ulid)).transpose());
            self.head.end_cut(added.is_ok());
            made += u64::from(added?.is_some());
        }
        Ok(made)
    }

    /// Writes a span of the head as a block into `dir`.
    pub(crate) fn write_head_block(
        &self,
        dir: &Path,
        sorted: &SortedSeries,
        (start, end): (i64, i64),
        kind: CutKind,
        now: Now,
    ) -> Result<Option<BlockMeta>, BlockError> {
        let ulid = self.next_ulid(now);
        let hints = if matches!(kind, CutKind::LateOnly | CutKind::LateCopy) {
            vec![HINT_OUT_OF_ORDER.to_owned()]
        } else {
            Vec::new()
        };
        let meta = BlockMeta {
            ulid,
            min_time: start,
            max_time: end,
            version: 1,
            compaction: BlockCompaction { level: 1, sources: vec![ulid], hints, ..BlockCompaction::default() },
            ..BlockMeta::default()
        };
        let disk = |source: io::Error| BlockError::Disk { path: dir.join(ulid.to_string()), source };
        let symbols = sorted.symbols.iter().map(|symbol| &**symbol);
        let mut writer = BlockWriter::new(&*self.options.fs, dir, meta, symbols).map_err(disk)?;
        self.head.cut(sorted, start, end, kind, |labels, chunks| writer.push(labels, chunks)).map_err(disk)?;
        self.not_left_behind(ulid, writer.finish().map_err(disk))
    }

    /// A block whose making failed at the very end has its name already: it must not come to life at the next start,
    /// when what was deleted meanwhile would be in it.
    pub(crate) fn not_left_behind(
        &self,
        ulid: Ulid,
        made: Result<Option<BlockMeta>, BlockError>,
    ) -> Result<Option<BlockMeta>, BlockError> {
        if made.is_err() && self.options.fs.exists(&self.dir.join(ulid.to_string())) {
            let _ = self.blocks.remove_dir(ulid);
        }
        made
    }

    /// Writes what of the log is in blocks, and what else a restart needs that the log may lose.
    pub(crate) fn save_checkpoint(&self) -> Result<(), MaintainError> {
        let checkpoint = Checkpoint {
            flushed: *self.flushed.lock(),
            metadata: self.head.metadata(),
            tombstones: self.head_tombstones.lock().clone(),
        };
        checkpoint
            .save(&*self.options.fs, &self.dir)
            .map_err(|source| MaintainError::Disk { what: "write the checkpoint", source })
    }

    /// Removes the segments whose samples are in blocks, unless others still need them, at most three hours or the size
    /// cap long.
    fn drop_log(&self, now: Now) -> Result<u64, MaintainError> {
        let flushed = *self.flushed.lock();
        let needed = *self.log_needed.lock();
        let keep_after = now.wall.before(self.options.log_keep_max);
        let segments = self.log.segments();
        let mut bytes: u64 = segments.iter().map(|(_, state)| state.bytes).sum();
        let mut last = 0;
        for (number, state) in &segments {
            let in_blocks = *number < flushed.through.segment && state.newest < flushed.before;
            let is_needed = needed.is_some_and(|needed| *number >= needed.segment)
                && state.newest > keep_after
                && bytes <= self.options.log_bytes_max;
            if !in_blocks || is_needed {
                break;
            }
            bytes -= state.bytes;
            last = *number;
        }
        if last == 0 {
            return Ok(0);
        }
        // The checkpoint must say so first: else a restart would take blocks' samples for lost.
        self.save_checkpoint()?;
        Ok(self.log.remove_through(last)? as u64)
    }

    /// Merges blocks until none are due.
    pub(crate) fn compact_blocks(&self, now: Now) -> Result<u64, MaintainError> {
        let spans = level_spans(self.head.window_ms(), ms_of(self.options.block_span_max));
        let mut made = 0;
        loop {
            let blocks = plan(&self.blocks.list(), &spans);
            if blocks.is_empty() {
                return Ok(made);
            }
            self.compact_these(&blocks, now)?;
            made += 1;
        }
    }

    pub(crate) fn compact_these(
        &self,
        blocks: &[std::sync::Arc<crate::block::Block>],
        now: Now,
    ) -> Result<(), MaintainError> {
        // Deletes wait, so that none gets lost between reading a block and replacing it.
        let _no_deletes = self.deleting.lock();
        let ulid = self.next_ulid(now);
        let made = compact(&*self.options.fs, &self.dir, blocks, ulid);
        if self.not_left_behind(ulid, made)?.is_some() {
            self.blocks.add(ulid)?;
        }
        let gone: Vec<Ulid> = blocks.iter().map(|block| block.meta().ulid).collect();
        self.blocks
            .remove(|block| gone.contains(&block.meta().ulid))
            .and_then(|_| {
                let left = |ulid: &&Ulid| self.options.fs.exists(&self.dir.join(ulid.to_string()));
                gone.iter().filter(left).try_for_each(|ulid| self.blocks.remove_dir(*ulid))
            })
            .map_err(|source| MaintainError::Disk { what: "remove merged blocks", source })
    }

    /// Removes the blocks that retention lets go.
    fn apply_retention(&self) -> Result<u64, MaintainError> {
        let disk = |source| MaintainError::Disk { what: "remove blocks past retention", source };
        let mut removed = 0;
        let newest = self.blocks.list().last().map(|block| block.meta().max_time);
        if let (Some(newest), Some(retention)) = (newest, self.retention().time) {
            let newest = newest.max(self.head.max_time().ms());
            let oldest = newest.saturating_sub(ms_of(retention));
            removed += self.blocks.remove(|block| block.meta().max_time <= oldest).map_err(disk)?;
        }
        let Some(limit) = self.bytes_limit() else { return Ok(removed as u64) };
        let mut total = self.blocks.bytes() + self.log.bytes() + self.head.spilled_bytes();
        for block in self.blocks.list() {
            if total <= limit {
                break;
            }
            total -= block.bytes();
            removed += self.blocks.remove(|other| other.meta().ulid == block.meta().ulid).map_err(disk)?;
        }
        Ok(removed as u64)
    }

    fn bytes_limit(&self) -> Option<u64> {
        let retention = self.retention();
        let by_part = retention.percent.filter(|percent| *percent > 0.0).and_then(|percent| {
            let space = self.options.fs.space(&self.dir).ok()?;
            Some((space.total as f64 * percent / 100.0) as u64)
        });
        match (retention.bytes, by_part) {
            (Some(bytes), Some(part)) => Some(bytes.min(part)),
            (bytes, part) => bytes.or(part),
        }
    }
}
