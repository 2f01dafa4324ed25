//! The series of one selection one after another, joined from the blocks and the head as they are asked for: however many
//! series and however long the span, the samples of one series are in memory at a time.
//!
//! Blocks and head each give their series in label order. The first of the labels they stand at is the next series; every
//! source that stands there adds its samples, and moves on.
//!
//! The awkward case is a window that becomes a block meanwhile: its samples leave the head, and the block is none of those
//! that are read. The head counts whenever samples leave it; a reader that finds the count changed begins again, at the
//! series it was at, with the blocks there are then. A block that is merged or dropped meanwhile stays open as it was.

use std::cmp::Ordering;
use std::sync::Arc;

use promesh_model::labels::Labels;
use promesh_model::storage::{Budget, SelectHints, SelectRequest, SeriesColumns, SeriesCursor, StorageError};

use crate::block::BlockSeries;
use crate::columns;
use crate::db::Db;
use crate::head::{SelectedSeries, Span};

/// So many series may be passed over between two looks at the budget.
const LOOKS: usize = 1024;

/// The series of a request.
pub(crate) struct DbCursor<'a> {
    db: &'a Db,
    request: SelectRequest,
    budget: Budget,
    sources: Sources,
    /// What of a series lies in the head, beside what lies in blocks.
    of_head: SeriesColumns,
    /// What of a series lies in a block whose samples do not simply follow.
    of_block: SeriesColumns,
    /// What the series before took of the budget.
    taken: usize,
    answered: usize,
    warnings: Vec<String>,
}

/// Where the samples lie.
struct Sources {
    /// How often samples had left the head.
    departures: u64,
    selected: Arc<SelectedSeries>,
    /// Of the selected series of the head, the one to read next.
    place: usize,
    blocks: Vec<BlockSeries>,
}

/// A series, and where it lies.
struct Next {
    labels: Labels,
    in_head: bool,
    in_blocks: bool,
}

impl Sources {
    /// All that a request touches, from the series `from` on.
    fn open(db: &Db, request: &SelectRequest, from: Option<&Labels>, warnings: &mut Vec<String>) -> Sources {
        let (start, end) = (request.start.ms(), request.end.ms());
        // Before the blocks are listed: what leaves the head later is noticed.
        let departures = db.head.departures();
        let empty = !db.head.may_overlap(start, end);
        let selected = if empty { Arc::default() } else { db.head.selected_series(&request.matchers) };
        let place = from.map_or(0, |from| selected.series.partition_point(|one| one.labels < *from));
        let blocks = db.blocks.overlapping(start, end).into_iter();
        let blocks =
            blocks.map(|block| BlockSeries::new(block, &request.matchers, (start, end), from, warnings)).collect();
        Sources { departures, selected, place, blocks }
    }

    /// The labels of the next series that is wanted, as far as that can be told without a look at them, and whether the head
    /// has it and blocks do.
    fn first(&mut self, hints: &SelectHints) -> Option<Next> {
        while self.selected.series.get(self.place).is_some_and(|one| !hints.wants_shard(one.shard)) {
            self.place += 1;
        }
        let in_head = self.selected.series.get(self.place).map(|one| &one.labels);
        let Some(in_blocks) = self.blocks.iter().filter_map(BlockSeries::labels).min() else {
            return in_head.map(|labels| Next { labels: labels.clone(), in_head: true, in_blocks: false });
        };
        let order = in_head.map_or(Ordering::Greater, |in_head| in_head.cmp(in_blocks));
        let labels = in_head.filter(|_| order.is_lt()).unwrap_or(in_blocks).clone();
        Some(Next { labels, in_head: order.is_le(), in_blocks: order.is_ge() })
    }
}

impl<'a> DbCursor<'a> {
    pub fn new(db: &'a Db, request: &SelectRequest, budget: &Budget) -> DbCursor<'a> {
        let mut warnings = Vec::new();
        DbCursor {
            db,
            request: request.clone(),
            budget: budget.clone(),
            sources: Sources::open(db, request, None, &mut warnings),
            of_head: SeriesColumns::default(),
            of_block: SeriesColumns::default(),
            taken: 0,
            answered: 0,
            warnings,
        }
    }

    /// Has the series that was read last stay in memory.
    pub fn keep(&mut self) {
        self.taken = 0;
    }

    /// Reads the series that stands next; its columns may be empty. Nothing when there is none.
    fn read_next(&mut self, series: &mut SeriesColumns) -> Option<()> {
        series.clear();
        loop {
            let Next { labels, in_head, in_blocks } = self.sources.first(&self.request.hints)?;
            let place = self.sources.place;
            if !in_head && !self.request.hints.wants(&labels) {
                for block in self.sources.blocks.iter_mut().filter(|block| block.labels() == Some(&labels)) {
                    block.advance(&mut self.warnings);
                }
                continue;
            }
            if in_head {
                let hints = &self.request.hints;
                let (start, end) = (self.request.start.ms(), self.request.end.ms());
                let span = Span { start, end, newest_only: hints.newest_only };
                let into = if in_blocks { &mut self.of_head } else { &mut *series };
                self.db.head.read_selected(&self.sources.selected, place, span, into, &mut self.warnings);
                if self.db.head.departures() != self.sources.departures {
                    series.clear();
                    self.sources = Sources::open(self.db, &self.request, Some(&labels), &mut self.warnings);
                    continue;
                }
                self.sources.place += 1;
            }
            if in_blocks {
                for block in self.sources.blocks.iter_mut().filter(|block| block.labels() == Some(&labels)) {
                    block.read(series, &mut self.of_block, &mut self.warnings);
                    block.advance(&mut self.warnings);
                }
                if in_head {
                    columns::join(series, &mut self.of_head);
                }
            }
            series.labels = labels;
            return Some(());
        }
    }
}

impl SeriesCursor for DbCursor<'_> {
    fn next(&mut self, series: &mut SeriesColumns) -> Result<bool, StorageError> {
        self.budget.give_back(std::mem::take(&mut self.taken));
        let limit = self.request.hints.limit;
        if limit > 0 && self.answered == limit {
            return Ok(false);
        }
        let mut passed = 0;
        while self.read_next(series).is_some() {
            let samples = columns::sample_count(series);
            if samples > 0 {
                self.budget.take(samples)?;
                (self.taken, self.answered) = (samples, self.answered + 1);
                return Ok(true);
            }
            passed += 1;
            if passed % LOOKS == 0 {
                self.budget.check()?;
            }
        }
        Ok(false)
    }

    fn take_warnings(&mut self) -> Vec<String> {
        let mut warnings = std::mem::take(&mut self.warnings);
        warnings.sort();
        warnings.dedup();
        warnings
    }
}
