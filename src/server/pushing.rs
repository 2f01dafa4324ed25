//! Pushed samples on their way through the mesh: cut by shard, taken by each shard's owner, copied before they are
//! acknowledged.
//!
//! The owner alone accepts or refuses, so that one series has one judge of its order; it logs what it takes under its own
//! origin and streams it to the holders like a scrape. A holder says on its own stream which pushed batch is in its log.
//! Who asked for the push hears of success once min(2, R, live) processes have logged it. What a stream has not brought
//! in time is sent again as a request, and what an owner does not answer goes to the next rank, which takes it if it holds
//! the owner silent, else passes it on. Everything may be repeated: a sample that is there already is a success.

pub mod acks;
mod dense;
mod store;
mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use promesh_api::backend::{BackendError, Push, PushOutcome};
use promesh_model::codec::{self, BULK_BYTES_MAX};
use promesh_model::shard::{ShardSet, shard_of};
use promesh_model::{Monotonic, PeerId, ShardId};
use promesh_node::{MeshView, PUSH_AHEAD_MAX};
use promesh_transport::{Class, RequestError, Responder, Transport};
use tokio::sync::watch;

use crate::clock;
use crate::ingest::Ingest;
use crate::telemetry::Telemetry;
use dense::Envelope;
use store::Unconfirmed;
pub use wire::{ACKNOWLEDGED, COPY, PUSH, PUSH_DENSE};
use wire::{COPIED, PUSHED, WireOutcome, WirePush, WireSeries};

/// A push whose parts have not found their copies by then is answered 503.
const PATIENCE: Duration = Duration::from_secs(5);
/// An owner that has not answered for so long is passed over.
const OWNER_PATIENCE: Duration = Duration::from_secs(1);
/// What the stream has not confirmed by then is sent as a request.
const STREAM_PATIENCE: Duration = Duration::from_millis(250);
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(50);
/// A part this large goes out on its own.
const PART_BYTES_MAX: usize = 4 << 20;
/// From asker to a peer to the owner: nobody else passes a part on.
const HOPS_MAX: u8 = 2;
/// Refused samples that are named in an answer.
const REFUSED_MAX: usize = 100;

/// What was counted of pushes.
#[derive(Debug, Default)]
pub struct Counters {
    /// Parts sent on to another peer.
    pub forwarded: AtomicU64,
    /// Batches whose copy was asked for because the stream had not brought it.
    pub recopied: AtomicU64,
    /// Parts given up: the whole push is to be repeated.
    pub given_up: AtomicU64,
}

/// The way of pushed samples.
pub struct Pushing {
    ingest: Arc<Ingest>,
    view: watch::Receiver<Option<Arc<MeshView>>>,
    transport: Option<Transport>,
    /// Whether a push is on the disk before it is acknowledged.
    sync_each: bool,
    telemetry: Arc<Telemetry>,
    /// What was counted.
    pub counters: Counters,
}

/// Who takes a shard's samples, as this peer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Taker {
    Me,
    Peer(PeerId),
    Nobody,
}

/// What became of a part.
enum PartOutcome {
    Taken(PushOutcome),
    /// To be tried again, perhaps with somebody else.
    Later(String),
    Failed(String),
}

impl Pushing {
    /// Pushes into a peer.
    pub fn new(
        ingest: Arc<Ingest>,
        view: watch::Receiver<Option<Arc<MeshView>>>,
        transport: Option<Transport>,
        sync_each: bool,
        telemetry: Arc<Telemetry>,
    ) -> Pushing {
        Pushing { ingest, view, transport, sync_each, telemetry, counters: Counters::default() }
    }

    /// Takes a push from outside.
    ///
    /// # Errors
    /// `Unavailable` when some part did not find its owner and its copies within five seconds; the repeat finds what was
    /// stored.
    pub async fn push(self: &Arc<Self>, push: Push) -> Result<PushOutcome, BackendError> {
        self.route(push, 0, clock::monotonic() + PATIENCE).await
    }

