//! What follows from ranks, silences and claims: what to hold, what to act for, which slots to start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use promesh_cluster::{Candidate, PeerRecord, PeerState};
use promesh_model::shard::ShardSet;
use promesh_model::{Now, PeerId, Timestamp};

use super::{Mesh, Output, Phase, has_state};
use crate::messages::MeshMessage;
use crate::possession::Possession;
use crate::schedule::SourceSpec;
use crate::sync::Surroundings;

/// Below so many members everybody is asked for a log, whatever they say they have.
const ASK_ALL: usize = 50;

impl Mesh {
    pub(super) fn candidates(&self, with_self: bool) -> Vec<Candidate> {
        let of = |record: &PeerRecord| Candidate { id: record.id, zone: record.zone.clone(), weight: record.weight };
        let ready = self.members.iter().filter(|m| m.alive && has_state(m, PeerState::Ready));
        let mut candidates: Vec<Candidate> = ready.filter_map(|m| m.record.as_ref()).map(of).collect();
        if with_self || self.record.state == PeerState::Ready {
            candidates.push(of(&self.record));
        }
        candidates.sort_by_key(|candidate| candidate.id);
        candidates
    }

    /// Whether there are so many that not everybody has to do with everybody.
    pub(super) fn is_crowd(&self) -> bool {
        self.members.len() >= ASK_ALL
    }

    /// Subscribes to and fetches what this peer should hold.
    pub(super) fn review_holdings(&mut self, now: Now) {
        self.possession_stirred = true;
        self.pace.nothing_waits();
        let me = self.me();
        let copies = self.config.replication_factor.max(1);
        let candidates = self.settled_candidates(now);
        if self.ownership.set_candidates(&candidates, self.config.rank_tables.as_deref()) {
            self.pace.partners = self.ownership.placement.partners(me, copies.max(2));
        }
        let disclaims = self.disclaims();
        let wanted = match self.phase {
            Phase::Waiting { .. } | Phase::Left => return,
            _ if disclaims => ShardSet::default(),
            Phase::Syncing { .. } => self.prospect(copies),
            // A skewed, full or leaving peer holds what it holds and gains nothing.
            _ if self.record.state != PeerState::Ready => self.holdings.wanted().clone(),
            _ => self.ownership.held(copies),
        };
        if self.holdings.want(wanted.union(self.ownership.acting()), now.wall) {
            self.view_changed = true;
        }
        self.subscribe(now);
        if disclaims {
            return;
        }
        // A newcomer must know what the others hold before it concludes that nobody holds a shard.
        let heard = self.alive.iter().filter(|peer| !self.is_silent(**peer));
        if matches!(self.phase, Phase::Syncing { greeted_by } if now.monotonic < greeted_by)
            && heard.clone().any(|peer| !self.possession.contains_key(peer))
        {
            return;
        }
        if !self.holdings.has_work(now.wall) || self.copies_wait(now) {
            return;
        }
        let heard = self.alive.iter().filter(|peer| !self.is_silent(**peer));
        let unknown = heard.clone().copied().filter(|peer| !self.possession.contains_key(peer)).collect();
        let donors: BTreeMap<PeerId, Arc<Possession>> =
            heard.map(|peer| (*peer, self.possession.get(peer).cloned().unwrap_or_default())).collect();
        let away = self.possession.iter().filter(|(peer, _)| !donors.contains_key(peer));
        let away = away.map(|(peer, held)| (Arc::clone(held), self.alive.binary_search(peer).is_ok())).collect();
        let known: BTreeSet<PeerId> = self.lives.keys().copied().filter(|peer| *peer != me).collect();
        let alone = self.alive.is_empty();
        let first = known.is_empty() && !self.config.has_seeds;
        let acting = self.is_crowd().then_some(self.ownership.others());
        let planned = self.holdings.plan(Surroundings { donors, unknown, away, known, alone, first, acting }, now);
        for (token, fetch) in planned {
            let (from, shards, since) = (fetch.from, fetch.shards, fetch.since);
            self.outputs.push_back(Output::Fetch { token, from, shards, since });
            self.view_changed = true;
        }
    }

