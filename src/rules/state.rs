//! The state of a group as a message: from the old owner to the new one.

use promesh_model::{Labels, Timestamp};
use serde::{Deserialize, Serialize};

use crate::alert::{ActiveAlert, AlertState};
use crate::group::{Group, RuleKind};

/// A group's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GroupState {
    /// Each rule's, in order.
    pub rules: Vec<RuleState>,
    /// The last slot that was evaluated.
    pub slot: Timestamp,
}

/// A rule's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RuleState {
    /// The alert's or metric's name.
    pub name: String,
    /// The labels of the rule as written; with the name they say which rule this is.
    pub labels: Labels,
    /// Instances of an alerting rule.
    pub active: Vec<ActiveState>,
    /// Series of the last evaluation.
    pub previous: Vec<Labels>,
}

/// An instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActiveState {
    /// Its labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// Where it stands.
    pub state: AlertState,
    /// The last value.
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

impl Group {
    /// Its state, to be handed over.
    pub fn state(&self) -> GroupState {
        let rules = self.spec.rules.iter().zip(&self.rules).map(|(spec, rule)| RuleState {
            name: spec.name().to_owned(),
            labels: spec.labels().clone(),
            active: match &rule.kind {
                RuleKind::Alerting(alerting) => alerting.active.values().map(ActiveState::of).collect(),
                RuleKind::Recording(_) => Vec::new(),
            },
            previous: rule.previous.clone(),
        });
        GroupState { rules: rules.collect(), slot: self.last_slot() }
    }

    /// Takes over the state of the old owner: nothing is read back any more for the rules that it names.
    pub fn take_over(&mut self, state: GroupState) {
        let mut given: Vec<Option<RuleState>> = state.rules.into_iter().map(Some).collect();
        for (spec, rule) in self.spec.rules.iter().zip(&mut self.rules) {
            let same = |old: &RuleState| old.name == spec.name() && old.labels == *spec.labels();
            let Some(slot) = given.iter_mut().find(|old| old.as_ref().is_some_and(same)) else { continue };
            let old = slot.take().expect("found above");
            rule.previous = old.previous;
            rule.restore_pending = false;
            if let RuleKind::Alerting(alerting) = &mut rule.kind {
                alerting.active =
                    old.active.into_iter().map(|active| (active.labels.clone(), active.into_alert())).collect();
            }
        }
        self.set_last_slot(state.slot);
    }
}

impl ActiveState {
    fn of(alert: &ActiveAlert) -> ActiveState {
        ActiveState {
            labels: alert.labels.clone(),
            annotations: alert.annotations.clone(),
            state: alert.state,
            value: alert.value,
            active_at: alert.active_at,
            fired_at: alert.fired_at,
            resolved_at: alert.resolved_at,
            last_sent_at: alert.last_sent_at,
            keep_firing_since: alert.keep_firing_since,
        }
    }

    fn into_alert(self) -> ActiveAlert {
        ActiveAlert {
            state: self.state,
            labels: self.labels,
            annotations: self.annotations,
            value: self.value,
            active_at: self.active_at,
            fired_at: self.fired_at,
            resolved_at: self.resolved_at,
            last_sent_at: self.last_sent_at,
            keep_firing_since: self.keep_firing_since,
        }
    }
}
