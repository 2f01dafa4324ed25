//! One group, and how two peers' words about it become one.

use std::collections::BTreeMap;

use promesh_model::{Labels, PeerId};
use serde::{Deserialize, Serialize};

use crate::families::Family;

/// Which of two words about the same thing stands: the higher count, then the higher peer. No clock is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// One more than the highest that the writer knew of the group.
    pub count: u64,
    /// The writer.
    pub peer: PeerId,
}

impl Version {
    /// Older than any.
    pub const NONE: Version = Version { count: 0, peer: PeerId(0) };
}

/// An instant, and the word that set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// The word.
    pub version: Version,
    /// The instant, in ms since the epoch.
    pub at: i64,
}

impl Stamp {
    /// Never.
    pub const NEVER: Stamp = Stamp { version: Version::NONE, at: 0 };
}

/// A family as it was pushed last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The push that brought it.
    pub version: Version,
    /// When that was, in ms since the epoch.
    pub at: i64,
    /// The family.
    pub family: Family,
}

/// A group, whole or what one push changed of it: both merge alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its labels, the job among them.
    pub labels: Labels,
    /// The newest DELETE: what is not newer is gone.
    pub deleted: Stamp,
    /// The newest PUT or DELETE: families that are older are gone.
    pub cleared: Version,
    /// The last push that succeeded.
    pub pushed: Stamp,
    /// The last that failed.
    pub failed: Stamp,
    /// Its families.
    pub families: BTreeMap<String, Stored>,
}

impl Group {
    /// A group of which nothing is known.
    pub fn new(labels: Labels) -> Group {
        Group {
            labels,
            deleted: Stamp::NEVER,
            cleared: Version::NONE,
            pushed: Stamp::NEVER,
            failed: Stamp::NEVER,
            families: BTreeMap::new(),
        }
    }

    /// Whether it is there: something happened since it was deleted.
    pub fn is_there(&self) -> bool {
        self.pushed.version.max(self.failed.version) > self.deleted.version
    }

    /// Whether the last push succeeded.
    pub fn last_push_succeeded(&self) -> bool {
        self.pushed.version > self.failed.version
    }

    /// The newest word about it.
    pub fn newest(&self) -> Version {
        let stamps = [self.deleted.version, self.cleared, self.pushed.version, self.failed.version];
        stamps.into_iter().max().unwrap_or(Version::NONE)
    }

    /// Instants of words from before the newest DELETE are forgotten.
    fn time(&self, stamp: Stamp) -> i64 {
        if stamp.version > self.deleted.version { stamp.at } else { 0 }
    }

    /// When the last push succeeded, in ms; 0 for never.
    pub fn pushed_at(&self) -> i64 {
        self.time(self.pushed)
    }

    /// When the last push failed, in ms; 0 for never.
    pub fn failed_at(&self) -> i64 {
        self.time(self.failed)
    }

    /// Takes in what another says of the same group. Commutative, associative, and repeating it changes nothing.
    pub fn merge(&mut self, other: Group) {
        self.deleted = self.deleted.max(other.deleted);
        self.cleared = self.cleared.max(other.cleared);
        self.pushed = self.pushed.max(other.pushed);
        self.failed = self.failed.max(other.failed);
        for (name, stored) in other.families {
            match self.families.get_mut(&name) {
                Some(known) if known.version >= stored.version => {}
                Some(known) => *known = stored,
                None => drop(self.families.insert(name, stored)),
            }
        }
        let cleared = self.cleared;
        self.families.retain(|_, stored| stored.version >= cleared);
    }
}
