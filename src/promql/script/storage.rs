//! Series in memory, queryable: what scripts load into, and what benchmarks and examples read from.

use std::collections::BTreeMap;
use std::sync::Arc;

use promesh_model::matcher::matches_all;
use promesh_model::storage::{
    Budget, HistogramPoint, ListRequest, Listing, Queryable, SelectRequest, Selection, SeriesColumns, StorageError,
};
use promesh_model::value::is_stale;
use promesh_model::{CounterReset, FloatHistogram, Labels};

/// Series in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    series: BTreeMap<Labels, SeriesColumns>,
}

impl MemoryStorage {
    fn columns(&mut self, labels: &Labels) -> &mut SeriesColumns {
        self.series
            .entry(labels.clone())
            .or_insert_with(|| SeriesColumns { labels: labels.clone(), ..SeriesColumns::default() })
    }

    /// Adds a float; one that is there at the same instant is replaced. `start` is its start timestamp, 0 if unknown.
    pub fn append(&mut self, labels: &Labels, at: i64, start: i64, value: f64) {
        let columns = self.columns(labels);
        if start != 0 && columns.start_timestamps.is_empty() {
            columns.start_timestamps = vec![0; columns.values.len()];
        }
        let with_starts = start != 0 || !columns.start_timestamps.is_empty();
        let index = columns.timestamps.partition_point(|known| *known < at);
        if columns.timestamps.get(index) == Some(&at) {
            columns.values[index] = value;
            if with_starts {
                columns.start_timestamps[index] = start;
            }
            return;
        }
        columns.timestamps.insert(index, at);
        columns.values.insert(index, value);
        if with_starts {
            columns.start_timestamps.insert(index, start);
        }
    }

    /// Adds a histogram after all others. Its counter reset hint becomes what a time series database would say.
    pub fn append_histogram(&mut self, labels: &Labels, at: i64, start: i64, histogram: &FloatHistogram) {
        let columns = self.columns(labels);
        let after_float = columns.timestamps.last().copied();
        let before = columns.histograms.last().filter(|point| after_float.is_none_or(|float| float < point.timestamp));
        let mut value = histogram.clone();
        value.counter_reset = hint(before.map(|point| &*point.value), histogram);
        let index = columns.histograms.partition_point(|point| point.timestamp < at);
        let point = HistogramPoint { timestamp: at, start, value: Arc::new(value) };
        if columns.histograms.get(index).is_some_and(|known| known.timestamp == at) {
            columns.histograms[index] = point;
        } else {
            columns.histograms.insert(index, point);
        }
    }

    fn matching<'a>(&'a self, request: &'a SelectRequest) -> impl Iterator<Item = SeriesColumns> + 'a {
        self.series
            .values()
            .filter(|series| matches_all(&request.matchers, &series.labels))
            .map(|series| cut(series, request.start.0, request.end.0))
            .filter(|series| !series.timestamps.is_empty() || !series.histograms.is_empty())
    }

    fn listed<'a>(&'a self, request: &'a ListRequest) -> impl Iterator<Item = &'a Labels> + 'a {
        let wanted = |series: &&SeriesColumns| {
            let sets = &request.matcher_sets;
            let matches = sets.is_empty() || sets.iter().any(|set| matches_all(set, &series.labels));
            let cut = cut(series, request.start.0, request.end.0);
            matches && (!cut.timestamps.is_empty() || !cut.histograms.is_empty())
        };
        self.series.values().filter(wanted).map(|series| &series.labels)
    }
}

/// What reading a sample back from a database says about a counter reset before it.
///
/// Source: prometheus `tsdb/chunkenc`: a sample that does not fit a chunk begins another, and of the first sample in a
/// chunk nothing is said.
fn hint(before: Option<&FloatHistogram>, now: &FloatHistogram) -> CounterReset {
    if now.counter_reset == CounterReset::Gauge {
        return CounterReset::Gauge;
    }
    let Some(before) = before else { return CounterReset::Unknown };
    if before.counter_reset == CounterReset::Gauge || now.counter_reset == CounterReset::Reset {
        return CounterReset::Unknown;
    }
    let same_layout = now.schema == before.schema
        && now.zero_threshold == before.zero_threshold
        && now.custom_values == before.custom_values;
    let mut unhinted = now.clone();
    unhinted.counter_reset = CounterReset::Unknown;
    let fits = is_stale(now.sum) || (!is_stale(before.sum) && same_layout && !unhinted.detect_reset(before));
    if fits { CounterReset::NotReset } else { CounterReset::Unknown }
}

fn cut(series: &SeriesColumns, start: i64, end: i64) -> SeriesColumns {
    let from = series.timestamps.partition_point(|at| *at < start);
    let to = series.timestamps.partition_point(|at| *at <= end).max(from);
    let points = &series.histograms;
    let from_h = points.partition_point(|point| point.timestamp < start);
    let to_h = points.partition_point(|point| point.timestamp <= end).max(from_h);
    SeriesColumns {
        labels: series.labels.clone(),
        timestamps: series.timestamps[from..to].to_vec(),
        values: series.values[from..to].to_vec(),
        start_timestamps: series.start_timestamps.get(from..to).unwrap_or(&[]).to_vec(),
        histograms: points[from_h..to_h].to_vec(),
    }
}

fn limited<T>(items: Vec<T>, limit: usize) -> Listing<T> {
    let mut items = items;
    if limit > 0 {
        items.truncate(limit);
    }
    Listing { items, warnings: Vec::new() }
}

impl Queryable for MemoryStorage {
    fn select(&self, requests: &[SelectRequest], budget: &Budget) -> Result<Vec<Selection>, StorageError> {
        budget.check()?;
        Ok(requests
            .iter()
            .map(|request| Selection { series: self.matching(request).collect(), warnings: Vec::new() })
            .collect())
    }

    fn label_names(&self, request: &ListRequest, budget: &Budget) -> Result<Listing<String>, StorageError> {
        budget.check()?;
        let names: std::collections::BTreeSet<String> =
            self.listed(request).flat_map(|labels| labels.iter().map(|(name, _)| name.to_owned())).collect();
        Ok(limited(names.into_iter().collect(), request.limit))
    }

    fn label_values(
        &self,
        name: &str,
        request: &ListRequest,
        budget: &Budget,
    ) -> Result<Listing<String>, StorageError> {
        budget.check()?;
        let values: std::collections::BTreeSet<String> =
            self.listed(request).filter_map(|labels| labels.get(name)).map(str::to_owned).collect();
        Ok(limited(values.into_iter().collect(), request.limit))
    }

    fn series(&self, request: &ListRequest, budget: &Budget) -> Result<Listing<Labels>, StorageError> {
        budget.check()?;
        Ok(limited(self.listed(request).cloned().collect(), request.limit))
    }
}
