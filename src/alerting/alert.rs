//! Alerts as replicated records.
//!
//! An alert is a set of spans, one for each instant at which it began. A span ends by what was said last, or for good by
//! an explicit end. The alert fires while one span runs.

use std::collections::BTreeMap;

use promesh_model::{Labels, Timestamp};
use serde::{Deserialize, Serialize};

use crate::records::{Lattice, Register};

/// How many spans of one alert are kept: the newest.
const SPANS_MAX: usize = 16;

/// An alert's name among peers: the stable hash of its labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AlertKey(pub u128);

impl AlertKey {
    /// Of a label set.
    pub fn of(labels: &Labels) -> AlertKey {
        AlertKey(labels.stable_hash())
    }

    /// Half of it, as notification logs keep it.
    pub fn short(self) -> u64 {
        self.0 as u64
    }
}

/// From a beginning to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// When it ends, or is to be taken for ended if nothing more is heard.
    pub ends_at: Timestamp,
    /// Whether somebody said that it ended.
    pub explicit: bool,
    /// When the mesh first heard of it: what group_wait counts from.
    pub born: Timestamp,
}

impl Lattice for Span {
    fn join(&mut self, other: &Span) -> bool {
        let before = *self;
        match (self.explicit, other.explicit) {
            (true, true) => self.ends_at = self.ends_at.min(other.ends_at),
            (false, true) => self.ends_at = other.ends_at,
            (true, false) => {}
            (false, false) => self.ends_at = self.ends_at.max(other.ends_at),
        }
        self.explicit |= other.explicit;
        self.born = self.born.min(other.born);
        *self != before
    }
}

/// What an alert carries besides its labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// For people.
    pub annotations: Labels,
    /// Where it came from.
    pub generator_url: String,
}

/// An alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertValue {
    /// Its labels; they never change.
    pub labels: Labels,
    /// Its spans by beginning.
    pub spans: BTreeMap<Timestamp, Span>,
    /// The last notes stand.
    pub notes: Register<Notes>,
    /// When it was last heard of; for people only.
    pub updated_at: Timestamp,
}

impl Lattice for AlertValue {
    fn join(&mut self, other: &AlertValue) -> bool {
        let mut changed = self.notes.join(&other.notes);
        for (start, span) in &other.spans {
            if let Some(known) = self.spans.get_mut(start) {
                changed |= known.join(span);
            } else if self.spans.len() < SPANS_MAX || self.spans.keys().next().is_some_and(|first| start > first) {
                // The newest spans of a union are the same in whatever order it was formed.
                self.spans.insert(*start, *span);
                changed = true;
            }
        }
        while self.spans.len() > SPANS_MAX {
            self.spans.pop_first();
        }
        if other.updated_at > self.updated_at {
            self.updated_at = other.updated_at;
            changed = true;
        }
        changed
    }
}

impl AlertValue {
    /// An alert without spans.
    pub fn new(labels: Labels) -> AlertValue {
        AlertValue { labels, spans: BTreeMap::new(), notes: Register::default(), updated_at: Timestamp::MIN }
    }

    /// Whether it fires. Spans that nobody ended run on for the grace at least.
    pub fn is_firing(&self, now: Timestamp, grace: Grace) -> bool {
        self.spans.iter().any(|(start, span)| *start <= now && runs(span, now, grace))
    }

    /// Whether it fires now or will.
    pub fn may_fire(&self, now: Timestamp, grace: Grace) -> bool {
        self.spans.values().any(|span| runs(span, now, grace))
    }

    /// The beginning of the earliest span that runs; of the last one when none does.
    pub fn starts_at(&self, now: Timestamp, grace: Grace) -> Timestamp {
        let running = self.spans.iter().find(|(_, span)| runs(span, now, grace));
        running.or_else(|| self.spans.last_key_value()).map_or(Timestamp::MIN, |(start, _)| *start)
    }

    /// The latest end.
    pub fn ends_at(&self) -> Timestamp {
        self.spans.values().map(|span| span.ends_at).max().unwrap_or(Timestamp::MIN)
    }

    /// The last end that somebody stated: what was seen to fire before it is over.
    pub fn stated_end(&self) -> Option<Timestamp> {
        self.spans.values().filter(|span| span.explicit).map(|span| span.ends_at).max()
    }

    /// The smallest birth of the spans that run.
    pub fn born(&self, now: Timestamp, grace: Grace) -> Option<Timestamp> {
        self.spans.values().filter(|span| runs(span, now, grace)).map(|span| span.born).min()
    }

