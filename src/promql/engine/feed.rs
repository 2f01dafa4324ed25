//! From storage to the nodes of a plan: series one by one where one node reads them, all at once where several do.

use std::sync::Arc;

use promesh_model::storage::{SelectRequest, Selection, SeriesColumns, SeriesCursor};
use promesh_model::value::is_stale;
use promesh_model::{CounterReset, FloatHistogram};

use super::QueryError;
use super::eval::Evaluator;
use super::plan::Selector;

/// The answer to one request of the plan.
pub(crate) enum Source<'a> {
    /// Nobody has read it yet.
    Cursor(Box<dyn SeriesCursor + 'a>),
    /// It is in memory.
    Whole(Arc<Selection>),
    /// Its only reader has it.
    Spent,
}

/// The series of a selector, one after another.
pub(crate) enum Feed<'a> {
    /// Read as they are asked for.
    Lazy {
        cursor: Box<dyn SeriesCursor + 'a>,
        series: SeriesColumns,
        /// Whether the buckets of histograms are left out.
        bare: bool,
    },
    /// In memory already.
    Whole { selection: Arc<Selection>, next: usize },
}

impl Feed<'_> {
    /// The next series; its columns are good until the one after it is asked for.
    pub fn next(&mut self) -> Result<Option<&SeriesColumns>, QueryError> {
        match self {
            Feed::Lazy { cursor, series, bare } => {
                if !cursor.next(series)? {
                    return Ok(None);
                }
                if *bare {
                    drop_buckets(series);
                }
                Ok(Some(series))
            }
            Feed::Whole { selection, next } => {
                *next += 1;
                Ok(selection.series.get(*next - 1))
            }
        }
    }
}

impl<'a> Evaluator<'a> {
    /// Asks storage for everything the plan needs; `readers` is how many nodes read each request.
    pub fn select(&mut self, requests: &[SelectRequest], readers: &[u32]) -> Result<(), QueryError> {
        if requests.is_empty() {
            return Ok(());
        }
        let cursors = self.storage.cursors(requests, &self.budget)?;
        if cursors.len() != requests.len() {
            let why = format!("storage answered {} of {} selectors", cursors.len(), requests.len());
            return Err(QueryError::Storage(why));
        }
        self.sources = cursors.into_iter().map(Source::Cursor).collect();
        self.readers = readers.to_vec();
        Ok(())
    }

    /// The series of a selector, to be read once.
    pub fn feed(&mut self, selector: &Selector) -> Result<Feed<'a>, QueryError> {
        if self.readers[selector.request] == 1 && matches!(self.sources[selector.request], Source::Cursor(_)) {
            let source = std::mem::replace(&mut self.sources[selector.request], Source::Spent);
            if let Source::Cursor(cursor) = source {
                return Ok(Feed::Lazy { cursor, series: SeriesColumns::default(), bare: selector.stats_only });
            }
        }
        Ok(Feed::Whole { selection: self.selection(selector)?, next: 0 })
    }

    /// Takes what storage has to say about a feed that was read.
    pub fn finish_feed(&mut self, feed: Feed<'a>) {
        if let Feed::Lazy { mut cursor, .. } = feed {
            self.add_storage_warnings(&cursor.take_warnings());
        }
    }

    /// All series of a selector in memory.
    pub fn whole_selection(&mut self, request: usize) -> Result<Arc<Selection>, QueryError> {
        match std::mem::replace(&mut self.sources[request], Source::Spent) {
            Source::Cursor(mut cursor) => {
                let mut selection = Selection::default();
                loop {
                    let mut series = SeriesColumns::default();
                    if !cursor.next(&mut series)? {
                        break;
                    }
                    // The cursor gives back what it took when the next series is asked for: these stay.
                    self.budget.take(series.values.len() + series.histograms.len())?;
                    selection.series.push(series);
                }
                self.add_storage_warnings(&cursor.take_warnings());
                self.sources[request] = Source::Whole(Arc::new(selection));
            }
            Source::Whole(selection) => self.sources[request] = Source::Whole(selection),
            Source::Spent => return Err(QueryError::Execution("a selector was read twice".to_owned())),
        }
        match &self.sources[request] {
            Source::Whole(selection) => Ok(Arc::clone(selection)),
            _ => Err(QueryError::Execution("a selector was lost".to_owned())),
        }
    }

    /// The series of a selector, without the buckets of histograms where only their sums and counts are looked at.
    pub fn selection(&mut self, selector: &Selector) -> Result<Arc<Selection>, QueryError> {
        let whole = self.whole_selection(selector.request)?;
        if !selector.stats_only || whole.series.iter().all(|series| series.histograms.is_empty()) {
            return Ok(whole);
        }
        let bare = self.bare_selections.entry(selector.request).or_insert_with(|| {
            let mut bare = (*whole).clone();
            bare.series.iter_mut().for_each(drop_buckets);
            Arc::new(bare)
        });
        Ok(Arc::clone(bare))
    }

    fn add_storage_warnings(&mut self, warnings: &[String]) {
        for warning in warnings {
            self.annotations.add_storage(warning);
        }
    }

    /// Takes the warnings of what no node got to read.
    pub fn finish_sources(&mut self) {
        for at in 0..self.sources.len() {
            if let Source::Cursor(cursor) = &mut self.sources[at] {
                let warnings = cursor.take_warnings();
                self.add_storage_warnings(&warnings);
            }
        }
    }
}

/// Takes the buckets of histograms away. What those told about counter resets is told by hints instead.
///
/// Source: prometheus `promql.HistogramStatsIterator`.
fn drop_buckets(series: &mut SeriesColumns) {
    let mut before: Option<Arc<FloatHistogram>> = None;
    for point in &mut series.histograms {
        let whole = Arc::clone(&point.value);
        let mut counter_reset = whole.counter_reset;
        if !is_stale(whole.sum) {
            if let (CounterReset::Unknown, Some(before)) = (counter_reset, &before) {
                let reset = whole.detect_reset(before);
                counter_reset = if reset { CounterReset::Reset } else { CounterReset::NotReset };
            }
            before = Some(Arc::clone(&whole));
        }
        let FloatHistogram { schema, count, sum, .. } = *whole;
        point.value = Arc::new(FloatHistogram { counter_reset, schema, count, sum, ..FloatHistogram::default() });
    }
}
