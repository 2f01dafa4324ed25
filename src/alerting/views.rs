//! What the mind shows: alerts, groups, receivers and silences as `/api/v2` gives them.
//!
//! Lists of alerts come in pages, so that a hundred thousand of them never hold up a decision: the mind is looked at for a
//! page at a time, and what it does between two pages may show in the second.

use std::collections::BTreeMap;
use std::ops::Bound;

use promesh_config::alertmanager::Receiver;
use promesh_config::alertmanager::matchers::parse_one;
use promesh_model::{Labels, Now, Timestamp};

use crate::alert::{AlertKey, AlertValue, fingerprint};
use crate::api::{
    AlertFilter, AlertGroupView, AlertStatus, ApiTime, GettableAlert, GettableSilence, MatcherView, ReceiverView,
    SilenceStatus,
};
use crate::dispatch::GroupId;
use crate::mind::Alerting;
use crate::silence::{SilenceId, SilenceState, SilenceValue};

/// How many alerts are looked at for one page: about a millisecond of the mind.
pub const LOOK_ALERTS_MAX: usize = 250;

/// Where a list of groups goes on: in this group, after this alert.
pub type GroupPlace = (GroupId, Option<AlertKey>);

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Page<T, P> {
    /// What was found; perhaps nothing though more follows.
    pub found: Vec<T>,
    /// After what to go on; `None` at the end.
    pub next: Option<P>,
}

/// Puts parts of groups together; groups by labels and receiver, alerts by fingerprint.
pub fn join_groups(parts: Vec<(GroupId, AlertGroupView)>) -> Vec<AlertGroupView> {
    let mut groups: BTreeMap<GroupId, AlertGroupView> = BTreeMap::new();
    for (id, mut part) in parts {
        match groups.get_mut(&id) {
            Some(group) => group.alerts.append(&mut part.alerts),
            None => drop(groups.insert(id, part)),
        }
    }
    let mut groups: Vec<AlertGroupView> = groups.into_values().collect();
    for group in &mut groups {
        sort_alerts(&mut group.alerts);
    }
    groups.sort_by(|a, b| (&a.labels, &a.receiver.name).cmp(&(&b.labels, &b.receiver.name)));
    groups
}

/// Brings alerts into the order of their fingerprints. One that came twice, because it was told of anew between two
/// pages, stays once.
pub fn sort_alerts(alerts: &mut Vec<GettableAlert>) {
    alerts.sort_by(|a, b| a.fingerprint.cmp(&b.fingerprint));
    alerts.dedup_by(|a, b| a.labels == b.labels);
}

impl Alerting {
    fn alert_view(&self, key: AlertKey, value: &AlertValue, now: Now) -> GettableAlert {
        let mut silenced_by: Vec<String> = self
            .silences
            .iter()
            .filter(|(_, silence)| silence.silences(&value.labels, now.wall))
            .map(|(id, _)| id.to_string())
            .collect();
        silenced_by.sort_unstable();
        let inhibitor = self.inhibited_by(&value.labels).filter(|by| *by != key).and_then(|by| self.alerts.get(&by));
        let inhibited_by: Vec<String> = inhibitor.map(|by| fingerprint(&by.labels)).into_iter().collect();
        let quiet = !silenced_by.is_empty() || !inhibited_by.is_empty();
        let mut receivers: Vec<ReceiverView> = Vec::new();
        for node in self.tree().matching(&value.labels) {
            let name = self.tree().node(node).receiver.clone();
            if !receivers.iter().any(|receiver| receiver.name == name) {
                receivers.push(ReceiverView { labels: Labels::empty(), name });
            }
        }
        let grace = self.grace();
        GettableAlert {
            annotations: value.notes.value.annotations.clone(),
            ends_at: ApiTime(value.expires_at(now.wall, grace).unwrap_or_else(|| value.ends_at())),
            fingerprint: fingerprint(&value.labels),
            receivers,
            starts_at: ApiTime(value.starts_at(now.wall, grace)),
            status: AlertStatus {
                state: if quiet { "suppressed" } else { "active" },
                silenced_by,
                inhibited_by,
                muted_by: Vec::new(),
            },
            updated_at: ApiTime(value.updated_at),
            generator_url: value.notes.value.generator_url.clone(),
            labels: value.labels.clone(),
        }
    }

    /// Firing alerts that are wanted, from the one after `after` on, in the order of their keys.
    pub fn alerts_page(
        &self,
        filter: &AlertFilter,
        after: Option<AlertKey>,
        now: Now,
    ) -> Page<GettableAlert, AlertKey> {
        let mut page = Page { found: Vec::new(), next: None };
        for (key, value) in self.alerts.after(after.as_ref()).take(LOOK_ALERTS_MAX) {
            page.next = Some(*key);
            if value.is_firing(now.wall, self.grace()) {
                page.found.extend(Some(self.alert_view(*key, value, now)).filter(|view| filter.wants(view)));
            }
        }
        page
    }

