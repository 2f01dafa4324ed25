//! The notification log: what was sent to whom, and when; and what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use promesh_model::{Labels, PeerId, Timestamp};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::alert::AlertKey;
use crate::inherit;
use crate::records::Lattice;

/// What a notification is about and where it goes. Twins are groups of equal key and receiver from several routes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogKey {
    /// Upstream's group key, which receivers hash.
    pub group_key: String,
    /// The receiver.
    pub receiver: String,
    /// The integration's kind: `webhook`.
    pub integration: String,
    /// Its place among those of its kind.
    pub index: u32,
    /// Ordinal among equal group keys and receivers, so that reordering routes pages nobody again.
    pub twin: u32,
}

impl LogKey {
    /// Its name in messages.
    pub fn id(&self) -> KeyId {
        let index = self.index.to_le_bytes();
        let twin = self.twin.to_le_bytes();
        let parts = [self.group_key.as_bytes(), self.receiver.as_bytes(), self.integration.as_bytes(), &index, &twin];
        let mut bytes = Vec::with_capacity(self.group_key.len() + self.receiver.len() + 32);
        for part in parts {
            bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
            bytes.extend_from_slice(part);
        }
        KeyId(xxh3_128(&bytes))
    }
}

/// A [`LogKey`]'s hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(pub u128);

/// Who may send: greater stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ballot {
    /// One more than every number the claimant was shown.
    pub number: u64,
    /// Breaks ties.
    pub peer: PeerId,
}

/// Of what an Alertmanager sent: less than every ballot of ours, and by no peer.
pub const INHERITED: Ballot = Ballot { number: 0, peer: PeerId(0) };

/// A notification that was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What it was about; the map's key is its hash.
    pub key: LogKey,
    /// The instant it was due: the next one counts from here.
    pub flush: Timestamp,
    /// By which ballot.
    pub ballot: Ballot,
    /// When it was sent: the instant at which the attempt began, not that of the answer, which a sender that stands
    /// still may read long after others have told newer things. Later than every telling that its sender knew of.
    pub at: Timestamp,
    /// Alerts told as firing.
    pub firing: BTreeSet<u64>,
    /// Alerts told as resolved.
    pub resolved: BTreeSet<u64>,
    /// What the receiver gave back and wants again: Slack's message, for one.
    pub data: BTreeMap<String, String>,
}

impl Done {
    /// What this entry calls an alert. Entries that an Alertmanager wrote know alerts by its hash.
    pub fn hash(&self, key: AlertKey, labels: &Labels) -> u64 {
        if self.ballot == INHERITED { inherit::hash(labels) } else { key.short() }
    }
}

impl Done {
    /// Whether it told of an alert.
    pub fn mentions(&self, alert: u64) -> bool {
        self.firing.contains(&alert) || self.resolved.contains(&alert)
    }
}

impl Lattice for Done {
    fn join(&mut self, other: &Done) -> bool {
        // What was told last is what the receiver knows, whatever instant it was about: of two that told without knowing
        // of each other, an end that the other told before is owed again, one that it told after is not. A sender dates
        // its telling after every one that it knows of, so wall clocks decide between strangers only.
        // Two that put the same telling right in their own ways differ by nothing but what they hold.
        let order = |done: &Done| (done.at, done.flush, done.ballot);
        let holds_more = (&other.firing, &other.resolved) > (&self.firing, &self.resolved);
        let newer = order(other) > order(self) || order(other) == order(self) && holds_more;
        if newer {
            *self = other.clone();
        }
        newer
    }
}

/// Why a notification is sent, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyReason {
    /// Nothing new.
    DoNotNotify,
    /// The receiver knows nothing of the group.
    FirstNotification,
    /// An alert that it has not been told of.
    NewAlertsInGroup,
    /// An end that it has not been told of.
    NewResolvedAlerts,
    /// All has ended.
    AllAlertsResolved,
    /// Nothing new for long.
    RepeatIntervalElapsed,
}

impl NotifyReason {
    /// Whether to send.
    pub fn should_notify(self) -> bool {
        self != NotifyReason::DoNotNotify
    }

    /// As templates see it.
    pub fn as_str(self) -> &'static str {
        match self {
            NotifyReason::DoNotNotify => "do not notify",
            NotifyReason::FirstNotification => "first notification",
            NotifyReason::NewAlertsInGroup => "new alerts in group",
            NotifyReason::NewResolvedAlerts => "new resolved alerts",
            NotifyReason::AllAlertsResolved => "all alerts resolved",
            NotifyReason::RepeatIntervalElapsed => "repeat interval elapsed",
        }
    }
}

