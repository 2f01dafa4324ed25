//! Silences as replicated records.

use promesh_config::alertmanager::matchers::is_label_name;
use promesh_config::alertmanager::{MatcherMode, Matchers};
use promesh_model::labels::quoted;
use promesh_model::{Labels, MatchOp, Matcher, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::records::{Lattice, Register};

/// A silence's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SilenceId(pub u128);

impl std::fmt::Display for SilenceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Uuid::from_u128(self.0).hyphenated().fmt(f)
    }
}

impl std::str::FromStr for SilenceId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<SilenceId, uuid::Error> {
        Uuid::from_str(text).map(|uuid| SilenceId(uuid.as_u128()))
    }
}

/// What a silence says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceBody {
    /// Alternatives; a set holds when all of its matchers do.
    #[serde(deserialize_with = "matcher_sets")]
    pub matcher_sets: Vec<Vec<Matcher>>,
    /// From when.
    pub starts_at: Timestamp,
    /// Until when, if nobody ends it before.
    pub ends_at: Timestamp,
    /// When it was written.
    pub updated_at: Timestamp,
    /// Who wants it.
    pub created_by: String,
    /// Why.
    pub comment: String,
    /// Further facts.
    pub annotations: Labels,
}

/// Matchers on the wire and on disk say what they compare; how an expression is meant, their use says: here as Alertmanager means it.
fn matcher_sets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<Matcher>>, D::Error> {
    let sets = Vec::<Vec<(MatchOp, String, String)>>::deserialize(deserializer)?;
    let matcher = |(op, name, value)| Matcher::within_lines(op, name, value).map_err(serde::de::Error::custom);
    sets.into_iter().map(|set| set.into_iter().map(matcher).collect()).collect()
}

/// A silence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilenceValue {
    /// The last body stands.
    pub body: Register<SilenceBody>,
    /// The earliest end that anybody ever stated.
    pub expired_at: Option<Timestamp>,
}

impl Lattice for SilenceValue {
    fn join(&mut self, other: &SilenceValue) -> bool {
        let mut changed = self.body.join(&other.body);
        if let Some(theirs) = other.expired_at
            && self.expired_at.is_none_or(|ours| theirs < ours)
        {
            self.expired_at = Some(theirs);
            changed = true;
        }
        changed
    }
}

/// Where a silence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SilenceState {
    /// Not yet.
    Pending,
    /// Now.
    Active,
    /// No more.
    Expired,
}

impl SilenceState {
    /// As in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            SilenceState::Pending => "pending",
            SilenceState::Active => "active",
            SilenceState::Expired => "expired",
        }
    }
}

impl SilenceValue {
    /// When it ends.
    pub fn ends_at(&self) -> Timestamp {
        self.expired_at.map_or(self.body.value.ends_at, |expired| expired.min(self.body.value.ends_at))
    }

    /// Where it stands.
    pub fn state(&self, now: Timestamp) -> SilenceState {
        if now >= self.ends_at() {
            SilenceState::Expired
        } else if now < self.body.value.starts_at {
            SilenceState::Pending
        } else {
            SilenceState::Active
        }
    }

    /// Whether it silences an alert now.
    pub fn silences(&self, labels: &Labels, now: Timestamp) -> bool {
        self.state(now) == SilenceState::Active && self.matches(labels)
    }

    /// Whether an alert is one that it speaks of.
    pub fn matches(&self, labels: &Labels) -> bool {
        let sets = &self.body.value.matcher_sets;
        sets.iter().any(|set| promesh_model::matcher::matches_all(set, labels))
    }
}

/// Why a silence is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SilenceError {
    /// It says something that makes no sense.
    #[error("invalid silence: {0}")]
    Invalid(String),
    /// It is too large, or one too many: the text is all that is said.
    #[error("{0}")]
    Limit(String),
    /// There is none of that name.
    #[error("silence not found")]
    NotFound,
}

impl SilenceBody {
    /// Checks what a person wrote.
    ///
    /// # Errors
    /// `Invalid`, in upstream's words.
    pub fn check(&self, mode: MatcherMode) -> Result<(), SilenceError> {
        let invalid = |reason: &str| Err(SilenceError::Invalid(reason.to_owned()));
        if self.matcher_sets.is_empty() || self.matcher_sets.iter().any(Vec::is_empty) {
            return invalid("at least one matcher required");
        }
        for (number, set) in self.matcher_sets.iter().enumerate() {
            if let Some((index, bad)) = set.iter().enumerate().find(|(_, matcher)| !is_label_name(&matcher.name, mode))
            {
                let name = quoted(&bad.name);
                return invalid(&format!("invalid label matcher {index} in set {number}: invalid label name {name}"));
            }
            if set.iter().all(|matcher| matcher.matches("")) {
                let text = format!("matcher set {number}: at least one matcher must not match the empty string");
                return invalid(&text);
            }
        }
        if self.starts_at == Timestamp::MIN {
            return invalid("invalid zero start timestamp");
        }
        if self.ends_at < self.starts_at {
            return invalid("end time must not be before start time");
        }
        Ok(())
    }

    /// Whether a change keeps the name: what has begun may only end at another time.
    ///
    /// Source: alertmanager silence/silence.go `canUpdate`.
    pub fn may_become(&self, new: &SilenceBody, state: SilenceState, now: Timestamp) -> bool {
        let same = |sets: &[Vec<Matcher>]| -> Vec<String> {
            sets.iter().map(|set| Matchers::sorted(set.clone()).to_string()).collect()
        };
        if same(&self.matcher_sets) != same(&new.matcher_sets) {
            return false;
        }
        match state {
            SilenceState::Active => self.starts_at == new.starts_at && new.ends_at >= now,
            SilenceState::Pending => new.starts_at >= now,
            SilenceState::Expired => false,
        }
    }
}
