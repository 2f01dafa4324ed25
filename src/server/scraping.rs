//! Targets and their scrapes: what discovery found, made known to the mind, and scraped when the mind says so.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use parking_lot::Mutex;
use promesh_client::HttpClient;
use promesh_config::prometheus::ScrapeConfig;
use promesh_discovery::Discovered;
use promesh_model::ingest::{Batch, IngestError, Metadata, SeriesRef};
use promesh_model::time::Clock;
use promesh_model::{Labels, Now, Timestamp};
use promesh_node::{MeshView, PieceId, SourceSpec};
use promesh_replication::{SourceId, Vanishing};
use promesh_scrape::{Fetched, ScrapeLoop, ScrapeOptions, ScrapeResult, Target, targets};
use promesh_tsdb::SampleIndex;

use crate::clock;
use crate::definitions;
use crate::failure_log::FailureLogs;
use crate::ingest::{Ingest, OwnBatch};
use crate::scrapers::Scrapers;
use crate::telemetry::Telemetry;

/// A longer answer is read aside: at 3 ns a byte it would keep the slots of other targets waiting.
const QUICKLY_READ_BYTES: usize = 1 << 20;
/// A scrape that ends so long after its timeout is not written.
const OVERSLEPT_MAX: Duration = Duration::from_secs(1);

/// The machine's clock, for scrapes.
#[derive(Clone, Copy, Debug)]
pub struct MachineClock;

impl Clock for MachineClock {
    fn now(&self) -> Now {
        clock::now()
    }
}

/// How a target fared when this peer last scraped it.
#[derive(Clone, Debug, Default)]
pub struct ScrapeStatus {
    /// When the scrape began; none yet.
    pub at: Option<Timestamp>,
    /// How long it took.
    pub duration: Duration,
    /// Why it failed; empty if it did not.
    pub error: String,
    /// Metadata by family.
    pub metadata: Vec<(String, Metadata)>,
    /// Series of the last scrape that did not fail.
    pub series: usize,
}

/// One target, its loop and its last result. The loop outlives what discovery says of the target.
struct Entry {
    target: Target,
    scrape_loop: Arc<tokio::sync::Mutex<ScrapeLoop>>,
    status: Arc<Mutex<ScrapeStatus>>,
    /// Why it must not be asked: its job has more targets than it may have.
    refused: Option<String>,
}

/// What is known of all jobs' targets.
#[derive(Default)]
struct Table {
    entries: HashMap<SourceId, Arc<Entry>>,
    dropped: BTreeMap<String, (usize, Vec<Labels>)>,
    pools: Vec<String>,
}

/// All targets of this peer's configuration, and the scrapes of those it acts for.
pub struct Scraping {
    table: ArcSwap<Table>,
    ingest: Arc<Ingest>,
    telemetry: Arc<Telemetry>,
    options: ScrapeOptions,
    clients: Mutex<HashMap<String, (Arc<ScrapeConfig>, HttpClient)>>,
    scrapers: Scrapers,
    under_way: tokio_util::task::TaskTracker,
    /// Targets that are gone, and whose series nobody is known to have ended yet.
    gone: Mutex<Vec<(SourceId, Arc<Entry>)>>,
    failure_logs: FailureLogs,
    /// A job whose targets are this process itself, and what they say.
    provided: OnceLock<(&'static str, Provided)>,
}

/// Makes an exposition in text format.
pub type Provided = Box<dyn Fn() -> Vec<u8> + Send + Sync>;

impl Scraping {
    /// Has a job's targets answered by this function instead of over HTTP. Called once, before anything is scraped.
    pub fn provide(&self, job: &'static str, body: Provided) {
        let _ = self.provided.set((job, body));
    }

    /// No targets yet.
    ///
    /// # Errors
    /// When the system gives no threads for scrapes.
    pub fn new(ingest: Arc<Ingest>, telemetry: Arc<Telemetry>, extra_metrics: bool) -> std::io::Result<Scraping> {
        Ok(Scraping {
            table: ArcSwap::default(),
            ingest,
            telemetry,
            options: ScrapeOptions { extra_metrics, ..ScrapeOptions::default() },
            clients: Mutex::default(),
            scrapers: Scrapers::start()?,
            under_way: tokio_util::task::TaskTracker::new(),
            gone: Mutex::default(),
            failure_logs: FailureLogs::default(),
            provided: OnceLock::new(),
        })
    }

