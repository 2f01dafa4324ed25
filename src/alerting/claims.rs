//! Claims: who may send a notification. The voter's side, and the arithmetic of leases.
//!
//! A voter accepts an intent when its ballot is not below any that it accepted for the key and no other live session has
//! an open intent for it. A session is a life of a peer; it lives at a voter until [`SESSION_LAPSE`] after the last beat
//! received. The claimant counts shorter, from when a beat was *sent*: [`LEASE`].
//!
//! A lease holds only among voters that accepted the intent *and* heard the beat: if any majority would do for the beat,
//! a rival's majority could consist of one that accepted but hears no beats (for it the session has lapsed) and one that
//! hears beats but never accepted (it knows of no intent), and both would send. So a claim's lease runs from the newest
//! beat that a majority of the electorate, all of them accepters of this intent, acknowledged.
//!
//! And a lease that has lapsed is not revived: while no acknowledgement came, the voter may have let the session lapse and
//! accepted another. An acknowledgement that arrives after [`LEASE`] from the sending of the one before voids what that
//! voter accepted; it is asked anew, by a greater ballot, so that no old answer counts. An intent is itself a beat to
//! the voter, so that a session lives from its first accepted intent on.
//!
//! Leases and electorates: two that follow one another differ by one member, so that any majorities of theirs share a
//! voter; two with another in between need not. So who has accepted takes no part in deciding the electorate after the
//! next while its vote is open and its session lives, and who has gone on to the next says nothing any more that counts
//! in the one before. Then whoever holds its lease by a majority of electorate n is shared by every majority that could
//! decide n + 2, and that is decided once the attempt is over, its lease lapsed, or its word renewed in n + 1.

use std::collections::BTreeMap;
use std::time::Duration;

use promesh_model::{Monotonic, PeerId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::message::{Intent, Verdict};
use crate::nflog::{Ballot, Done, KeyId};

/// Between two beats.
pub const BEAT_INTERVAL: Duration = Duration::from_millis(500);
/// How long a session lives at a voter after the last beat received.
pub const SESSION_LAPSE: Duration = Duration::from_millis(3000);
/// How long a claimant may begin to send after sending the newest acknowledged beat.
pub const LEASE: Duration = Duration::from_millis(2500);

/// A life of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Session {
    /// Who.
    pub peer: PeerId,
    /// Which life.
    pub boot: u64,
}

/// What a voter accepted last for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vote {
    /// The ballot.
    pub ballot: Ballot,
    /// Whose life answers for it.
    pub session: Session,
    /// The instant it was about.
    pub flush: Timestamp,
    /// Whether it was given back unsent.
    pub released: bool,
    /// The number of the electorate in which it was asked for. It is not written: of what lies on disk nobody knows, and
    /// zero says that it may be of any.
    #[serde(skip)]
    pub electorate: u64,
}

impl Vote {
    /// Whether the notification may be on its way: it was not given back, and nothing as new is known to be sent. What
    /// was sent by a lesser ballot says nothing about it: its sender may have lost its lease while it waited for the
    /// receiver's answer, and this one have begun since.
    pub fn is_open(&self, done: Option<&Done>) -> bool {
        !self.released && done.is_none_or(|done| done.flush < self.flush || done.ballot < self.ballot)
    }
}

/// The voter in each elector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Voter {
    votes: BTreeMap<KeyId, Vote>,
    heard: BTreeMap<Session, Monotonic>,
    /// The voter's own session, which lives as long as it does.
    own: Option<Session>,
    /// When this voter started or last stood still: until [`SESSION_LAPSE`] later every session counts as live.
    started: Monotonic,
}

impl Voter {
    /// A voter that starts now with what it accepted in earlier lives.
    pub fn new(own: Session, votes: BTreeMap<KeyId, Vote>, now: Monotonic) -> Voter {
        Voter { votes, heard: BTreeMap::new(), own: Some(own), started: now }
    }

    /// This voter stood still: the beats that came meanwhile are heard only now, so that for [`SESSION_LAPSE`] every
    /// session counts as live, as after a start.
    pub fn woke(&mut self, now: Monotonic) {
        self.started = now;
    }

    /// Whether every session counts as live.
    pub fn trusts_all(&self, now: Monotonic) -> bool {
        now.since(self.started) < SESSION_LAPSE
    }

    /// A session lives.
    pub fn beat(&mut self, session: Session, now: Monotonic) {
        // A peer has one life at a time; what is known of earlier ones stays until it lapses.
        self.heard.insert(session, now);
        self.heard.retain(|_, heard| now.since(*heard) < SESSION_LAPSE);
    }

    /// Whether a session may still send. A peer has one life at a time: this one's earlier lives do not.
    pub fn is_live(&self, session: Session, now: Monotonic) -> bool {
        if let Some(own) = self.own.filter(|own| own.peer == session.peer) {
            return own == session;
        }
        self.trusts_all(now) || self.heard.get(&session).is_some_and(|heard| now.since(*heard) < SESSION_LAPSE)
    }

