//! Alerts to Alertmanagers outside the mesh: the `alerting:` section.
//!
//! One queue, in the order of evaluations; each batch goes to every Alertmanager of every set at once. An Alertmanager
//! that does not take it is counted; only a batch that none took is lost, since rules send firing alerts again and again.
//!
//! Source: prometheus `notifier`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use parking_lot::Mutex;
use promesh_alerting::PostedAlert;
use promesh_api::backend::Alertmanagers;
use promesh_client::{HttpClient, Request, Signer};
use promesh_config::prometheus::{AlertmanagerConfig, Config, Discovery, content_digest};
use promesh_discovery::{Discovered, Manager};
use promesh_model::{Labels, LabelsBuilder, Timestamp, relabel};
use serde_json::json;
use tokio::sync::{Notify, watch};
use url::Url;

use crate::exposition::Page;

/// An answer is read so far.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Alertmanagers of one set.
const MANAGERS_MAX: usize = 1_000;

/// One set of Alertmanagers.
struct Set {
    config: AlertmanagerConfig,
    client: HttpClient,
    signer: Option<Signer>,
    digest: u128,
}

/// What was counted of one Alertmanager.
#[derive(Default)]
struct Counters {
    sent: u64,
    errors: u64,
    latency_seconds: f64,
}

/// The way out for alerts.
pub struct Outside {
    queue: Mutex<VecDeque<PostedAlert>>,
    capacity: usize,
    batch: usize,
    wake: Notify,
    sets: ArcSwap<Vec<Arc<Set>>>,
    discovery: Manager,
    counters: Mutex<BTreeMap<String, Counters>>,
    dropped: AtomicU64,
}

/// Where the Alertmanagers of a set are.
struct Resolved {
    active: Vec<Url>,
    dropped: Vec<Url>,
}

impl Outside {
    /// No Alertmanagers yet; a queue for so many alerts, so many in one request.
    pub fn new(peers: watch::Receiver<Arc<[String]>>, capacity: usize, batch: usize) -> Arc<Outside> {
        let outside = Arc::new(Outside {
            queue: Mutex::default(),
            capacity: capacity.max(1),
            batch: batch.max(1),
            wake: Notify::new(),
            sets: ArcSwap::default(),
            discovery: Manager::new(peers, Arc::new(crate::scraping::MachineClock)),
            counters: Mutex::default(),
            dropped: AtomicU64::new(0),
        });
        tokio::spawn(Arc::clone(&outside).run());
        outside
    }

    /// Makes the sets those of a configuration.
    ///
    /// # Errors
    /// What cannot be used; the old ones stay.
    pub fn apply(&self, config: &Config) -> Result<(), String> {
        let before = self.sets.load_full();
        let mut sets = Vec::new();
        for (number, manager) in config.alerting.alertmanagers.iter().enumerate() {
            let digest = content_digest(manager);
            let set = match before.iter().find(|set| set.digest == digest) {
                Some(known) => Arc::clone(known),
                None => {
                    let client = HttpClient::new(&manager.http).map_err(|error| format!("alerting: {error}"))?;
                    let signer = manager.sigv4.as_ref().map(Signer::new).transpose();
                    let signer = signer.map_err(|why| format!("alerting: alertmanagers[{number}]: {why}"))?;
                    Arc::new(Set { config: manager.clone(), client, signer, digest })
                }
            };
            sets.push(set);
        }
        let names: Vec<String> = (0..sets.len()).map(job_name).collect();
        let jobs = names.iter().map(String::as_str).zip(sets.iter().map(|set| &set.config.discovery));
        self.discovery.apply(jobs).map_err(|error| format!("alerting: {error}"))?;
        self.sets.store(Arc::new(sets));
        Ok(())
    }

    /// Takes alerts; the oldest go when there is no room.
    pub fn take(&self, alerts: &[PostedAlert]) {
        if self.sets.load().is_empty() {
            return;
        }
        let mut queue = self.queue.lock();
        queue.extend(alerts.iter().cloned());
        let excess = queue.len().saturating_sub(self.capacity);
        if excess > 0 {
            queue.drain(..excess);
            drop(queue);
            self.dropped.fetch_add(excess as u64, Ordering::Relaxed);
            tracing::warn!(dropped = excess, "alert notification queue full, dropping alerts");
        }
        self.wake.notify_one();
    }

