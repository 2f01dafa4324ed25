//! The claimant's side of a claim: what the voters answered, and what that is worth.
//!
//! A majority's word must be of one time. A voter that accepted long ago may have been told since that somebody else has
//! sent; one that accepts now may have held that sender's vote until it died, and not have been told. Together they let
//! two send what the log has. So a majority counts when all of it was asked within [`FRESH`], in which no session can
//! lapse that held its lease at the beginning; else all are asked once more while the lease of the first round lasts, and
//! the second answers show what was logged before the first round was complete.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use promesh_model::{Monotonic, PeerId};

use crate::claims::{Beats, LEASE, SESSION_LAPSE};
use crate::message::Verdict;
use crate::nflog::Ballot;

/// How old the first question of a round may be when its majority is complete. A sender that holds its lease through a
/// voter now keeps that voter's session alive for so long at least.
pub const FRESH: Duration = SESSION_LAPSE.saturating_sub(LEASE);

/// An attempt to be allowed to send, under one ballot at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidacy {
    ballot: Ballot,
    /// When voters were first asked under this ballot.
    began: Monotonic,
    /// Who accepted the round before, of which this one is the confirmation, and until when that lease lasts.
    confirms: Option<(BTreeSet<PeerId>, Monotonic)>,
    answers: BTreeMap<PeerId, Verdict>,
    /// Voters that may have let this peer's session lapse since they accepted this ballot.
    voided: BTreeSet<PeerId>,
    /// The greatest number that a voter showed.
    behind: u64,
}

impl Candidacy {
    /// Under a ballot that is greater than every one seen.
    pub fn new(ballot: Ballot, now: Monotonic) -> Candidacy {
        let (answers, voided) = (BTreeMap::new(), BTreeSet::new());
        Candidacy { ballot, began: now, confirms: None, answers, voided, behind: 0 }
    }

    /// The present ballot.
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// Begins anew with a ballot that no old answer fits, and that is greater than what voters showed.
    pub fn renew(&mut self, now: Monotonic) {
        self.next_ballot();
        self.began = now;
        self.confirms = None;
        self.answers.clear();
    }

    /// Asks all once more: a majority accepted, and its lease lasts until `held`, but not all of it was asked lately.
    pub fn confirm(&mut self, held: Monotonic, now: Monotonic) {
        let before = self.accepters().collect();
        self.renew(now);
        self.confirms = Some((before, held));
    }

    /// While an attempt runs: who refused, or whose word is void, is asked by a greater ballot. What others accepted
    /// stands, since a voter answers for a session, whatever its ballot.
    pub fn raise(&mut self) {
        self.next_ballot();
        self.answers.retain(|_, verdict| *verdict == Verdict::Accepted);
    }

    fn next_ballot(&mut self) {
        self.ballot.number = self.ballot.number.max(self.behind) + 1;
        self.voided.clear();
    }

    /// Whether who has not accepted would refuse this ballot, or must not answer it any more.
    pub fn is_outdone(&self) -> bool {
        !self.voided.is_empty() || self.behind >= self.ballot.number
    }

    /// Whether the answers to this round are of one time.
    pub fn is_fresh(&self, now: Monotonic) -> bool {
        now.since(self.began) < FRESH || self.confirms.as_ref().is_some_and(|(_, held)| now <= *held)
    }

    /// Beats were acknowledged: the lease of the round that is being confirmed moves, unless it lapsed.
    pub fn hold(&mut self, members: &[PeerId], beats: &Beats, me: PeerId, now: Monotonic) {
        let Some((before, held)) = &mut self.confirms else { return };
        let accepters = before.iter().copied().filter(|peer| members.contains(peer));
        if now <= *held
            && let Some(lease) = beats.lease(accepters, members.len() / 2 + 1, me, now)
        {
            *held = lease.max(*held);
        }
    }

    /// A voter answered; says whether that counts.
    pub fn answered(&mut self, from: PeerId, ballot: Ballot, verdict: Verdict) -> bool {
        if ballot != self.ballot || self.voided.contains(&from) {
            return false;
        }
        self.answers.insert(from, verdict);
        if let Verdict::Behind(number) = verdict {
            self.behind = self.behind.max(number);
        }
        true
    }

    /// A voter may have let the session lapse: what it accepted does not count any more. While nothing is sent, all are
    /// asked anew; while an attempt runs, only that voter's word is void.
    pub fn void(&mut self, voter: PeerId, sending: bool, now: Monotonic) {
        if sending {
            self.answers.remove(&voter);
            self.voided.insert(voter);
        } else {
            self.renew(now);
        }
    }

    /// Whether a voter's word is void.
    pub fn has_void(&self) -> bool {
        !self.voided.is_empty()
    }

    /// What a voter said.
    #[cfg(test)]
    pub(crate) fn verdict_of(&self, voter: PeerId) -> Option<Verdict> {
        self.answers.get(&voter).copied()
    }

    /// Whether a voter's word is void.
    #[cfg(test)]
    pub(crate) fn is_void(&self, voter: PeerId) -> bool {
        self.voided.contains(&voter)
    }

    /// Until when the lease lasts of the round that this one confirms, if it does.
    #[cfg(test)]
    pub(crate) fn confirms(&self, now: Monotonic) -> Option<Monotonic> {
        self.confirms.as_ref().map(|(_, held)| *held).filter(|held| now <= *held)
    }

    /// Whether a voter accepted the round that is being confirmed.
    #[cfg(test)]
    pub(crate) fn confirms_word_of(&self, voter: PeerId) -> bool {
        self.confirms.as_ref().is_some_and(|(before, _)| before.contains(&voter))
    }

    /// The greatest number that a voter showed.
    #[cfg(test)]
    pub(crate) fn behind(&self) -> u64 {
        self.behind
    }

    /// Whether nobody has answered yet.
    pub fn is_unanswered(&self) -> bool {
        self.answers.is_empty()
    }

    /// Who accepted.
    pub fn accepters(&self) -> impl Iterator<Item = PeerId> {
        self.answers.iter().filter(|(_, verdict)| **verdict == Verdict::Accepted).map(|(peer, _)| *peer)
    }

    /// Whether a majority of some members accepted.
    pub fn is_accepted(&self, members: &[PeerId]) -> bool {
        self.accepters().filter(|peer| members.contains(peer)).count() > members.len() / 2
    }

    /// Whether a majority of some members can still accept under this ballot.
    pub fn is_possible(&self, members: &[PeerId]) -> bool {
        let against = self.answers.values().filter(|verdict| **verdict != Verdict::Accepted).count();
        members.len().saturating_sub(against) > members.len() / 2
    }

    /// Until when sending may begin: a majority of the members accepted *and* acknowledged a beat.
    pub fn lease(&self, members: &[PeerId], beats: &Beats, me: PeerId, now: Monotonic) -> Option<Monotonic> {
        let accepters = self.accepters().filter(|peer| members.contains(peer));
        beats.lease(accepters, members.len() / 2 + 1, me, now)
    }
}
