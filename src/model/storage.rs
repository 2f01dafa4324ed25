//! What readers ask of storage: columns of samples, names and values of labels.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use thiserror::Error;

use crate::histogram::FloatHistogram;
use crate::labels::Labels;
use crate::matcher::Matcher;
use crate::shard::{ShardId, ShardSet, shard_of};
use crate::time::Timestamp;

/// One selector of a query: what to match, where in time, and what the query will do with it.
#[derive(Clone, Debug, PartialEq)]
pub struct SelectRequest {
    /// All must match.
    pub matchers: Vec<Matcher>,
    /// First instant wanted, inclusive.
    pub start: Timestamp,
    /// Last instant wanted, inclusive.
    pub end: Timestamp,
    /// What may be left out without changing the answer.
    pub hints: SelectHints,
}

/// What a query does with a selection. Storage may ignore all of it but the shards.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SelectHints {
    /// Step of a range query in milliseconds; 0 for an instant query.
    pub step_ms: i64,
    /// Width of a range selector in milliseconds; 0 for a vector selector.
    pub range_ms: i64,
    /// The function or aggregation around the selector; empty if none.
    pub func: String,
    /// Labels of the aggregation around it.
    pub grouping: Vec<String>,
    /// Whether `grouping` is `by` (else `without`).
    pub by: bool,
    /// At most so many series; 0 for all.
    pub limit: usize,
    /// Only the newest sample of each series matters; those before it may be left out.
    pub newest_only: bool,
    /// Series of these shards are given and no others, by the storage of one peer: whoever joins what several peers hold
    /// relies on it. What reads from all of them knows no shards.
    pub shards: Option<Arc<ShardSet>>,
}

impl SelectHints {
    /// Whether a series of these labels is wanted.
    pub fn wants(&self, labels: &Labels) -> bool {
        self.shards.as_ref().is_none_or(|shards| shards.contains(shard_of(labels)))
    }

    /// Whether the series of a shard are.
    pub fn wants_shard(&self, shard: ShardId) -> bool {
        self.shards.as_ref().is_none_or(|shards| shards.contains(shard))
    }
}

/// The samples of one series within a request's bounds, instants rising strictly within each column.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeriesColumns {
    /// Whose they are.
    pub labels: Labels,
    /// Instants of the float samples, in ms since the epoch.
    pub timestamps: Vec<i64>,
    /// Values of the float samples, one for one; staleness markers among them.
    pub values: Vec<f64>,
    /// Start timestamps of the float samples, one for one; empty when the series has none.
    pub start_timestamps: Vec<i64>,
    /// Histogram samples.
    pub histograms: Vec<HistogramPoint>,
}

impl SeriesColumns {
    /// Empties the columns, whose memory stays for the next series.
    pub fn clear(&mut self) {
        self.timestamps.clear();
        self.values.clear();
        self.start_timestamps.clear();
        self.histograms.clear();
    }
}

/// One histogram sample as a reader sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramPoint {
    /// Its instant, in ms since the epoch.
    pub timestamp: i64,
    /// Its start timestamp; 0 if none.
    pub start: i64,
    /// Its value; a staleness marker when `sum` is one.
    pub value: Arc<FloatHistogram>,
}

/// The answer to one request: series in label order, each once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// The series.
    pub series: Vec<SeriesColumns>,
    /// What a person should know: data that may be missing, and why.
    pub warnings: Vec<String>,
}

/// The series of one selection one after another, in label order, each read when it is asked for: a query that looks at
/// one series at a time never holds all samples.
pub trait SeriesCursor: Send {
    /// Reads the next series into `series`, whose memory is used again; answers false when there is none.
    ///
    /// # Errors
    /// As [`StorageError`] says; the cursor is of no more use then.
    fn next(&mut self, series: &mut SeriesColumns) -> Result<bool, StorageError>;

    /// Hands out the warnings so far, each once.
    fn take_warnings(&mut self) -> Vec<String>;
}

/// A selection that is in memory as a cursor.
#[derive(Debug)]
pub struct SelectionCursor {
    series: std::vec::IntoIter<SeriesColumns>,
    warnings: Vec<String>,
}

impl From<Selection> for SelectionCursor {
    fn from(selection: Selection) -> Self {
        SelectionCursor { series: selection.series.into_iter(), warnings: selection.warnings }
    }
}

impl SeriesCursor for SelectionCursor {
    fn next(&mut self, series: &mut SeriesColumns) -> Result<bool, StorageError> {
        let Some(next) = self.series.next() else { return Ok(false) };
        *series = next;
        Ok(true)
    }

    fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }
}

