//! The peer as the API sees it.
//!
//! Everything is what the whole mesh says unless a method says otherwise: a user may ask any peer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use promesh_model::ingest::{Exemplar, HistogramValue, IngestError, Metadata};
use promesh_model::shard::ShardSet;
use promesh_model::storage::Queryable;
use promesh_model::{Labels, Matcher, Now, PeerId, ShardId, Timestamp};
use promesh_promql::Engine;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use tokio::runtime::Handle;

use crate::gateway::Gateway;
use crate::metered::HttpMeter;
use crate::pager::Pager;

/// Whether a peer answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It does.
    Ready,
    /// Not yet: it is starting.
    Starting,
    /// Not any more: it is stopping.
    Stopping,
}

/// Why something that was asked of the peer was not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BackendError {
    /// It failed.
    #[error("{0}")]
    Failed(String),
    /// Not now.
    #[error("{0}")]
    Unavailable(String),
    /// This build cannot do it.
    #[error("{0} is not built yet")]
    Unbuilt(&'static str),
}

/// Which configuration to read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadScope {
    /// This peer's.
    Peer,
    /// All peers'.
    Cluster,
}

/// What an operator asks of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterOrder {
    /// A peer gives its shards away and stops.
    Leave,
    /// A peer gives its shards away and stays.
    Drain,
    /// A drained peer takes its share again.
    Undrain,
    /// A peer that is down is forgotten by all.
    Remove,
    /// Every peer takes a snapshot.
    Snapshot,
    /// Sealed history moves to the peers that rank for it.
    Rebalance,
}

/// A scrape target.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Labels before relabelling.
    pub discovered_labels: Labels,
    /// Labels after it.
    pub labels: Labels,
    /// The job.
    pub scrape_pool: String,
    /// What is fetched.
    pub scrape_url: String,
    /// The same, as reachable from outside.
    pub global_url: String,
    /// Why the last scrape failed; empty if it did not.
    pub last_error: String,
    /// When the last scrape began; RFC 3339.
    pub last_scrape: String,
    /// How long it took, in seconds.
    #[serde(serialize_with = "crate::json::as_go_number")]
    pub last_scrape_duration: f64,
    /// `up`, `down` or `unknown`.
    pub health: String,
    /// How often.
    pub scrape_interval: String,
    /// How long it may take.
    pub scrape_timeout: String,
    /// Which peer scrapes it. Not in Prometheus.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub peer: String,
}

/// A target that relabelling dropped.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DroppedTarget {
    /// Labels before relabelling.
    pub discovered_labels: Labels,
    /// The job.
    pub scrape_pool: String,
}

/// All targets.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// Scraped ones.
    pub active: Vec<Target>,
    /// Dropped ones, as far as they are remembered.
    pub dropped: Vec<DroppedTarget>,
    /// How many were dropped, by job.
    pub dropped_counts: BTreeMap<String, usize>,
    /// All jobs, those without targets among them.
    pub pools: Vec<String>,
}

/// A metric family's metadata as one target gave it.
#[derive(Clone, Debug)]
pub struct TargetMetadata {
    /// The target's labels.
    pub target: Labels,
    /// The family.
    pub metric: String,
    /// What it said.
    pub metadata: Metadata,
}

/// An alert that is pending or firing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// Its labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// `pending` or `firing`.
    pub state: String,
    /// Since when; RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_at: Option<String>,
    /// Since when it is only kept firing; RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_firing_since: Option<String>,
    /// The expression's value, as Go's `%e` prints it.
    pub value: String,
}

/// What a rule is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RuleKind {
    /// It fires alerts.
    Alerting {
        /// `inactive`, `pending` or `firing`.
        state: String,
        /// `for`, in seconds.
        duration: f64,
        /// `keep_firing_for`, in seconds.
        keep_firing_for: f64,
        /// Its annotations' templates.
        annotations: Labels,
        /// Its alerts.
        alerts: Vec<Alert>,
    },
    /// It records a series.
    Recording,
}

/// A rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// The alert's or the series' name.
    pub name: String,
    /// The expression.
    pub query: String,
    /// Labels it adds.
    pub labels: Labels,
    /// `ok`, `err` or `unknown`.
    pub health: String,
    /// Why the last evaluation failed; empty if it did not.
    pub last_error: String,
    /// How long the last evaluation took, in seconds.
    pub evaluation_time: f64,
    /// When it was; RFC 3339.
    pub last_evaluation: String,
    /// What else.
    pub kind: RuleKind,
}

/// A rule group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RuleGroup {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
    /// How often, in seconds.
    pub interval: f64,
    /// Most series or alerts of a rule; 0 for no limit.
    pub limit: usize,
    /// How long the last evaluation took, in seconds.
    pub evaluation_time: f64,
    /// When it was; RFC 3339.
    pub last_evaluation: String,
}

/// Outside Alertmanagers.
#[derive(Clone, Debug, Default)]
pub struct Alertmanagers {
    /// URLs that get alerts.
    pub active: Vec<String>,
    /// URLs that relabelling dropped.
    pub dropped: Vec<String>,
}

