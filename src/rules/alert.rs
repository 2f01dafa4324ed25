//! One alerting rule: inactive → pending → firing → inactive, an instance per label set.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_model::labels::METRIC_NAME;
use promesh_model::shard::shard_of;
use promesh_model::{Labels, Timestamp};
use promesh_template::value::{MapKind, Value};
use promesh_template::{Environment, Limits, Query};
use serde::{Deserialize, Serialize};

use crate::group::{Coverage, ResultSample, Sample, SampleValue};
use crate::spec::{AlertingSpec, Settings, SpecError, Text, Texts};
use crate::{ALERTS, ALERTS_FOR_STATE};

/// A resolved alert is kept, and sent again, for this long, so that a lost message does not leave it firing elsewhere.
const RESOLVED_RETENTION: Duration = Duration::from_secs(15 * 60);

/// Where an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AlertState {
    /// Resolved, or never active.
    Inactive,
    /// Active for less than `for`.
    Pending,
    /// Active long enough.
    Firing,
}

impl AlertState {
    /// As in `alertstate` and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            AlertState::Inactive => "inactive",
            AlertState::Pending => "pending",
            AlertState::Firing => "firing",
        }
    }
}

/// One instance of an alerting rule.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveAlert {
    /// Where it stands.
    pub state: AlertState,
    /// Labels that identify it, `alertname` among them.
    pub labels: Labels,
    /// For people.
    pub annotations: Labels,
    /// The expression's value at the last evaluation.
    pub value: f64,
    /// Since when it is active.
    pub active_at: Timestamp,
    /// Since when it fires.
    pub fired_at: Option<Timestamp>,
    /// When it ended.
    pub resolved_at: Option<Timestamp>,
    /// When it was sent last.
    pub last_sent_at: Option<Timestamp>,
    /// Since when only `keep_firing_for` keeps it.
    pub keep_firing_since: Option<Timestamp>,
}

/// An alert on its way to the alerting half, or to an outside Alertmanager.
#[derive(Clone, Debug, PartialEq)]
pub struct OutgoingAlert {
    /// Its labels, without the external ones.
    pub labels: Labels,
    /// Its annotations. Empty in an alert that was restored and ended before this peer saw it: those before count on.
    pub annotations: Labels,
    /// Since when it fires.
    pub starts_at: Timestamp,
    /// When it ended, or when it is to be taken for ended if nothing more is heard.
    pub ends_at: Timestamp,
    /// Whether `ends_at` is a real end.
    pub resolved: bool,
    /// The slot of the evaluation that says so.
    pub evaluated_at: Timestamp,
    /// The rule's expression, for the link to its graph.
    pub expression: String,
}

/// The state of one alerting rule.
#[derive(Clone, Debug)]
pub(crate) struct AlertingRule {
    pub spec: AlertingSpec,
    texts: Texts,
    pub active: BTreeMap<Labels, ActiveAlert>,
    /// `absent` turns missing data into an alert: held while shards are missing.
    uses_absent: bool,
}

/// One evaluation as the rule sees it.
pub(crate) struct Round<'a> {
    /// The slot.
    pub slot: Timestamp,
    /// The instant that samples carry: the slot less the query offset.
    pub sample_at: Timestamp,
    pub settings: &'a Settings,
    pub limit: usize,
    pub coverage: &'a Coverage,
    pub query: Option<&'a Query<'a>>,
}

impl AlertingRule {
    pub fn new(spec: AlertingSpec) -> Result<AlertingRule, SpecError> {
        let texts = Texts::parse(&spec)?;
        let uses_absent = calls_absent(&spec.expression);
        Ok(AlertingRule { spec, texts, active: BTreeMap::new(), uses_absent })
    }

    /// Takes the expression's answer; gives the samples of `ALERTS` and `ALERTS_FOR_STATE`.
    ///
    /// # Errors
    /// Two series that became one alert, or more alerts than the limit: then no state is left, as upstream.
    pub fn evaluated(&mut self, vector: &[ResultSample], round: &Round<'_>) -> Result<Vec<Sample>, String> {
        let degraded = matches!(round.coverage, Coverage::Missing(_));
        let mut seen = BTreeMap::new();
        for sample in vector {
            let alert = self.instance(sample, round);
            if seen.insert(alert.labels.clone(), alert).is_some() {
                return Err("vector contains metrics with the same labelset after applying alert labels".to_owned());
            }
        }
        if degraded && self.uses_absent {
            // What is not seen may be there.
            seen.retain(|labels, _| self.active.contains_key(labels));
        }
        let labels: Vec<Labels> = seen.keys().cloned().collect();
        for (labels, alert) in seen {
            match self.active.get_mut(&labels) {
                Some(known) if known.state != AlertState::Inactive => {
                    known.value = alert.value;
                    known.annotations = alert.annotations;
                }
                _ => {
                    self.active.insert(labels, alert);
                }
            }
        }
        let (samples, live) = self.advance(&labels, round);
        if round.limit > 0 && live > round.limit {
            self.active.clear();
            return Err(format!("exceeded limit of {} with {live} alerts", round.limit));
        }
        Ok(samples)
    }

