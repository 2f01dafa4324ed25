//! All groups.

use std::collections::{BTreeMap, BTreeSet};

use promesh_model::{Labels, PeerId};
use thiserror::Error;

use crate::families::Family;
use crate::group::{Group, Stamp, Stored, Version};
use crate::{PUSH_FAILURE_TIME, PUSH_TIME};

/// Groups at once, deleted ones that are still remembered among them.
const GROUPS_MAX: usize = 50_000;
/// Samples of all groups.
const SAMPLES_MAX: usize = 5_000_000;

/// Why a push is refused. All but `Full` are the client's fault: 400.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PushError {
    /// The instant of a scrape is when the mesh looks, whatever the job thinks.
    #[error(
        "pushed metrics are invalid or inconsistent with existing metrics: pushed metrics must not have timestamps"
    )]
    Stamped,
    /// The same series twice.
    #[error("pushed metrics are invalid or inconsistent with existing metrics: {0} was pushed twice")]
    Twice(Labels),
    /// Another group has the family with another type.
    #[error(
        "pushed metrics are invalid or inconsistent with existing metrics: {family} is a {pushed}, and a {known} in the \
         group {group}"
    )]
    Type {
        /// The family.
        family: String,
        /// Its type in the push.
        pushed: String,
        /// Its type elsewhere.
        known: String,
        /// Where.
        group: Labels,
    },
    /// There is no room.
    #[error("too many pushed groups or samples ({GROUPS_MAX} and {SAMPLES_MAX}): delete groups that nobody needs")]
    Full,
}

/// All groups of a mesh as one peer knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    groups: BTreeMap<Labels, Group>,
    samples: usize,
}

impl Groups {
    /// Those that are there, by their labels.
    pub fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.values().filter(|group| group.is_there())
    }

    /// All, deleted ones too: what a peer has to be told.
    pub fn all(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Takes in words about groups.
    pub fn merge(&mut self, words: impl IntoIterator<Item = Group>) {
        for word in words {
            let known = self.groups.entry(word.labels.clone()).or_insert_with(|| Group::new(word.labels.clone()));
            self.samples -= samples_of(known);
            known.merge(word);
            self.samples += samples_of(known);
        }
    }

    fn next(&self, group: &Labels, peer: PeerId) -> Version {
        let newest = self.groups.get(group).map_or(0, |known| known.newest().count);
        Version { count: newest + 1, peer }
    }

    /// The word that a push is: with `replace`, the group has nothing but these families from then on; else families of
    /// other names stay. It is not taken in yet.
    ///
    /// # Errors
    /// As [`PushError`] says; [`Groups::failure`] is the word for that.
    pub fn push(
        &self,
        group: &Labels,
        families: BTreeMap<String, Family>,
        replace: bool,
        peer: PeerId,
        at: i64,
    ) -> Result<Group, PushError> {
        self.check(group, &families)?;
        let version = self.next(group, peer);
        let mut word = Group::new(group.clone());
        word.pushed = Stamp { version, at };
        if replace {
            word.cleared = version;
        }
        let own = |name: &String| name == PUSH_TIME || name == PUSH_FAILURE_TIME;
        let stored = |(name, family)| (name, Stored { version, at, family });
        word.families = families.into_iter().filter(|(name, _)| !own(name)).map(stored).collect();
        Ok(word)
    }

    /// The word that a push has failed.
    pub fn failure(&self, group: &Labels, peer: PeerId, at: i64) -> Group {
        let mut word = Group::new(group.clone());
        word.failed = Stamp { version: self.next(group, peer), at };
        word
    }

    /// The word that a group is deleted.
    pub fn delete(&self, group: &Labels, peer: PeerId, at: i64) -> Group {
        let version = self.next(group, peer);
        let mut word = Group::new(group.clone());
        word.deleted = Stamp { version, at };
        word.cleared = version;
        word
    }

    fn check(&self, group: &Labels, families: &BTreeMap<String, Family>) -> Result<(), PushError> {
        let pushed: usize = families.values().map(|family| family.samples.len()).sum();
        let fresh = !self.groups.contains_key(group);
        if self.samples + pushed > SAMPLES_MAX || (fresh && self.groups.len() >= GROUPS_MAX) {
            return Err(PushError::Full);
        }
        if families.values().any(|family| family.stamped) {
            return Err(PushError::Stamped);
        }
        let mut seen = BTreeSet::new();
        for (labels, _) in families.values().flat_map(|family| &family.samples) {
            if !seen.insert(labels) {
                return Err(PushError::Twice(labels.clone()));
            }
        }
        for other in self.iter().filter(|other| other.labels != *group) {
            for (name, family) in families {
                let Some(known) = other.families.get(name) else { continue };
                if known.family.kind != family.kind {
                    return Err(PushError::Type {
                        family: name.clone(),
                        pushed: family.kind.clone(),
                        known: known.family.kind.clone(),
                        group: other.labels.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Forgets groups that were deleted before an instant: whoever was away for so long is told anew by nobody.
    pub fn forget_before(&mut self, at: i64) -> bool {
        let before = self.groups.len();
        self.groups.retain(|_, group| group.is_there() || group.deleted.at >= at);
        self.groups.len() < before
    }
}

fn samples_of(group: &Group) -> usize {
    group.families.values().map(|stored| stored.family.samples.len()).sum()
}