    /// Makes the targets those of these jobs as discovered; answers what the mind is to schedule. A target that stays as
    /// it is keeps its loop. `peer` is what this peer is called where each has targets of its own. The series of those that
    /// are gone end with [`Scraping::end_what_is_gone`].
    pub fn apply(&self, jobs: &[Arc<ScrapeConfig>], discovered: &Discovered, peer: &str) -> Vec<SourceSpec> {
        let before = self.table.load_full();
        let mut table = Table { pools: jobs.iter().map(|job| job.job_name.clone()).collect(), ..Table::default() };
        for job in jobs {
            let groups = discovered.get(&job.job_name).into_iter().flatten().map(|group| &**group);
            let populated = targets::from_groups(job, groups, peer);
            for failure in &populated.failed {
                tracing::error!(job = job.job_name, failure = ?failure, "a target cannot be used");
            }
            table.dropped.insert(job.job_name.clone(), (populated.dropped_count, populated.dropped));
            let Some(client) = self.client(job) else { continue };
            for target in populated.targets {
                let source = SourceId(target.id.0);
                let known = before.entries.get(&source).filter(|entry| entry.target.scrapes_alike(&target));
                let refused = populated.limit_exceeded.clone();
                let same = |known: &Entry| {
                    known.target.discovered_labels == target.discovered_labels && known.refused == refused
                };
                let entry = match known {
                    Some(known) if same(known) => Arc::clone(known),
                    Some(known) => Arc::new(Entry {
                        target,
                        scrape_loop: Arc::clone(&known.scrape_loop),
                        status: Arc::clone(&known.status),
                        refused,
                    }),
                    None => Arc::new(self.entry(target, client.clone(), refused)),
                };
                table.entries.insert(source, entry);
            }
        }
        self.clients.lock().retain(|name, _| table.pools.contains(name));
        let gone = before.entries.iter().filter(|(source, _)| !table.entries.contains_key(*source));
        self.gone.lock().extend(gone.map(|(source, entry)| (*source, Arc::clone(entry))));
        let pieces: HashMap<&str, PieceId> =
            jobs.iter().map(|job| (job.job_name.as_str(), definitions::job(&job.job_name).id())).collect();
        let spec = |(source, entry): (&SourceId, &Arc<Entry>)| SourceSpec {
            source: *source,
            shard: entry.target.shard,
            interval_ms: promesh_model::time::ms_of(entry.target.interval).max(1),
            phase_ms: None,
            piece: pieces.get(entry.target.job.job_name.as_str()).copied().unwrap_or_default(),
            pinned: entry.target.pinned,
        };
        let mut specs: Vec<SourceSpec> = table.entries.iter().map(spec).collect();
        specs.sort_by_key(|spec| spec.source);
        self.table.store(Arc::new(table));
        specs
    }

    fn entry(&self, target: Target, client: HttpClient, refused: Option<String>) -> Entry {
        let scrape_loop = ScrapeLoop::new(target.clone(), client, self.options.clone());
        Entry { target, scrape_loop: Arc::new(tokio::sync::Mutex::new(scrape_loop)), status: Arc::default(), refused }
    }

    /// A job's client: its targets share connections. Made anew when the job changed.
    fn client(&self, job: &Arc<ScrapeConfig>) -> Option<HttpClient> {
        let mut clients = self.clients.lock();
        if let Some((known, client)) = clients.get(&job.job_name)
            && known.http == job.http
        {
            return Some(client.clone());
        }
        match HttpClient::new(&job.http) {
            Ok(client) => {
                clients.insert(job.job_name.clone(), (Arc::clone(job), client.clone()));
                Some(client)
            }
            Err(error) => {
                tracing::error!(job = job.job_name, %error, "the job's HTTP settings cannot be used");
                None
            }
        }
    }

    /// Ends the series of targets that are gone, where this peer is the one to say so. A target that the mesh still
    /// scrapes, by a version of its job that stands against ours, ends only when ours stands.
    pub fn end_what_is_gone(&self, view: &MeshView) {
        let table = self.table.load();
        let mut ending = Vec::new();
        self.gone.lock().retain(|(source, entry)| {
            let piece = definitions::job(&entry.target.job.job_name).id();
            if table.entries.contains_key(source) {
                return false;
            }
            if !view.elected.may_act(view.me, piece) {
                return true;
            }
            if entry.target.pinned || view.acting.contains(entry.target.shard) {
                ending.push((*source, Arc::clone(entry)));
            }
            false
        });
        for (source, entry) in ending {
            self.end_series(source, &entry);
        }
    }