/// Whether a group has news for an integration.
///
/// Source: alertmanager notify/dedup_stage.go `needsUpdate`.
pub fn needs_update(
    last: Option<&Done>,
    firing: &BTreeSet<u64>,
    resolved: &BTreeSet<u64>,
    send_resolved: bool,
    repeat_interval: Duration,
    now: Timestamp,
) -> NotifyReason {
    let Some(last) = last else {
        return if firing.is_empty() { NotifyReason::DoNotNotify } else { NotifyReason::FirstNotification };
    };
    if !firing.is_subset(&last.firing) {
        let first = last.firing.is_empty();
        return if first { NotifyReason::FirstNotification } else { NotifyReason::NewAlertsInGroup };
    }
    if firing.is_empty() {
        // Whatever `send_resolved` says: the firing alerts must leave the log, or the next firing of the same group
        // would look like a repeat and wait out `repeat_interval`.
        let told = !last.firing.is_empty();
        return if told { NotifyReason::AllAlertsResolved } else { NotifyReason::DoNotNotify };
    }
    if send_resolved && !resolved.is_subset(&last.resolved) {
        return NotifyReason::NewResolvedAlerts;
    }
    if last.at < now.before(repeat_interval) {
        return NotifyReason::RepeatIntervalElapsed;
    }
    NotifyReason::DoNotNotify
}

/// Names one message towards a receiver: the same for every attempt and every peer that sends it.
pub fn idempotency_key(key: KeyId, flush: Timestamp, firing: &BTreeSet<u64>, resolved: &BTreeSet<u64>) -> String {
    let mut bytes = Vec::with_capacity(40 + 8 * (firing.len() + resolved.len()));
    bytes.extend_from_slice(&key.0.to_le_bytes());
    bytes.extend_from_slice(&flush.0.to_le_bytes());
    for hashes in [firing, resolved] {
        bytes.extend_from_slice(&(hashes.len() as u64).to_le_bytes());
        for hash in hashes {
            bytes.extend_from_slice(&hash.to_le_bytes());
        }
    }
    format!("{:032x}", xxh3_128(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(firing: &[u64], resolved: &[u64]) -> Done {
        let key = LogKey {
            group_key: "{}:{}".into(),
            receiver: "r".into(),
            integration: "webhook".into(),
            index: 0,
            twin: 0,
        };
        Done {
            key,
            flush: Timestamp(0),
            ballot: Ballot { number: 1, peer: PeerId(1) },
            at: Timestamp(0),
            firing: firing.iter().copied().collect(),
            resolved: resolved.iter().copied().collect(),
            data: BTreeMap::new(),
        }
    }

    #[test]
    fn what_is_news_is_what_upstream_says() {
        let set = |items: &[u64]| items.iter().copied().collect::<BTreeSet<_>>();
        let check = |last: Option<Done>, firing: &[u64], resolved: &[u64], sends: bool, at: i64, expected| {
            let repeat = Duration::from_millis(10);
            let reason = needs_update(last.as_ref(), &set(firing), &set(resolved), sends, repeat, Timestamp(at));
            assert_eq!(reason, expected, "{last:?} {firing:?} {resolved:?}");
        };
        check(None, &[], &[1], true, 0, NotifyReason::DoNotNotify);
        check(None, &[1], &[], true, 0, NotifyReason::FirstNotification);
        check(Some(done(&[1], &[])), &[1, 2], &[], true, 0, NotifyReason::NewAlertsInGroup);
        check(Some(done(&[], &[1])), &[1], &[], true, 0, NotifyReason::FirstNotification);
        check(Some(done(&[1], &[])), &[], &[1], false, 0, NotifyReason::AllAlertsResolved);
        check(Some(done(&[], &[])), &[], &[1], true, 0, NotifyReason::DoNotNotify);
        check(Some(done(&[1, 2], &[])), &[1], &[2], true, 0, NotifyReason::NewResolvedAlerts);
        check(Some(done(&[1, 2], &[])), &[1], &[2], false, 0, NotifyReason::DoNotNotify);
        check(Some(done(&[1], &[])), &[1], &[], true, 10, NotifyReason::DoNotNotify);
        check(Some(done(&[1], &[])), &[1], &[], true, 11, NotifyReason::RepeatIntervalElapsed);
    }

    #[test]
    fn of_two_sides_that_told_of_one_instant_the_last_stands() {
        let (mut ended, mut stale) = (done(&[2], &[1]), done(&[1, 2], &[]));
        ended.ballot.number = 2;
        stale.at = Timestamp(5);
        let joined = |a: &Done, b: &Done| {
            let mut joined = a.clone();
            joined.join(b);
            joined
        };
        assert_eq!(joined(&ended, &stale), stale);
        assert_eq!(joined(&stale, &ended), stale);
        // A provisional sender was a flush ahead; the receiver saw the other's telling last.
        ended.flush = Timestamp(1);
        assert_eq!(joined(&stale, &ended), stale);
        ended.at = Timestamp(6);
        assert_eq!(joined(&stale, &ended), ended);
    }

    #[test]
    fn message_names_are_golden() {
        let last = done(&[1, 2], &[3]);
        let name = idempotency_key(last.key.id(), Timestamp(1000), &last.firing, &last.resolved);
        expect_test::expect!["bb51d5ba8302d398e39b275c58a3ed88"].assert_eq(&name);
    }
}
