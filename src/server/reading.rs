//! Queries that also read from other servers: the `remote_read` section.
//!
//! What another server says is merged with the mesh's own data, which stands where both have a sample. A server that
//! fails is a warning: the mesh's own answer is given all the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use promesh_config::prometheus::Config;
use promesh_model::storage::{
    Budget, HistogramPoint, ListRequest, Listing, Queryable, SelectRequest, Selection, SelectionCursor, SeriesColumns,
    SeriesCursor, StorageError,
};
use promesh_model::{Labels, Timestamp};
use promesh_remote::read::Reader;
use promesh_tsdb::Db;
use tokio::runtime::Handle;

use crate::clock;
use crate::exposition::Page;

/// The servers of one configuration.
#[derive(Default)]
struct Readers {
    readers: Vec<Arc<Reader>>,
    external_labels: Labels,
}

/// The mesh's data, and that of other servers.
pub struct Reading {
    mesh: Arc<dyn Queryable>,
    db: Arc<Db>,
    runtime: Handle,
    readers: ArcSwap<Readers>,
}

impl Reading {
    /// The mesh's data alone. Called within the runtime.
    pub fn new(mesh: Arc<dyn Queryable>, db: Arc<Db>) -> Reading {
        Reading { mesh, db, runtime: Handle::current(), readers: ArcSwap::default() }
    }

    /// Makes the servers those of a configuration.
    ///
    /// # Errors
    /// What cannot be used; the old ones stay.
    pub fn apply(&self, config: &Config) -> Result<(), String> {
        let readers = config.remote_read.iter().map(|read| Reader::new(read.clone()).map(Arc::new));
        let readers = readers.collect::<Result<Vec<_>, String>>()?;
        let external_labels = config.external_labels().clone();
        self.readers.store(Arc::new(Readers { readers, external_labels }));
        Ok(())
    }

    /// The oldest instant that is here.
    fn local_start(&self) -> Timestamp {
        let blocks = self.db.blocks();
        let oldest = blocks.iter().map(|block| Timestamp(block.meta().min_time));
        oldest.chain([self.db.head().oldest_time()]).min().unwrap_or(Timestamp::MAX)
    }

    /// What of a request a server is asked; nothing when the mesh has all of it.
    fn span(&self, reader: &Reader, request: &SelectRequest) -> Option<(Timestamp, Timestamp)> {
        if !reader.wants(&request.matchers) {
            return None;
        }
        if reader.config.read_recent {
            return Some((request.start, request.end));
        }
        let start = self.local_start();
        (request.start < start).then(|| (request.start, request.end.min(start)))
    }
}

impl Reading {
    /// Upstream's families, with how a query ended in place of the answer's form.
    pub fn metrics(&self, page: &mut Page) {
        let readers = self.readers.load_full();
        if readers.readers.is_empty() {
            return;
        }
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let name = "prometheus_remote_read_client_queries_total";
        page.family(name, "counter", "Queries sent to servers of remote_read, by how they ended.");
        for reader in &readers.readers {
            let (remote, url, counters) = (&reader.config.name, reader.shown_url(), &reader.counters);
            for (code, counter) in [("200", &counters.answered), ("error", &counters.failed)] {
                page.sample(name, &[("remote_name", remote), ("url", &url), ("code", code)], of(counter));
            }
        }
        let name = "prometheus_remote_read_client_queries";
        page.family(name, "gauge", "Queries sent to servers of remote_read that are under way.");
        for reader in &readers.readers {
            let (remote, url) = (&reader.config.name, reader.shown_url());
            page.sample(name, &[("remote_name", remote), ("url", &url)], of(&reader.counters.under_way));
        }
        let name = "promesh_remote_read_client_seconds_total";
        page.family(name, "counter", "How long queries sent to servers of remote_read took together.");
        for reader in &readers.readers {
            let (remote, url) = (&reader.config.name, reader.shown_url());
            page.sample(name, &[("remote_name", remote), ("url", &url)], of(&reader.counters.took_us) / 1e6);
        }
    }
}