    /// A target is gone from the configuration: its series end now.
    fn end_series(&self, source: SourceId, entry: &Entry) {
        let vanishing = vanishing(entry.target.job.track_timestamps_staleness);
        let own = OwnBatch { source, shard: entry.target.shard, rank: 0, failed: false, vanishing };
        let batch = Batch { slot: clock::wall(), ..Batch::default() };
        if let Err(error) = self.ingest.write_own(own, batch) {
            tracing::error!(%error, "staleness markers of a removed target could not be stored");
        }
    }

    /// Starts a slot; answers `false` where the source is no target.
    pub fn start(self: &Arc<Self>, spec: SourceSpec, slot: Timestamp, rank: u8) -> bool {
        let Some(entry) = self.table.load().entries.get(&spec.source).cloned() else { return false };
        let scraping = Arc::clone(self);
        let scrape = async move { scraping.scrape(spec, slot, rank, entry).await };
        self.under_way.spawn_on(scrape, self.scrapers.of(spec.source));
        true
    }

    async fn scrape(self: &Arc<Self>, spec: SourceSpec, slot: Timestamp, rank: u8, entry: Arc<Entry>) {
        // The scrape before is still running: its timeout is at most an interval, so this one waits a moment only.
        let mut scrape_loop = Arc::clone(&entry.scrape_loop).lock_owned().await;
        // A sample that bears the slot's instant must have been taken near it: what comes later is no scrape of the slot.
        let delay_ms = clock::wall().ms().saturating_sub(slot.ms()).max(0);
        if delay_ms > spec.stamp_ms() {
            Telemetry::count(&self.telemetry.slots_missed);
            return;
        }
        Telemetry::count(&self.telemetry.scrapes);
        self.telemetry.slot_delay.observe(delay_ms as u64);
        let db = Arc::clone(self.ingest.db());
        let provided = self.provided.get().filter(|(job, _)| entry.target.pool() == *job);
        let fetched = match &entry.refused {
            None if let Some((_, body)) = provided => {
                let result = scrape_loop.read_body(slot, &body(), &*db, &MachineClock);
                return self.store(&spec, rank, &entry, &mut scrape_loop, result);
            }
            None => {
                let span = promesh_trace::span(promesh_trace::Kind::Internal, "scrape", || {
                    vec![
                        ("scrape.job", entry.target.job.job_name.clone()),
                        ("scrape.target", promesh_client::redacted(&entry.target.url)),
                    ]
                });
                span.around(scrape_loop.fetch(&MachineClock)).await
            }
            Some(why) => {
                let result = scrape_loop.refuse(slot, why, &*db, &MachineClock);
                return self.store(&spec, rank, &entry, &mut scrape_loop, result);
            }
        };
        if fetched.bytes() <= QUICKLY_READ_BYTES {
            return self.read(&spec, slot, rank, &entry, &mut scrape_loop, fetched);
        }
        let scraping = Arc::clone(self);
        let read = move || scraping.read(&spec, slot, rank, &entry, &mut scrape_loop, fetched);
        if tokio::task::spawn_blocking(read).await.is_err() {
            tracing::error!("a scrape ended in a panic");
        }
    }

    fn read(
        &self,
        spec: &SourceSpec,
        slot: Timestamp,
        rank: u8,
        entry: &Entry,
        scrape_loop: &mut ScrapeLoop,
        fetched: Fetched,
    ) {
        let result = scrape_loop.read_fetched(slot, fetched, &**self.ingest.db());
        self.store(spec, rank, entry, scrape_loop, result);
    }

