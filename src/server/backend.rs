//! The peer as its HTTP side sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use hashbrown::HashMap;
use promesh_api::backend::{
    Alertmanagers, Backend, BackendError, BuildInfo, ClusterOrder, DroppedTarget, HeadStats, NamedCount, Notification,
    Push, PushOutcome, Readiness, ReloadScope, RuleGroup, SeriesExemplars, Target, TargetMetadata, Targets, TsdbStatus,
};
use promesh_model::shard::ShardSet;
use promesh_model::storage::Queryable;
use promesh_model::{Labels, Matcher, Now, PeerId, ShardId, Timestamp, duration};
use promesh_promql::Engine;
use serde_json::Value;
use tokio::runtime::Handle;

use crate::asking::{ExemplarNews, MetadataNews, Question, TargetNews, join_exemplars};
use crate::clock;
use crate::cluster_view;
use crate::exposition;
use crate::gateway::PeerGateway;
use crate::peer::{Peer, READY, STARTING};

/// A [`Peer`], for the API.
pub struct PeerBackend(pub Arc<Peer>);

#[async_trait]
impl Backend for PeerBackend {
    fn now(&self) -> Now {
        clock::now()
    }

    fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.0.engine)
    }

    fn storage(&self) -> Arc<dyn Queryable> {
        Arc::clone(&self.0.storage)
    }

    fn reading(&self) -> Handle {
        self.0.queries_run.clone()
    }

    fn query_watch(&self) -> Option<Arc<dyn promesh_api::QueryWatch>> {
        Some(Arc::clone(&self.0.queries) as Arc<dyn promesh_api::QueryWatch>)
    }

    fn parts(&self) -> Option<Arc<dyn promesh_promql::Parts>> {
        Some(Arc::clone(&self.0.parts) as Arc<dyn promesh_promql::Parts>)
    }

    fn readiness(&self) -> Readiness {
        match self.0.stage() {
            READY => Readiness::Ready,
            STARTING => Readiness::Starting,
            _ => Readiness::Stopping,
        }
    }

    async fn targets(&self) -> Targets {
        let scraping = &self.0.scraping;
        let view = self.0.view.borrow().clone();
        let scraper = |shard: ShardId| {
            let view = view.as_ref()?;
            let owner = if view.acting.contains(shard) { Some(view.me) } else { view.placement.owner(shard) };
            owner.map(|owner| owner.to_string())
        };
        let (health, others) = tokio::join!(self.newest_up(), self.0.gather::<TargetNews>(&Question::Targets));
        let mut news: HashMap<(String, Labels), TargetNews> = HashMap::new();
        for one in others.into_iter().chain(self.0.own_target_news()) {
            let key = (one.pool.clone(), one.labels.clone());
            if news.get(&key).is_none_or(|known| known.at < one.at) {
                news.insert(key, one);
            }
        }
        let mut active: Vec<Target> = scraping
            .targets()
            .into_iter()
            .map(|(target, _)| {
                let up = health.get(&target.labels).copied();
                let news = news.get(&(target.pool().to_owned(), target.labels.clone()));
                let last = news.map(|news| Timestamp(news.at)).or(up.map(|(at, _)| at));
                Target {
                    discovered_labels: target.discovered_labels.clone(),
                    labels: target.labels.clone(),
                    scrape_pool: target.pool().to_owned(),
                    scrape_url: promesh_client::redacted(&target.url),
                    global_url: promesh_client::redacted(&target.url),
                    last_error: news.map(|news| news.error.clone()).unwrap_or_default(),
                    last_scrape: last.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.to_string()),
                    last_scrape_duration: news.map_or(0.0, |news| news.duration),
                    health: match up {
                        Some((_, value)) if value > 0.0 => "up",
                        Some(_) => "down",
                        None => "unknown",
                    }
                    .to_owned(),
                    scrape_interval: duration::format(target.interval),
                    scrape_timeout: duration::format(target.timeout),
                    peer: scraper(target.shard).unwrap_or_default(),
                }
            })
            .collect();
        active.sort_by(|a, b| (&a.scrape_pool, &a.labels).cmp(&(&b.scrape_pool, &b.labels)));
        let dropped = scraping.dropped();
        let of_job = |(job, (_, labels)): (&String, &(usize, Vec<Labels>))| -> Vec<DroppedTarget> {
            let one = |labels: &Labels| DroppedTarget { discovered_labels: labels.clone(), scrape_pool: job.clone() };
            labels.iter().map(one).collect()
        };
        Targets {
            active,
            dropped: dropped.iter().flat_map(of_job).collect(),
            dropped_counts: dropped.iter().map(|(job, (count, _))| (job.clone(), *count)).collect(),
            pools: scraping.pools(),
        }
    }

    fn relabel_rules(&self, pool: &str) -> Option<Vec<promesh_model::relabel::Rule>> {
        let settings = self.0.settings.load();
        let job = settings.jobs.iter().find(|job| job.job_name == pool)?;
        Some(job.relabel_configs.clone())
    }

    async fn metadata(&self) -> Vec<TargetMetadata> {
        let mut newest: BTreeMap<Labels, MetadataNews> = BTreeMap::new();
        for news in self.0.gather::<MetadataNews>(&Question::Metadata).await.into_iter().chain(self.0.own_metadata()) {
            if newest.get(&news.labels).is_none_or(|known| known.at < news.at) {
                newest.insert(news.labels.clone(), news);
            }
        }
        let families = newest.into_values().flat_map(|news| {
            let target = news.labels;
            let one = move |(metric, metadata)| TargetMetadata { target: target.clone(), metric, metadata };
            news.families.into_iter().map(one)
        });
        families.collect()
    }

    async fn rule_groups(&self) -> Vec<RuleGroup> {
        let view = self.0.view.borrow().clone();
        self.0.ruling.groups(view, self.0.transport.as_ref()).await
    }

    async fn alertmanagers(&self) -> Alertmanagers {
        self.0.outside.shown()
    }

    async fn cluster(&self) -> Value {
        let facts = match self.0.facts.get() {
            Some(facts) => facts.all().await,
            None => BTreeMap::new(),
        };
        let mut cluster = cluster_view::json(&self.0, &facts);
        self.0.paging.mark_electors(&mut cluster).await;
        cluster
    }

    fn config_yaml(&self) -> String {
        self.0.settings.load().loaded.config.to_yaml()
    }

    fn flags(&self) -> BTreeMap<String, String> {
        self.0.options.flags.clone()
    }

    fn build_info(&self) -> BuildInfo {
        BuildInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            go_version: "none: promesh is written in Rust".to_owned(),
            ..BuildInfo::default()
        }
    }

    fn runtime_info(&self) -> Value {
        let telemetry = &self.0.telemetry;
        let loaded_at = Timestamp(telemetry.reload_success_at.load(Ordering::Relaxed) as i64 * 1000);
        serde_json::json!({
            "startTime": self.0.started_at.to_string(),
            "CWD": std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default(),
            "hostname": rustix::system::uname().nodename().to_string_lossy(),
            "serverTime": clock::wall().to_string(),
            "reloadConfigSuccess": telemetry.reload_successful.load(Ordering::Relaxed) == 1,
            "lastConfigTime": loaded_at.to_string(),
            "corruptionCount": 0,
            "storageRetention": self.0.retention_shown(),
        })
    }

    async fn tsdb_status(&self, limit: usize) -> Result<TsdbStatus, BackendError> {
        let stats = self.blocking(move |peer| Ok(peer.ingest.db().head().stats(limit))).await?;
        let named = |ranked: Vec<(String, u64)>| -> Vec<NamedCount> {
            ranked.into_iter().map(|(name, value)| NamedCount { name, value }).collect()
        };
        Ok(TsdbStatus {
            head_stats: HeadStats {
                num_series: stats.series,
                num_label_pairs: stats.label_pairs,
                chunk_count: stats.chunks,
                min_time: stats.min_time.map_or(i64::MAX, Timestamp::ms),
                max_time: stats.max_time.map_or(i64::MIN, Timestamp::ms),
            },
            series_count_by_metric_name: named(stats.series_by_metric),
            label_value_count_by_label_name: named(stats.values_by_label),
            memory_in_bytes_by_label_name: named(stats.bytes_by_label),
            series_count_by_label_value_pair: named(stats.series_by_pair),
        })
    }

    fn wal_replay(&self) -> [u64; 3] {
        let segment = self.0.ingest.db().log().segment();
        [0, segment, segment]
    }

    async fn metrics(&self) -> String {
        exposition::metrics(&self.0).await
    }

    fn pager(&self) -> Option<Arc<dyn promesh_api::Pager>> {
        Some(Arc::clone(&self.0.paging) as Arc<dyn promesh_api::Pager>)
    }

    fn http_meter(&self) -> Arc<promesh_api::metered::HttpMeter> {
        Arc::clone(&self.0.http_meter)
    }

    fn gateway(&self) -> Option<Arc<dyn promesh_api::gateway::Gateway>> {
        self.0.options.web.enable_pushgateway.then(|| Arc::new(PeerGateway(Arc::clone(&self.0))) as _)
    }

    fn external_labels(&self) -> Labels {
        // The mesh's, whatever this peer's file says.
        let elected = self.0.view.borrow().as_ref().and_then(|view| view.elected.external_labels().cloned());
        elected.unwrap_or_else(|| self.0.settings.load().loaded.config.external_labels().clone())
    }

    async fn reload(&self, scope: ReloadScope) -> Result<(), BackendError> {
        match scope {
            ReloadScope::Peer => self.0.reload().await.map_err(BackendError::Failed),
            ReloadScope::Cluster => {
                let (own, others) = tokio::join!(self.0.reload(), self.0.have_all(&Question::Reload));
                own.and(others).map_err(BackendError::Failed)
            }
        }
    }

    async fn operate(&self, order: ClusterOrder, peer: &str) -> Result<Value, BackendError> {
        crate::operate::operate(&self.0, order, peer).await.map_err(BackendError::Failed)
    }

    fn quit(&self) {
        self.0.ask_to_quit();
    }

    fn features(&self) -> Value {
        let features = &self.0.options.features;
        let functions = promesh_template::Functions::Prometheus.names();
        let functions: serde_json::Map<String, Value> =
            functions.into_iter().map(|name| (name.to_owned(), true.into())).collect();
        serde_json::json!({
            "otlp_receiver": {
                "delta_conversion": features.otlp_delta_to_cumulative,
                "native_delta_ingestion": features.otlp_native_delta,
            },
            "prometheus": {"agent_mode": false, "server_mode": true, "auto_reload_config": features.auto_reload_config},
            "promql": {
                "anchored": features.promql_extended_range_selectors,
                "smoothed": features.promql_extended_range_selectors,
                "at_modifier": true,
                "delayed_name_removal": features.promql_delayed_name_removal,
                "duration_expr": true,
                "fill": features.promql_binop_fill_modifiers,
                "negative_offset": true,
                "per_query_lookback_delta": true,
                "per_step_stats": true,
                "subqueries": true,
                "type_and_unit_labels": features.type_and_unit_labels,
            },
            "rules": {
                "concurrent_rule_eval": false,
                "keep_firing_for": true,
                "query_offset": true,
            },
            "scrape": {
                "extra_scrape_metrics": features.extra_scrape_metrics,
                "start_timestamp_zero_ingestion": false,
                "type_and_unit_labels": features.type_and_unit_labels,
            },
            "service_discovery_providers": {
                "consul": true, "dns": true, "file": true, "http": true, "kubernetes": true, "peer": true, "static": true,
            },
            "templating_functions": functions,
            "tsdb": {"exemplar_storage": features.exemplar_storage, "native_histograms": true},
        })
    }

    fn notifications(&self) -> Vec<Notification> {
        let telemetry = &self.0.telemetry;
        let mut all = Vec::new();
        let mut say = |text: &str, date: Timestamp| {
            all.push(Notification { text: text.to_owned(), date: date.to_string(), active: true });
        };
        if telemetry.reload_successful.load(Ordering::Relaxed) == 0 {
            let since = Timestamp(telemetry.reload_success_at.load(Ordering::Relaxed) as i64 * 1000);
            say("Configuration reload has failed.", since);
        }
        if self.readiness() == Readiness::Stopping {
            say("Prometheus is shutting down and gracefully stopping all operations.", clock::wall());
        }
        all
    }

    async fn blocks(&self) -> Result<Vec<Value>, BackendError> {
        let metas = self.0.ingest.db().blocks();
        let meta = |block: &Arc<promesh_tsdb::block::Block>| serde_json::to_value(block.meta()).unwrap_or_default();
        Ok(metas.iter().map(meta).collect())
    }

    fn scrape_pool_config(&self, pool: &str) -> Option<String> {
        let settings = self.0.settings.load();
        let job = settings.jobs.iter().find(|job| job.job_name == pool)?;
        let node = promesh_config::yaml::show_section(&**job, promesh_config::yaml::Show::Masked);
        Some(promesh_config::yaml::print(&node))
    }

    fn otlp(&self) -> promesh_api::otlp::Otlp {
        let features = &self.0.options.features;
        promesh_api::otlp::Otlp {
            settings: promesh_otlp::Settings {
                config: self.0.settings.load().loaded.config.otlp.clone(),
                native_delta: features.otlp_native_delta,
                lookback_ms: promesh_model::time::ms_of(self.0.options.query.lookback),
            },
            deltas: features.otlp_delta_to_cumulative.then(|| Arc::clone(&self.0.otlp_deltas)),
        }
    }

    fn otlp_owner(&self, shard: ShardId) -> Option<PeerId> {
        self.0.otlp_owner(shard)
    }

    async fn forward_otlp(
        &self,
        owner: PeerId,
        shards: &ShardSet,
        format: promesh_api::otlp::Format,
        message: Vec<u8>,
    ) -> Result<Vec<String>, promesh_api::otlp::Untaken> {
        self.0.forward_otlp(owner, shards, format, message).await
    }

    async fn push(&self, push: Push) -> Result<PushOutcome, BackendError> {
        self.0.pushing.push(push).await
    }

    /// Without the feature nothing is kept, and nothing found.
    async fn exemplars(
        &self,
        selectors: Vec<Vec<Matcher>>,
        start: Timestamp,
        end: Timestamp,
    ) -> Result<Vec<SeriesExemplars>, BackendError> {
        let question = Question::Exemplars { selectors: selectors.clone(), start: start.ms(), end: end.ms() };
        let (own, others) = tokio::join!(
            self.0.own_exemplars(selectors, start.ms(), end.ms()),
            self.0.gather::<ExemplarNews>(&question)
        );
        Ok(join_exemplars(own.into_iter().chain(others.into_iter().map(ExemplarNews::into_series)).collect()))
    }

    async fn delete_series(
        &self,
        matchers: Vec<Matcher>,
        start: Timestamp,
        end: Timestamp,
    ) -> Result<(), BackendError> {
        self.0.delete_everywhere(matchers, start, end).await.map_err(BackendError::Failed)
    }

    async fn clean_tombstones(&self) -> Result<(), BackendError> {
        let (own, others) = tokio::join!(self.0.clean_here(), self.0.have_all(&Question::CleanTombstones));
        own.and(others).map_err(BackendError::Failed)
    }

    async fn snapshot(&self, skip_head: bool) -> Result<String, BackendError> {
        self.blocking(move |peer| {
            let taken = peer.ingest.db().snapshot(!skip_head, clock::now());
            taken.map_err(|error| BackendError::Failed(error.to_string()))
        })
        .await
    }
}

impl PeerBackend {
    /// Runs something on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Peer) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let peer = Arc::clone(&self.0);
        let ran = tokio::task::spawn_blocking(move || run(&peer)).await;
        ran.map_err(|error| BackendError::Failed(error.to_string()))?
    }

    /// The newest `up` of every target of the mesh.
    async fn newest_up(&self) -> HashMap<Labels, (Timestamp, f64)> {
        let (engine, storage) = (Arc::clone(&self.0.engine), Arc::clone(&self.0.storage));
        let asked = tokio::task::spawn_blocking(move || {
            let now = clock::wall();
            let options = promesh_promql::QueryOptions::default();
            engine.instant(&*storage, "up", now, &options).ok().map(|outcome| (now, outcome.value))
        });
        let Ok(Some((_, promesh_promql::Value::Vector(samples)))) = asked.await else { return HashMap::new() };
        samples
            .into_iter()
            .filter_map(|sample| match sample.value {
                promesh_promql::SampleValue::Float(value) => {
                    let labels = sample.labels.without(|name| name == "__name__");
                    Some((labels, (sample.at, value)))
                }
                _ => None,
            })
            .collect()
    }
}
