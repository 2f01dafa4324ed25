//! A peer made of a few series, targets and rules.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use promesh_model::ingest::{IngestError, Metadata};
use promesh_model::storage::{Budget, ListRequest, Listing, Queryable, SelectRequest, Selection, StorageError};
use promesh_model::{Labels, Matcher, Monotonic, Now, Timestamp};
use promesh_promql::Engine;
use promesh_promql::script::MemoryStorage;
use serde_json::{Value, json};

use crate::QueryWatch;
use crate::backend::{
    Alert, Alertmanagers, Backend, BackendError, BuildInfo, HeadStats, Push, PushOutcome, Readiness, ReloadScope, Rule,
    RuleGroup, RuleKind, SeriesExemplars, Target, TargetMetadata, Targets, TsdbStatus,
};

/// The fixture's present.
pub(super) const NOW: Timestamp = Timestamp(1_795_379_892_504);

pub(super) struct Fixture {
    pub readiness: Readiness,
    pub reload: Result<(), String>,
    pub storage: MemoryStorage,
    /// How long a select takes.
    pub storage_delay: Duration,
    /// Whether a select was cancelled while it took that long.
    pub cancelled: Arc<AtomicBool>,
    pub pushes: Arc<Mutex<Vec<Push>>>,
    pub push_refuses: Vec<(Labels, IngestError)>,
    pub push_fails: Option<BackendError>,
    pub watch: Option<Arc<dyn QueryWatch>>,
}

impl Default for Fixture {
    fn default() -> Self {
        let mut storage = MemoryStorage::default();
        let up = Labels::from_pairs([("__name__", "up"), ("job", "self"), ("instance", "127.0.0.1:39490")]);
        for back in (0..60).rev() {
            storage.append(&up, NOW.ms() - back * 1000, 0, 1.0);
        }
        Fixture {
            readiness: Readiness::Ready,
            reload: Ok(()),
            storage,
            storage_delay: Duration::ZERO,
            cancelled: Arc::default(),
            pushes: Arc::default(),
            push_refuses: Vec::new(),
            push_fails: None,
            watch: None,
        }
    }
}

impl Fixture {
    /// So many series `many` with a sample each second from 0 to 100 s, and at the present.
    pub fn with_series(count: usize) -> Fixture {
        let mut fixture = Fixture::default();
        for index in 0..count {
            let labels = Labels::from_pairs([("__name__", "many"), ("index", &index.to_string())]);
            for second in (0..=100).step_by(50) {
                fixture.storage.append(&labels, second * 1000, 0, second as f64);
            }
            fixture.storage.append(&labels, NOW.ms(), 0, 1.0);
        }
        fixture
    }
}

/// Storage that takes its time.
struct Slow {
    storage: MemoryStorage,
    delay: Duration,
    cancelled: Arc<AtomicBool>,
}

impl Queryable for Slow {
    fn select(&self, requests: &[SelectRequest], budget: &Budget) -> Result<Vec<Selection>, StorageError> {
        const NAP: Duration = Duration::from_millis(5);
        for _ in 0..self.delay.as_millis() / NAP.as_millis() {
            std::thread::sleep(NAP);
            budget.check().inspect_err(|_| self.cancelled.store(true, Ordering::Relaxed))?;
        }
        self.storage.select(requests, budget)
    }

    fn label_names(&self, request: &ListRequest, budget: &Budget) -> Result<Listing<String>, StorageError> {
        self.storage.label_names(request, budget)
    }

    fn label_values(
        &self,
        name: &str,
        request: &ListRequest,
        budget: &Budget,
    ) -> Result<Listing<String>, StorageError> {
        self.storage.label_values(name, request, budget)
    }

    fn series(&self, request: &ListRequest, budget: &Budget) -> Result<Listing<Labels>, StorageError> {
        self.storage.series(request, budget)
    }
}

#[async_trait]
impl Backend for Fixture {
    fn now(&self) -> Now {
        Now { monotonic: Monotonic(0), wall: NOW }
    }

    fn engine(&self) -> Arc<Engine> {
        Arc::default()
    }

    fn query_watch(&self) -> Option<Arc<dyn QueryWatch>> {
        self.watch.clone()
    }

    fn storage(&self) -> Arc<dyn Queryable> {
        let (storage, cancelled) = (self.storage.clone(), Arc::clone(&self.cancelled));
        Arc::new(Slow { storage, delay: self.storage_delay, cancelled })
    }

    fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    async fn targets(&self) -> Targets {
        let labels = Labels::from_pairs([("instance", "127.0.0.1:39490"), ("job", "self")]);
        let target = Target {
            discovered_labels: Labels::from_pairs([("__address__", "127.0.0.1:39490"), ("job", "self")]),
            labels,
            scrape_pool: "self".into(),
            scrape_url: "http://127.0.0.1:39490/metrics".into(),
            global_url: "http://vm:39490/metrics".into(),
            last_error: String::new(),
            last_scrape: "2026-11-22T20:38:12.5Z".into(),
            last_scrape_duration: 0.005,
            health: "up".into(),
            scrape_interval: "1s".into(),
            scrape_timeout: "1s".into(),
            peer: String::new(),
        };
        Targets {
            active: vec![target],
            dropped: Vec::new(),
            dropped_counts: BTreeMap::from([("self".into(), 0)]),
            pools: vec!["self".into()],
        }
    }

    async fn metadata(&self) -> Vec<TargetMetadata> {
        let target = Labels::from_pairs([("instance", "127.0.0.1:39490"), ("job", "self")]);
        let help = "Number of goroutines that currently exist.".to_owned();
        let metadata = Metadata { kind: "gauge".into(), unit: String::new(), help };
        vec![TargetMetadata { target, metric: "go_goroutines".into(), metadata }]
    }

    async fn rule_groups(&self) -> Vec<RuleGroup> {
        let alert = Alert {
            labels: Labels::from_pairs([("alertname", "A"), ("severity", "page")]),
            annotations: Labels::from_pairs([("summary", "hello")]),
            state: "firing".into(),
            active_at: Some("2026-11-22T20:27:17.4Z".into()),
            keep_firing_since: None,
            value: "1e+00".into(),
        };
        let rule = |name: &str, query: &str, kind| Rule {
            name: name.into(),
            query: query.into(),
            labels: Labels::empty(),
            health: "ok".into(),
            last_error: String::new(),
            evaluation_time: 0.5,
            last_evaluation: "2026-11-22T20:37:17Z".into(),
            kind,
        };
        let alerting = RuleKind::Alerting {
            state: "firing".into(),
            duration: 0.0,
            keep_firing_for: 0.0,
            annotations: alert.annotations.clone(),
            alerts: vec![alert],
        };
        let mut page = rule("A", "up == 1", alerting);
        page.labels = Labels::from_pairs([("severity", "page")]);
        let group = |name: &str, rules| RuleGroup {
            name: name.into(),
            file: "rules.yml".into(),
            rules,
            interval: 60.0,
            limit: 0,
            evaluation_time: 0.5,
            last_evaluation: "2026-11-22T20:37:17Z".into(),
        };
        vec![
            group("g", vec![rule("r1", "up", RuleKind::Recording), page]),
            group("h", vec![rule("r2", "up", RuleKind::Recording)]),
        ]
    }

    async fn alertmanagers(&self) -> Alertmanagers {
        Alertmanagers::default()
    }

    async fn cluster(&self) -> Value {
        json!({"cluster": "default", "members": []})
    }

    fn config_yaml(&self) -> String {
        "global: {}\n".into()
    }

    fn flags(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("web.listen-address".into(), "127.0.0.1:0".into())])
    }

    fn build_info(&self) -> BuildInfo {
        BuildInfo { version: "1".into(), ..BuildInfo::default() }
    }

    fn runtime_info(&self) -> Value {
        json!({"reloadConfigSuccess": true})
    }

    async fn tsdb_status(&self, _limit: usize) -> Result<TsdbStatus, BackendError> {
        Ok(TsdbStatus { head_stats: HeadStats { num_series: 1, ..HeadStats::default() }, ..TsdbStatus::default() })
    }

    fn wal_replay(&self) -> [u64; 3] {
        [0, 1, 1]
    }

    async fn metrics(&self) -> String {
        "# TYPE x gauge\nx 1\n".into()
    }

    fn external_labels(&self) -> Labels {
        Labels::empty()
    }

    async fn reload(&self, _scope: ReloadScope) -> Result<(), BackendError> {
        self.reload.clone().map_err(BackendError::Failed)
    }

    fn quit(&self) {}

    async fn push(&self, push: Push) -> Result<PushOutcome, BackendError> {
        if let Some(error) = &self.push_fails {
            return Err(error.clone());
        }
        let refused = self.push_refuses.clone();
        let outcome = PushOutcome {
            samples: push.samples.len() - refused.len(),
            histograms: push.histograms.len(),
            exemplars: push.exemplars.len(),
            refused,
        };
        self.pushes.lock().expect("no panic under the lock").push(push);
        Ok(outcome)
    }

    async fn exemplars(
        &self,
        _: Vec<Vec<Matcher>>,
        _: Timestamp,
        _: Timestamp,
    ) -> Result<Vec<SeriesExemplars>, BackendError> {
        Ok(Vec::new())
    }

    async fn delete_series(&self, _: Vec<Matcher>, _: Timestamp, _: Timestamp) -> Result<(), BackendError> {
        Ok(())
    }

    async fn clean_tombstones(&self) -> Result<(), BackendError> {
        Ok(())
    }
}