/// Something that an operator should see on every page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Notification {
    /// What.
    pub text: String,
    /// Since when; RFC 3339.
    pub date: String,
    /// Whether it still is so.
    pub active: bool,
}

/// What was built.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildInfo {
    /// Version. That of Prometheus whose API this is stands in `revision`'s neighbours' place, as clients compare it.
    pub version: String,
    /// Commit.
    pub revision: String,
    /// Branch.
    pub branch: String,
    /// Who built it.
    pub build_user: String,
    /// When.
    pub build_date: String,
    /// Prometheus' name for the tool chain.
    pub go_version: String,
}

/// A figure with a name.
#[derive(Clone, Debug, Serialize)]
pub struct NamedCount {
    /// What is counted.
    pub name: String,
    /// How many.
    pub value: u64,
}

/// What is in the head.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TsdbStatus {
    /// Totals.
    pub head_stats: HeadStats,
    /// Series by metric name, most first.
    pub series_count_by_metric_name: Vec<NamedCount>,
    /// Values by label name.
    pub label_value_count_by_label_name: Vec<NamedCount>,
    /// Bytes by label name.
    pub memory_in_bytes_by_label_name: Vec<NamedCount>,
    /// Series by `name=value`.
    pub series_count_by_label_value_pair: Vec<NamedCount>,
}

/// Totals of the head.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeadStats {
    /// Series.
    pub num_series: u64,
    /// Different pairs of names and values.
    pub num_label_pairs: u64,
    /// Chunks.
    pub chunk_count: u64,
    /// First instant, in ms.
    pub min_time: i64,
    /// Last instant, in ms.
    pub max_time: i64,
}

/// Exemplars of one series.
#[derive(Clone, Debug)]
pub struct SeriesExemplars {
    /// The series.
    pub labels: Labels,
    /// Its exemplars, by time.
    pub exemplars: Vec<Exemplar>,
}

/// Pushed samples: series, and their samples in columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Push {
    /// The series, each with its stretches of the columns.
    pub series: Vec<PushedSeries>,
    /// Float samples: instant and value.
    pub samples: Vec<(Timestamp, f64)>,
    /// Histogram samples.
    pub histograms: Vec<(Timestamp, HistogramValue)>,
    /// Exemplars.
    pub exemplars: Vec<Exemplar>,
    /// Metadata by metric family name.
    pub metadata: Vec<(String, Metadata)>,
}

/// One pushed series. Its labels are valid: a metric name, no name twice, UTF-8.
#[derive(Clone, Debug, PartialEq)]
pub struct PushedSeries {
    /// Whose samples they are.
    pub labels: Labels,
    /// Its float samples.
    pub samples: Range<usize>,
    /// Its histogram samples.
    pub histograms: Range<usize>,
    /// Its exemplars.
    pub exemplars: Range<usize>,
    /// Its start timestamp; zero if none.
    pub start: Timestamp,
}

/// What became of a push that was taken.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PushOutcome {
    /// Float samples stored, or already there.
    pub samples: usize,
    /// Histogram samples stored, or already there.
    pub histograms: usize,
    /// Exemplars stored.
    pub exemplars: usize,
    /// Samples that were refused, each with its series; the first hundred or so.
    pub refused: Vec<(Labels, IngestError)>,
}

/// Takes note of queries that begin and end.
pub trait QueryWatch: Send + Sync {
    /// A query begins; answers what to give back at its end.
    fn begin(&self, query: &str, at: Timestamp) -> Option<usize>;

    /// Whether anybody wants to read what the log says of queries.
    fn wants_lines(&self) -> bool;

    /// A query has ended; `line` is what the log says about it, if anything.
    fn end(&self, slot: Option<usize>, line: Option<Value>);
}

