//! The claimant's side of a claim: what the voters answered, and what that is worth.

use std::collections::{BTreeMap, BTreeSet};

use promesh_model::{Monotonic, PeerId};

use crate::claims::Beats;
use crate::message::Verdict;
use crate::nflog::Ballot;

/// An attempt to be allowed to send, under one ballot at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidacy {
    ballot: Ballot,
    answers: BTreeMap<PeerId, Verdict>,
    /// Voters that may have let this peer's session lapse since they accepted this ballot.
    voided: BTreeSet<PeerId>,
    /// The greatest number that a voter showed.
    behind: u64,
}

impl Candidacy {
    /// Under a ballot that is greater than every one seen.
    pub fn new(ballot: Ballot) -> Candidacy {
        Candidacy { ballot, answers: BTreeMap::new(), voided: BTreeSet::new(), behind: 0 }
    }

    /// The present ballot.
    pub fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// Begins anew with a ballot that no old answer fits, and that is greater than what voters showed.
    pub fn renew(&mut self) {
        self.ballot.number = self.ballot.number.max(self.behind) + 1;
        self.answers.clear();
        self.voided.clear();
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
    pub fn void(&mut self, voter: PeerId, sending: bool) {
        if sending {
            self.answers.remove(&voter);
            self.voided.insert(voter);
        } else {
            self.renew();
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
