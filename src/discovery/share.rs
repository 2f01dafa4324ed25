//! What a mesh knows of one discovery: one peer asks, the others hear. Pure: who asks and when it is comes from outside.
//!
//! An answer that lacks what was there before is believed slowly. Back ends lose their minds for a moment, and a peer
//! that has just begun to ask may see less than the one before it. So an asker's first answer adds and removes nothing,
//! and an empty answer after one that was not needs another one.

use std::sync::Arc;
use std::time::Duration;

use promesh_model::{Generation, PeerId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Groups, TargetGroup};

/// Who asks, in which life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Asker {
    /// The peer.
    pub peer: PeerId,
    /// Its life.
    pub generation: Generation,
}

/// Nobody.
impl Default for Asker {
    fn default() -> Asker {
        Asker { peer: PeerId(0), generation: Generation(0) }
    }
}

/// What is told of a discovery to other peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Which discovery: equal for equal settings.
    pub discovery: u128,
    /// Who asked last.
    pub asker: Asker,
    /// Grows with every change of the groups.
    pub version: i64,
    /// When it was asked last.
    pub asked_at: Timestamp,
    /// The groups; `None`: those of this version, which were told before.
    pub groups: Option<Vec<TargetGroup>>,
}

/// What one peer knows of one discovery.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) groups: Groups,
    pub(crate) asker: Asker,
    pub(crate) version: i64,
    pub(crate) asked_at: Timestamp,
    /// Answers that the asker got since it began.
    answers: u32,
    /// Empty ones among the last of them.
    empty: u32,
}

fn is_empty<T: std::ops::Deref<Target = TargetGroup>>(groups: &[T]) -> bool {
    groups.iter().all(|group| group.targets.is_empty())
}

impl Known {
    /// The back end answered; true when other targets are known now.
    pub(crate) fn answered(&mut self, asker: Asker, found: Vec<TargetGroup>, at: Timestamp) -> bool {
        if self.asker != asker {
            (self.asker, self.answers, self.empty) = (asker, 0, 0);
        }
        self.asked_at = at;
        self.answers = self.answers.saturating_add(1);
        let found: Groups = found.into_iter().map(Arc::new).collect();
        self.empty = if is_empty(&found) { self.empty.saturating_add(1) } else { 0 };
        if self.empty == 1 && !is_empty(&self.groups) {
            return false;
        }
        let next = if self.answers < 2 { united(found, &self.groups) } else { found };
        let changed = next != self.groups;
        if changed || self.version == 0 {
            // The wall clock, so that a mesh that restarted as a whole is not behind what one peer remembers.
            self.version = at.ms().max(self.version + 1);
            self.groups = next;
        }
        changed
    }

    /// As [`Known::answered`], by something that lists all there is: its first answer counts as any other.
    pub(crate) fn listed(&mut self, asker: Asker, found: Vec<TargetGroup>, at: Timestamp) -> bool {
        if self.asker != asker {
            (self.asker, self.empty) = (asker, 0);
        }
        self.answers = self.answers.max(1);
        self.answered(asker, found, at)
    }

    /// Another peer tells what it knows; true when other targets are known now. What is older than what is known is no
    /// news, unless it comes from whoever asks now.
    pub(crate) fn hear(&mut self, told: Told) -> bool {
        if (told.version, told.asker) < (self.version, self.asker) && told.asked_at <= self.asked_at {
            return false;
        }
        let news = match told.groups {
            Some(groups) => groups.into_iter().map(Arc::new).collect(),
            None if told.version == self.version => self.groups.clone(),
            // The groups of that version are still to come.
            None => return false,
        };
        let changed = news != self.groups;
        *self = Known {
            groups: news,
            asker: told.asker,
            version: told.version,
            asked_at: told.asked_at.max(self.asked_at),
            answers: 0,
            empty: 0,
        };
        changed
    }

    /// What to tell somebody who knows `version`.
    pub(crate) fn told(&self, discovery: u128, version: i64) -> Told {
        let groups = (version != self.version).then(|| self.groups.iter().map(|group| (**group).clone()).collect());
        Told { discovery, asker: self.asker, version: self.version, asked_at: self.asked_at, groups }
    }

