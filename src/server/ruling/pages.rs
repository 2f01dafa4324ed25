//! What the API shows of groups: the evaluating peer knows, the others ask.

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use promesh_api::backend::{Alert, Rule, RuleGroup, RuleKind};
use promesh_model::Timestamp;
use promesh_node::MeshView;
use promesh_replication::SourceId;
use promesh_rules::{AlertView, Group, Health, RuleView};
use promesh_transport::{Class, FrameSender, Transport};
use serde::{Deserialize, Serialize};

use super::{Planned, Ruling, fresh};
use crate::clock;

/// "Show me the groups that you evaluate."
pub const RULES: u8 = 39;
/// How long the slowest peer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// What was evaluated longer ago, and longer than three intervals, says nothing of today.
const AGE_MIN: Duration = Duration::from_secs(120);

/// A group as its newest evaluation left it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    source: String,
    slot: Timestamp,
    group: RuleGroup,
}

impl Shown {
    /// The group after a slot.
    pub fn of(planned: &Planned, group: &Group, slot: Timestamp) -> Shown {
        Shown { source: source_text(planned.source), slot, group: show(planned, group) }
    }

    /// How long the evaluation took.
    pub fn duration_seconds(&self) -> f64 {
        self.group.evaluation_time
    }

    /// Its slot.
    pub fn slot_seconds(&self) -> f64 {
        self.slot.as_secs_f64()
    }

    fn is_current(&self, now: Timestamp) -> bool {
        now.since(self.slot) <= AGE_MIN.max(Duration::from_secs_f64(3.0 * self.group.interval.clamp(0.0, 1e6)))
    }
}

/// JSON has no integers of 128 bits that everybody reads.
fn source_text(source: SourceId) -> String {
    format!("{:032x}", source.0)
}

impl Ruling {
    /// What this peer evaluated lately.
    fn own(&self) -> Vec<Shown> {
        let now = clock::wall();
        let table = self.table.load();
        let shown = table.entries.values().filter_map(|entry| entry.shown.lock().clone());
        shown.filter(|shown| shown.is_current(now)).collect()
    }

    /// Answers [`RULES`], a frame a group.
    pub async fn answer(&self, frames: FrameSender) {
        for shown in self.own() {
            let Ok(frame) = serde_json::to_vec(&shown) else { continue };
            if frames.send(RULES, &frame).await.is_err() {
                return;
            }
        }
    }

    /// All groups in the order of the files, each as whoever evaluated it last shows it.
    pub async fn groups(&self, view: Option<Arc<MeshView>>, transport: Option<&Transport>) -> Vec<RuleGroup> {
        let mut all = self.own();
        if let (Some(view), Some(transport)) = (view, transport) {
            let living = view.peers.iter().filter(|peer| peer.alive && !peer.silent);
            let mut asking: tokio::task::JoinSet<Vec<Shown>> = tokio::task::JoinSet::new();
            for peer in living {
                let (transport, address) = (transport.clone(), peer.address);
                asking.spawn(async move {
                    tokio::time::timeout(PATIENCE, ask(&transport, address)).await.unwrap_or_default()
                });
            }
            while let Some(theirs) = asking.join_next().await {
                all.extend(theirs.unwrap_or_default());
            }
        }
        let mut newest: HashMap<String, Shown> = HashMap::new();
        let now = clock::wall();
        for shown in all.into_iter().filter(|shown| shown.is_current(now)) {
            if newest.get(&shown.source).is_none_or(|known| known.slot < shown.slot) {
                newest.insert(shown.source.clone(), shown);
            }
        }
        let table = self.table.load();
        let entries = table.order.iter().filter_map(|source| table.entries.get(source));
        let group = |planned: &Planned| match newest.remove(&source_text(planned.source)) {
            Some(shown) => RuleGroup { file: planned.path.clone(), ..shown.group },
            None => show(planned, &fresh(planned)),
        };
        entries.map(|entry| &entry.planned).map(group).collect()
    }
}

async fn ask(transport: &Transport, address: std::net::SocketAddr) -> Vec<Shown> {
    let mut shown = Vec::new();
    let Ok(mut frames) = transport.request_stream(address, Class::Bulk, RULES, &[], PATIENCE).await else {
        return shown;
    };
    while let Ok(Some((RULES, frame))) = frames.recv().await {
        match serde_json::from_slice(&frame) {
            Ok(group) => shown.push(group),
            Err(error) => tracing::warn!(%address, %error, "a peer's rule group is unreadable"),
        }
    }
    shown
}

fn show(planned: &Planned, group: &Group) -> RuleGroup {
    let view = group.view();
    RuleGroup {
        name: view.name,
        file: planned.path.clone(),
        rules: view.rules.into_iter().map(show_rule).collect(),
        interval: view.interval,
        limit: view.limit,
        evaluation_time: view.evaluation_time,
        last_evaluation: instant(view.last_evaluation),
    }
}

fn show_rule(rule: RuleView) -> Rule {
    match rule {
        RuleView::Alerting {
            state,
            name,
            query,
            duration,
            keep_firing_for,
            labels,
            annotations,
            alerts,
            health,
            last_error,
            evaluation_time,
            last_evaluation,
        } => Rule {
            name,
            query,
            labels,
            health: health_text(health),
            last_error,
            evaluation_time,
            last_evaluation: instant(last_evaluation),
            kind: RuleKind::Alerting {
                state: state.to_owned(),
                duration,
                keep_firing_for,
                annotations,
                alerts: alerts.into_iter().map(show_alert).collect(),
            },
        },
        RuleView::Recording { name, query, labels, health, last_error, evaluation_time, last_evaluation } => Rule {
            name,
            query,
            labels,
            health: health_text(health),
            last_error,
            evaluation_time,
            last_evaluation: instant(last_evaluation),
            kind: RuleKind::Recording,
        },
    }
}

fn show_alert(alert: AlertView) -> Alert {
    Alert {
        labels: alert.labels,
        annotations: alert.annotations,
        state: alert.state.to_owned(),
        active_at: alert.active_at.map(|at| at.to_string()),
        keep_firing_since: alert.keep_firing_since.map(|at| at.to_string()),
        value: alert.value,
    }
}

fn health_text(health: Health) -> String {
    let text = match health {
        Health::Unknown => "unknown",
        Health::Ok => "ok",
        Health::Err => "err",
    };
    text.to_owned()
}

/// Go's zero time stands for never.
fn instant(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.to_string())
}