    /// Whom to ask for what only a shard's owner may do; none when that is this peer, or it is alone. Unlike for samples,
    /// who is to own it one day does not do it before the shard was handed over.
    pub fn owner(&self, shard: ShardId) -> Option<PeerId> {
        self.transport.as_ref()?;
        let view = self.view.borrow();
        let view = view.as_ref().filter(|view| !view.peers.is_empty() && !view.acting.contains(shard))?;
        view.placement.ranks(shard).find(|peer| *peer != view.me && is_usable(view, *peer))
    }

    /// Whether this peer owns all these shards.
    pub fn acts_for(&self, shards: &ShardSet) -> bool {
        shards.iter().all(|shard| self.owner(shard).is_none())
    }

    /// Sends every series where it belongs until all are taken, or time is over.
    async fn route(self: &Arc<Self>, push: Push, hops: u8, deadline: Monotonic) -> Result<PushOutcome, BackendError> {
        let mut outcome = PushOutcome::default();
        let mut rest = push;
        // Who did not answer: passed over once, then asked again.
        let mut failed: Vec<PeerId> = Vec::new();
        loop {
            let view = self.view.borrow().clone();
            let mut later: Option<String> = None;
            let mut again: Vec<Arc<Push>> = Vec::new();
            let mut asking = Vec::new();
            for (taker, part) in self.parts(rest, view.as_deref(), hops, &failed) {
                let (pushing, view, part) = (Arc::clone(self), view.clone(), Arc::new(part));
                asking.push(async move {
                    let answer = match taker {
                        Taker::Me => pushing.take_here(Arc::clone(&part), deadline).await,
                        Taker::Peer(peer) => pushing.forward(view.as_deref(), peer, &part, hops, deadline).await,
                        Taker::Nobody => PartOutcome::Later("no peer takes this shard's samples now".to_owned()),
                    };
                    (taker, part, answer)
                });
            }
            let mut newly_failed = Vec::new();
            for (taker, part, answer) in join_all(asking).await {
                match answer {
                    PartOutcome::Taken(taken) => add(&mut outcome, taken),
                    PartOutcome::Failed(why) => return Err(BackendError::Failed(why)),
                    PartOutcome::Later(why) => {
                        if let Taker::Peer(peer) = taker {
                            newly_failed.push(peer);
                        }
                        later = Some(why);
                        again.push(part);
                    }
                }
            }
            let Some(why) = later else { return Ok(outcome) };
            if clock::monotonic() + PAUSE >= deadline {
                self.counters.given_up.fetch_add(1, Ordering::Relaxed);
                return Err(BackendError::Unavailable(why));
            }
            failed = newly_failed;
            rest = joined(again);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// A push cut by who takes it.
    fn parts(&self, push: Push, view: Option<&MeshView>, hops: u8, failed: &[PeerId]) -> Vec<(Taker, Push)> {
        if self.transport.is_none() || view.is_some_and(|view| view.peers.is_empty()) {
            return vec![(Taker::Me, push)];
        }
        let mut takers: BTreeMap<Taker, Vec<usize>> = BTreeMap::new();
        for (index, series) in push.series.iter().enumerate() {
            let taker = view.map_or(Taker::Nobody, |view| match taker(view, shard_of(&series.labels), failed) {
                Taker::Peer(_) if hops >= HOPS_MAX => Taker::Nobody,
                taker => taker,
            });
            takers.entry(taker).or_default().push(index);
        }
        if takers.len() == 1
            && let Some(taker) = takers.keys().next()
        {
            // Nothing is copied where one peer takes all.
            return vec![(*taker, push)];
        }
        takers.into_iter().map(|(taker, indices)| (taker, selected(&push, &indices))).collect()
    }

    /// Stores what is this peer's to judge, and waits for its copies.
    async fn take_here(&self, push: Arc<Push>, deadline: Monotonic) -> PartOutcome {
        let (ingest, wants_copies, sync_each) = (Arc::clone(&self.ingest), self.copies_wanted() > 1, self.sync_each);
        let stored = tokio::task::spawn_blocking(move || {
            let stored = store::store(&ingest, &push, wants_copies, clock::wall().after(PUSH_AHEAD_MAX))?;
            if sync_each {
                ingest.db().sync().map_err(|error| BackendError::Unavailable(error.to_string()))?;
            }
            Ok(stored)
        });
        match stored.await {
            Ok(Ok((outcome, unconfirmed))) => match self.confirm(unconfirmed, deadline).await {
                Ok(()) => PartOutcome::Taken(outcome),
                Err(why) => PartOutcome::Later(why),
            },
            Ok(Err(BackendError::Unavailable(why))) => PartOutcome::Later(why),
            Ok(Err(error)) => PartOutcome::Failed(error.to_string()),
            Err(error) => PartOutcome::Failed(error.to_string()),
        }
    }

    /// How many processes are to have a push: min(2, R, live).
    fn copies_wanted(&self) -> usize {
        let Some(view) = self.view.borrow().clone() else { return 1 };
        let live = 1 + view.peers.iter().filter(|peer| is_usable(&view, peer.id)).count();
        live.min(view.replication_factor).min(2)
    }

    /// Waits until every batch is in another peer's log too; what no stream confirms is sent as a request.
    async fn confirm(&self, mut rest: Vec<Unconfirmed>, deadline: Monotonic) -> Result<(), String> {
        let mut first = true;
        loop {
            if first {
                let until = tokio::time::sleep(STREAM_PATIENCE);
                tokio::pin!(until);
                for one in &mut rest {
                    one.wait(&mut until).await;
                }
                rest.retain(|one| !one.is_confirmed());
            }
            if rest.is_empty() || self.copies_wanted() < 2 {
                rest.iter().for_each(|one| self.ingest.acks.forget(one.sequence()));
                return Ok(());
            }
            self.copy_out(&mut rest).await;
            if !rest.is_empty() && clock::monotonic() >= deadline {
                rest.iter().for_each(|one| self.ingest.acks.forget(one.sequence()));
                return Err("no other peer has confirmed a copy in time".to_owned());
            }
            if !rest.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
            first = false;
        }
    }

    /// Asks others to keep copies; what they confirm is no longer in `rest`.
    async fn copy_out(&self, rest: &mut Vec<Unconfirmed>) {
        let (Some(view), Some(transport)) = (self.view.borrow().clone(), &self.transport) else { return };
        let mut by_peer: BTreeMap<PeerId, Vec<usize>> = BTreeMap::new();
        for (index, one) in rest.iter().enumerate() {
            let ranked = view.placement.ranks(one.shard());
            let others = view.peers.iter().map(|peer| peer.id);
            let usable = ranked.chain(others).find(|peer| *peer != view.me && is_usable(&view, *peer));
            if let Some(peer) = usable {
                by_peer.entry(peer).or_default().push(index);
            }
        }
        let mut asking = Vec::new();
        for (peer, indices) in by_peer {
            let Some(address) = view.peer(peer).map(|peer| peer.address) else { continue };
            let payloads = indices.iter().filter_map(|index| Some((*index, rest[*index].payload(self.ingest.db())?)));
            for chunk in chunks(payloads.collect(), |(_, payload)| payload.len()) {
                let (indices, payloads): (Vec<usize>, Vec<Vec<u8>>) = chunk.into_iter().unzip();
                self.counters.recopied.fetch_add(indices.len() as u64, Ordering::Relaxed);
                let transport = transport.clone();
                asking.push(async move {
                    let asked = codec::encode(&payloads);
                    let answer = transport.request(address, Class::Bulk, COPY, &asked, OWNER_PATIENCE).await;
                    matches!(answer, Ok((COPIED, _))).then_some(indices).unwrap_or_default()
                });
            }
        }
        let done: std::collections::BTreeSet<usize> = join_all(asking).await.into_iter().flatten().collect();
        let mut index = 0;
        rest.retain(|one| {
            let confirmed = done.contains(&index);
            if confirmed {
                self.ingest.acks.forget(one.sequence());
            }
            index += 1;
            !confirmed
        });
    }

    /// Sends a part on.
    async fn forward(
        &self,
        view: Option<&MeshView>,
        peer: PeerId,
        part: &Push,
        hops: u8,
        deadline: Monotonic,
    ) -> PartOutcome {
        let address: Option<SocketAddr> = view.and_then(|view| view.peer(peer)).map(|peer| peer.address);
        let (Some(address), Some(transport)) = (address, &self.transport) else {
            return PartOutcome::Later(format!("peer {peer} is gone"));
        };
        let mut outcome = PushOutcome::default();
        let mut sent = 0;
        while sent < part.series.len() || sent == 0 && !part.metadata.is_empty() {
            let patience = deadline.since(clock::monotonic()).min(OWNER_PATIENCE);
            let patience_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
            let envelope = Envelope { hops: hops + 1, patience_ms };
            let (asked, count) = dense::encode(part, sent, envelope, PART_BYTES_MAX);
            self.counters.forwarded.fetch_add(1, Ordering::Relaxed);
            let mut answer = transport.request(address, Class::Bulk, PUSH_DENSE, &asked, patience).await;
            if matches!(&answer, Err(RequestError::Refused(_))) {
                // An older peer, which knows the other form only.
                let asked = codec::encode(&plain(part, sent..sent + count, envelope));
                answer = transport.request(address, Class::Bulk, PUSH, &asked, patience).await;
            }
            sent += count.max(1);
            let answer = match answer {
                Ok((PUSHED, bytes)) => codec::decode::<WireOutcome, BULK_BYTES_MAX>(&bytes),
                Ok((kind, _)) => {
                    return PartOutcome::Later(format!("peer {peer} answered with a frame of kind {kind}"));
                }
                Err(error) => return PartOutcome::Later(format!("peer {peer}: {error}")),
            };
            match answer {
                Ok(WireOutcome::Taken { floats, histograms, exemplars, refused }) => add(
                    &mut outcome,
                    PushOutcome {
                        samples: floats as usize,
                        histograms: histograms as usize,
                        exemplars: exemplars as usize,
                        refused: refused.into_iter().map(|(labels, why)| (labels, why.into())).collect(),
                    },
                ),
                Ok(WireOutcome::Later(why)) => return PartOutcome::Later(why),
                Ok(WireOutcome::Failed(why)) => return PartOutcome::Failed(why),
                Err(error) => return PartOutcome::Later(format!("peer {peer}: {error}")),
            }
        }
        PartOutcome::Taken(outcome)
    }

    /// Answers [`PUSH`], [`PUSH_DENSE`] and [`COPY`] of other peers.
    pub async fn answer(self: Arc<Self>, kind: u8, bytes: Bytes, responder: Responder) {
        if kind == COPY {
            match self.keep_copies(bytes).await {
                Ok(()) => drop(responder.respond(COPIED, &[]).await),
                Err(why) => drop(responder.refuse(&why).await),
            }
            return;
        }
        let asked = if kind == PUSH_DENSE {
            dense::decode(&bytes).map_err(str::to_owned)
        } else {
            let plain = codec::decode::<WirePush, BULK_BYTES_MAX>(&bytes).map_err(|error| error.to_string());
            plain.map(|asked| (Envelope { hops: asked.hops, patience_ms: asked.patience_ms }, asked.into_push()))
        };
        let outcome = match asked {
            Ok((Envelope { hops, patience_ms }, push)) => {
                let patience = Duration::from_millis(u64::from(patience_ms)).min(PATIENCE);
                match self.route(push, hops, clock::monotonic() + patience).await {
                    Ok(outcome) => WireOutcome::taken(outcome),
                    Err(BackendError::Unavailable(why)) => WireOutcome::Later(why),
                    Err(error) => WireOutcome::Failed(error.to_string()),
                }
            }
            Err(why) => WireOutcome::Failed(format!("malformed push: {why}")),
        };
        // The asker may be gone: it repeats the push.
        let _ = responder.respond(PUSHED, &codec::encode(&outcome)).await;
    }

    async fn keep_copies(&self, bytes: Bytes) -> Result<(), String> {
        let (ingest, telemetry, sync_each) = (Arc::clone(&self.ingest), Arc::clone(&self.telemetry), self.sync_each);
        let kept = tokio::task::spawn_blocking(move || {
            store::keep_copies(&ingest, &bytes, clock::now(), &telemetry.ahead)?;
            if sync_each { ingest.db().sync().map(drop).map_err(|error| error.to_string()) } else { Ok(()) }
        });
        kept.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    /// Makes a push of another peer durable before it is acknowledged, where that is wanted.
    pub async fn before_acknowledging(&self) -> bool {
        if !self.sync_each {
            return true;
        }
        let db = Arc::clone(self.ingest.db());
        matches!(tokio::task::spawn_blocking(move || db.sync()).await, Ok(Ok(_)))
    }
}

/// Whether a peer is there and takes part: alive, its beats heard, ready.
fn is_usable(view: &MeshView, peer: PeerId) -> bool {
    view.placement.contains(peer) && view.peer(peer).is_some_and(|peer| peer.alive && !peer.silent)
}

/// Who takes a shard's samples. Whoever is in `failed` is passed over for the next rank; this peer takes a shard only when
/// it acts for it, or holds everybody before it silent.
fn taker(view: &MeshView, shard: ShardId, failed: &[PeerId]) -> Taker {
    if view.acting.contains(shard) {
        return Taker::Me;
    }
    let mut passed_over = None;
    for peer in view.placement.ranks(shard) {
        if peer == view.me {
            if passed_over.is_none() {
                return Taker::Me;
            }
        } else if is_usable(view, peer) {
            if !failed.contains(&peer) {
                return Taker::Peer(peer);
            }
            passed_over = passed_over.or(Some(peer));
        }
    }
    passed_over.map_or(Taker::Nobody, Taker::Peer)
}

fn add(outcome: &mut PushOutcome, other: PushOutcome) {
    outcome.samples += other.samples;
    outcome.histograms += other.histograms;
    outcome.exemplars += other.exemplars;
    let room = REFUSED_MAX.saturating_sub(outcome.refused.len());
    outcome.refused.extend(other.refused.into_iter().take(room));
}

/// Some series of a push.
fn selected(push: &Push, indices: &[usize]) -> Push {
    let mut part = Push { metadata: push.metadata.clone(), ..Push::default() };
    for index in indices {
        append(&mut part, push, *index);
    }
    part
}

fn append(part: &mut Push, from: &Push, index: usize) {
    let series = &from.series[index];
    let begun = (part.samples.len(), part.histograms.len(), part.exemplars.len());
    part.samples.extend_from_slice(&from.samples[series.samples.clone()]);
    part.histograms.extend_from_slice(&from.histograms[series.histograms.clone()]);
    part.exemplars.extend_from_slice(&from.exemplars[series.exemplars.clone()]);
    part.series.push(promesh_api::backend::PushedSeries {
        labels: series.labels.clone(),
        samples: begun.0..part.samples.len(),
        histograms: begun.1..part.histograms.len(),
        exemplars: begun.2..part.exemplars.len(),
        start: series.start,
    });
}

fn joined(mut parts: Vec<Arc<Push>>) -> Push {
    if parts.len() < 2 {
        return parts.pop().map(Arc::unwrap_or_clone).unwrap_or_default();
    }
    let mut whole = Push { metadata: parts[0].metadata.clone(), ..Push::default() };
    for part in &parts {
        for index in 0..part.series.len() {
            append(&mut whole, part, index);
        }
    }
    whole
}

/// Some series of a push in the form that older peers know.
fn plain(push: &Push, series: Range<usize>, envelope: Envelope) -> WirePush {
    let metadata = if series.start == 0 { push.metadata.clone() } else { Vec::new() };
    let series = push.series[series].iter().map(|series| WireSeries::of(push, series)).collect();
    WirePush { hops: envelope.hops, patience_ms: envelope.patience_ms, series, metadata }
}

/// Cuts a list into stretches of about [`PART_BYTES_MAX`].
fn chunks<T>(items: Vec<T>, bytes: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut chunks = Vec::new();
    let (mut chunk, mut size) = (Vec::new(), 0);
    for item in items {
        size += bytes(&item);
        chunk.push(item);
        if size >= PART_BYTES_MAX {
            chunks.push(std::mem::take(&mut chunk));
            size = 0;
        }
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

#[cfg(test)]
mod tests;
