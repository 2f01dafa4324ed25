//! What was told without a majority, and what the others told meanwhile.
//!
//! Of two dones the one that was sent later stands, and an alert that only the other one told is in no record any more:
//! nobody would tell its end. Who told alone remembers that until it meets the others' dones, and writes down both: the
//! later one, with what the other told as firing and the later one says nothing of. Whose record is replaced by one that says
//! nothing of some of its alerts shows it to the later one's sender. Only an alone telling is put right like
//! this. Of any other its sender knew of those before, and left out what it left out on purpose: silenced alerts, for one.

use std::collections::BTreeSet;
use std::time::Duration;

use promesh_model::{Now, PeerId, Timestamp};

use super::Alerting;
use crate::message::{DiskRecord, Part};
use crate::nflog::{Done, KeyId};

/// How many of a group's own tellings are remembered: the last.
const OWN_MAX: usize = 16;

/// What this peer told alone about a group.
#[derive(Clone, Debug)]
pub(super) struct Alone {
    /// When the done was sent that it knew of before it began: what is older is known.
    since: Timestamp,
    /// When it told.
    own: BTreeSet<Timestamp>,
    /// Alerts told as firing that nobody else has told of since.
    firing: BTreeSet<u64>,
    /// The number of the last record of both: whose ballot has a greater one knew of that.
    both: Option<u64>,
}

impl Alerting {
    /// Whether a peer is one that lives, or votes although it is held for dead.
    pub(super) fn may_hear(&self, peer: PeerId) -> bool {
        self.is_member(peer) || self.electorate.as_ref().is_some_and(|electorate| electorate.contains(peer))
    }

    /// This peer told something, `alone` or not; to be called before it is logged.
    pub(super) fn note_telling(&mut self, key: KeyId, done: &Done, alone: bool) {
        if !alone && !self.told_alone.contains_key(&key) {
            return;
        }
        let since = self.log.get(&key).map_or(Timestamp::MIN, |before| before.at);
        let known = self.told_alone.entry(key).or_insert_with(|| Alone {
            since,
            own: BTreeSet::new(),
            firing: BTreeSet::new(),
            both: None,
        });
        known.own.insert(done.at);
        if known.own.len() > OWN_MAX {
            known.own.pop_first();
        }
        known.firing.clone_from(&done.firing);
        known.both = None;
    }

    /// Another's done came, and is joined; `before` is what the log held before that, if the other leaves out some of it.
    pub(super) fn meet(&mut self, key: KeyId, before: Option<&Done>, other: &Done, now: Now) {
        let (Some(alone), Some(known)) = (self.told_alone.get_mut(&key), self.log.get(&key)) else { return };
        let is_own = other.ballot.peer == self.me && alone.own.contains(&other.at);
        if is_own || other.at <= alone.since {
            return;
        }
        let mut owed = alone.firing.clone();
        if known != other {
            owed.extend(&other.firing);
        } else if alone.both.is_some_and(|both| other.ballot.number > both) {
            self.told_alone.remove(&key);
            return;
        } else if let Some(before) = before.filter(|before| before.at > alone.since) {
            owed.extend(&before.firing);
        }
        alone.firing.retain(|alert| !other.mentions(*alert));
        owed.retain(|alert| !known.mentions(*alert));
        if owed.is_empty() {
            return;
        }
        alone.both = Some(known.ballot.number);
        let mut both = known.clone();
        both.at = both.at.after(Duration::from_millis(1));
        both.firing.extend(owed);
        self.log.join(&key, &both);
        self.write(DiskRecord::Done(key, both.clone()));
        self.wait_for_done(vec![Part::Done(key, both)], now);
    }
}
