//! Groups: which alerts are told together, and when.
//!
//! Flush instants are data: the first is the group's birth plus `group_wait`; after that they follow the last done's
//! instant in steps of `group_interval`. Nothing here is kept across a restart; all of it follows from alerts and log.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use promesh_config::alertmanager::IntegrationName;
use promesh_model::{Labels, Timestamp};

use crate::alert::AlertKey;
use crate::nflog::{Done, KeyId, LogKey};
use crate::route::RouteTree;

/// A group's name at this peer: the route it lies under, and its labels.
pub type GroupId = (usize, Labels);

/// A group.
#[derive(Clone, Debug)]
pub struct Group {
    /// Upstream's key.
    pub key: String,
    /// Its alerts: firing, or not yet told as resolved.
    pub alerts: BTreeSet<AlertKey>,
    /// One for each integration of its receiver.
    pub slots: Vec<KeyId>,
}

/// One integration of one group.
#[derive(Clone, Debug)]
pub struct Slot {
    /// What the log calls it.
    pub key: LogKey,
    /// Its group.
    pub group: GroupId,
    /// The integration.
    pub integration: IntegrationName,
    /// The last instant that was looked at and needed nothing more.
    pub looked_at: Timestamp,
    /// When it is looked at next.
    pub timer: Option<Timestamp>,
}

/// All groups, and when to look at each.
#[derive(Clone, Debug, Default)]
pub struct Dispatcher {
    groups: BTreeMap<GroupId, Group>,
    slots: BTreeMap<KeyId, Slot>,
    timers: BTreeSet<(Timestamp, KeyId)>,
}

impl Dispatcher {
    /// Puts an alert into the groups of its routes; gives the slots of these groups.
    pub fn insert(&mut self, tree: &RouteTree, key: AlertKey, labels: &Labels) -> Vec<KeyId> {
        let mut touched = Vec::new();
        for node in tree.matching(labels) {
            let id = (node, tree.node(node).group_labels(labels));
            if !self.groups.contains_key(&id) {
                self.create(tree, &id);
            }
            let group = self.groups.get_mut(&id).expect("created above");
            group.alerts.insert(key);
            touched.extend_from_slice(&group.slots);
        }
        touched
    }

    fn create(&mut self, tree: &RouteTree, id: &GroupId) {
        let node = tree.node(id.0);
        let key = node.group_key(&id.1);
        let mut slots = Vec::new();
        for integration in tree.integrations(&node.receiver) {
            let log_key = LogKey {
                group_key: key.clone(),
                receiver: node.receiver.clone(),
                integration: integration.kind.to_owned(),
                index: integration.index,
                twin: node.twin,
            };
            let key_id = log_key.id();
            let slot = Slot {
                key: log_key,
                group: id.clone(),
                integration: integration.clone(),
                looked_at: Timestamp::MIN,
                timer: None,
            };
            self.slots.insert(key_id, slot);
            slots.push(key_id);
        }
        self.groups.insert(id.clone(), Group { key, alerts: BTreeSet::new(), slots });
    }

    /// Takes an alert out of the groups of its routes; groups without alerts go.
    pub fn remove(&mut self, tree: &RouteTree, key: AlertKey, labels: &Labels) {
        for node in tree.matching(labels) {
            let id = (node, tree.node(node).group_labels(labels));
            let Some(group) = self.groups.get_mut(&id) else { continue };
            group.alerts.remove(&key);
            if group.alerts.is_empty() {
                let group = self.groups.remove(&id).expect("found above");
                for slot in group.slots {
                    self.set_timer(slot, None);
                    self.slots.remove(&slot);
                }
            }
        }
    }

    /// A group.
    pub fn group(&self, id: &GroupId) -> Option<&Group> {
        self.groups.get(id)
    }

    /// All groups.
    pub fn groups(&self) -> impl Iterator<Item = (&GroupId, &Group)> {
        self.groups.iter()
    }

    /// Groups from this one on; all of them without one.
    pub fn groups_from(&self, first: Option<&GroupId>) -> impl Iterator<Item = (&GroupId, &Group)> {
        let begin = first.map_or(Bound::Unbounded, Bound::Included);
        self.groups.range((begin, Bound::Unbounded))
    }

    /// A slot.
    pub fn slot(&self, key: KeyId) -> Option<&Slot> {
        self.slots.get(&key)
    }

