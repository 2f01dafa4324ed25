//! Exemplars: the newest few of all series in one ring.

use std::collections::{HashMap, VecDeque};

use promesh_model::ingest::SeriesIndex;
use promesh_model::ingest::{Exemplar, IngestError, SeriesRef};
use promesh_model::labels::Labels;
use promesh_model::matcher::{Matcher, matches_all};

use super::Head;

/// The ring.
#[derive(Debug)]
pub struct Exemplars {
    max: usize,
    ring: VecDeque<(SeriesRef, Exemplar)>,
    newest: HashMap<SeriesRef, Exemplar>,
}

/// The exemplars of one series.
#[derive(Clone, Debug, PartialEq)]
pub struct ExemplarSeries {
    /// Whose they are.
    pub labels: Labels,
    /// In time order.
    pub exemplars: Vec<Exemplar>,
}

/// The most characters of an exemplar's labels, as OpenMetrics says.
const LABEL_CHARS_MAX: usize = 128;

impl Exemplars {
    /// A ring of at most `max`.
    pub fn new(max: usize) -> Exemplars {
        Exemplars { max, ring: VecDeque::new(), newest: HashMap::new() }
    }

    /// Sets how many are kept; the oldest beyond that go.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
        let beyond = self.ring.len().saturating_sub(max);
        for (series, exemplar) in self.ring.drain(..beyond) {
            if self.newest.get(&series) == Some(&exemplar) {
                self.newest.remove(&series);
            }
        }
    }

    /// Takes one; answers false for a repetition of the series' newest.
    pub fn push(&mut self, series: SeriesRef, exemplar: &Exemplar) -> Result<bool, IngestError> {
        if self.max == 0 {
            return Ok(false);
        }
        let chars: usize =
            exemplar.labels.iter().map(|(name, value)| name.chars().count() + value.chars().count()).sum();
        if chars > LABEL_CHARS_MAX {
            return Err(IngestError::InvalidLabels(format!(
                "exemplar labels of {chars} characters are over the limit of {LABEL_CHARS_MAX}"
            )));
        }
        if let Some(newest) = self.newest.get(&series) {
            if newest.labels == exemplar.labels && newest.value.to_bits() == exemplar.value.to_bits() {
                return Ok(false);
            }
            if exemplar.timestamp < newest.timestamp {
                return Err(IngestError::OutOfOrder);
            }
        }
        if self.ring.len() == self.max
            && let Some((series, oldest)) = self.ring.pop_front()
            && self.newest.get(&series) == Some(&oldest)
        {
            self.newest.remove(&series);
        }
        self.ring.push_back((series, exemplar.clone()));
        self.newest.insert(series, exemplar.clone());
        Ok(true)
    }
}

impl Head {
    /// The exemplars between two instants of the series that satisfy all matchers of one set, by labels.
    pub fn exemplars(&self, matcher_sets: &[Vec<Matcher>], start: i64, end: i64) -> Vec<ExemplarSeries> {
        let found: Vec<(SeriesRef, Exemplar)> = {
            let exemplars = self.exemplars.lock();
            let inside = |exemplar: &Exemplar| (start..=end).contains(&exemplar.timestamp.ms());
            exemplars.ring.iter().filter(|(_, exemplar)| inside(exemplar)).cloned().collect()
        };
        let mut by_series: HashMap<SeriesRef, Vec<Exemplar>> = HashMap::new();
        for (series, exemplar) in found {
            by_series.entry(series).or_default().push(exemplar);
        }
        let mut answer: Vec<ExemplarSeries> = by_series
            .into_iter()
            .filter_map(|(series, exemplars)| Some(ExemplarSeries { labels: self.labels(series)?, exemplars }))
            .filter(|series| matcher_sets.iter().any(|matchers| matches_all(matchers, &series.labels)))
            .collect();
        answer.sort_by(|a, b| a.labels.cmp(&b.labels));
        answer
    }

    /// How many exemplars are kept, and of how many series.
    pub fn exemplar_counts(&self) -> (usize, usize) {
        let exemplars = self.exemplars.lock();
        (exemplars.ring.len(), exemplars.newest.len())
    }
}