    /// Groups, from the place `after` on. A large group comes in parts, each as a group with some of its alerts:
    /// [`join_groups`] makes one of them.
    pub fn groups_page(
        &self,
        filter: &AlertFilter,
        after: Option<GroupPlace>,
        now: Now,
    ) -> Page<(GroupId, AlertGroupView), GroupPlace> {
        let mut page = Page { found: Vec::new(), next: None };
        let mut room = LOOK_ALERTS_MAX;
        let (first, mut after_alert) = after.unzip();
        for (id, group) in self.dispatcher.groups_from(first.as_ref()) {
            let route = self.tree().node(id.0);
            let begin = after_alert.take().flatten();
            if filter.receiver.as_ref().is_none_or(|regexp| regexp.matches(&route.receiver)) {
                let muted_by = self.muted_by(id.0, now.wall);
                let mut alerts = Vec::new();
                let beyond = begin.map_or(Bound::Unbounded, Bound::Excluded);
                for key in group.alerts.range((beyond, Bound::Unbounded)) {
                    if room == 0 {
                        break;
                    }
                    room -= 1;
                    page.next = Some((id.clone(), Some(*key)));
                    let Some(value) = self.alerts.get(key).filter(|value| value.is_firing(now.wall, self.grace()))
                    else {
                        continue;
                    };
                    let mut view = self.alert_view(*key, value, now);
                    if !muted_by.is_empty() {
                        view.status.state = "suppressed";
                        view.status.muted_by.clone_from(&muted_by);
                    }
                    alerts.extend(Some(view).filter(|view| filter.wants(view)));
                }
                if !alerts.is_empty() {
                    let view = AlertGroupView {
                        alerts,
                        labels: id.1.clone(),
                        receiver: ReceiverView { labels: Labels::empty(), name: route.receiver.clone() },
                        route_labels: route.labels.clone(),
                    };
                    page.found.push((id.clone(), view));
                }
            } else {
                page.next = Some((id.clone(), None));
            }
            // A group whose receiver is not asked for costs something too.
            room = room.saturating_sub(1);
            if room == 0 {
                return page;
            }
        }
        page.next = None;
        page
    }

    /// `GET /api/v2/receivers`
    pub fn receivers_view(&self) -> Vec<ReceiverView> {
        let shown = |receiver: &Receiver| {
            let name = ("name", receiver.name.as_str());
            let labels = receiver.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            ReceiverView { labels: labels.chain([name]).collect(), name: receiver.name.clone() }
        };
        self.config().receivers.iter().map(shown).collect()
    }

    /// `GET /api/v2/silences`: active ones by end, pending ones by beginning, expired ones by end, the last first.
    ///
    /// # Errors
    /// A text for a 400 answer when a filter is no matcher.
    pub fn silences_view(&self, filters: &[&str], now: Now) -> Result<Vec<GettableSilence>, String> {
        let mut wanted = Vec::new();
        for filter in filters {
            wanted.push(parse_one(filter, self.limits().matchers)?);
        }
        let shown = |value: &&SilenceValue| {
            let sets = &value.body.value.matcher_sets;
            wanted.iter().all(|filter| {
                sets.iter().flatten().any(|matcher| matcher.name == filter.name && filter.matches(&matcher.value))
            })
        };
        let all = self.silences.iter().filter(|(_, value)| shown(value));
        let mut views: Vec<(SilenceState, GettableSilence)> =
            all.map(|(id, value)| (value.state(now.wall), silence_view(*id, value, now.wall))).collect();
        views.sort_by_key(|(state, view)| match state {
            SilenceState::Active => (0, view.ends_at.0.ms(), view.id.clone()),
            SilenceState::Pending => (1, view.starts_at.0.ms(), view.id.clone()),
            SilenceState::Expired => (2, -view.ends_at.0.ms(), view.id.clone()),
        });
        Ok(views.into_iter().map(|(_, view)| view).collect())
    }

    /// Counts firing alerts, from the one after `after` on: those that are heard, and those that are silenced or inhibited.
    pub fn alert_counts_page(&self, after: Option<AlertKey>, now: Now) -> ([usize; 2], Option<AlertKey>) {
        let (mut counts, mut next) = ([0, 0], None);
        for (key, value) in self.alerts.after(after.as_ref()).take(LOOK_ALERTS_MAX) {
            next = Some(*key);
            if value.is_firing(now.wall, self.grace()) {
                counts[usize::from(self.is_quiet(&value.labels, now.wall))] += 1;
            }
        }
        (counts, next)
    }

    /// Silences: active, expired, pending.
    pub fn silence_counts(&self, now: Now) -> [usize; 3] {
        self.silences.iter().fold([0; 3], |mut counts, (_, value)| {
            let at = match value.state(now.wall) {
                SilenceState::Active => 0,
                SilenceState::Expired => 1,
                SilenceState::Pending => 2,
            };
            counts[at] += 1;
            counts
        })
    }

    /// Groups, those without a firing alert among them.
    pub fn group_count(&self) -> usize {
        self.dispatcher.groups().count()
    }

    /// Entries of the notification log.
    pub fn log_count(&self) -> usize {
        self.log.len()
    }

    /// `GET /api/v2/silence/{id}`
    pub fn silence_view(&self, id: SilenceId, now: Now) -> Option<GettableSilence> {
        self.silences.get(&id).map(|value| silence_view(id, value, now.wall))
    }
}

fn silence_view(id: SilenceId, value: &SilenceValue, now: Timestamp) -> GettableSilence {
    let body = &value.body.value;
    GettableSilence {
        id: id.to_string(),
        status: SilenceStatus { state: value.state(now).as_str() },
        updated_at: ApiTime(value.expired_at.map_or(body.updated_at, |expired| expired.max(body.updated_at))),
        annotations: body.annotations.clone(),
        comment: body.comment.clone(),
        created_by: body.created_by.clone(),
        ends_at: ApiTime(value.ends_at()),
        matchers: body.matcher_sets.iter().flatten().map(MatcherView::of).collect(),
        starts_at: ApiTime(body.starts_at),
    }
}