impl Queryable for Reading {
    fn select(&self, requests: &[SelectRequest], budget: &Budget) -> Result<Vec<Selection>, StorageError> {
        let readers = self.readers.load_full();
        if readers.readers.is_empty() {
            return self.mesh.select(requests, budget);
        }
        let mut asking = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            for reader in &readers.readers {
                if let Some(span) = self.span(reader, request) {
                    let external = &readers.external_labels;
                    asking.push(async move { (index, reader, counted(reader, request, span, external).await) });
                }
            }
        }
        let mut selections = self.mesh.select(requests, budget)?;
        for (index, reader, answer) in self.runtime.block_on(join_all(asking)) {
            match answer {
                Ok(series) => {
                    let samples = series.iter().map(|one| one.values.len() + one.histograms.len()).sum();
                    budget.take(samples)?;
                    let own = std::mem::take(&mut selections[index].series);
                    selections[index].series = joined(own, series);
                }
                Err(error) => {
                    let warning = format!("remote_read {}: {error}", reader.shown_url());
                    selections[index].warnings.push(warning);
                }
            }
        }
        Ok(selections)
    }

    fn cursors<'a>(
        &'a self,
        requests: &[SelectRequest],
        budget: &Budget,
    ) -> Result<Vec<Box<dyn SeriesCursor + 'a>>, StorageError> {
        if self.readers.load().readers.is_empty() {
            return self.mesh.cursors(requests, budget);
        }
        let boxed = |selection| Box::new(SelectionCursor::from(selection)) as Box<dyn SeriesCursor + 'a>;
        Ok(self.select(requests, budget)?.into_iter().map(boxed).collect())
    }

    fn at_hand(&self, requests: &[SelectRequest]) -> Option<(&dyn Queryable, usize)> {
        if self.readers.load().readers.is_empty() { self.mesh.at_hand(requests) } else { None }
    }

    fn label_names(&self, request: &ListRequest, budget: &Budget) -> Result<Listing<String>, StorageError> {
        self.mesh.label_names(request, budget)
    }

    fn label_values(
        &self,
        name: &str,
        request: &ListRequest,
        budget: &Budget,
    ) -> Result<Listing<String>, StorageError> {
        self.mesh.label_values(name, request, budget)
    }

    fn series(&self, request: &ListRequest, budget: &Budget) -> Result<Listing<Labels>, StorageError> {
        self.mesh.series(request, budget)
    }
}

async fn counted(
    reader: &Reader,
    request: &SelectRequest,
    span: (Timestamp, Timestamp),
    external: &Labels,
) -> Result<Vec<SeriesColumns>, String> {
    let (counters, began) = (&reader.counters, clock::monotonic());
    counters.under_way.fetch_add(1, Ordering::Relaxed);
    let answer = reader.read(request, span, external).await;
    counters.under_way.fetch_sub(1, Ordering::Relaxed);
    let took = clock::monotonic().since(began).as_micros() as u64;
    counters.took_us.fetch_add(took, Ordering::Relaxed);
    let ended = if answer.is_ok() { &counters.answered } else { &counters.failed };
    ended.fetch_add(1, Ordering::Relaxed);
    answer
}

/// Two answers as one, in label order; of two samples for one instant the own one stands.
fn joined(own: Vec<SeriesColumns>, other: Vec<SeriesColumns>) -> Vec<SeriesColumns> {
    let mut all: BTreeMap<Labels, SeriesColumns> =
        own.into_iter().map(|columns| (columns.labels.clone(), columns)).collect();
    for columns in other {
        match all.get_mut(&columns.labels) {
            None => drop(all.insert(columns.labels.clone(), columns)),
            Some(known) => merge(known, columns),
        }
    }
    all.into_values().collect()
}

fn merge(own: &mut SeriesColumns, other: SeriesColumns) {
    let starts = std::mem::take(&mut own.start_timestamps);
    let start_of = |index: usize| starts.get(index).copied().unwrap_or(0);
    let rows = own.timestamps.iter().zip(&own.values).enumerate();
    let mut floats: BTreeMap<i64, (f64, i64)> =
        other.timestamps.into_iter().zip(other.values).map(|(at, value)| (at, (value, 0))).collect();
    floats.extend(rows.map(|(index, (at, value))| (*at, (*value, start_of(index)))));
    let mut histograms: BTreeMap<i64, HistogramPoint> =
        other.histograms.into_iter().map(|point| (point.timestamp, point)).collect();
    histograms.extend(std::mem::take(&mut own.histograms).into_iter().map(|point| (point.timestamp, point)));
    own.timestamps = floats.keys().copied().collect();
    own.values = floats.values().map(|(value, _)| *value).collect();
    if !starts.is_empty() {
        own.start_timestamps = floats.values().map(|(_, start)| *start).collect();
    }
    own.histograms = histograms.into_values().collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_samples_stand_and_the_others_fill_in() {
        let columns = |name: &str, samples: &[(i64, f64)]| SeriesColumns {
            labels: Labels::from_pairs([("__name__", name)]),
            timestamps: samples.iter().map(|(at, _)| *at).collect(),
            values: samples.iter().map(|(_, value)| *value).collect(),
            ..Default::default()
        };
        let own = vec![columns("b", &[(2, 20.0), (3, 30.0)])];
        let other = vec![columns("a", &[(1, 1.0)]), columns("b", &[(1, 1.0), (2, 2.0)])];
        let found = joined(own, other);
        let shown: Vec<_> = found.iter().map(|one| (one.timestamps.clone(), one.values.clone())).collect();
        assert_eq!(shown, [(vec![1], vec![1.0]), (vec![1, 2, 3], vec![1.0, 20.0, 30.0])]);
    }
}