    /// All slots.
    pub fn slot_ids(&self) -> Vec<KeyId> {
        self.slots.keys().copied().collect()
    }

    /// An instant needs nothing more.
    pub fn looked_at(&mut self, key: KeyId, flush: Timestamp) {
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.looked_at = slot.looked_at.max(flush);
        }
    }

    /// When to look at a slot next.
    pub fn set_timer(&mut self, key: KeyId, at: Option<Timestamp>) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        if slot.timer == at {
            return;
        }
        if let Some(old) = slot.timer {
            self.timers.remove(&(old, key));
        }
        slot.timer = at;
        if let Some(at) = at {
            self.timers.insert((at, key));
        }
    }

    /// The next timer.
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A slot that is to be looked at by now; its timer is taken.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<KeyId> {
        let (at, key) = *self.timers.first()?;
        if at > now {
            return None;
        }
        self.set_timer(key, None);
        Some(key)
    }
}

/// The instant at which a slot is due: the last one that has come, else the next. `None` while the group has nothing
/// to tell: no alert fires, and none was told as firing.
pub fn due(
    born: Option<Timestamp>,
    last: Option<&Done>,
    looked_at: Timestamp,
    group_wait: Duration,
    group_interval: Duration,
    now: Timestamp,
) -> Option<Timestamp> {
    let base = first_due(born, last, group_wait, group_interval)?;
    let step = i64::try_from(group_interval.as_millis()).unwrap_or(i64::MAX).max(1);
    let past = |instant: i64| (instant - base.0).div_euclid(step).max(0);
    let by_now = base.0.saturating_add(past(now.0).saturating_mul(step));
    let current = if by_now <= now.0 { by_now } else { base.0 };
    if current > looked_at.0 {
        return Some(Timestamp(current));
    }
    let steps = past(looked_at.0) + 1;
    Some(Timestamp(base.0.saturating_add(steps.saturating_mul(step))))
}

/// The first instant since the last done at which a slot may be due.
pub fn first_due(
    born: Option<Timestamp>,
    last: Option<&Done>,
    group_wait: Duration,
    group_interval: Duration,
) -> Option<Timestamp> {
    match (last, born) {
        (Some(done), _) if !done.firing.is_empty() => Some(done.flush.after(group_interval)),
        (_, None) => None,
        // The group ended with that done; a new one was born since.
        (Some(done), Some(born)) => Some(born.after(group_wait).max(done.flush.after(Duration::from_millis(1)))),
        (None, Some(born)) => Some(born.after(group_wait)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use promesh_model::PeerId;

    use super::*;
    use crate::nflog::Ballot;

    fn done(flush: i64, firing: &[u64]) -> Done {
        Done {
            key: LogKey {
                group_key: String::new(),
                receiver: String::new(),
                integration: String::new(),
                index: 0,
                twin: 0,
            },
            flush: Timestamp(flush),
            ballot: Ballot { number: 1, peer: PeerId(1) },
            at: Timestamp(flush),
            firing: firing.iter().copied().collect(),
            resolved: BTreeSet::new(),
            data: BTreeMap::new(),
        }
    }

    #[test]
    fn flush_instants_follow_from_birth_and_log() {
        let check = |born: Option<i64>, last: Option<Done>, looked: i64, now: i64, expected: Option<i64>| {
            let (wait, interval) = (Duration::from_millis(30), Duration::from_millis(100));
            let at = due(born.map(Timestamp), last.as_ref(), Timestamp(looked), wait, interval, Timestamp(now));
            assert_eq!(at, expected.map(Timestamp), "{born:?} {last:?} {looked} {now}");
        };
        check(Some(1000), None, i64::MIN, 1000, Some(1030));
        check(Some(1000), None, i64::MIN, 1029, Some(1030));
        check(Some(1000), None, 1030, 1030, Some(1130));
        // A successor that comes late acts at the last instant that has come, at once.
        check(Some(1000), None, i64::MIN, 1345, Some(1330));
        check(Some(1000), Some(done(1030, &[1])), 1030, 1031, Some(1130));
        check(Some(5000), Some(done(1030, &[])), 1030, 5000, Some(5030));
        check(None, Some(done(1030, &[1])), 1030, 1100, Some(1130));
        check(None, Some(done(1030, &[])), 1030, 1100, None);
        check(None, None, i64::MIN, 1100, None);
    }
}
