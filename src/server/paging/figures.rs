//! The alerting half's part of `/metrics`, under upstream's names where the meaning is the same.

use std::sync::atomic::Ordering;

use promesh_alerting::Alerting;
use promesh_model::Now;

use super::Paging;
use super::deliveries::{Delivered, LATENCY_BUCKETS};
use crate::exposition::Page;
use crate::telemetry::HANDLE_BUCKETS_NS;

/// What the mind says of itself.
struct Mind {
    silences: [usize; 3],
    groups: usize,
    log_entries: usize,
    electors: usize,
    is_elector: bool,
    electorate: u64,
    degraded: bool,
    busy: u64,
    expired: u64,
    limited: u64,
}

fn look(mind: &Alerting, now: Now, me: promesh_model::PeerId) -> Mind {
    let counters = mind.counters();
    let electorate = mind.electorate();
    Mind {
        silences: mind.silence_counts(now),
        groups: mind.group_count(),
        log_entries: mind.log_count(),
        electors: electorate.map_or(0, |electorate| electorate.members.len()),
        is_elector: electorate.is_some_and(|electorate| electorate.contains(me)),
        electorate: electorate.map_or(0, |electorate| electorate.number),
        degraded: mind.is_degraded(now),
        busy: counters.busy,
        expired: counters.expired,
        limited: counters.limited,
    }
}

impl Paging {
    /// Writes all of it.
    pub async fn metrics(&self, page: &mut Page) {
        let me = self.me;
        if let (Some(mind), Some(alerts)) =
            (self.to.look(move |mind, now| look(mind, now, me)).await, self.alert_counts().await)
        {
            self.state(page, &mind, &alerts);
        }
        self.received(page);
        self.deliveries(page);
        self.cluster(page);
        self.configured(page);
        self.thread(page);
    }

    fn state(&self, page: &mut Page, mind: &Mind, alerts: &[usize; 2]) {
        let by = |names: &[&str], counts: &[usize]| -> Vec<(String, f64)> {
            names.iter().zip(counts).map(|(name, count)| ((*name).to_owned(), *count as f64)).collect()
        };
        let alerts = by(&["active", "suppressed"], alerts);
        page.labelled("alertmanager_alerts", "gauge", "Firing alerts that this peer holds.", "state", &alerts);
        let help = "Current limit on number of alerts per alert name; 0 is none.";
        let most = self.limits.alerts_per_name_max as f64;
        page.value("alertmanager_alerts_per_alert_limit", "gauge", help, most);
        let help = "Alerts that were left out because too many of their name fire.";
        page.value("alertmanager_alerts_limited_total", "counter", help, mind.limited as f64);
        let silences = by(&["active", "expired", "pending"], &mind.silences);
        page.labelled("alertmanager_silences", "gauge", "Silences by state.", "state", &silences);
        let groups = mind.groups as f64;
        let help = "Groups that this peer holds.";
        page.value("alertmanager_dispatcher_aggregation_groups", "gauge", help, groups);
        let help = "Entries of the notification log.";
        page.value("promesh_nflog_entries", "gauge", help, mind.log_entries as f64);
        page.value("promesh_electors", "gauge", "Peers that vote on notifications.", mind.electors as f64);
        let help = "Whether this peer votes on notifications.";
        page.value("promesh_elector", "gauge", help, f64::from(u8::from(mind.is_elector)));
        let help = "Number of the electorate.";
        page.value("promesh_electorate_number", "gauge", help, mind.electorate as f64);
        let help = "Whether notifications go out without a majority of the electorate.";
        page.value("promesh_notifications_degraded", "gauge", help, f64::from(u8::from(mind.degraded)));
        let outcomes = [
            ("busy".to_owned(), mind.busy as f64),
            ("expired".to_owned(), mind.expired as f64),
            ("sent".to_owned(), self.total(|delivered| delivered.taken)),
            ("failed".to_owned(), self.total(|delivered| delivered.requests_failed)),
        ];
        let help = "What became of this peer's claims on notifications.";
        page.labelled("promesh_claims_total", "counter", help, "outcome", &outcomes);
    }

    fn total(&self, of: impl Fn(&Delivered) -> u64) -> f64 {
        self.deliveries.figures().values().map(|delivered| of(delivered) as f64).sum()
    }

    fn received(&self, page: &mut Page) {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let name = "alertmanager_alerts_received_total";
        page.family(name, "counter", "Alerts posted to this peer.");
        page.sample(name, &[("status", "firing"), ("version", "v2")], load(&self.received.firing));
        page.sample(name, &[("status", "resolved"), ("version", "v2")], load(&self.received.resolved));
        let name = "alertmanager_alerts_invalid_total";
        page.family(name, "counter", "Alerts that were refused.");
        page.sample(name, &[("version", "v2")], load(&self.received.invalid));
    }