/// Names, values or label sets with warnings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing<T> {
    /// Sorted, each once.
    pub items: Vec<T>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Which series a listing is about.
#[derive(Clone, Debug, PartialEq)]
pub struct ListRequest {
    /// Alternatives; a series counts when it satisfies all matchers of one. Empty: every series.
    pub matcher_sets: Vec<Vec<Matcher>>,
    /// First instant, inclusive.
    pub start: Timestamp,
    /// Last instant, inclusive.
    pub end: Timestamp,
    /// At most so many items; 0 for all.
    pub limit: usize,
}

/// Why a read failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StorageError {
    /// The query was cancelled or its time ran out.
    #[error("query was cancelled")]
    Cancelled,
    /// The query would load more samples than allowed.
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    /// Storage failed.
    #[error("{0}")]
    Failed(String),
}

/// What a running query may still use. Shared between the threads that work for it; set by whoever watches the clock.
#[derive(Clone, Debug)]
pub struct Budget(Arc<BudgetState>);

#[derive(Debug)]
struct BudgetState {
    cancelled: AtomicBool,
    samples_left: AtomicI64,
}

impl Budget {
    /// A budget of so many samples in memory at once.
    pub fn new(samples_max: u64) -> Budget {
        let samples = i64::try_from(samples_max).unwrap_or(i64::MAX);
        Budget(Arc::new(BudgetState { cancelled: AtomicBool::new(false), samples_left: AtomicI64::new(samples) }))
    }

    /// No limit.
    pub fn unlimited() -> Budget {
        Budget::new(i64::MAX as u64)
    }

    /// Stops the query at its next check.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// `Cancelled` once [`Budget::cancel`] was called.
    pub fn check(&self) -> Result<(), StorageError> {
        if self.0.cancelled.load(Ordering::Relaxed) { Err(StorageError::Cancelled) } else { Ok(()) }
    }

    /// Takes samples.
    ///
    /// # Errors
    /// `TooManySamples` when none are left, `Cancelled` as [`Budget::check`].
    pub fn take(&self, samples: usize) -> Result<(), StorageError> {
        self.check()?;
        let before = self.0.samples_left.fetch_sub(samples as i64, Ordering::Relaxed);
        if before < samples as i64 { Err(StorageError::TooManySamples) } else { Ok(()) }
    }

    /// Gives samples back that are no longer in memory.
    pub fn give_back(&self, samples: usize) {
        self.0.samples_left.fetch_add(samples as i64, Ordering::Relaxed);
    }
}

/// Something that PromQL can be asked over: a head, a block, a whole mesh.
pub trait Queryable: Send + Sync {
    /// Answers all selectors of a query at once, so that a distributed implementation asks each peer once.
    ///
    /// # Errors
    /// As [`StorageError`] says. Missing data is a warning, not an error.
    fn select(&self, requests: &[SelectRequest], budget: &Budget) -> Result<Vec<Selection>, StorageError>;

    /// As [`Queryable::select`], but series are read when they are asked for. An implementation that gains nothing by
    /// that leaves it as it is here.
    ///
    /// # Errors
    /// As [`StorageError`] says.
    fn cursors<'a>(
        &'a self,
        requests: &[SelectRequest],
        budget: &Budget,
    ) -> Result<Vec<Box<dyn SeriesCursor + 'a>>, StorageError> {
        let selections = self.select(requests, budget)?;
        let boxed = |selection| Box::new(SelectionCursor::from(selection)) as Box<dyn SeriesCursor + 'a>;
        Ok(selections.into_iter().map(boxed).collect())
    }

    /// Where all that some requests touch lies in the memory of this process and is found without a search, so that
    /// reading it neither waits for anybody nor works for long: whom to read it from, and how many series it is at
    /// most. Nothing when that is not so, or is not known at once.
    fn at_hand(&self, requests: &[SelectRequest]) -> Option<(&dyn Queryable, usize)> {
        let _ = requests;
        None
    }

    /// Names of labels.
    ///
    /// # Errors
    /// As [`StorageError`] says.
    fn label_names(&self, request: &ListRequest, budget: &Budget) -> Result<Listing<String>, StorageError>;

    /// Values of one label.
    ///
    /// # Errors
    /// As [`StorageError`] says.
    fn label_values(&self, name: &str, request: &ListRequest, budget: &Budget)
    -> Result<Listing<String>, StorageError>;

    /// Label sets of series.
    ///
    /// # Errors
    /// As [`StorageError`] says.
    fn series(&self, request: &ListRequest, budget: &Budget) -> Result<Listing<Labels>, StorageError>;
}