    /// Moves every instance on; gives samples and the number that are pending or firing.
    fn advance(&mut self, seen: &[Labels], round: &Round<'_>) -> (Vec<Sample>, usize) {
        let mut samples = Vec::with_capacity(self.active.len() * 2);
        let mut live = 0;
        let slot = round.slot;
        let (hold, keep) = (self.spec.hold, self.spec.keep_firing_for);
        let held = |alert: &ActiveAlert| {
            self.uses_absent && matches!(round.coverage, Coverage::Missing(_)) || may_be_hidden(alert, round.coverage)
        };
        let mut gone = Vec::new();
        for (key, alert) in &mut self.active {
            let is_seen = seen.binary_search(key).is_ok();
            let is_held = alert.state != AlertState::Inactive && held(alert);
            if !is_seen && !is_held {
                match unseen(alert, slot, keep) {
                    Unseen::Kept => {}
                    Unseen::Ended => continue,
                    Unseen::Forgotten => {
                        gone.push(key.clone());
                        continue;
                    }
                }
            } else if is_seen {
                alert.keep_firing_since = None;
            }
            live += 1;
            settle(alert, slot, hold);
            samples.push(state_sample(alert, round.sample_at));
            samples.push(for_sample(alert, round.sample_at));
        }
        for key in gone {
            self.active.remove(&key);
        }
        (samples, live)
    }

    fn instance(&self, sample: &ResultSample, round: &Round<'_>) -> ActiveAlert {
        let data = template_data(sample, round.settings);
        let environment = Environment {
            now: round.slot,
            external_url: &round.settings.external_url,
            query: round.query,
            route_labels_rendered: false,
        };
        let expand = |text: &Text| match text {
            Text::Plain(text) => text.clone(),
            Text::Template(template) => template
                .render(&data, &environment, &Limits::default())
                .unwrap_or_else(|error| format!("<error expanding template: {error}>")),
        };
        let mut labels = sample.labels.to_builder();
        labels.remove(METRIC_NAME);
        for (name, text) in &self.texts.labels {
            labels.set(name, &expand(text));
        }
        labels.set("alertname", &self.spec.alert);
        ActiveAlert {
            state: AlertState::Pending,
            labels: labels.build(),
            annotations: self.texts.annotations.iter().map(|(name, text)| (name, expand(text))).collect(),
            value: match &sample.value {
                SampleValue::Float(value) => *value,
                SampleValue::Histogram(_) => 0.0,
            },
            active_at: round.slot,
            fired_at: None,
            resolved_at: None,
            last_sent_at: None,
            keep_firing_since: None,
        }
    }

    /// The alerts to send now.
    pub fn take_due(&mut self, slot: Timestamp, interval: Duration, resend_delay: Duration) -> Vec<OutgoingAlert> {
        let valid_until = slot.after(4 * interval.max(resend_delay));
        let expression = &self.spec.expression;
        let due = self.active.values_mut().filter(|alert| needs_sending(alert, slot, resend_delay));
        due.map(|alert| {
            alert.last_sent_at = Some(slot);
            OutgoingAlert {
                labels: alert.labels.clone(),
                annotations: alert.annotations.clone(),
                starts_at: alert.fired_at.unwrap_or(alert.active_at),
                ends_at: alert.resolved_at.unwrap_or(valid_until),
                resolved: alert.resolved_at.is_some(),
                evaluated_at: slot,
                expression: expression.clone(),
            }
        })
        .collect()
    }

    /// The gravest state of its instances.
    pub fn state(&self) -> AlertState {
        self.active.values().map(|alert| alert.state).max().unwrap_or(AlertState::Inactive)
    }
}

enum Unseen {
    /// `keep_firing_for` keeps it.
    Kept,
    /// It is resolved, and remembered.
    Ended,
    /// Nothing of it is left.
    Forgotten,
}

