//! What others hear of this peer, and what readers on this peer see.

use std::sync::Arc;

use promesh_cluster::{Beat, MemberView};
use promesh_model::shard::ShardSet;
use promesh_model::{Now, PeerId, Timestamp};

use super::{Mesh, Output};
use crate::messages::MeshMessage;
use crate::view::{MeshView, PeerInfo};

impl Mesh {
    /// Tells others what changed, beats, publishes the view, and remembers when to be back.
    pub(super) fn finish(&mut self, now: Now) {
        self.tell_acting(now);
        self.tell_possession(now);
        if now.monotonic >= self.next_beat {
            self.beat(now);
        }
        // What beats say is shown once a second, or as often as they come in a large mesh; everything else at once.
        let refresh = std::time::Duration::from_secs(1).max(self.beat_period());
        let stale = now.monotonic.since(self.view_at) >= refresh && !self.members.is_empty();
        let paced = now.monotonic.since(self.view_at) >= self.view_step() || self.view_number == 0;
        if (self.view_changed && paced) || stale {
            self.view_changed = false;
            self.view_at = now.monotonic;
            self.view_number += 1;
            if stale || self.alive.is_empty() {
                let held = self.holdings.own.open_shards();
                self.pace.unscraped = self.schedule.unscraped(|shard| held.contains(shard), now.wall);
            }
            let view = Arc::new(self.view());
            self.outputs.push_back(Output::View(view));
        }
        self.expected = self.poll_timeout(now);
    }

    fn tell_acting(&mut self, now: Now) {
        let changed = std::mem::take(&mut self.ownership.changed);
        self.view_changed |= changed;
        self.pace.acting_stirred |= changed | self.ownership.reranked | self.pace.untold;
        self.pace.acting_changed |= changed | std::mem::take(&mut self.ownership.reranked);
        if !self.pace.acting_stirred || now.monotonic < self.pace.next_acting {
            return;
        }
        self.pace.next_acting = now.monotonic + self.acting_step();
        self.pace.acting_stirred = false;
        self.pace.untold = false;
        // Where nothing changed only those are told that were not. While a peer is silent nothing arrives; it is told once
        // it is heard again.
        let (told, silent) = (&mut self.told_acting, &self.silent);
        if !silent.is_empty() {
            told.retain(|peer, _| !silent.contains(peer));
        }
        let all = std::mem::take(&mut self.pace.acting_changed);
        let due = |peer: &&PeerId| !silent.contains(*peer) && (all || !told.contains_key(*peer));
        let listeners: Vec<PeerId> = self.alive.iter().filter(due).copied().collect();
        let told = self.ownership.acting_for(&listeners);
        for (peer, acting) in listeners.into_iter().zip(told) {
            match self.told_acting.get(&peer) {
                Some(told) if *told == acting => continue,
                Some(_) => {}
                None => {
                    // Who is to yield has to know this clock, or it may stop before the first slot that is started here.
                    self.send(peer, MeshMessage::Beat(self.own_beat(now)));
                    self.tell_possession_to(peer);
                }
            }
            self.told_acting.insert(peer, acting.clone());
            self.send(peer, MeshMessage::Acting(acting));
        }
    }

    fn tell_possession_to(&mut self, peer: PeerId) {
        let own = &self.holdings.own;
        let (extents, debts) = (Arc::clone(own.extents()), Arc::clone(own.debts()));
        self.send(peer, MeshMessage::Possession(extents));
        self.send(peer, MeshMessage::Owed(debts));
    }

    fn tell_possession(&mut self, now: Now) {
        let (own, told) = (&self.holdings.own, &self.told_possession);
        if !self.possession_stirred || now.monotonic < self.pace.next_tell {
            return;
        }
        self.possession_stirred = false;
        if own == told {
            return;
        }
        let extents = (own.extents() != told.extents()).then(|| Arc::clone(own.extents()));
        let debts = (own.debts() != told.debts()).then(|| Arc::clone(own.debts()));
        self.pace.next_tell = now.monotonic + self.tell_step();
        let own = &self.holdings.own;
        self.told_possession = own.clone();
        self.view_changed = true;
        for peer in self.alive.clone() {
            if let Some(extents) = &extents {
                self.send(peer, MeshMessage::Possession(extents.clone()));
            }
            if let Some(debts) = &debts {
                self.send(peer, MeshMessage::Owed(debts.clone()));
            }
        }
    }

    fn own_beat(&self, now: Now) -> Beat {
        Beat {
            generation: self.record.generation,
            wall: now.wall,
            started_through: self.started_through,
            position: self.position,
            suspended: !self.owns(),
        }
    }

    fn beat(&mut self, now: Now) {
        self.next_beat = now.monotonic + self.beat_period();
        let beat = self.own_beat(now);
        for peer in self.beaten() {
            self.send(peer, MeshMessage::Beat(beat));
        }
        self.ask_digests(now);
        for peer in std::mem::take(&mut self.ownership.contested) {
            let acting = self.ownership.spoken();
            self.told_acting.insert(peer, acting.clone());
            self.send(peer, MeshMessage::Acting(acting));
        }
    }

    fn view(&self) -> MeshView {
        let info = |member: &MemberView| PeerInfo {
            id: member.id,
            address: member.address,
            web_address: member.record.as_ref().and_then(|record| record.web_address),
            generation: member.generation,
            state: member.record.as_ref().map(|record| record.state),
            zone: member.record.as_ref().map(|record| record.zone.clone()).unwrap_or_default(),
            alive: member.alive,
            suspect: member.suspect,
            digests: self.definitions.of(member.id),
            silent: self.silent.contains(&member.id),
            since: self.since.get(&member.id).map_or(Timestamp(0), |(_, since)| *since),
            clock_offset_ms: self.offsets.of(member.id),
            acting: self.ownership.acting_of(member.id).map_or(0, ShardSet::len),
            beat_gap: self.judge.gap(member.id),
            position: self.judge.newest(member.id).map_or(0, |beat| beat.position),
            started_through: self.judge.newest(member.id).map_or(Timestamp(0), |beat| beat.started_through),
            doubts: self.holdings.doubts(member.id),
        };
        MeshView {
            me: self.me(),
            number: self.view_number,
            state: self.record.state,
            replication_factor: self.config.replication_factor,
            peers: self.members.iter().map(info).collect(),
            unmet: self.lives.iter().filter(|(_, life)| life.is_none()).map(|(peer, _)| *peer).collect(),
            placement: Arc::clone(&self.ownership.placement),
            acting: self.ownership.acting().clone(),
            own: Arc::new(self.holdings.own.clone()),
            unscraped: self.pace.unscraped,
            digests: Arc::clone(&self.definitions.own),
            elected: Arc::clone(&self.definitions.elected),
            possession: Arc::clone(&self.possession),
            fetching: self.holdings.fetches().map(|fetch| (fetch.from, fetch.shards.len())).collect(),
        }
    }
}
