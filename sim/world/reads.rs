//! Queries in the world: who is ready asks for all of the last half minute, again and again, and gets slot for slot what the
//! peers that it asks have when they answer.
//!
//! What a reader does here is what `query/answer.rs` does with its hands.

use std::collections::{BTreeMap, BTreeSet};

use promesh_model::shard::ShardSet;
use promesh_model::{ShardId, Timestamp};
use promesh_node::reading::Reading;
use promesh_replication::SourceId;
use rand::RngExt;

use super::{Event, MS, SECOND, Wire, World};

/// What is asked for, before now, in ms. Who stood still for up to 2.5 s fetches what it missed a moment later.
const SPAN_MS: (i64, i64) = (30_000, 5_000);
/// A read that takes longer waits for somebody who will never answer.
const TAKES_MAX: u64 = 6 * SECOND;

type Key = (SourceId, Timestamp);

/// Reads under way, and what became of the others.
#[derive(Default)]
pub(crate) struct Reads {
    /// Whether anybody reads.
    pub(crate) on: bool,
    open: BTreeMap<(usize, u64), Read>,
    /// How many ended.
    pub(crate) count: usize,
    /// How long the slowest took.
    pub(crate) slowest: u64,
}

struct Read {
    reading: Reading,
    began: u64,
    span: (Timestamp, Timestamp),
    /// What living peers had when it began.
    expected: BTreeSet<Key>,
    got: BTreeSet<Key>,
}

impl World {
    /// A peer begins a read, and is to begin the next.
    pub(super) fn read(&mut self, peer: usize, boot: u64) {
        let next = self.now + self.rng.random_range(100..500) * MS;
        self.schedule(next, Event::Read { peer, boot });
        let Some(view) = self.peers[peer].view.clone().filter(|_| self.peers[peer].is_ready()) else { return };
        let now = self.wall().ms();
        let span = (Timestamp(now - SPAN_MS.0), Timestamp(now - SPAN_MS.1));
        let living = self.peers.iter().filter(|peer| peer.mind.is_some());
        let expected = living.flat_map(|peer| peer.store.between(&ShardSet::all(), span)).collect();
        let reading = Reading::new(&view, &ShardSet::all(), span.0, span.1, Vec::new());
        let token = self.event_count;
        let read = Read { reading, began: self.now, span, expected, got: BTreeSet::new() };
        self.reads.open.insert((peer, token), read);
        self.go_on_reading(peer, token);
    }

    /// The reads of a peer that died end with it.
    pub(super) fn stop_reading(&mut self, peer: usize) {
        self.reads.open.retain(|(reader, _), _| *reader != peer);
    }

    /// Something happened that a peer's reads may have waited for.
    pub(super) fn go_on_with_reads(&mut self, peer: usize) {
        let tokens: Vec<u64> =
            self.reads.open.range((peer, 0)..=(peer, u64::MAX)).map(|((_, token), _)| *token).collect();
        tokens.into_iter().for_each(|token| self.go_on_reading(peer, token));
    }

    pub(super) fn go_on_reading(&mut self, peer: usize, token: u64) {
        let Some(view) = self.peers[peer].view.clone() else { return };
        let now = self.clock(peer).monotonic;
        let Some(read) = self.reads.open.get_mut(&(peer, token)) else { return };
        let span = read.span;
        let asks = read.reading.ask(&view, now);
        for (ask, of, shards) in asks {
            match self.find(of).expect("one of the world") {
                me if me == peer => {
                    let keys = self.peers[peer].store.between(&shards, span);
                    let read = self.reads.open.get_mut(&(peer, token)).expect("it goes on");
                    read.got.extend(keys);
                    read.reading.answered(ask);
                }
                to => self.send(peer, to, Wire::Read { token, ask, shards, span }),
            }
        }
        let read = self.reads.open.get_mut(&(peer, token)).expect("it goes on");
        if !read.reading.is_done() && self.now < read.began + TAKES_MAX {
            let wakes_at = read.reading.wakes_at(now).map(|at| self.now + at.since(now).as_nanos() as u64);
            let at = wakes_at.unwrap_or(u64::MAX).min(read.began + TAKES_MAX);
            let boot = self.peers[peer].boot;
            self.schedule(at, Event::ReadWake { peer, boot, token });
            return;
        }
        let read = self.reads.open.remove(&(peer, token)).expect("it goes on");
        self.judge(peer, &read);
    }

    fn judge(&mut self, peer: usize, read: &Read) {
        let took = self.now - read.began;
        self.reads.count += 1;
        self.reads.slowest = self.reads.slowest.max(took);
        let lacking: Vec<Key> = read.expected.difference(&read.got).copied().collect();
        let missing = read.reading.missing();
        let what = match (lacking.first(), missing.is_empty(), read.reading.is_done()) {
            (.., false) => "waits for ever".to_owned(),
            (Some((source, slot)), true, _) => {
                let shard =
                    self.sources.iter().find(|spec| spec.source == *source).map_or(ShardId(0), |spec| spec.shard);
                format!("lacks {} batches, {slot:?} of {shard:?} among them, and says nothing", lacking.len())
            }
            (_, false, _) => format!("warns of {} shards, and lacks {} batches", missing.len(), lacking.len()),
            (None, true, _) => return,
        };
        let (at, took, id) = (read.began as f64 / 1e9, took as f64 / 1e9, self.peers[peer].id);
        self.found.push(format!("a read of {id} ({peer}) at {at:.3} s, ended after {took:.3} s, {what}"));
    }

    /// A holder has a question.
    pub(super) fn take_read(
        &mut self,
        (peer, from): (usize, usize),
        (token, ask): (u64, usize),
        shards: ShardSet,
        span: (Timestamp, Timestamp),
    ) {
        self.send(peer, from, Wire::ReadHeard { token, ask });
        let busy = self.rng.random_bool(0.05);
        let takes = if busy { self.rng.random_range(200..1500) } else { self.rng.random_range(2..40) };
        let boot = self.peers[peer].boot;
        let answer = Event::ReadAnswer { peer, boot, to: from, token, ask, shards: Box::new(shards), span };
        self.schedule(self.now + takes * MS, answer);
    }

    pub(super) fn answer_read(
        &mut self,
        (peer, to): (usize, usize),
        (token, ask): (u64, usize),
        shards: &ShardSet,
        span: (Timestamp, Timestamp),
    ) {
        let keys = self.peers[peer].store.between(shards, span);
        self.send(peer, to, Wire::ReadIs { token, ask, keys });
    }

    /// A reader learns that a question has arrived, or its answer.
    pub(super) fn take_answer(&mut self, peer: usize, token: u64, ask: usize, keys: Option<Vec<Key>>) {
        let Some(read) = self.reads.open.get_mut(&(peer, token)) else { return };
        match keys {
            None => read.reading.arrived(ask),
            Some(keys) => {
                read.got.extend(keys);
                read.reading.answered(ask);
            }
        }
        self.go_on_reading(peer, token);
    }
}
