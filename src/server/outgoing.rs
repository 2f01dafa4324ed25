//! Alerts of rules on their way out: one stream, whoever takes them.
//!
//! What an evaluation says is due goes, with external labels and after alert relabelling, to the alerting half inside and
//! to whoever else has asked for it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use promesh_alerting::PostedAlert;
use promesh_config::prometheus::Config;
use promesh_model::Labels;
use promesh_model::relabel::{self, Rule};
use promesh_rules::OutgoingAlert;

/// Takes alerts as they come. It must not block.
pub type AlertSink = Box<dyn Fn(&[PostedAlert]) + Send + Sync>;

/// What every alert goes through.
#[derive(Debug, Default)]
struct Shape {
    external_labels: Labels,
    relabel: Vec<Rule>,
}

/// The stream.
pub struct Outgoing {
    external_url: String,
    shape: ArcSwap<Shape>,
    sinks: Mutex<Arc<Vec<AlertSink>>>,
}

impl Outgoing {
    /// To nobody yet. `external_url` is where people reach this peer.
    pub fn new(external_url: &str) -> Outgoing {
        let external_url = external_url.trim_end_matches('/').to_owned();
        Outgoing { external_url, shape: ArcSwap::default(), sinks: Mutex::default() }
    }

    /// From now on alerts are shaped by this configuration.
    pub fn apply(&self, config: &Config) {
        let shape = Shape {
            external_labels: config.external_labels().clone(),
            relabel: config.alerting.alert_relabel_configs.clone(),
        };
        self.shape.store(Arc::new(shape));
    }

    /// Everything from now on goes to this one, too. All are set before the first evaluation.
    pub fn to(&self, sink: AlertSink) {
        let mut sinks = self.sinks.lock();
        match Arc::get_mut(&mut sinks) {
            Some(sinks) => sinks.push(sink),
            None => debug_assert!(false, "sinks are set before alerts are sent"),
        }
    }

    /// Sends what an evaluation says is due.
    pub fn send(&self, alerts: &[OutgoingAlert]) {
        let shape = self.shape.load();
        let posted: Vec<PostedAlert> = alerts.iter().filter_map(|alert| self.shaped(&shape, alert)).collect();
        let sinks = Arc::clone(&self.sinks.lock());
        if !posted.is_empty() {
            sinks.iter().for_each(|sink| sink(&posted));
        }
    }

    fn shaped(&self, shape: &Shape, alert: &OutgoingAlert) -> Option<PostedAlert> {
        let mut labels = alert.labels.to_builder();
        for (name, value) in shape.external_labels.iter().filter(|(name, _)| alert.labels.get(name).is_none()) {
            labels.set(name, value);
        }
        let labels = relabel::apply(&shape.relabel, labels)?.build();
        (!labels.is_empty()).then(|| PostedAlert {
            labels,
            annotations: alert.annotations.clone(),
            starts_at: Some(alert.starts_at),
            ends_at: Some(alert.ends_at),
            generator_url: graph_link(&self.external_url, &alert.expression),
            own_rule: true,
            evaluated_at: Some(alert.evaluated_at),
        })
    }
}

/// The page that shows an expression as a table.
///
/// Source: prometheus util/strutil `TableLinkForExpression`.
fn graph_link(external_url: &str, expression: &str) -> String {
    let expression: String = url::form_urlencoded::byte_serialize(expression.as_bytes()).collect();
    format!("{external_url}/graph?g0.expr={expression}&g0.tab=1")
}

#[cfg(test)]
mod tests {
    use promesh_config::source::MemorySource;
    use promesh_model::Timestamp;

    use super::*;

    #[test]
    fn alerts_get_external_labels_and_are_relabelled_before_they_leave() {
        let text = "global: {external_labels: {dc: x, severity: none}}\nalerting:\n  alert_relabel_configs:\n  \
                    - {regex: replica, action: labeldrop}\n  - {source_labels: [alertname], regex: Hidden, action: drop}\n";
        let loaded = promesh_config::prometheus::load_text(
            "p.yml",
            text.as_bytes(),
            std::path::Path::new(""),
            &MemorySource::default(),
        );
        let outgoing = Outgoing::new("http://here:9090/");
        outgoing.apply(&loaded.expect("it loads").config);
        let seen: Arc<Mutex<Vec<PostedAlert>>> = Arc::default();
        let kept = Arc::clone(&seen);
        outgoing.to(Box::new(move |alerts| kept.lock().extend_from_slice(alerts)));
        let alert = |name: &str| OutgoingAlert {
            labels: Labels::from_pairs([("alertname", name), ("severity", "page"), ("replica", "a")]),
            annotations: Labels::empty(),
            starts_at: Timestamp(1000),
            ends_at: Timestamp(2000),
            resolved: false,
            evaluated_at: Timestamp(900),
            expression: "up == 0".to_owned(),
        };
        outgoing.send(&[alert("Down"), alert("Hidden")]);
        let seen = seen.lock();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].labels, Labels::from_pairs([("alertname", "Down"), ("dc", "x"), ("severity", "page")]));
        assert_eq!(seen[0].generator_url, "http://here:9090/graph?g0.expr=up+%3D%3D+0&g0.tab=1");
    }
}
