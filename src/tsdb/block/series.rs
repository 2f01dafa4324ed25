//! The series of a selection in one block, one after another.

use std::sync::Arc;

use promesh_model::labels::Labels;
use promesh_model::matcher::Matcher;
use promesh_model::storage::SeriesColumns;
use roaring::bitmap::IntoIter;

use super::tombstones::Tombstones;
use super::{Block, ChunkMeta, Damage};
use crate::columns;

/// Stands at one series after another, in label order, of those that satisfy some matchers and have chunks in a span.
pub struct BlockSeries {
    block: Arc<Block>,
    rest: IntoIter,
    start: i64,
    end: i64,
    tombstones: Arc<Tombstones>,
    /// Where it stands; nothing at the end.
    at: Option<(u32, Labels)>,
    chunks: Vec<ChunkMeta>,
}

impl BlockSeries {
    /// Stands at the first of the series, or the first that is not before `from`. What is damaged is a warning.
    pub fn new(
        block: Arc<Block>,
        matchers: &[Matcher],
        (start, end): (i64, i64),
        from: Option<&Labels>,
        warnings: &mut Vec<String>,
    ) -> BlockSeries {
        let slots = block.slots(matchers, warnings);
        let (rest, tombstones) = (slots.into_iter(), block.tombstones());
        let mut series = BlockSeries { block, rest, start, end, tombstones, at: None, chunks: Vec::new() };
        series.advance(warnings);
        while from.is_some_and(|from| series.labels().is_some_and(|labels| labels < from)) {
            series.advance(warnings);
        }
        series
    }

    /// The labels of the series at which it stands; nothing at the end.
    pub fn labels(&self) -> Option<&Labels> {
        self.at.as_ref().map(|(_, labels)| labels)
    }

    /// Goes on to the next series.
    pub fn advance(&mut self, warnings: &mut Vec<String>) {
        let before = self.at.take();
        for series in &mut self.rest {
            let found = self.block.index.series(series, &mut self.chunks).and_then(|labels| {
                self.chunks.retain(|chunk| chunk.min <= self.end && chunk.max >= self.start);
                if self.chunks.is_empty() { Ok(None) } else { labels.resolve(&self.block.index).map(Some) }
            });
            match found {
                Ok(None) => {}
                // Readers join blocks by going through them side by side.
                Ok(Some(labels)) if before.as_ref().is_some_and(|(_, before)| labels <= *before) => {
                    self.block.warn(&Damage::new(0, "series are not in label order"), warnings);
                }
                Ok(Some(labels)) => {
                    self.at = Some((series, labels));
                    return;
                }
                Err(damage) => self.block.warn(&damage, warnings),
            }
        }
    }

    /// Adds the samples of the series at which it stands to `into`, by way of `scratch` where they do not simply follow.
    pub fn read(&self, into: &mut SeriesColumns, scratch: &mut SeriesColumns, warnings: &mut Vec<String>) {
        let Some((series, _)) = &self.at else { return };
        let reference = self.block.index.series_ref(*series);
        let follows =
            self.chunks.first().is_some_and(|first| columns::last_instant(into).is_none_or(|l| l < first.min));
        if follows && self.tombstones.of(reference).is_empty() {
            self.block.read_chunks(&self.chunks, self.start, self.end, into, warnings);
            return;
        }
        scratch.clear();
        self.block.read_chunks(&self.chunks, self.start, self.end, scratch, warnings);
        self.tombstones.apply(reference, scratch);
        columns::join(into, scratch);
    }
}
