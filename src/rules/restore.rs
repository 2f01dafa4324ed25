//! Reading back the state that an earlier owner of a group left in `ALERTS` and `ALERTS_FOR_STATE`.
//!
//! A takeover within the mesh takes seconds: the timers go on as if nothing had happened. After a real outage, when
//! nobody evaluated, upstream's rules apply: the outage does not count towards `for`, and an alert that was pending
//! waits at least the grace period.

use std::time::Duration;

use promesh_model::labels::METRIC_NAME;
use promesh_model::{Labels, Matcher, Timestamp};

use crate::alert::{ActiveAlert, AlertState, AlertingRule};
use crate::group::Token;
use crate::spec::{AlertingSpec, Settings};
use crate::{ALERTS, ALERTS_FOR_STATE};

/// The outage that a takeover may take before upstream's rules for restarts apply.
const TAKEOVER_MAX: Duration = Duration::from_secs(60);

/// What to read: for each selector the last sample of every series within the range.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoreRequest {
    /// To be given back.
    pub token: Token,
    /// Index of the rule.
    pub rule: usize,
    /// `ALERTS_FOR_STATE`, then `ALERTS`, of this rule.
    pub selectors: [Vec<Matcher>; 2],
    /// First instant.
    pub from: Timestamp,
    /// Last instant.
    pub to: Timestamp,
}

/// The last sample of a series.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoredSeries {
    /// Its labels, the metric's name among them.
    pub labels: Labels,
    /// The instant of its last sample that is no staleness marker.
    pub at: Timestamp,
    /// The value of that sample.
    pub value: f64,
    /// Whether a staleness marker follows it.
    pub ended: bool,
}

impl RestoreRequest {
    pub(crate) fn of(rule: &AlertingSpec, slot: Timestamp, tolerance: Duration) -> RestoreRequest {
        let selector = |metric: &str| {
            let mut matchers = vec![Matcher::equal(METRIC_NAME, metric), Matcher::equal("alertname", &*rule.alert)];
            // A templated label differs from alert to alert.
            let fixed = rule.labels.iter().filter(|(_, value)| !value.contains("{{"));
            matchers.extend(fixed.map(|(name, value)| Matcher::equal(name, value)));
            matchers
        };
        RestoreRequest {
            token: Token(0),
            rule: 0,
            selectors: [selector(ALERTS_FOR_STATE), selector(ALERTS)],
            from: slot.before(tolerance),
            to: slot,
        }
    }
}

/// Rebuilds the instances of a rule; gives the series of its last evaluation, so that those that are gone get markers.
pub(crate) fn restore(
    rule: &mut AlertingRule,
    series: &[RestoredSeries],
    slot: Timestamp,
    interval: Duration,
    settings: &Settings,
) -> Vec<Labels> {
    let mut previous = Vec::new();
    for since in series.iter().filter(|series| series.labels.metric_name() == Some(ALERTS_FOR_STATE) && !series.ended) {
        let labels = since.labels.without(|name| name == METRIC_NAME);
        if rule.active.contains_key(&labels) || slot.since(since.at) > settings.for_outage_tolerance {
            continue;
        }
        let state = series.iter().filter(|other| {
            other.labels.metric_name() == Some(ALERTS)
                && !other.ended
                && other.labels.without(|name| matches!(name, METRIC_NAME | "alertstate")) == labels
        });
        let newest = state.max_by_key(|other| other.at);
        let firing = newest.is_some_and(|other| other.labels.get("alertstate") == Some("firing"));
        let outage = slot.since(since.at);
        let takeover = outage <= TAKEOVER_MAX.max(3 * interval);
        let written = Timestamp((since.value * 1000.0) as i64);
        let active_at =
            if takeover { written } else { after_outage(written, since.at, slot, rule.spec.hold, settings) };
        // What fired before an outage and is not seen again must be resolved where it was sent.
        let alert = ActiveAlert {
            state: if firing { AlertState::Firing } else { AlertState::Pending },
            labels: labels.clone(),
            annotations: Labels::empty(),
            value: 0.0,
            active_at,
            fired_at: firing.then(|| active_at.after(rule.spec.hold)),
            resolved_at: None,
            last_sent_at: firing.then_some(since.at),
            keep_firing_since: None,
        };
        rule.active.insert(labels, alert);
        previous.push(since.labels.clone());
        previous.extend(newest.map(|other| other.labels.clone()));
    }
    previous
}

/// Source: prometheus rules/group.go `RestoreForState`.
fn after_outage(
    active_at: Timestamp,
    down_at: Timestamp,
    slot: Timestamp,
    hold: Duration,
    settings: &Settings,
) -> Timestamp {
    let remaining = hold.saturating_sub(down_at.since(active_at));
    if remaining.is_zero() {
        active_at
    } else if remaining < settings.for_grace_period {
        slot.after(settings.for_grace_period).before(hold)
    } else {
        active_at.after(slot.since(down_at))
    }
}