    /// The smallest birth of the spans that run and had not run out by an instant.
    pub fn born_by(&self, start: Timestamp, now: Timestamp, grace: Grace) -> Option<Timestamp> {
        let running = self.spans.values().filter(|span| runs(span, now, grace) && span.ends_at >= start);
        running.map(|span| span.born).min()
    }

    /// When, as things are, it will have ended, if it fires.
    pub fn expires_at(&self, now: Timestamp, grace: Grace) -> Option<Timestamp> {
        let running = self.spans.values().filter(|span| runs(span, now, grace));
        running.map(|span| grace.end_of(span)).max()
    }
}

/// An explicit end had come by the clock of the peer that took it; by a slower one it may lie ahead, and is an end all the
/// same.
fn runs(span: &Span, now: Timestamp, grace: Grace) -> bool {
    !span.explicit && now < grace.end_of(span)
}

/// The chance that sources get after this peer was down, or stood still, to say that their alerts still fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace {
    /// Since when it had been down: what had run out before that is over.
    pub from: Timestamp,
    /// What had not, and nobody ended, runs on until here at least.
    pub until: Timestamp,
}

impl Grace {
    /// When a span that nobody ended has run out.
    fn end_of(self, span: &Span) -> Timestamp {
        if span.ends_at >= self.from { span.ends_at.max(self.until) } else { span.ends_at }
    }
}

/// An alert as somebody posts it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostedAlert {
    /// Its labels.
    pub labels: Labels,
    /// Its annotations.
    pub annotations: Labels,
    /// Since when; if nothing was said, since it began to run, or now.
    pub starts_at: Option<Timestamp>,
    /// Until when; if nothing was said, until `resolve_timeout` from now.
    pub ends_at: Option<Timestamp>,
    /// Where it came from.
    pub generator_url: String,
    /// Whether it comes from this mesh's own rules, which after a takeover may know another beginning.
    pub own_rule: bool,
    /// The instant of which it speaks: the slot of the evaluation, if a rule's, since who evaluated may stand still before
    /// it posts; if somebody's outside, when a peer took it, since that peer may stand still before it passes it on. Not
    /// a part of the form in which posts were first forwarded, therefore told beside it.
    #[serde(skip)]
    pub evaluated_at: Option<Timestamp>,
}

/// Alertmanager's fingerprint of labels: FNV-1a over names and values in order.
///
/// Source: prometheus/common `model.LabelSet.Fingerprint`.
pub fn fingerprint(labels: &Labels) -> String {
    let mut hash: u64 = 14_695_981_039_346_656_037;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes.iter().chain(&[0xff]) {
            hash ^= u64::from(*byte);
            hash = hash.wrapping_mul(1_099_511_628_211);
        }
    };
    for (name, value) in labels.iter() {
        feed(name.as_bytes());
        feed(value.as_bytes());
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::records::{Version, WrittenBy};

    #[test]
    fn fingerprints_are_upstreams() {
        let labels = Labels::from_pairs([("severity", "warning"), ("job", "foo")]);
        assert_eq!(fingerprint(&labels), "9266ef3da838ad95");
        let labels = Labels::from_pairs([("severity", "critical"), ("job", "bar")]);
        assert_eq!(fingerprint(&labels), "c7e68cb08e3e67f9");
    }

    fn value() -> impl Strategy<Value = AlertValue> {
        let span = (0i64..24, 0i64..50, any::<bool>(), 0i64..20);
        (prop::collection::vec(span, 0..24), 0u64..4, 0u128..3, 0i64..9).prop_map(|(spans, counter, peer, updated)| {
            let mut value = AlertValue::new(Labels::from_pairs([("a", "b")]));
            for (start, ends_at, explicit, born) in spans {
                let span = Span { ends_at: Timestamp(ends_at), explicit, born: Timestamp(born) };
                let mut one = AlertValue::new(value.labels.clone());
                one.spans.insert(Timestamp(start), span);
                value.join(&one);
            }
            let notes = Notes { generator_url: format!("{counter}{peer}"), ..Notes::default() };
            value.notes = Register { version: Version { counter, peer: WrittenBy(peer) }, value: notes };
            value.updated_at = Timestamp(updated);
            value
        })
    }

    fn joined(a: &AlertValue, b: &AlertValue) -> AlertValue {
        let mut all = a.clone();
        all.join(b);
        all
    }

    proptest! {
        #[test]
        fn joining_commutes_associates_and_repeats_without_effect(a in value(), b in value(), c in value()) {
            prop_assert_eq!(joined(&a, &b), joined(&b, &a));
            prop_assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
            let ab = joined(&a, &b);
            let mut again = ab.clone();
            prop_assert!(!again.join(&b));
            prop_assert_eq!(again, ab);
        }
    }
}