    /// How long to wait before asking, so that the mesh asks once an interval whoever asks.
    pub(crate) fn wait(&self, interval: Duration, now: Timestamp) -> Duration {
        if self.version == 0 {
            return Duration::ZERO;
        }
        // A clock that was set back must not silence a discovery.
        self.asked_at.after(interval).since(now).min(interval)
    }
}

/// What was found, and of what was there before all that is missing in it.
fn united(found: Groups, before: &Groups) -> Groups {
    let mut all = found;
    for old in before {
        let Some(place) = all.iter().position(|group| group.source == old.source) else {
            all.push(Arc::clone(old));
            continue;
        };
        let missing: Vec<_> =
            old.targets.iter().filter(|target| !all[place].targets.contains(target)).cloned().collect();
        if !missing.is_empty() {
            Arc::make_mut(&mut all[place]).targets.extend(missing);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use promesh_model::Labels;

    use super::*;

    fn groups(addresses: &[&str]) -> Vec<TargetGroup> {
        vec![TargetGroup::of_addresses("g", addresses.iter().copied(), &Labels::empty())]
    }

    fn peer(id: u128) -> Asker {
        Asker { peer: PeerId(id), generation: Generation(1) }
    }

    fn seen(known: &Known) -> Vec<String> {
        let targets = known.groups.iter().flat_map(|group| &group.targets);
        targets.map(|target| target.value(crate::ADDRESS).to_owned()).collect()
    }

    /// Answers in order, each by an asker; after each the addresses that are known.
    fn check(script: &[(u128, &[&str], &[&str])]) {
        let mut known = Known::default();
        for (step, (asker, found, expected)) in script.iter().enumerate() {
            known.answered(peer(*asker), groups(found), Timestamp(1000 + step as i64));
            assert_eq!(seen(&known), *expected, "step {step}");
        }
    }

    #[test]
    fn an_empty_answer_after_targets_needs_another_one() {
        check(&[(1, &["a"], &["a"]), (1, &[], &["a"]), (1, &["a"], &["a"]), (1, &[], &["a"]), (1, &[], &[])]);
    }

    #[test]
    fn a_peer_that_takes_over_removes_nothing_by_its_first_answer() {
        check(&[
            (1, &["a", "b"], &["a", "b"]),
            (1, &["a"], &["a"]),
            (1, &["a", "b"], &["a", "b"]),
            (2, &["c"], &["c", "a", "b"]),
            (2, &["c"], &["c"]),
        ]);
        check(&[(1, &["a"], &["a"]), (2, &[], &["a"]), (2, &[], &[])]);
    }

    #[test]
    fn what_is_told_is_known_and_older_news_is_none() {
        let (mut asker, mut other) = (Known::default(), Known::default());
        asker.answered(peer(1), groups(&["a"]), Timestamp(1_000));
        let old = asker.told(7, other.version);
        assert!(other.hear(old.clone()));
        asker.answered(peer(1), groups(&["a"]), Timestamp(2_000));
        let still = asker.told(7, other.version);
        assert_eq!(still.groups, None, "the groups are known already");
        assert!(!other.hear(still));
        assert_eq!((seen(&other), other.asked_at), (vec!["a".to_owned()], Timestamp(2_000)));
        asker.answered(peer(1), groups(&["b"]), Timestamp(3_000));
        assert!(other.hear(asker.told(7, other.version)));
        assert!(!other.hear(old));
        assert_eq!(seen(&other), ["b"]);
    }

    #[test]
    fn who_takes_over_keeps_the_rhythm() {
        let (mut asker, mut other) = (Known::default(), Known::default());
        assert_eq!(other.wait(Duration::from_secs(60), Timestamp(0)), Duration::ZERO);
        asker.answered(peer(1), groups(&["a"]), Timestamp(10_000));
        other.hear(asker.told(7, 0));
        assert_eq!(other.wait(Duration::from_secs(60), Timestamp(30_000)), Duration::from_secs(40));
        assert_eq!(other.wait(Duration::from_secs(60), Timestamp(90_000)), Duration::ZERO);
        assert_eq!(other.wait(Duration::from_secs(60), Timestamp(-900_000)), Duration::from_secs(60));
    }
}
