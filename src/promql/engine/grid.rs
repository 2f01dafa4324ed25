//! The value of an expression: series × steps.
//!
//! A cell is a float, a histogram or nothing. Floats stand in a dense column a series, where the staleness marker
//! stands for "nothing": selectors never let a marker through, and no arithmetic makes one, because it is a signalling
//! NaN and the processor quiets those. A series that has histograms carries a second column.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use promesh_model::labels::METRIC_NAME;
use promesh_model::value::{STALE_NAN_BITS, stale_nan};
use promesh_model::{FloatHistogram, Labels};
use smallvec::SmallVec;

use super::QueryError;

/// The instants at which an expression is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Steps {
    /// The first, in ms since the epoch.
    pub start: i64,
    /// From one to the next, in ms; at least 1.
    pub interval: i64,
    /// How many.
    pub count: usize,
}

impl Steps {
    pub fn one(at: i64) -> Steps {
        Steps { start: at, interval: 1, count: 1 }
    }

    /// From `start` to `end`, both inclusive; none when they are the wrong way round.
    pub fn between(start: i64, end: i64, interval: i64) -> Steps {
        let interval = interval.max(1);
        let count = end.checked_sub(start).map_or(usize::MAX, |span| {
            if span < 0 { 0 } else { usize::try_from(span / interval).map_or(usize::MAX, |n| n.saturating_add(1)) }
        });
        Steps { start, interval, count }
    }

    pub fn at(self, step: usize) -> i64 {
        self.start.saturating_add(self.interval.saturating_mul(step as i64))
    }

    pub fn end(self) -> i64 {
        self.at(self.count.saturating_sub(1))
    }

    pub fn times(self) -> impl Iterator<Item = i64> {
        (0..self.count).map(move |step| self.at(step))
    }
}

/// A column of floats.
pub(crate) type Floats = SmallVec<[f64; 2]>;
/// A histogram that several cells may share.
pub(crate) type Shared = Arc<FloatHistogram>;

/// Nothing.
pub(crate) fn absent() -> f64 {
    stale_nan()
}

/// Whether a cell of floats holds nothing.
#[inline]
pub(crate) fn is_absent(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

/// What a cell holds.
#[derive(Clone, Debug)]
pub(crate) enum Sample {
    Float(f64),
    Histogram(Shared),
}

/// One series of a grid.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub labels: Labels,
    /// Whether the metric name goes at the end of the query; only with delayed name removal.
    pub drop_name: bool,
    pub floats: Floats,
    pub histograms: Option<Vec<Option<Shared>>>,
}

impl Row {
    pub fn empty(labels: Labels, steps: usize) -> Row {
        Row { labels, drop_name: false, floats: SmallVec::from_elem(absent(), steps), histograms: None }
    }

    pub fn of(labels: Labels, floats: Floats) -> Row {
        Row { labels, drop_name: false, floats, histograms: None }
    }

    /// Makes it the empty row of other labels; its memory is used again.
    pub fn reset(&mut self, labels: Labels, steps: usize) {
        self.labels = labels;
        self.drop_name = false;
        self.histograms = None;
        if self.floats.len() == steps {
            self.floats.fill(absent());
        } else {
            self.floats = SmallVec::from_elem(absent(), steps);
        }
    }

    /// Takes the row out of what will be used again.
    pub fn take(&mut self) -> Row {
        let empty = Row { labels: Labels::empty(), drop_name: false, floats: Floats::new(), histograms: None };
        std::mem::replace(self, empty)
    }

    #[inline]
    pub fn histogram(&self, step: usize) -> Option<&Shared> {
        self.histograms.as_ref().and_then(|column| column[step].as_ref())
    }

    pub fn sample(&self, step: usize) -> Option<Sample> {
        let float = self.floats[step];
        if !is_absent(float) {
            return Some(Sample::Float(float));
        }
        self.histogram(step).map(|histogram| Sample::Histogram(Arc::clone(histogram)))
    }