    fn deliveries(&self, page: &mut Page) {
        let mut figures = self.deliveries.figures();
        let configuration = self.configuration();
        for receiver in &configuration.config.receivers {
            for integration in receiver.integrations() {
                // A kind that has sent nothing yet is 0, as upstream: rates need a first sample.
                figures.entry(integration.kind).or_default();
            }
        }
        let mut count = |name: &str, help: &str, of: fn(&Delivered) -> u64| {
            page.family(name, "counter", help);
            for (kind, delivered) in &figures {
                page.sample(name, &[("integration", kind)], of(delivered) as f64);
            }
        };
        count("alertmanager_notification_requests_total", "Attempts.", |delivered| delivered.requests);
        count("alertmanager_notification_requests_failed_total", "Attempts that failed.", |delivered| {
            delivered.requests_failed
        });
        count("alertmanager_notifications_total", "Notifications, however often each was tried.", |delivered| {
            delivered.notifications
        });
        count("promesh_notifications_sent_total", "Notifications that were taken.", |delivered| delivered.taken);
        let help = "Attempts without a majority of the electorate.";
        count("promesh_notifications_degraded_total", help, |delivered| delivered.degraded);
        let help = "Attempts that were not begun in time.";
        count("promesh_notifications_expired_total", help, |delivered| delivered.expired);
        let name = "alertmanager_notifications_failed_total";
        page.family(name, "counter", "Notifications refused for good or not taken within group_interval, by reason.");
        for (kind, delivered) in &figures {
            for reason in ["clientError", "contextCanceled", "contextDeadlineExceeded", "other", "serverError"] {
                let failed = delivered.failed.get(reason).copied().unwrap_or(0) as f64;
                page.sample(name, &[("integration", kind), ("reason", reason)], failed);
            }
        }
        let name = "alertmanager_notification_latency_seconds";
        page.family(name, "histogram", "How long attempts took.");
        for (kind, delivered) in &figures {
            let bounds = LATENCY_BUCKETS.map(|bound| bound.to_string());
            page.histogram(name, &[("integration", kind)], &bounds, &delivered.latency, delivered.latency_sum);
        }
    }

    /// What the file says, in numbers.
    fn configured(&self, page: &mut Page) {
        let configuration = self.configuration();
        let config = &configuration.config;
        let integrations: usize = config.receivers.iter().map(|receiver| receiver.integrations().len()).sum();
        let receivers = config.receivers.len() as f64;
        page.value("alertmanager_receivers", "gauge", "Number of configured receivers.", receivers);
        let help = "Number of configured integrations.";
        page.value("alertmanager_integrations", "gauge", help, integrations as f64);
        let rules = config.inhibit_rules.len() as f64;
        page.value("alertmanager_inhibition_rules", "gauge", "Number of configured inhibition rules.", rules);
        let name = "alertmanager_build_info";
        page.family(name, "gauge", "What was built.");
        page.sample(name, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    }

    fn cluster(&self, page: &mut Page) {
        let view = self.view.borrow().clone();
        let name = "alertmanager_cluster_peer_info";
        page.family(name, "gauge", "A metric with a constant 1 value labeled by peer name.");
        page.sample(name, &[("peer", &self.me.to_string())], 1.0);
        let (alive, down) = view.as_ref().map_or((0, 0), |view| {
            let alive = view.peers.iter().filter(|peer| peer.alive).count();
            (alive, view.peers.len() - alive)
        });
        let enabled = f64::from(u8::from(self.transport.is_some()));
        page.value("alertmanager_cluster_enabled", "gauge", "Whether there is a mesh.", enabled);
        page.value("alertmanager_cluster_members", "gauge", "Living peers, this one included.", 1.0 + alive as f64);
        page.value("alertmanager_cluster_failed_peers", "gauge", "Peers that are down.", down as f64);
        // Nothing is pushed that could be dropped but these; upstream's alert is about a growing number.
        let lost = self.links.as_ref().map_or(0, super::links::Links::lost) as f64;
        let help = "Messages to peers that found no stream; they are said again.";
        page.value("promesh_alerting_messages_lost_total", "counter", help, lost);
    }

    fn thread(&self, page: &mut Page) {
        let figures = &self.figures;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let help = "Length of the record log.";
        page.value("promesh_records_log_bytes", "gauge", help, load(&figures.log_bytes) as f64);
        let help = "Syncs of the record log.";
        page.value("promesh_records_log_syncs_total", "counter", help, load(&figures.log_syncs) as f64);
        let help = "Writes of the record log that failed.";
        page.value("promesh_records_log_failures_total", "counter", help, load(&figures.log_failures) as f64);
        let name = "promesh_alerting_handle_seconds";
        page.family(name, "histogram", "How long the alerting mind took over an input.");
        let bounds = HANDLE_BUCKETS_NS.map(|ns| (ns as f64 / 1e9).to_string());
        let buckets =
            std::array::from_fn::<u64, { HANDLE_BUCKETS_NS.len() + 1 }, _>(|at| load(&figures.handle_buckets[at]));
        page.histogram(name, &[], &bounds, &buckets, load(&figures.handled_ns) as f64 / 1e9);
    }
}