/// The peer.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The present.
    fn now(&self) -> Now;

    /// The query engine.
    fn engine(&self) -> Arc<Engine>;

    /// The data, of all peers.
    fn storage(&self) -> Arc<dyn Queryable>;

    /// Where reads run, on threads that may block.
    fn reading(&self) -> Handle {
        Handle::current()
    }

    /// Who takes note of queries; `None`: nobody.
    fn query_watch(&self) -> Option<Arc<dyn QueryWatch>> {
        None
    }

    /// Who computes aggregations where their samples are; `None` where all samples are here.
    fn parts(&self) -> Option<Arc<dyn promesh_promql::Parts>> {
        None
    }

    /// Whether this peer answers.
    fn readiness(&self) -> Readiness;

    /// All targets.
    async fn targets(&self) -> Targets;

    /// The relabelling rules of a job's targets; `None` when there is no such job.
    fn relabel_rules(&self, pool: &str) -> Option<Vec<promesh_model::relabel::Rule>> {
        let _ = pool;
        None
    }

    /// Metadata, by target.
    async fn metadata(&self) -> Vec<TargetMetadata>;

    /// All rule groups, in the order of their files.
    async fn rule_groups(&self) -> Vec<RuleGroup>;

    /// Outside Alertmanagers.
    async fn alertmanagers(&self) -> Alertmanagers;

    /// What `/api/v1/cluster` says.
    async fn cluster(&self) -> Value;

    /// The configuration as meant, secrets masked.
    fn config_yaml(&self) -> String;

    /// Every flag's value.
    fn flags(&self) -> BTreeMap<String, String>;

    /// What was built.
    fn build_info(&self) -> BuildInfo;

    /// What `/api/v1/status/runtimeinfo` says.
    fn runtime_info(&self) -> Value;

    /// This peer's head; lists of at most `limit`.
    async fn tsdb_status(&self, limit: usize) -> Result<TsdbStatus, BackendError>;

    /// Segments of the log replayed at start: first, last, present.
    fn wal_replay(&self) -> [u64; 3];

    /// This peer's own metrics, in text format 0.0.4.
    async fn metrics(&self) -> String;

    /// The alerting half, for `/api/v2`.
    fn pager(&self) -> Option<Arc<dyn Pager>> {
        None
    }

    /// Where requests are counted.
    fn http_meter(&self) -> Arc<HttpMeter> {
        Arc::default()
    }

    /// Pushed groups, when this peer takes them.
    fn gateway(&self) -> Option<Arc<dyn Gateway>> {
        None
    }

    /// Labels that federated series get.
    fn external_labels(&self) -> Labels;

    /// Reads the configuration again.
    ///
    /// # Errors
    /// What is wrong with it; the old one is still in use.
    async fn reload(&self, scope: ReloadScope) -> Result<(), BackendError>;

    /// Carries out what an operator asks of the mesh. `peer` is a UUID or an address, and empty for this peer.
    ///
    /// # Errors
    /// Who did not do it, and why.
    async fn operate(&self, _order: ClusterOrder, _peer: &str) -> Result<Value, BackendError> {
        Err(BackendError::Unbuilt("a mesh of peers"))
    }

    /// Starts stopping the process.
    fn quit(&self);

    /// Which parts are switched on, by group, all but those that the API itself knows.
    fn features(&self) -> Value {
        serde_json::json!({})
    }

    /// What an operator should see on every page.
    fn notifications(&self) -> Vec<Notification> {
        Vec::new()
    }

    /// The descriptions of this peer's blocks.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn blocks(&self) -> Result<Vec<Value>, BackendError> {
        Ok(Vec::new())
    }

    /// A job's configuration as meant, secrets masked; none for an unknown job.
    fn scrape_pool_config(&self, _pool: &str) -> Option<String> {
        None
    }

    /// How OTLP is taken.
    fn otlp(&self) -> crate::otlp::Otlp {
        let config = promesh_config::prometheus::OtlpConfig::default();
        let settings = promesh_otlp::Settings { config, native_delta: false, lookback_ms: 300_000 };
        crate::otlp::Otlp { settings, deltas: None }
    }

    /// Who adds up the differences of OTLP messages in a shard; none when that is this peer.
    fn otlp_owner(&self, _shard: ShardId) -> Option<PeerId> {
        None
    }

    /// Has another peer take a message whose resources are all of these shards.
    ///
    /// # Errors
    /// As [`crate::otlp::take`], and `Unavailable` when that peer does not answer or is not the owner any more.
    async fn forward_otlp(
        &self,
        owner: PeerId,
        _shards: &ShardSet,
        _format: crate::otlp::Format,
        _message: Vec<u8>,
    ) -> Result<Vec<String>, crate::otlp::Untaken> {
        let why = format!("peer {owner} cannot be reached from here");
        Err(crate::otlp::Untaken::Backend(BackendError::Unavailable(why)))
    }

    /// Stores pushed samples.
    ///
    /// # Errors
    /// When nothing can be said of any of them: the whole push is to be repeated.
    async fn push(&self, push: Push) -> Result<PushOutcome, BackendError>;

    /// Exemplars of series that satisfy all matchers of one of the sets.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn exemplars(
        &self,
        _selectors: Vec<Vec<Matcher>>,
        _start: Timestamp,
        _end: Timestamp,
    ) -> Result<Vec<SeriesExemplars>, BackendError> {
        Err(BackendError::Unbuilt("exemplar storage"))
    }

    /// Deletes samples of series that match.
    ///
    /// # Errors
    /// When it could not be made durable.
    async fn delete_series(
        &self,
        _matchers: Vec<Matcher>,
        _start: Timestamp,
        _end: Timestamp,
    ) -> Result<(), BackendError> {
        Err(BackendError::Unbuilt("deleting series"))
    }

    /// Frees the space of deleted samples.
    ///
    /// # Errors
    /// When blocks could not be rewritten.
    async fn clean_tombstones(&self) -> Result<(), BackendError> {
        Err(BackendError::Unbuilt("cleaning tombstones"))
    }

    /// Takes a snapshot; gives its name below `snapshots/`.
    ///
    /// # Errors
    /// When it could not be written.
    async fn snapshot(&self, _skip_head: bool) -> Result<String, BackendError> {
        Err(BackendError::Unbuilt("taking snapshots"))
    }
}
