//! Late pushes in the world: whoever acts for a shard takes them, whatever it claims of their time, and has the others
//! compare what is in no claim of its own.
//!
//! What a peer does here is what `server/history/late.rs` does with its hands.

use std::collections::BTreeMap;

use promesh_cluster::PeerState;
use promesh_model::shard::ShardSet;
use promesh_model::{PeerId, Timestamp};
use promesh_node::{LateParts, Showing, Span, late_concerns};
use promesh_replication::BatchHeader;

use super::history::{SEALED_MS, WINDOW_MS, is_late};
use super::{Event, REQUEST_TIMEOUT, Wire, World};

/// A part that others compare.
pub(crate) struct Shown {
    showing: Showing,
    answers: BTreeMap<PeerId, Option<ShardSet>>,
}

impl World {
    /// A batch came in, or was read back from the log.
    pub(super) fn note_late(&mut self, peer: usize, header: &BatchHeader) {
        if self.pushes_anywhere && is_late(header.source) {
            let window = header.slot.ms().div_euclid(WINDOW_MS) * WINDOW_MS;
            let span = (Timestamp(window), Timestamp(window + WINDOW_MS));
            self.peers[peer].late.note(span, &[header.shard].into_iter().collect());
        }
    }

    /// A log was read back: what it has of late pushes may be in no claim.
    pub(super) fn note_logged(&mut self, peer: usize) {
        self.peers[peer].late = LateParts::default();
        let logged: Vec<BatchHeader> = self.peers[peer].store.kept.values().copied().collect();
        logged.iter().for_each(|header| self.note_late(peer, header));
    }

    pub(super) fn look_for_late(&mut self, peer: usize) {
        let Some(view) = self.peers[peer].view.clone() else { return };
        let now = self.clock(peer);
        let is_sealed = |span: Span| span.1.ms() + SEALED_MS <= now.wall.ms();
        let late = &mut self.peers[peer].late;
        late.sift(&view, is_sealed);
        if view.state != PeerState::Ready || self.shown.keys().any(|(who, _)| *who == peer) {
            return;
        }
        let Some(showing) = late.next(&view, now.monotonic) else { return };
        let token = 1 << 63 | self.event_count;
        let boot = self.peers[peer].boot;
        let (first, end) = showing.span;
        let batches = self.peers[peer].store.export(&showing.shards, first);
        let batches: Vec<BatchHeader> = batches.into_iter().filter(|header| header.slot < end).collect();
        self.schedule(self.now + REQUEST_TIMEOUT, Event::HistoryTimeout { peer, boot, token });
        for to in showing.to.iter().filter_map(|id| self.find(*id)).collect::<Vec<_>>() {
            let (shards, batches) = (showing.shards.clone(), batches.clone());
            self.send(peer, to, Wire::Late { token, span: showing.span, shards, batches });
        }
        let answers = showing.to.iter().map(|id| (*id, None)).collect();
        self.shown.insert((peer, token), Shown { showing, answers });
    }

    /// Another peer shows what it has in part.
    pub(super) fn take_late(
        &mut self,
        (peer, from): (usize, usize),
        token: u64,
        span: Span,
        shards: &ShardSet,
        batches: Vec<BatchHeader>,
    ) {
        let Some(view) = self.peers[peer].view.clone().filter(|_| !self.refuses(peer)) else { return };
        let has = late_concerns(&view, span, shards);
        let store = &mut self.peers[peer].store;
        batches.into_iter().filter(|header| has.contains(header.shard)).for_each(|header| store.copy_sealed(header));
        store.sync();
        self.send(peer, from, Wire::LateTaken { token, has });
    }

    pub(super) fn late_taken(&mut self, peer: usize, from: PeerId, token: u64, has: ShardSet) {
        let Some(shown) = self.shown.get_mut(&(peer, token)) else { return };
        shown.answers.insert(from, Some(has));
        if shown.answers.values().all(Option::is_some) {
            self.end_showing(peer, token);
        }
    }

    /// Everybody answered, or will not.
    pub(super) fn end_showing(&mut self, peer: usize, token: u64) {
        let Some(Shown { showing, answers }) = self.shown.remove(&(peer, token)) else { return };
        let Some(view) = self.peers[peer].view.clone() else { return };
        let answers: Vec<(PeerId, Option<ShardSet>)> = answers.into_iter().collect();
        let now = self.clock(peer).monotonic;
        self.peers[peer].late.shown(&showing, &answers, &view, now);
    }
}
