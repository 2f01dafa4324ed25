//! What `/api/v1/rules` and `/api/v1/alerts` show.
//!
//! Source: prometheus web/api/v1 `RuleGroup`, `AlertingRule`, `RecordingRule`, `Alert`.

use promesh_model::{Labels, Timestamp};
use serde::{Serialize, Serializer};

use crate::alert::{ActiveAlert, AlertingRule};
use crate::group::{Group, Rule, RuleKind};

/// How the last evaluation of a rule went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// None yet.
    #[default]
    Unknown,
    /// Well.
    Ok,
    /// Badly.
    Err,
}

/// A group.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleGroupView {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// Its rules, in order.
    pub rules: Vec<RuleView>,
    /// Seconds.
    pub interval: f64,
    /// 0 for none.
    pub limit: usize,
    /// Seconds that the last evaluation took.
    pub evaluation_time: f64,
    /// When it ended; Go's zero time if never.
    #[serde(serialize_with = "instant")]
    pub last_evaluation: Option<Timestamp>,
}

/// A rule.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum RuleView {
    /// An alerting rule.
    #[serde(rename_all = "camelCase")]
    Alerting {
        /// `unknown`, `inactive`, `pending` or `firing`.
        state: &'static str,
        /// The alert's name.
        name: String,
        /// PromQL.
        query: String,
        /// `for`, in seconds.
        duration: f64,
        /// Seconds.
        keep_firing_for: f64,
        /// As written.
        labels: Labels,
        /// As written.
        annotations: Labels,
        /// Its instances.
        alerts: Vec<AlertView>,
        /// How the last evaluation went.
        health: Health,
        /// Why it went badly.
        #[serde(skip_serializing_if = "String::is_empty")]
        last_error: String,
        /// Seconds.
        evaluation_time: f64,
        /// When.
        #[serde(serialize_with = "instant")]
        last_evaluation: Option<Timestamp>,
    },
    /// A recording rule.
    #[serde(rename_all = "camelCase")]
    Recording {
        /// The metric's name.
        name: String,
        /// PromQL.
        query: String,
        /// As written.
        #[serde(skip_serializing_if = "Labels::is_empty")]
        labels: Labels,
        /// How the last evaluation went.
        health: Health,
        /// Why it went badly.
        #[serde(skip_serializing_if = "String::is_empty")]
        last_error: String,
        /// Seconds.
        evaluation_time: f64,
        /// When.
        #[serde(serialize_with = "instant")]
        last_evaluation: Option<Timestamp>,
    },
}

/// An instance of an alerting rule.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertView {
    /// Its labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// `pending` or `firing`.
    pub state: &'static str,
    /// Since when.
    #[serde(serialize_with = "instant")]
    pub active_at: Option<Timestamp>,
    /// Since when only `keep_firing_for` keeps it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "instant")]
    pub keep_firing_since: Option<Timestamp>,
    /// As `1e+00`.
    pub value: String,
}

fn instant<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serializer.collect_str(at),
        None => serializer.serialize_str("0001-01-01T00:00:00Z"),
    }
}

/// Go's `strconv.FormatFloat(v, 'e', -1, 64)`.
fn exponent(value: f64) -> String {
    if !value.is_finite() {
        return promesh_model::value::format_float(value);
    }
    let text = format!("{value:e}");
    let (mantissa, power) = text.split_once('e').expect("`{:e}` always prints an exponent");
    let (sign, digits) = power.strip_prefix('-').map_or(('+', power), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

impl AlertView {
    fn of(alert: &ActiveAlert) -> AlertView {
        AlertView {
            labels: alert.labels.clone(),
            annotations: alert.annotations.clone(),
            state: alert.state.as_str(),
            active_at: Some(alert.active_at),
            keep_firing_since: alert.keep_firing_since,
            value: exponent(alert.value),
        }
    }
}

fn live(rule: &AlertingRule) -> impl Iterator<Item = AlertView> {
    rule.active.values().filter(|alert| alert.resolved_at.is_none()).map(AlertView::of)
}

impl Group {
    /// As `/api/v1/rules` shows it.
    pub fn view(&self) -> RuleGroupView {
        RuleGroupView {
            name: self.spec.name.clone(),
            file: self.spec.file.clone(),
            rules: self.rules.iter().map(RuleView::of).collect(),
            interval: self.spec.interval.as_secs_f64(),
            limit: self.spec.limit,
            evaluation_time: self.evaluation_time.as_secs_f64(),
            last_evaluation: self.last_evaluation,
        }
    }

    /// The pending and firing alerts, as `/api/v1/alerts` shows them.
    pub fn alerts(&self) -> Vec<AlertView> {
        let alerting = self.rules.iter().filter_map(|rule| match &rule.kind {
            RuleKind::Alerting(alerting) => Some(alerting),
            RuleKind::Recording(_) => None,
        });
        alerting.flat_map(|rule| live(rule)).collect()
    }
}

impl RuleView {
    fn of(rule: &Rule) -> RuleView {
        let evaluation_time = rule.evaluation_time.as_secs_f64();
        let (health, last_error, last_evaluation) = (rule.health, rule.last_error.clone(), rule.last_evaluation);
        match &rule.kind {
            RuleKind::Alerting(alerting) => RuleView::Alerting {
                state: if last_evaluation.is_none() { "unknown" } else { alerting.state().as_str() },
                name: alerting.spec.alert.clone(),
                query: alerting.spec.expression.clone(),
                duration: alerting.spec.hold.as_secs_f64(),
                keep_firing_for: alerting.spec.keep_firing_for.as_secs_f64(),
                labels: alerting.spec.labels.clone(),
                annotations: alerting.spec.annotations.clone(),
                alerts: live(alerting).collect(),
                health,
                last_error,
                evaluation_time,
                last_evaluation,
            },
            RuleKind::Recording(recording) => RuleView::Recording {
                name: recording.record.clone(),
                query: recording.expression.clone(),
                labels: recording.labels.clone(),
                health,
                last_error,
                evaluation_time,
                last_evaluation,
            },
        }
    }
}
