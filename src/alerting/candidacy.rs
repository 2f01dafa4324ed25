//! The claimant's side of a claim: what the voters answered, and what that is worth.
//!
//! A majority's word must be of one time. A voter that accepted long ago may have been told since that somebody else has
//! sent; one that accepts now may have held that sender's vote until it died, and not have been told. Together they let
//! two send what the log has. So a majority counts when all of it was asked within [`FRESH`], in which no session can
//! lapse that held its lease at the beginning; else all are asked once more while the lease of the first round lasts, and
//! the second answers show what was logged before the first round was complete.
//!
//! And it must be the word of one electorate. A voter that has gone on to the next may have decided the one after that,
//! of which a majority need share no voter with this one's: what it accepts from then on is worth nothing here. So each
//! answer is remembered with the number of the electorate that was asked, and what a voter accepted counts in that
//! electorate and in later ones. The voter on its side decides nothing while it holds what counts two electorates before
//! ([`crate::claims::Voter::holds_back`]).

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
    /// The number of the electorate that is asked under this ballot.
    electorate: u64,
    /// What voters answered, and in which electorate they were asked.
    answers: BTreeMap<PeerId, (Verdict, u64)>,
    /// Voters that may have let this peer's session lapse since they accepted this ballot.
    voided: BTreeSet<PeerId>,
    /// The greatest number that a voter showed.
    behind: u64,
}

impl Candidacy {
    /// Under a ballot that is greater than every one seen, in an electorate by its number.
    pub fn new(ballot: Ballot, electorate: u64, now: Monotonic) -> Candidacy {
        let (answers, voided) = (BTreeMap::new(), BTreeSet::new());
        Candidacy { ballot, began: now, confirms: None, electorate, answers, voided, behind: 0 }
    }

    /// From now on another electorate is asked, if its number is another: by a greater ballot, so that each ballot asks in
    /// one. While an attempt runs what voters accepted before stands, as a word of the electorate that was asked then.
    pub fn ask_in(&mut self, electorate: u64, sending: bool, now: Monotonic) {
        if electorate == self.electorate {
            return;
        }
        self.electorate = electorate;
        if sending { self.raise() } else { self.renew(now) }
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
        self.answers.retain(|_, (verdict, _)| *verdict == Verdict::Accepted);
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
        self.answers.insert(from, (verdict, self.electorate));
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

    /// What a voter said, and in which electorate it was asked.
    #[cfg(test)]
    pub(crate) fn answer_of(&self, voter: PeerId) -> Option<(Verdict, u64)> {
        self.answers.get(&voter).copied()
    }

    /// The number of the electorate that is asked.
    #[cfg(test)]
    pub(crate) fn electorate(&self) -> u64 {
        self.electorate
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

    /// Whether all that voters answered was asked in an electorate.
    pub fn is_all_of(&self, electorate: u64) -> bool {
        self.electorate == electorate && self.answers.values().all(|(_, asked)| *asked == electorate)
    }

    /// Whether nobody has answered yet.
    pub fn is_unanswered(&self) -> bool {
        self.answers.is_empty()
    }

    /// Who accepted.
    pub fn accepters(&self) -> impl Iterator<Item = PeerId> {
        self.answers.iter().filter(|(_, (verdict, _))| *verdict == Verdict::Accepted).map(|(peer, _)| *peer)
    }

    /// Who accepted what counts in an electorate: asked in that one, or in an earlier one.
    fn accepters_in(&self, electorate: u64) -> impl Iterator<Item = PeerId> {
        let counts = move |(verdict, asked): &(Verdict, u64)| *verdict == Verdict::Accepted && *asked <= electorate;
        self.answers.iter().filter(move |(_, answer)| counts(answer)).map(|(peer, _)| *peer)
    }

    /// Whether a majority of some members accepted.
    pub fn is_accepted(&self, members: &[PeerId]) -> bool {
        self.accepters().filter(|peer| members.contains(peer)).count() > members.len() / 2
    }

    /// Whether a majority of some members can still accept under this ballot.
    pub fn is_possible(&self, members: &[PeerId]) -> bool {
        let against = self.answers.values().filter(|(verdict, _)| *verdict != Verdict::Accepted).count();
        members.len().saturating_sub(against) > members.len() / 2
    }

    /// Until when sending may begin: a majority of an electorate accepted, in this one or an earlier one, *and*
    /// acknowledged a beat.
    pub fn lease(
        &self,
        electorate: u64,
        members: &[PeerId],
        beats: &Beats,
        me: PeerId,
        now: Monotonic,
    ) -> Option<Monotonic> {
        let accepters = self.accepters_in(electorate).filter(|peer| members.contains(peer));
        beats.lease(accepters, members.len() / 2 + 1, me, now)
    }
}
