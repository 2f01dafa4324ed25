//! Sealed history in the world: windows of minutes, which peers plan, copy and compare as they do windows of hours.
//!
//! What a peer does here is what `server/history.rs` does with its hands: one window at a time, the newest first; a claim
//! once all of it is there; then what two both claim is compared, once and after each doubt.

use std::collections::{BTreeMap, BTreeSet};

use promesh_cluster::PeerState;
use promesh_model::shard::ShardSet;
use promesh_model::{Generation, PeerId, ShardId, Timestamp};
use promesh_node::{HistoryPlan, HistoryRules, Input, PeerInput, plan_history};
use promesh_replication::{BatchHeader, Order, Origin, SourceId};
use rand::RngExt;

use super::{Event, MS, REQUEST_TIMEOUT, SECOND, Wire, World};

/// The length of a window.
pub(crate) const WINDOW_MS: i64 = 240_000;
/// A window is sealed so long after its end …
pub(crate) const SEALED_MS: i64 = WINDOW_MS / 4;
/// … and leaves the logs so long after it.
const LOGGED_MS: i64 = WINDOW_MS / 2;
/// How often a peer looks for something to do.
const PERIOD: u64 = 5 * SECOND;
/// A peer that is down for so long has its copies made good.
const REPLACE_AFTER_MS: i64 = 150_000;
/// Sources of samples that are pushed late have identities from here on.
const LATE: u128 = 1 << 127;

/// Whether a batch was pushed for a time long past.
pub(crate) fn is_late(source: SourceId) -> bool {
    source.0 & LATE != 0
}

/// What peers are copying, and what they have compared.
#[derive(Default)]
pub(crate) struct History {
    copies: BTreeMap<(usize, u64), Copying>,
    /// By peer, its life, window and the other: how many doubts there were then.
    compared: BTreeMap<(usize, u64, i64, PeerId), u64>,
    token: u64,
}

/// A window on its way.
struct Copying {
    /// What may be claimed once all of it is here; nothing for a comparison.
    plan: Option<HistoryPlan>,
    /// Compared with whom.
    compares: Option<(i64, PeerId)>,
    answers: usize,
}

impl World {
    /// Since when batches are still in logs, by a peer's own clock.
    pub(super) fn logged_from(&self, peer: usize) -> Timestamp {
        let now = self.clock(peer).wall.ms();
        Timestamp((now - LOGGED_MS).div_euclid(WINDOW_MS) * WINDOW_MS)
    }

    pub(super) fn look_at_history(&mut self, peer: usize, boot: u64) {
        self.schedule(self.now + PERIOD, Event::History { peer, boot });
        self.look_for_late(peer);
        let Some(view) = self.peers[peer].view.clone().filter(|view| view.state == PeerState::Ready) else { return };
        if self.history.copies.keys().any(|(copier, _)| *copier == peer) {
            return;
        }
        let now = self.clock(peer).wall;
        let heard: Vec<usize> = view
            .peers
            .iter()
            .filter(|other| other.alive && !other.silent)
            .filter_map(|other| self.find(other.id))
            .filter(|other| self.peers[*other].mind.is_some() && !self.network.streams_blocked(peer, *other))
            .collect();
        let mut windows: BTreeMap<i64, BTreeSet<PeerId>> = BTreeMap::new();
        for holder in heard.iter().copied().chain([peer]) {
            for (_, slot) in self.peers[holder].store.kept.keys() {
                let window = slot.ms().div_euclid(WINDOW_MS) * WINDOW_MS;
                if window + WINDOW_MS + SEALED_MS <= now.ms() {
                    windows.entry(window).or_default().insert(self.peers[holder].id);
                }
            }
        }
        let is_gone = |since: Timestamp| now.ms() - since.ms() >= REPLACE_AFTER_MS;
        let given_up: BTreeSet<PeerId> =
            view.peers.iter().filter(|other| !other.alive && is_gone(other.since)).map(|other| other.id).collect();
        for (window, having) in windows.iter().rev() {
            let (from, to) = (Timestamp(*window), Timestamp(window + WINDOW_MS));
            let rules = HistoryRules { given_up: given_up.clone(), having: having.clone(), rebalance: false };
            let plan = plan_history(&view, from, to, &rules);
            if !plan.shards.is_empty() {
                let ask = plan.ask.clone();
                return self.copy_window(peer, *window, ask, Some(plan), None);
            }
        }
        for window in windows.keys().rev() {
            let (from, last) = (Timestamp(*window), Timestamp(window + WINDOW_MS - 1));
            for other in view.peers.iter().filter(|other| other.alive && !other.silent) {
                let Some(held) = view.possession.get(&other.id) else { continue };
                let key = (peer, boot, *window, other.id);
                if self.history.compared.get(&key) == Some(&other.doubts) {
                    continue;
                }
                self.history.compared.insert(key, other.doubts);
                let shared = view.own.touching(from, last).intersection(&held.touching(from, last));
                if !shared.is_empty() {
                    let ask = vec![(other.id, shared)];
                    return self.copy_window(peer, *window, ask, None, Some((*window, other.id)));
                }
            }
        }
    }