    /// Lets the queue empty itself.
    pub async fn drain(&self, patience: Duration) {
        let empty = async {
            while !self.queue.lock().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(patience, empty).await;
    }

    async fn run(self: Arc<Self>) {
        loop {
            let batch: Vec<PostedAlert> = {
                let mut queue = self.queue.lock();
                let count = queue.len().min(self.batch);
                queue.drain(..count).collect()
            };
            if batch.is_empty() {
                self.wake.notified().await;
            } else if !self.send_everywhere(&batch).await {
                self.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
        }
    }

    /// Sends a batch to all; whether any took it.
    async fn send_everywhere(&self, batch: &[PostedAlert]) -> bool {
        let sets = self.sets.load_full();
        let found = Arc::clone(&self.discovery.subscribe().borrow());
        let mut sending = Vec::new();
        for (number, set) in sets.iter().enumerate() {
            let shaped: Vec<_> = batch.iter().filter_map(|alert| shaped(alert, set)).collect();
            if shaped.is_empty() {
                continue;
            }
            let body: Arc<[u8]> = serde_json::to_vec(&shaped).expect("alerts are texts").into();
            for url in resolved(&found, number, set).active {
                sending.push(self.send(Arc::clone(set), url, Arc::clone(&body), shaped.len() as u64));
            }
        }
        join_all(sending).await.into_iter().any(|taken| taken)
    }

    async fn send(&self, set: Arc<Set>, url: Url, body: Arc<[u8]>, count: u64) -> bool {
        let began = crate::clock::monotonic();
        let mut request = Request::post(url.clone(), "application/json", body.to_vec());
        let signed = set.signer.as_ref().map_or(Ok(()), |signer| signer.sign(&mut request, crate::clock::wall()));
        let shown = promesh_client::redacted(&url);
        let failed = match signed {
            Err(why) => Some(why),
            Ok(()) => match set.client.fetch(request, set.config.timeout, ANSWER_BYTES_MAX).await {
                Ok((status, ..)) if status.is_success() => None,
                Ok((status, ..)) => Some(format!("bad response status {status}")),
                Err(error) => Some(error.to_string()),
            },
        };
        let mut counters = self.counters.lock();
        let counted = counters.entry(shown.clone()).or_default();
        counted.sent += count;
        counted.latency_seconds += crate::clock::monotonic().since(began).as_secs_f64();
        if let Some(error) = &failed {
            counted.errors += count;
            tracing::error!(alertmanager = shown, count, error, "Error sending alerts");
        }
        failed.is_none()
    }

    /// What `/api/v1/alertmanagers` shows.
    pub fn shown(&self) -> Alertmanagers {
        let found = Arc::clone(&self.discovery.subscribe().borrow());
        let mut shown = Alertmanagers::default();
        for (number, set) in self.sets.load().iter().enumerate() {
            let resolved = resolved(&found, number, set);
            shown.active.extend(resolved.active.iter().map(promesh_client::redacted));
            shown.dropped.extend(resolved.dropped.iter().map(promesh_client::redacted));
        }
        shown
    }

    /// Upstream's families.
    pub fn metrics(&self, page: &mut Page) {
        let discovered = self.shown().active.len() as f64;
        let name = "prometheus_notifications_alertmanagers_discovered";
        page.value(name, "gauge", "Outside Alertmanagers discovered and active.", discovered);
        let waiting = self.queue.lock().len() as f64;
        page.value("prometheus_notifications_queue_length", "gauge", "Alerts waiting for them.", waiting);
        let capacity = self.capacity as f64;
        page.value("prometheus_notifications_queue_capacity", "gauge", "Alerts that may wait.", capacity);
        let dropped = self.dropped.load(Ordering::Relaxed) as f64;
        page.value("prometheus_notifications_dropped_total", "counter", "Alerts that none of them got.", dropped);
        let counters = self.counters.lock();
        let of = |read: fn(&Counters) -> f64| -> Vec<(String, f64)> {
            counters.iter().map(|(url, counted)| (url.clone(), read(counted))).collect()
        };
        let name = "prometheus_notifications_sent_total";
        page.labelled(name, "counter", "Alerts sent.", "alertmanager", &of(|counted| counted.sent as f64));
        let name = "prometheus_notifications_errors_total";
        page.labelled(name, "counter", "Alerts that it did not take.", "alertmanager", &of(|one| one.errors as f64));
        let name = "promesh_notifications_outside_latency_seconds_total";
        page.labelled(name, "counter", "Seconds spent sending.", "alertmanager", &of(|one| one.latency_seconds));
    }
}

fn job_name(number: usize) -> String {
    format!("config-{number}")
}

/// The Alertmanagers of a set, each once.
fn resolved(found: &Discovered, number: usize, set: &Set) -> Resolved {
    let mut resolved = Resolved { active: Vec::new(), dropped: Vec::new() };
    for group in found.get(&job_name(number)).into_iter().flatten() {
        for target in group.targets.iter().take(MANAGERS_MAX) {
            let before = discovered(&set.config, target, &group.labels);
            match relabel::apply(&set.config.relabel_configs, before.clone()).map(|labels| labels.build()) {
                Some(labels) => push_url(&labels, &mut resolved.active),
                None => push_url(&before.build(), &mut resolved.dropped),
            }
        }
    }
    resolved
}

/// Labels of an Alertmanager before relabelling.
fn discovered(config: &AlertmanagerConfig, own: &Labels, shared: &Labels) -> LabelsBuilder {
    let path = format!("/{}/api/v2/alerts", config.path_prefix.trim_matches('/')).replace("//", "/");
    let mut labels = own.to_builder();
    for (name, value) in shared.iter().filter(|(name, _)| own.get(name).is_none()) {
        labels.set(name, value);
    }
    for (name, value) in [("__scheme__", config.scheme.as_str()), ("__alerts_path__", &path)] {
        if labels.get(name).is_none() {
            labels.set(name, value);
        }
    }
    labels
}

/// What is wrong with the addresses that the configuration itself gives to Alertmanagers; nothing is asked for others.
pub(crate) fn wrong_addresses(config: &Config) -> Vec<String> {
    let mut wrong = Vec::new();
    for set in &config.alerting.alertmanagers {
        let written = set.discovery.0.iter().filter_map(|discovery| match discovery {
            Discovery::Static(groups) => Some(groups),
            _ => None,
        });
        for group in written.flatten() {
            for address in &group.targets {
                let own = Labels::from_pairs([("__address__", address.as_str())]);
                let labels = relabel::apply(&set.relabel_configs, discovered(set, &own, &group.labels));
                wrong.extend(labels.and_then(|labels| url_of(&labels.build()).err()));
            }
        }
    }
    wrong
}

/// Where alerts are posted.
fn url_of(labels: &Labels) -> Result<Url, String> {
    let (scheme, address) = (labels.value("__scheme__"), labels.value("__address__"));
    if address.contains('/') {
        return Err(format!("{address:?} is not a valid hostname"));
    }
    let text = format!("{scheme}://{address}{}", labels.value("__alerts_path__"));
    Url::parse(&text).map_err(|error| format!("{text:?} is no URL: {error}"))
}

fn push_url(labels: &Labels, urls: &mut Vec<Url>) {
    match url_of(labels) {
        Ok(url) if !urls.contains(&url) => urls.push(url),
        Ok(_) => {}
        Err(error) => tracing::warn!(error, "an Alertmanager cannot be reached at its address"),
    }
}

/// An alert as API v2 takes it; none when the set's rules drop it.
fn shaped(alert: &PostedAlert, set: &Set) -> Option<serde_json::Value> {
    let labels = relabel::apply(&set.config.alert_relabel_configs, alert.labels.to_builder())?.build();
    let instant = |at: Option<Timestamp>| at.map(|at| at.to_string());
    let mut shaped = json!({"labels": labels, "annotations": alert.annotations, "generatorURL": alert.generator_url});
    for (name, at) in [("startsAt", instant(alert.starts_at)), ("endsAt", instant(alert.ends_at))] {
        if let Some(at) = at {
            shaped[name] = at.into();
        }
    }
    (!labels.is_empty()).then_some(shaped)
}

#[cfg(test)]
mod tests {
    use promesh_config::source::MemorySource;
    use promesh_discovery::TargetGroup;

    use super::*;

    fn set(text: &str) -> Set {
        let source = MemorySource::default();
        let text = format!("alerting:\n  alertmanagers:\n  - {text}\n");
        let loaded = promesh_config::prometheus::load_text("p.yml", text.as_bytes(), std::path::Path::new(""), &source);
        let config = loaded.expect("it loads").config.alerting.alertmanagers[0].clone();
        Set { client: HttpClient::new(&config.http).expect("usable"), signer: None, digest: 0, config }
    }

    #[test]
    fn addresses_become_urls_and_rules_drop_some() {
        let set = set("{path_prefix: /am/, scheme: https, static_configs: [{targets: [a:1]}], relabel_configs: \
                       [{source_labels: [__address__], regex: 'b.*', action: drop}]}");
        let group = TargetGroup::of_addresses("0", ["a:1", "b:2", "a:1"], &Labels::empty());
        let found = Discovered::from([(job_name(0), vec![Arc::new(group)])]);
        let resolved = resolved(&found, 0, &set);
        let texts = |urls: &[Url]| urls.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&resolved.active), ["https://a:1/am/api/v2/alerts"]);
        assert_eq!(texts(&resolved.dropped), ["https://b:2/am/api/v2/alerts"]);
    }

    #[test]
    fn alerts_are_shaped_by_the_sets_own_rules() {
        let set = set("{static_configs: [{targets: [a:1]}], alert_relabel_configs: [{regex: dc, action: labeldrop}]}");
        let alert = PostedAlert {
            labels: Labels::from_pairs([("alertname", "A"), ("dc", "x")]),
            annotations: Labels::empty(),
            starts_at: Some(Timestamp(1_500)),
            ends_at: None,
            generator_url: "http://here/g".to_owned(),
            own_rule: true,
            evaluated_at: None,
        };
        let expected = json!({"labels": {"alertname": "A"}, "annotations": {}, "generatorURL": "http://here/g",
                              "startsAt": "1970-01-01T00:00:01.5Z"});
        assert_eq!(shaped(&alert, &set), Some(expected));
    }
}