    /// What a newcomer will hold once it is ready.
    fn prospect(&mut self, copies: usize) -> ShardSet {
        let candidates = self.candidates(true);
        match &self.prospect {
            Some((known, shards)) if *known == candidates => shards.clone(),
            _ => {
                let shards = self.prospective(&candidates).shards_within(self.me(), copies);
                self.prospect = Some((candidates, shards.clone()));
                shards
            }
        }
    }

    /// Asks everybody alive for the stream of what this peer holds. In a large mesh it may go on for a while with more: as
    /// peers come in, each has to do with less every moment.
    fn subscribe(&mut self, now: Now) {
        let exactly = self.trims_streams(now);
        for peer in self.alive.clone() {
            let wanted = self.holdings.wanted();
            let is_enough = |asked: &ShardSet| {
                asked == wanted || (!exactly && asked.len() > wanted.len() && wanted.is_subset(asked))
            };
            if !self.subscribed.get(&peer).is_some_and(is_enough) {
                let shards = self.holdings.wanted().clone();
                self.subscribed.insert(peer, shards.clone());
                self.outputs.push_back(Output::Subscribe { to: peer, shards });
            }
        }
    }

    pub(super) fn owns(&self) -> bool {
        self.phase == Phase::Ready && self.record.state == PeerState::Ready && self.suspended.is_none()
    }

    pub(super) fn review_ownership(&mut self, now: Now) {
        for (from, shards) in self.ownership.settle(now.wall) {
            self.start_unstarted(&shards, from, now);
        }
        self.ownership.expire_asks(now.monotonic);
        if !self.owns() {
            return;
        }
        let idle = self.idle();
        let moves = self.ownership.review(&idle, now);
        let slot = now.wall.after(self.beat_period() * 2);
        for (to, shards) in moves.ask {
            self.send(to, MeshMessage::Handover { shards, from: slot });
        }
        let contested = !self.definitions.elected.is_unanimous();
        if !moves.taken.is_empty() {
            let me = self.me();
            let reason = match (self.silent.is_empty(), idle.is_empty()) {
                (false, _) => "beats stopped",
                (true, false) => "who was before us stands back",
                (true, true) => "nobody acts for them",
            };
            self.change(now, "takeover", me, moves.taken.len(), reason);
            self.start_unstarted(&moves.taken, Timestamp::MIN, now);
        }
        if contested {
            self.start_contested(now);
        }
    }

    /// Who was about to hand over to us is not heard: no slot waits for it.
    pub(super) fn inherit_from(&mut self, giver: PeerId, now: Now) {
        let shards = self.ownership.inherit(giver);
        if self.owns() && !shards.is_empty() {
            self.start_unstarted(&shards, Timestamp::MIN, now);
            self.dirty = true;
        }
    }

    /// Starts what is due in shards just gained, but no slot before the agreed one: that is the former owner's.
    fn start_unstarted(&mut self, shards: &ShardSet, from: Timestamp, now: Now) {
        for shard in shards.iter() {
            for (spec, slot) in self.schedule.unstarted(shard, now.wall) {
                if slot >= from && self.may_start(&spec, slot) {
                    self.start(spec, slot);
                }
            }
        }
    }

    pub(super) fn start_due(&mut self, now: Now) {
        for (spec, slot) in self.schedule.take_due(now.wall) {
            if self.may_start(&spec, slot) {
                self.start(spec, slot);
            }
        }
        self.started_through = self.started_through.max(now.wall);
    }

    pub(super) fn start(&mut self, spec: SourceSpec, slot: Timestamp) {
        self.schedule.note(spec.source, slot);
        let me = self.me();
        let rank = self.ownership.placement.rank_of(spec.shard, me).unwrap_or(usize::from(u8::MAX));
        let rank = u8::try_from(rank).unwrap_or(u8::MAX);
        self.outputs.push_back(Output::Start { spec, slot, rank });
    }
}
