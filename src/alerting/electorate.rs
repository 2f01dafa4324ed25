//! Who votes: at most five members, persisted with a number, each number decided by the members of the one before.
//!
//! The members of number n decide number n + 1 by single-decree Paxos, one member in or one out at a time. Two
//! electorates that grew apart are not merged: where they meet, the one with the greater (number, first member) stands.

use std::collections::BTreeMap;

use promesh_model::PeerId;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::nflog::Ballot;

/// The most members an electorate has.
pub const ELECTORS_MAX: usize = 5;

/// A peer as the alerting half sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertPeer {
    /// Who.
    pub id: PeerId,
    /// Where; electors are spread over zones.
    pub zone: String,
    /// 1–64.
    pub weight: u32,
    /// Whether it may own, vote and send.
    pub ready: bool,
    /// Of its alerting configuration; `None` when it has none.
    pub alerting_digest: Option<u128>,
}

/// An electorate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Electorate {
    /// Grows by one with each change.
    pub number: u64,
    /// In order of their ids.
    pub members: Vec<PeerId>,
}

impl Electorate {
    /// With its members in order.
    pub fn new(number: u64, mut members: Vec<PeerId>) -> Electorate {
        members.sort_unstable();
        members.dedup();
        Electorate { number, members }
    }

    /// Whether a peer is in it.
    pub fn contains(&self, peer: PeerId) -> bool {
        self.members.binary_search(&peer).is_ok()
    }

    /// More than half.
    pub fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// Which of two stands where they meet: the greater.
    pub fn standing(&self) -> (u64, Option<PeerId>) {
        (self.number, self.members.first().copied())
    }
}

/// Peers in the order in which they would vote, spread over zones: first the best of each zone, then the second, …
pub fn ranked(peers: &[AlertPeer]) -> Vec<PeerId> {
    let mut scored: Vec<(u64, &AlertPeer)> = peers.iter().map(|peer| (score(b"electorate", peer), peer)).collect();
    scored.sort_unstable_by(|(a, x), (b, y)| b.cmp(a).then(x.id.cmp(&y.id)));
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, usize, PeerId)> = Vec::with_capacity(scored.len());
    for (order, (_, peer)) in scored.iter().enumerate() {
        let round = seen.entry(&peer.zone).or_default();
        ranked.push((*round, order, peer.id));
        *round += 1;
    }
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, id)| id).collect()
}

/// A peer's score for a key: weight as virtual copies, the greatest hash counts. Integers only.
pub fn score(key: &[u8], peer: &AlertPeer) -> u64 {
    let mut bytes = Vec::with_capacity(key.len() + 24);
    let copies = peer.weight.clamp(1, 64);
    let scores = (0..copies).map(|copy| {
        bytes.clear();
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(&peer.id.to_bytes());
        bytes.extend_from_slice(&copy.to_le_bytes());
        xxh3_64(&bytes)
    });
    scores.max().unwrap_or(0)
}

/// What one member promised and accepted about the next number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptor {
    /// The number to decide.
    pub number: u64,
    /// No lesser ballot is heard.
    pub promised: Option<Ballot>,
    /// What was accepted.
    pub accepted: Option<(Ballot, Vec<PeerId>)>,
}

impl Acceptor {
    /// Of the number after an electorate.
    pub fn after(electorate: &Electorate) -> Acceptor {
        Acceptor { number: electorate.number + 1, promised: None, accepted: None }
    }

    /// First phase; says whether the ballot was promised. What changed must be durable before it is told.
    pub fn prepare(&mut self, ballot: Ballot) -> bool {
        let granted = self.promised.is_none_or(|promised| ballot >= promised);
        if granted {
            self.promised = Some(ballot);
        }
        granted
    }

    /// Second phase; says whether the proposal was accepted. What changed must be durable before it is told.
    pub fn accept(&mut self, ballot: Ballot, members: &[PeerId]) -> bool {
        let granted = self.prepare(ballot);
        if granted {
            self.accepted = Some((ballot, members.to_vec()));
        }
        granted
    }
}

/// An attempt to decide the next number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The number to decide.
    pub number: u64,
    /// Its ballot.
    pub ballot: Ballot,
    /// What its maker wants.
    wanted: Vec<PeerId>,
    /// What must be proposed instead, because some may have decided it: the accepted one of the greatest ballot.
    bound: Option<(Ballot, Vec<PeerId>)>,
    promises: Vec<PeerId>,
    accepts: Vec<PeerId>,
}

