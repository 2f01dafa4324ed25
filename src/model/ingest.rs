//! What producers (scrapes, rules, pushes) hand to storage: batches of samples of series that storage knows by number.

use std::sync::Arc;

use crate::histogram::{FloatHistogram, Histogram};
use crate::labels::Labels;
use crate::time::Timestamp;

/// A series of this process' head, as long as it lives there. Never reused: a reference to a series that was garbage
/// collected is refused, not mistaken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesRef(pub u64);

/// Gives series their numbers.
pub trait SeriesIndex: Send + Sync {
    /// The number of a label set, new if it was not known.
    ///
    /// # Errors
    /// When the set is refused (too large) or storage is closed.
    fn resolve(&self, labels: &Labels) -> Result<SeriesRef, IngestError>;

    /// The labels behind a number, while the series lives.
    fn labels(&self, series: SeriesRef) -> Option<Labels>;
}

/// Why something was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// The series was garbage collected: resolve its labels again.
    #[error("series reference is no longer known")]
    UnknownSeries,
    /// A sample before the newest of its series, outside the out-of-order window.
    #[error("out of order sample")]
    OutOfOrder,
    /// A sample before what the head still takes.
    #[error("out of bounds")]
    OutOfBounds,
    /// A sample older than the out-of-order window.
    #[error("too old sample")]
    TooOld,
    /// Another value for an instant that has one.
    #[error("duplicate sample for timestamp")]
    Duplicate,
    /// A label set beyond the limits, or malformed.
    #[error("invalid labels: {0}")]
    InvalidLabels(String),
    /// A histogram that contradicts itself.
    #[error("invalid histogram: {0}")]
    InvalidHistogram(String),
    /// The disk refused; nothing of the batch is durable.
    #[error("storage: {0}")]
    Disk(String),
}

/// A histogram as its producer gave it.
#[derive(Clone, Debug, PartialEq)]
pub enum HistogramValue {
    /// Integer counts.
    Integer(Arc<Histogram>),
    /// Float counts.
    Float(Arc<FloatHistogram>),
}

/// One exemplar.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// What it points at: `trace_id` and the like.
    pub labels: Labels,
    /// The observed value.
    pub value: f64,
    /// When it was observed; the sample's instant when the producer did not say.
    pub timestamp: Timestamp,
}

/// A metric family's type, help and unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Metadata {
    /// `counter`, `gauge`, `histogram`, `gaugehistogram`, `summary`, `info`, `stateset` or `unknown`.
    pub kind: String,
    /// The unit; empty if none.
    pub unit: String,
    /// The help text.
    pub help: String,
}

/// The samples of one scrape, one evaluation or one push: stored whole or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// The instant of every sample that has none of its own.
    pub slot: Timestamp,
    /// The series of the float samples, in the producer's order.
    pub series: Vec<SeriesRef>,
    /// Their values, one for one.
    pub values: Vec<f64>,
    /// Instants of float samples that have their own, as (index into `series`, instant), by rising index.
    pub timestamps: Vec<(u32, Timestamp)>,
    /// Start timestamps (created timestamps) of float samples, as (index into `series`, instant), by rising index.
    pub start_timestamps: Vec<(u32, Timestamp)>,
    /// Histogram samples.
    pub histograms: Vec<HistogramSample>,
    /// Exemplars, each with its series.
    pub exemplars: Vec<(SeriesRef, Exemplar)>,
    /// Metadata that changed, by metric family name.
    pub metadata: Vec<(String, Metadata)>,
}

/// One histogram sample of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSample {
    /// Its series.
    pub series: SeriesRef,
    /// Its instant.
    pub timestamp: Timestamp,
    /// Its value.
    pub value: HistogramValue,
    /// Its start timestamp; zero if none.
    pub start: Timestamp,
}
