//! The long-lived stream to each other peer: messages of our mind, our subscriptions, and batches for those who asked.
//!
//! A stream is opened when there is something to say and again when it breaks. The mind is told when it breaks, and says
//! again what the other side must know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use promesh_model::shard::ShardSet;
use promesh_model::{PeerId, codec};
use promesh_node::Input;
use promesh_transport::{Class, FrameSender, Transport};
use tokio::runtime::Handle;

use crate::ingest::{Ingest, Subscriber};
use crate::minds::{Addresses, Minds};
use crate::subscribed::SUBSCRIBED;

/// The stream's kind.
pub const LIVE: u8 = 32;
/// Frames that may wait for a stream to open.
const WAITING_MAX: usize = 64;
/// After a failure the mind is told only then, so that an unreachable peer costs a few attempts a second.
const BACK_OFF: Duration = Duration::from_millis(250);

/// Tells a peer that what it asked for comes from here on.
fn confirm(state: &State, peer: PeerId, mark: u64) {
    if let Some(Outgoing::Open(stream)) = state.outgoing.get(&peer)
        && state.subscriptions.contains_key(&peer)
    {
        let _ = stream.try_send(SUBSCRIBED, &codec::encode(&mark));
    }
}

enum Outgoing {
    /// Being opened; what waits for it.
    Opening(Vec<(u8, Vec<u8>)>),
    Open(FrameSender),
    /// Failed a moment ago.
    Failed,
}

#[derive(Default)]
struct State {
    outgoing: BTreeMap<PeerId, Outgoing>,
    /// What others asked of us, and the mark of the request.
    subscriptions: BTreeMap<PeerId, (ShardSet, u64)>,
}

/// The streams to all peers.
#[derive(Clone)]
pub struct Live(Arc<Shared>);

struct Shared {
    transport: Transport,
    addresses: Addresses,
    minds: Minds,
    ingest: Arc<Ingest>,
    hello: Vec<u8>,
    /// Where streams are opened, whoever has something to say.
    runtime: Handle,
    state: Mutex<State>,
}

impl Live {
    /// No streams yet. Must be called within a tokio runtime.
    pub fn new(transport: Transport, addresses: Addresses, minds: Minds, ingest: Arc<Ingest>) -> Live {
        let (state, runtime) = (Mutex::default(), Handle::current());
        Live(Arc::new(Shared { transport, addresses, minds, ingest, hello: Vec::new(), runtime, state }))
    }

    /// Says something to a peer, in order with everything else said to it.
    pub fn send(&self, to: PeerId, kind: u8, payload: Vec<u8>) {
        let mut state = self.0.state.lock();
        match state.outgoing.get_mut(&to) {
            Some(Outgoing::Open(stream)) => {
                if stream.try_send(kind, &payload).is_err() && stream.is_closed() {
                    state.outgoing.insert(to, Outgoing::Opening(vec![(kind, payload)]));
                    drop(state);
                    self.lost(to);
                    self.open(to);
                }
            }
            Some(Outgoing::Opening(waiting)) => {
                if waiting.len() < WAITING_MAX {
                    waiting.push((kind, payload));
                }
            }
            Some(Outgoing::Failed) => {}
            None => {
                state.outgoing.insert(to, Outgoing::Opening(vec![(kind, payload)]));
                drop(state);
                self.open(to);
            }
        }
    }

    fn open(&self, to: PeerId) {
        let live = self.clone();
        self.0.runtime.spawn(async move {
            let address = live.0.addresses.load().get(&to).copied();
            let opened = match address {
                Some(address) => live.0.transport.open_stream(address, Class::Control, LIVE, &live.0.hello).await.ok(),
                None => None,
            };
            match opened {
                Some(stream) => live.opened(to, stream),
                None => {
                    live.0.state.lock().outgoing.insert(to, Outgoing::Failed);
                    tokio::time::sleep(BACK_OFF).await;
                    live.0.state.lock().outgoing.remove(&to);
                    live.lost(to);
                }
            }
        });
    }

    fn opened(&self, to: PeerId, stream: FrameSender) {
        let mut state = self.0.state.lock();
        let waiting = match state.outgoing.insert(to, Outgoing::Open(stream.clone())) {
            Some(Outgoing::Opening(waiting)) => waiting,
            _ => Vec::new(),
        };
        for (kind, payload) in waiting {
            let _ = stream.try_send(kind, &payload);
        }
        let (fresh, mark) = state.subscriptions.get(&to).cloned().unwrap_or_default();
        self.resubscribe(&state, &fresh);
        confirm(&state, to, mark);
        drop(state);
        let live = self.clone();
        self.0.runtime.spawn(async move {
            let why = stream.closed().await;
            tracing::debug!(peer = %to, %why, "stream to a peer ended");
            let mut state = live.0.state.lock();
            if matches!(state.outgoing.get(&to), Some(Outgoing::Open(present)) if present.is_closed()) {
                state.outgoing.remove(&to);
                live.resubscribe(&state, &ShardSet::default());
                drop(state);
                live.lost(to);
            }
        });
    }

    /// The mind says again what the other side must know.
    fn lost(&self, peer: PeerId) {
        self.0.minds.tell(Input::StreamLost { from: peer });
    }

    /// A peer asks for our batches of these shards: once its stream has them all from then on, it is told so.
    pub fn subscribe(&self, peer: PeerId, shards: ShardSet, mark: u64) {
        let mut state = self.0.state.lock();
        state.subscriptions.insert(peer, (shards.clone(), mark));
        let mut is_new = false;
        state.outgoing.entry(peer).or_insert_with(|| {
            is_new = true;
            Outgoing::Opening(Vec::new())
        });
        if is_new {
            drop(state);
            self.open(peer);
        } else {
            self.resubscribe(&state, &shards);
            confirm(&state, peer, mark);
        }
    }

    /// A peer's stream to us ended: what it asked for it will ask for again.
    pub fn unsubscribe(&self, peer: PeerId) {
        let mut state = self.0.state.lock();
        if state.subscriptions.remove(&peer).is_some() {
            self.resubscribe(&state, &ShardSet::default());
        }
    }

    fn resubscribe(&self, state: &State, fresh: &ShardSet) {
        let subscribers = state.subscriptions.iter().filter_map(|(peer, (shards, _))| match state.outgoing.get(peer) {
            Some(Outgoing::Open(stream)) => {
                Some(Subscriber { peer: *peer, shards: shards.clone(), stream: stream.clone() })
            }
            _ => None,
        });
        self.0.ingest.set_subscribers(subscribers.collect(), fresh);
    }

    /// Bytes that wait to be sent, by peer.
    pub fn backlog(&self) -> BTreeMap<PeerId, usize> {
        let state = self.0.state.lock();
        let queued = |(peer, outgoing): (&PeerId, &Outgoing)| match outgoing {
            Outgoing::Open(stream) => Some((*peer, stream.queued_bytes())),
            _ => None,
        };
        state.outgoing.iter().filter_map(queued).collect()
    }
}