/// What a proposal does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// Ask all to accept.
    Accept(Vec<PeerId>),
    /// It is decided.
    Decided(Electorate),
}

impl Proposal {
    /// Of members for a number.
    pub fn new(number: u64, ballot: Ballot, wanted: Vec<PeerId>) -> Proposal {
        Proposal { number, ballot, wanted, bound: None, promises: Vec::new(), accepts: Vec::new() }
    }

    /// A member promised.
    pub fn promised(&mut self, from: PeerId, accepted: Option<(Ballot, Vec<PeerId>)>, electorate: &Electorate) -> Step {
        if !electorate.contains(from) || self.promises.contains(&from) {
            return Step::Wait;
        }
        self.promises.push(from);
        if let Some((ballot, members)) = accepted
            && self.bound.as_ref().is_none_or(|(bound, _)| ballot > *bound)
        {
            self.bound = Some((ballot, members));
        }
        if self.promises.len() == electorate.majority() { Step::Accept(self.value()) } else { Step::Wait }
    }

    /// A member accepted.
    pub fn accepted(&mut self, from: PeerId, electorate: &Electorate) -> Step {
        if !electorate.contains(from) || self.accepts.contains(&from) {
            return Step::Wait;
        }
        self.accepts.push(from);
        if self.accepts.len() == electorate.majority() {
            Step::Decided(Electorate::new(self.number, self.value()))
        } else {
            Step::Wait
        }
    }

    fn value(&self) -> Vec<PeerId> {
        self.bound.as_ref().map_or_else(|| self.wanted.clone(), |(_, members)| members.clone())
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn peer(id: u128, zone: &str) -> AlertPeer {
        AlertPeer { id: PeerId(id), zone: zone.to_owned(), weight: 4, ready: true, alerting_digest: Some(1) }
    }

    #[test]
    fn electors_are_spread_over_zones() {
        let peers: Vec<AlertPeer> = (1..=6).map(|id| peer(id, if id <= 4 { "a" } else { "b" })).collect();
        let first: Vec<PeerId> = ranked(&peers).into_iter().take(2).collect();
        assert!(first.iter().any(|id| id.0 <= 4) && first.iter().any(|id| id.0 > 4), "{first:?}");
        let mut shuffled = peers.clone();
        shuffled.reverse();
        assert_eq!(ranked(&peers), ranked(&shuffled));
    }

    /// Messages are lost, repeated and reordered at random between two rivals; no number is ever decided twice.
    #[test]
    fn a_number_is_decided_once() {
        for seed in 0..2000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let electorate = Electorate::new(1, (1..=3).map(PeerId).collect());
            let mut acceptors: BTreeMap<PeerId, Acceptor> =
                electorate.members.iter().map(|id| (*id, Acceptor::after(&electorate))).collect();
            let mut decided: Vec<Electorate> = Vec::new();
            let mut proposals: Vec<Proposal> = Vec::new();
            for round in 0..4u64 {
                let maker = PeerId(u128::from(rng.random_range(1..=3u8)));
                let ballot = Ballot { number: round + 1, peer: maker };
                proposals.push(Proposal::new(2, ballot, vec![maker, PeerId(u128::from(round) + 10)]));
            }
            for _ in 0..60 {
                let at = rng.random_range(0..proposals.len());
                let proposal = &mut proposals[at];
                let to = PeerId(u128::from(rng.random_range(1..=3u8)));
                let acceptor = acceptors.get_mut(&to).expect("a member");
                let step = if proposal.promises.len() < electorate.majority() {
                    let before = acceptor.accepted.clone();
                    if acceptor.prepare(proposal.ballot) {
                        proposal.promised(to, before, &electorate)
                    } else {
                        Step::Wait
                    }
                } else if acceptor.accept(proposal.ballot, &proposal.value()) {
                    proposal.accepted(to, &electorate)
                } else {
                    Step::Wait
                };
                if let Step::Decided(electorate) = step {
                    decided.push(electorate);
                }
            }
            decided.dedup();
            assert!(decided.len() <= 1, "seed {seed}: {decided:?}");
        }
    }
}