    fn store(&self, spec: &SourceSpec, rank: u8, entry: &Entry, scrape_loop: &mut ScrapeLoop, result: ScrapeResult) {
        // No scrape outlives its timeout: the process stood still meanwhile, and others have long scraped in its place.
        let overslept = clock::monotonic().since(result.began.monotonic).saturating_sub(entry.target.timeout);
        if overslept > OVERSLEPT_MAX {
            Telemetry::count(&self.telemetry.slots_missed);
            scrape_loop.forget(&result.batch.series);
            return;
        }
        self.telemetry.samples_repeated.fetch_add(result.samples_repeated as u64, Ordering::Relaxed);
        self.telemetry.samples_ahead.fetch_add(result.samples_ahead as u64, Ordering::Relaxed);
        if let Some(why) = &result.failed {
            Telemetry::count(&self.telemetry.scrapes_failed);
            self.telemetry.limit_exceeded(why);
            let (target, file) = (&entry.target, &entry.target.job.scrape_failure_log_file);
            if !file.is_empty() {
                let url = promesh_client::redacted(&target.url);
                self.failure_logs.write(file.as_path(), result.began.wall, target.pool(), &url, why);
            }
        }
        self.note(entry, scrape_loop, &result);
        let own = OwnBatch {
            source: spec.source,
            shard: spec.shard,
            rank,
            failed: result.failed.is_some(),
            vanishing: vanishing(result.track_timestamps_staleness),
        };
        let series: Vec<SeriesRef> = result.batch.series.clone();
        let samples = series.len() as u64;
        if result.samples_ahead > 0 {
            let (target, samples) = (promesh_client::redacted(&entry.target.url), result.samples_ahead);
            tracing::warn!(%target, samples, "samples of a scrape are too far ahead of the clock");
        }
        match self.ingest.write_own(own, result.batch) {
            Ok(outcome) => {
                self.telemetry.samples_appended.fetch_add(samples, Ordering::Relaxed);
                let gone: Vec<SeriesRef> = outcome
                    .unknown_series()
                    .filter_map(|index| match index {
                        SampleIndex::Float(place) => series.get(place as usize).copied(),
                        _ => None,
                    })
                    .collect();
                if !gone.is_empty() {
                    scrape_loop.forget(&gone);
                }
                let refused = outcome.rejected.iter().filter(|one| one.reason != IngestError::UnknownSeries);
                if let Some(first) = refused.clone().next() {
                    let (samples, why) = (refused.count(), &first.reason);
                    tracing::warn!(target = %promesh_client::redacted(&entry.target.url), samples, %why, "storage refused samples of a scrape");
                }
            }
            Err(error) => {
                Telemetry::count(&self.telemetry.append_failures);
                tracing::error!(target = %entry.target.url, %error, "a scrape could not be stored");
                scrape_loop.forget(&series);
            }
        }
    }

    fn note(&self, entry: &Entry, scrape_loop: &ScrapeLoop, result: &ScrapeResult) {
        let mut status = entry.status.lock();
        status.at = Some(result.began.wall);
        status.duration = result.duration;
        status.error = result.failed.clone().unwrap_or_default();
        if result.failed.is_none() {
            status.series = result.batch.series.len() + result.batch.histograms.len();
        }
        // A batch names the families whose metadata changed; those that are gone only make the list shorter.
        if !result.batch.metadata.is_empty() || status.metadata.len() != scrape_loop.metadata().len() {
            status.metadata = scrape_loop.metadata().to_vec();
        }
    }

    /// Lets the scrapes that were started end; none begins any more.
    pub async fn drain(&self, patience: Duration) {
        self.under_way.close();
        let _ = tokio::time::timeout(patience, self.under_way.wait()).await;
        self.scrapers.end();
    }

    /// Shows all targets with how they fared here, copying none of it.
    pub fn look(&self, mut see: impl FnMut(&Target, &ScrapeStatus)) {
        for entry in self.table.load().entries.values() {
            see(&entry.target, &entry.status.lock());
        }
    }

    /// All targets with how they fared here.
    pub fn targets(&self) -> Vec<(Target, ScrapeStatus)> {
        let table = self.table.load();
        table.entries.values().map(|entry| (entry.target.clone(), entry.status.lock().clone())).collect()
    }

    /// Lets go of log files, so that moved ones are not written on.
    pub fn reopen_logs(&self) {
        self.failure_logs.reopen();
    }

    /// Jobs none of whose targets is asked because they are too many, and why.
    pub fn refused(&self) -> BTreeMap<String, String> {
        let table = self.table.load();
        let refused = |entry: &Arc<Entry>| Some((entry.target.pool().to_owned(), entry.refused.clone()?));
        table.entries.values().filter_map(refused).collect()
    }

    /// Dropped targets by job: how many, and some of them.
    pub fn dropped(&self) -> BTreeMap<String, (usize, Vec<Labels>)> {
        self.table.load().dropped.clone()
    }

    /// The jobs.
    pub fn pools(&self) -> Vec<String> {
        self.table.load().pools.clone()
    }
}

fn vanishing(with_stamped: bool) -> Vanishing {
    if with_stamped { Vanishing::Marked } else { Vanishing::MarkedUnlessStamped }
}