/// What becomes of an alert whose series is gone.
fn unseen(alert: &mut ActiveAlert, slot: Timestamp, keep: Duration) -> Unseen {
    if alert.state == AlertState::Firing && !keep.is_zero() {
        let since = *alert.keep_firing_since.get_or_insert(slot);
        if slot.since(since) < keep {
            return Unseen::Kept;
        }
    }
    let forgotten = match alert.state {
        AlertState::Pending => true,
        _ => alert.resolved_at.is_some_and(|at| slot.since(at) > RESOLVED_RETENTION),
    };
    if alert.state != AlertState::Inactive {
        alert.state = AlertState::Inactive;
        alert.resolved_at = Some(slot);
    }
    if forgotten { Unseen::Forgotten } else { Unseen::Ended }
}

/// Pending or firing by how long the alert is active; a raised `for` takes a firing alert back.
fn settle(alert: &mut ActiveAlert, slot: Timestamp, hold: Duration) {
    let long_enough = slot.since(alert.active_at) >= hold;
    match alert.state {
        AlertState::Pending if long_enough => {
            alert.state = AlertState::Firing;
            alert.fired_at = Some(slot);
        }
        AlertState::Firing if !long_enough => {
            alert.state = AlertState::Pending;
            alert.fired_at = None;
            alert.last_sent_at = None;
            alert.keep_firing_since = None;
        }
        _ => {}
    }
}

fn needs_sending(alert: &ActiveAlert, slot: Timestamp, resend_delay: Duration) -> bool {
    let Some(last) = alert.last_sent_at else { return alert.state != AlertState::Pending };
    alert.state != AlertState::Pending
        && (alert.resolved_at.is_some_and(|at| at > last) || last.after(resend_delay) < slot)
}

/// Whether an alert's series may lie in a shard that the read missed: always, unless its labels say which shard.
fn may_be_hidden(alert: &ActiveAlert, coverage: &Coverage) -> bool {
    match coverage {
        Coverage::Whole => false,
        Coverage::Missing(shards) => {
            let placed = alert.labels.get("job").is_some() && alert.labels.get("instance").is_some();
            !placed || shards.contains(&shard_of(&alert.labels))
        }
    }
}

fn state_sample(alert: &ActiveAlert, at: Timestamp) -> Sample {
    let mut labels = alert.labels.to_builder();
    labels.set(METRIC_NAME, ALERTS).set("alertstate", alert.state.as_str());
    Sample { labels: labels.build(), at, value: SampleValue::Float(1.0) }
}

fn for_sample(alert: &ActiveAlert, at: Timestamp) -> Sample {
    let mut labels = alert.labels.to_builder();
    labels.set(METRIC_NAME, ALERTS_FOR_STATE);
    let seconds = alert.active_at.ms().div_euclid(1000) as f64;
    Sample { labels: labels.build(), at, value: SampleValue::Float(seconds) }
}

fn template_data(sample: &ResultSample, settings: &Settings) -> Value {
    let value = match &sample.value {
        SampleValue::Float(value) => Value::Float(*value),
        SampleValue::Histogram(histogram) => {
            Value::opaque("*histogram.FloatHistogram", format!("{:?}", histogram.as_ref()))
        }
    };
    Value::record(
        "struct { Labels map[string]string; ExternalLabels map[string]string; ExternalURL string; Value interface {} }",
        vec![
            ("Labels", "Labels", Value::map(MapKind::Strings, sample.labels.iter())),
            ("ExternalLabels", "ExternalLabels", Value::map(MapKind::Strings, settings.external_labels.iter())),
            ("ExternalURL", "ExternalURL", Value::text(&settings.external_url)),
            ("Value", "Value", value),
        ],
    )
}

/// Whether an expression calls `absent` or `absent_over_time`, outside strings and label names.
fn calls_absent(expression: &str) -> bool {
    let mut quote = None;
    let mut word = String::new();
    for c in expression.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'' | '`') => quote = Some(c),
            None if c.is_alphanumeric() || matches!(c, '_' | ':') => {
                word.push(c);
                continue;
            }
            None if c == '(' && matches!(word.as_str(), "absent" | "absent_over_time") => return true,
            None if c.is_whitespace() => continue,
            None => {}
        }
        word.clear();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_is_found_where_it_is_called() {
        for (expression, expected) in [
            ("absent(up)", true),
            ("1 + absent_over_time (up[5m])", true),
            ("absent_minded(up)", false),
            ("up{a=\"absent(\"}", false),
            ("sum(absent)", false),
        ] {
            assert_eq!(calls_absent(expression), expected, "{expression}");
        }
    }
}