    fn copy_window(
        &mut self,
        peer: usize,
        window: i64,
        ask: Vec<(PeerId, ShardSet)>,
        plan: Option<HistoryPlan>,
        compares: Option<(i64, PeerId)>,
    ) {
        self.history.token += 1;
        let token = self.history.token;
        let copying = Copying { plan, compares, answers: ask.len() };
        self.history.copies.insert((peer, token), copying);
        let boot = self.peers[peer].boot;
        self.schedule(self.now + REQUEST_TIMEOUT, Event::HistoryTimeout { peer, boot, token });
        if ask.is_empty() {
            return self.window_copied(peer, token);
        }
        for (other, shards) in ask {
            if let Some(other) = self.find(other) {
                self.send(peer, other, Wire::Window { token, window, shards });
            }
        }
    }

    /// What a donor has of a window.
    pub(super) fn donate_window(&mut self, donor: usize, to: usize, token: u64, window: i64, shards: &ShardSet) {
        let all = self.peers[donor].store.export(shards, Timestamp(window));
        let batches = all.into_iter().filter(|header| header.slot.ms() < window + WINDOW_MS).collect();
        self.send(donor, to, Wire::WindowIs { token, batches });
    }

    pub(super) fn take_window(&mut self, peer: usize, token: u64, batches: Vec<BatchHeader>) {
        if !self.history.copies.contains_key(&(peer, token)) || self.peers[peer].store.refuses {
            return;
        }
        batches.into_iter().for_each(|header| self.peers[peer].store.copy_sealed(header));
        let copying = self.history.copies.get_mut(&(peer, token)).expect("just seen");
        copying.answers -= 1;
        if copying.answers == 0 {
            self.window_copied(peer, token);
        }
    }

    fn window_copied(&mut self, peer: usize, token: u64) {
        let copying = self.history.copies.remove(&(peer, token)).expect("it is under way");
        self.peers[peer].store.sync();
        if let Some(HistoryPlan { shards, from, to, .. }) = copying.plan {
            self.feed(peer, PeerInput::Mesh(Input::Held { shards, from, to }));
        }
    }

    /// A copy that is not whole by now is planned again, a comparison made again.
    pub(super) fn give_up_window(&mut self, peer: usize, boot: u64, token: u64) {
        self.end_showing(peer, token);
        let Some(copying) = self.history.copies.remove(&(peer, token)) else { return };
        if let Some((window, other)) = copying.compares {
            self.history.compared.remove(&(peer, boot, window, other));
        }
    }

    pub(super) fn forget_copies(&mut self, peer: usize) {
        self.history.copies.retain(|(copier, _), _| *copier != peer);
    }

    /// Somebody pushes a sample for a time long past; whoever acts for its shard writes it, of several any.
    pub(super) fn backfill(&mut self, ago_ms: i64) {
        let shard = ShardId(self.rng.random_range(0..promesh_model::SHARD_COUNT as u16));
        let source = SourceId(self.rng.random::<u128>() | LATE);
        let slot = Timestamp(self.wall().ms() - ago_ms);
        let acts = |peer: &usize| {
            let view = self.peers[*peer].view.as_ref().filter(|_| self.peers[*peer].mind.is_some());
            let has = |view: &&std::sync::Arc<promesh_node::MeshView>| {
                let has_time = || view.own.covering_live(slot, slot).contains(shard);
                view.acting.contains(shard) && (self.pushes_anywhere || has_time())
            };
            view.filter(has).is_some() && self.peers[*peer].paused_until <= self.now
        };
        let acting: Vec<usize> = (0..self.peers.len()).filter(acts).collect();
        let place = if self.pushes_anywhere { self.rng.random_range(0..acting.len().max(1)) } else { 0 };
        let Some(writer) = acting.get(place).copied() else { return };
        let peer = &mut self.peers[writer];
        peer.store.sequence += 1;
        let origin = Origin { writer: peer.id, generation: Generation(peer.store.disk.generation) };
        let order = Order { failed: false, rank: 0, origin };
        let header = BatchHeader { source, shard, slot, order, sequence: peer.store.sequence };
        self.append(writer, header);
        for to in self.route(writer, shard) {
            self.send(writer, to, Wire::Batch(header));
        }
        if self.verbose {
            println!("{:9.3} s {writer} wrote a late batch of {:x} for {slot}", self.now as f64 / 1e9, source.0);
        }
    }

    /// The sealed windows of which anything is kept, by the true clock.
    pub(crate) fn sealed_windows(&self) -> BTreeSet<i64> {
        let slots = self.peers.iter().flat_map(|peer| peer.store.kept.keys()).map(|(_, slot)| slot.ms());
        let windows = slots.map(|slot| slot.div_euclid(WINDOW_MS) * WINDOW_MS);
        let sealed_by = self.wall().ms() - (5 * SECOND / MS) as i64;
        windows.filter(|window| window + WINDOW_MS + SEALED_MS <= sealed_by).collect()
    }
}