    /// Judges an intent. When it is accepted, the vote must be durable before that is told.
    pub fn judge(&mut self, intent: &Intent, done: Option<&Done>, now: Monotonic) -> Verdict {
        self.beat(intent.session, now);
        if let Some(vote) = self.votes.get(&intent.key) {
            if intent.ballot < vote.ballot {
                return Verdict::Behind(vote.ballot.number);
            }
            if vote.session != intent.session && vote.is_open(done) && self.is_live(vote.session, now) {
                return Verdict::Busy;
            }
        }
        let Intent { ballot, session, flush, electorate, .. } = *intent;
        let vote = Vote { ballot, session, flush, released: false, electorate };
        self.votes.insert(intent.key, vote);
        Verdict::Accepted
    }

    /// A claimant gives its intent back unsent, and with it all earlier ones of its life, of which this voter may have
    /// missed the end; says whether that changed anything, which must then be made durable.
    pub fn release(&mut self, key: KeyId, ballot: Ballot) -> bool {
        let Some(vote) = self.votes.get_mut(&key) else { return false };
        let known = self.own == Some(vote.session) || self.heard.contains_key(&vote.session);
        let earlier = vote.ballot.peer == ballot.peer && vote.ballot.number < ballot.number && known;
        if vote.released || !(vote.ballot == ballot || earlier) {
            return false;
        }
        vote.released = true;
        true
    }

    /// The votes that keep this voter from deciding the electorate of a number: open ones of living sessions that were given
    /// two electorates before, or earlier. By them an attempt may be under way of which that electorate's majority, unlike
    /// the next one's, need not know anything. At most as many as there are keys.
    pub fn holds_back<'a>(
        &'a self,
        number: u64,
        done: impl Fn(KeyId) -> Option<&'a Done>,
        now: Monotonic,
    ) -> impl Iterator<Item = (KeyId, Vote)> {
        let holds = move |key: KeyId, vote: &Vote| {
            vote.electorate.saturating_add(2) <= number && vote.is_open(done(key)) && self.is_live(vote.session, now)
        };
        self.votes.iter().filter(move |(key, vote)| holds(**key, vote)).map(|(key, vote)| (*key, *vote))
    }

    /// What was accepted for a key.
    pub fn vote(&self, key: KeyId) -> Option<&Vote> {
        self.votes.get(&key)
    }

    /// All votes.
    pub fn votes(&self) -> impl Iterator<Item = (&KeyId, &Vote)> {
        self.votes.iter()
    }

    /// Forgets a key that nobody will claim again.
    pub fn forget(&mut self, key: KeyId) {
        self.votes.remove(&key);
    }
}

/// What an acknowledgement of a beat means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is old.
    Nothing,
    /// The peer has held this session live all the time.
    InTime,
    /// It may have let the session lapse in between.
    AfterLapse,
}

/// What the other electors acknowledged of this peer's beats.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Beats {
    sequence: u64,
    sent: BTreeMap<u64, Monotonic>,
    /// When the newest beat that each acknowledged was sent.
    heard: BTreeMap<PeerId, Monotonic>,
}

impl Beats {
    /// Counts a beat that goes out now.
    pub fn send(&mut self, now: Monotonic) -> u64 {
        self.sequence += 1;
        self.sent.insert(self.sequence, now);
        self.sent.retain(|_, sent| now.since(*sent) < SESSION_LAPSE);
        self.sequence
    }

    /// A peer acknowledged a beat.
    pub fn acknowledged(&mut self, from: PeerId, sequence: u64, now: Monotonic) -> Heard {
        let Some(sent) = self.sent.get(&sequence).copied() else { return Heard::Nothing };
        match self.heard.get(&from).copied() {
            Some(known) if sent < known => Heard::Nothing,
            known => {
                self.heard.insert(from, sent);
                let broken = known.is_none_or(|known| now > known + LEASE);
                if broken { Heard::AfterLapse } else { Heard::InTime }
            }
        }
    }

    /// When the newest beat that this peer acknowledged was sent; for oneself, now.
    pub fn heard_at(&self, peer: PeerId, me: PeerId, now: Monotonic) -> Option<Monotonic> {
        if peer == me { Some(now) } else { self.heard.get(&peer).copied() }
    }

    /// Until when a claim may begin to send: so many of its accepters must have acknowledged.
    pub fn lease(
        &self,
        accepters: impl Iterator<Item = PeerId>,
        majority: usize,
        me: PeerId,
        now: Monotonic,
    ) -> Option<Monotonic> {
        let mut heard: Vec<Monotonic> = accepters.filter_map(|peer| self.heard_at(peer, me, now)).collect();
        heard.sort_unstable_by(|a, b| b.cmp(a));
        heard.get(majority.checked_sub(1)?).map(|sent| *sent + LEASE)
    }
}

#[cfg(test)]
mod exhaustive;
#[cfg(test)]
mod tests;