    #[inline]
    pub fn is_present(&self, step: usize) -> bool {
        !is_absent(self.floats[step]) || self.histogram(step).is_some()
    }

    pub fn set(&mut self, step: usize, sample: Option<Sample>) {
        match sample {
            Some(Sample::Histogram(histogram)) => {
                self.floats[step] = absent();
                self.set_histogram(step, histogram);
            }
            Some(Sample::Float(value)) => {
                self.floats[step] = value;
                self.clear_histogram(step);
            }
            None => {
                self.floats[step] = absent();
                self.clear_histogram(step);
            }
        }
    }

    pub fn set_histogram(&mut self, step: usize, histogram: Shared) {
        let steps = self.floats.len();
        self.histograms.get_or_insert_with(|| vec![None; steps])[step] = Some(histogram);
    }

    fn clear_histogram(&mut self, step: usize) {
        if let Some(column) = &mut self.histograms {
            column[step] = None;
        }
    }

    /// How many samples it counts for in the budget: a histogram counts by its size.
    pub fn samples(&self) -> usize {
        let floats = self.floats.iter().filter(|value| !is_absent(**value)).count();
        let histograms = self.histograms.iter().flatten().flatten().map(|histogram| histogram.sample_size());
        floats + histograms.sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.floats.iter().all(|value| is_absent(*value)) && self.histograms.iter().flatten().all(Option::is_none)
    }

    /// The labels without the name and its kin.
    pub fn without_name(&self) -> Labels {
        without_metadata(&self.labels)
    }
}

/// Whether a label describes the metric itself: name, type, unit.
pub(crate) fn is_metadata(name: &str) -> bool {
    matches!(name, METRIC_NAME | "__type__" | "__unit__")
}

/// A label set without name, type and unit.
pub(crate) fn without_metadata(labels: &Labels) -> Labels {
    if labels.iter().any(|(name, _)| is_metadata(name)) { labels.without(is_metadata) } else { labels.clone() }
}

/// Series × steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grid {
    pub rows: Vec<Row>,
}

impl Grid {
    /// One series without labels.
    pub fn scalar(floats: Floats) -> Grid {
        Grid { rows: vec![Row::of(Labels::empty(), floats)] }
    }

    pub fn samples(&self) -> usize {
        self.rows.iter().map(Row::samples).sum()
    }

    pub fn drop_empty(&mut self) {
        self.rows.retain(|row| !row.is_empty());
    }

    /// Whether two rows have the same labels.
    pub fn has_duplicates(&self) -> bool {
        if self.rows.len() < 2 {
            return false;
        }
        let mut seen: HashSet<&Labels, RandomState> =
            HashSet::with_capacity_and_hasher(self.rows.len(), RandomState::default());
        self.rows.iter().any(|row| !seen.insert(&row.labels))
    }

    /// Makes one row of those with equal labels.
    ///
    /// # Errors
    /// When two of them have a sample at the same step.
    pub fn merge_duplicates(&mut self) -> Result<(), QueryError> {
        if !self.has_duplicates() {
            return Ok(());
        }
        let mut merged: Vec<Row> = Vec::with_capacity(self.rows.len());
        let mut index: HashMap<Labels, usize, RandomState> = HashMap::default();
        for row in self.rows.drain(..) {
            let Some(&at) = index.get(&row.labels) else {
                index.insert(row.labels.clone(), merged.len());
                merged.push(row);
                continue;
            };
            let target = &mut merged[at];
            for step in 0..row.floats.len() {
                if let Some(sample) = row.sample(step) {
                    if target.is_present(step) {
                        return Err(duplicate_labels());
                    }
                    target.set(step, Some(sample));
                }
            }
        }
        self.rows = merged;
        Ok(())
    }

    /// Sorts by labels.
    pub fn sort(&mut self) {
        self.rows.sort_by(|a, b| a.labels.cmp(&b.labels));
    }
}

/// The error of two samples of one label set at one instant.
pub(crate) fn duplicate_labels() -> QueryError {
    QueryError::Execution("vector cannot contain metrics with the same labelset".to_owned())
}
