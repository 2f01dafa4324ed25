//! What the minds want done, done; what arrives, told to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use promesh_cluster::{MembershipInput, Snapshot};
use promesh_discovery::Manager;
use promesh_model::PeerId;
use promesh_model::codec::{self, RPC_BYTES_MAX};
use promesh_model::shard::ShardSet;
use promesh_node::{Input, MeshMessage, MeshView, Output};
use promesh_replication::framing::{KIND_BATCH, KIND_PUSH};
use promesh_replication::{Decoded, Framing, FramingError};
use promesh_transport::chitchat::ChitchatInbox;
use promesh_transport::{Class, FrameReceiver, Responder, Transport, TransportEvent};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::acquaintances::{self, KnownMember};
use crate::ahead;
use crate::asking;
use crate::copy;
use crate::deletes::Deletes;
use crate::deltas::OTLP;
use crate::discovering::FOLLOW;
use crate::history::{self, History};
use crate::identity::PeerFolder;
use crate::ingest::{Ingest, StoreError};
use crate::journal::Journal;
use crate::live::{LIVE, Live};
use crate::minds::{Addresses, Minds, Task};
use crate::operate;
use crate::paging::{ALERTING, ASK, Paging};
use crate::peer::Peer;
use crate::pushing::{self, Pushing};
use crate::ruling::{RULES, Ruling};
use crate::scraping::Scraping;
use crate::sending::{self, Sending};
use crate::subscribed::{self, SUBSCRIBED, Subscribed};
use crate::telemetry::Telemetry;
use crate::twins::{self, Own, TWIN, WHO};

/// "Send me your batches of these shards."
pub(crate) const SUBSCRIBE: u8 = 33;
/// Exchange of membership states.
pub(crate) const EXCHANGE: u8 = 34;
/// Chitchat's messages.
pub const CHITCHAT: u8 = 35;
///
/// Longer than whoever is asked may take to find out whether the asker is who it says.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(4);
/// A reader without a base asks for key frames at most so often.
const KEY_PATIENCE: Duration = Duration::from_secs(1);

/// Everything the hands hold.
pub struct Hands {
    /// Where targets come from.
    pub discovery: Arc<Manager>,
    /// To other peers; `None` while the cluster is off.
    pub transport: Option<Transport>,
    /// To the minds.
    pub minds: Minds,
    /// Batches in.
    pub ingest: Arc<Ingest>,
    /// What answers parts of others' queries.
    pub holder: promesh_query::Holder,
    /// Where peers are.
    pub addresses: Addresses,
    /// Streams to them.
    pub live: Option<Live>,
    /// Scrapes.
    pub scraping: Arc<Scraping>,
    /// Evaluations of rule groups.
    pub ruling: Arc<Ruling>,
    /// Alerts.
    pub paging: Arc<Paging>,
    /// Pushed samples.
    pub pushing: Arc<Pushing>,
    /// Samples on their way out.
    pub sending: Arc<Sending>,
    /// What was deleted.
    pub deletes: Arc<Deletes>,
    /// Sealed history.
    pub history: Arc<History>,
    /// The whole, once it is made: for questions about all of it.
    pub peer: OnceLock<Weak<Peer>>,
    /// The newest view, for readers.
    pub view: watch::Sender<Option<Arc<MeshView>>>,
    /// The newest changes.
    pub journal: Arc<Journal>,
    /// Where this peer's own state is kept.
    pub folder: PeerFolder,
    /// Counters.
    pub telemetry: Arc<Telemetry>,
    /// Told when everything is given away.
    pub left: watch::Sender<bool>,
    /// Facts for people.
    pub chitchat: Mutex<Option<ChitchatInbox>>,
    /// Orders of other peers.
    pub orders: mpsc::Sender<operate::Relayed>,
    /// Whom this peer knows, as it is kept.
    pub known: Mutex<Vec<KnownMember>>,
    /// Whether what this peer holds could not be written down.
    pub possession_unkept: AtomicBool,
    /// Who this peer is.
    pub own: Own,
    /// Told why another peer does not let this one in, for good.
    pub refused: watch::Sender<Option<String>>,
    /// Which incoming live stream of a peer is the newest, and whether it is still listened to.
    pub incoming: Mutex<BTreeMap<PeerId, (u64, bool)>>,
    /// Whose streams bring what was asked for.
    pub subscribed: Subscribed,
    /// Where requests are answered.
    pub runtime: Handle,
    /// Where batches of others come in.
    pub listening: Handle,
    /// Where their queries are answered.
    pub reading: Handle,
    /// Where chunks are copied, to them and from them.
    pub copying: Handle,
}

impl Hands {
    /// Carries out tasks until the minds end.
    pub async fn run(self: Arc<Self>, mut tasks: mpsc::UnboundedReceiver<Task>) {
        while let Some(task) = tasks.recv().await {
            match task {
                Task::Exchange(to) => {
                    let hands = Arc::clone(&self);
                    tokio::spawn(async move { hands.exchange(to).await });
                }
                Task::Mesh(output) => self.mesh(output),
            }
        }
    }

    /// Says what the mesh wants said to others, in order; gives back what is not to be said.
    pub fn say(&self, output: Output) -> Option<Output> {
        match output {
            Output::Send { to, message } => {
                let (kind, payload) = message.encode();
                self.send(to, kind, payload);
                None
            }
            Output::Subscribe { to, shards } => {
                let request = codec::encode(&shards);
                self.subscribed.asks(to, &request);
                self.send(to, SUBSCRIBE, request);
                None
            }
            other => Some(other),
        }
    }

    fn mesh(self: &Arc<Self>, output: Output) {
        match output {
            Output::Start { spec, slot, rank } => {
                if !self.ruling.start(&spec, slot, rank) {
                    self.scraping.start(spec, slot, rank);
                }
            }
            Output::Fetch { token, from, shards, since } => {
                let hands = Arc::clone(self);
                self.copying.spawn(async move {
                    let whole_from = hands.fetch(from, shards, since).await;
                    hands.minds.tell(Input::Fetched { token, whole_from });
                });
            }
            Output::View(view) => self.publish(view),
            Output::Change(change) => self.journal.note(change),
            Output::Left => {
                let _ = self.left.send(true);
            }
            Output::Record(_) | Output::Inquire(_) | Output::Send { .. } | Output::Subscribe { .. } => {
                unreachable!("the mesh thread tells membership and others itself")
            }
        }
    }

    fn send(&self, to: PeerId, kind: u8, payload: Vec<u8>) {
        if let Some(live) = &self.live {
            live.send(to, kind, payload);
        }
    }

    async fn fetch(
        &self,
        from: PeerId,
        shards: ShardSet,
        since: Option<promesh_model::Timestamp>,
    ) -> Option<promesh_model::Timestamp> {
        let transport = self.transport.as_ref()?;
        let address = self.addresses.load().get(&from).copied()?;
        self.subscribed.wait(from).await;
        let fetched = copy::fetch(transport, (from, address), shards, since, &self.ingest, &self.telemetry).await;
        match fetched {
            Ok((whole_from, left)) => {
                if let Some((since, shards)) = left {
                    self.minds.tell(Input::Ahead { from, since, shards });
                }
                // The mind will claim what came: it has to outlive a crash first.
                let (db, deletes) = (Arc::clone(self.ingest.db()), Arc::clone(&self.deletes));
                let synced = tokio::task::spawn_blocking(move || {
                    deletes.apply_again(&db);
                    db.sync()
                });
                let synced = synced.await;
                matches!(synced, Ok(Ok(_))).then_some(whole_from)
            }
            Err(error) => {
                tracing::warn!(peer = %from, %error, "copying from a peer failed, it is tried again");
                None
            }
        }
    }

    fn publish(&self, view: Arc<MeshView>) {
        let before = self.view.send_replace(Some(Arc::clone(&view)));
        let held = &view.own;
        let mut known = self.known.lock();
        let present = acquaintances::known(&view, &known, crate::clock::wall());
        if let Some(present) = present.filter(|present| *present != *known)
            && self.keep(self.folder.keep_members(&present), "members")
        {
            *known = present;
        }
        drop(known);
        // What a full disk refused is written with the next view: what it says of claims that ended must not be lost.
        if before.is_none_or(|before| *before.own != **held) || self.possession_unkept.load(Ordering::Relaxed) {
            let kept = self.keep(self.folder.keep_possession(held), "possession");
            self.possession_unkept.store(!kept, Ordering::Relaxed);
        }
    }

    /// Whether it was kept.
    fn keep(&self, kept: std::io::Result<()>, what: &str) -> bool {
        if let Err(error) = &kept {
            tracing::error!(%error, what, "this peer's own state could not be written");
        }
        kept.is_ok()
    }

    /// Exchanges membership states with whoever is at an address.
    pub(crate) async fn exchange(&self, to: SocketAddr) -> bool {
        let (Some(transport), Some(ours)) = (&self.transport, self.minds.snapshot().await) else { return false };
        let asked = codec::encode(&ours);
        let answer = transport.request(to, Class::Control, EXCHANGE, &asked, EXCHANGE_TIMEOUT).await;
        let bytes = match answer {
            Ok((EXCHANGE, bytes)) => bytes,
            Ok((TWIN, bytes)) => {
                let why = codec::decode::<String, RPC_BYTES_MAX>(&bytes).unwrap_or_default();
                let _ = self.refused.send(Some(why));
                return false;
            }
            _ => return false,
        };
        match codec::decode::<Snapshot, RPC_BYTES_MAX>(&bytes) {
            Ok(theirs) => {
                self.minds.tell_membership(MembershipInput::Snapshot(theirs));
                true
            }
            Err(error) => {
                tracing::warn!(%to, %error, "a peer's membership state is unreadable");
                false
            }
        }
    }

    /// Whether this peer knows nobody alive.
    pub(crate) fn is_alone(&self) -> bool {
        self.view.borrow().as_ref().is_none_or(|view| view.peers.iter().all(|peer| !peer.alive))
    }

    /// Where the peers are, or were, that this one has met.
    pub(crate) fn met(&self) -> Vec<SocketAddr> {
        self.view.borrow().iter().flat_map(|view| view.peers.iter().map(|peer| peer.address)).collect()
    }

    /// Takes what the transport brings until it is closed; on the thread of the connections, so that nothing is done here.
    pub async fn receive(self: Arc<Self>, mut events: mpsc::Receiver<TransportEvent>) {
        while let Some(event) = events.recv().await {
            match event {
                TransportEvent::Datagram { bytes, .. } => {
                    self.minds.tell_membership(MembershipInput::Datagram(bytes));
                }
                TransportEvent::Message { from, kind: CHITCHAT, bytes, .. } => {
                    if let Some(inbox) = &*self.chitchat.lock() {
                        inbox.deliver(from, bytes);
                    }
                }
                TransportEvent::Message { .. } => {}
                TransportEvent::Request { peer, kind, bytes, responder, .. } => {
                    self.answer(peer, kind, bytes, responder);
                }
                TransportEvent::Stream { peer, kind: LIVE, frames, .. } => {
                    let hands = Arc::clone(&self);
                    self.listening.spawn(async move { hands.listen(peer, frames).await });
                }
                TransportEvent::Stream { peer, kind: ALERTING, frames, .. } => {
                    let paging = Arc::clone(&self.paging);
                    self.runtime.spawn(async move { paging.listen(peer, frames).await });
                }
                TransportEvent::Stream { frames, .. } => frames.stop(),
                TransportEvent::Connected { peer, addr, class } => tracing::debug!(%peer, %addr, ?class, "connected"),
                TransportEvent::Disconnected { peer, addr, class, reason } => {
                    tracing::debug!(%peer, %addr, ?class, reason, "disconnected");
                }
            }
        }
    }

    fn answer(self: &Arc<Self>, asker: PeerId, kind: u8, bytes: Bytes, responder: Responder) {
        let hands = Arc::clone(self);
        match kind {
            EXCHANGE => {
                self.runtime.spawn(async move { hands.answer_exchange(asker, &bytes, responder).await });
            }
            WHO => {
                self.runtime.spawn(async move {
                    let own = (hands.own.id, hands.own.generation);
                    let _ = responder.respond(WHO, &codec::encode(&own)).await;
                });
            }
            copy::FETCH | copy::FETCH_ORDERED => {
                let runtime = self.copying.clone();
                self.copying.spawn_blocking(move || {
                    let view = hands.view.borrow().clone();
                    copy::serve(&hands.ingest, view.as_deref(), kind, &bytes, responder, &runtime);
                });
            }
            ASK => {
                self.runtime.spawn(async move { hands.paging.answer(bytes, responder).await });
            }
            pushing::PUSH | pushing::PUSH_DENSE | pushing::COPY => {
                self.runtime.spawn(async move { Arc::clone(&hands.pushing).answer(kind, bytes, responder).await });
            }
            OTLP => {
                self.runtime.spawn(async move {
                    match hands.peer.get().and_then(Weak::upgrade) {
                        Some(peer) => peer.add_up(bytes, responder).await,
                        None => drop(responder.refuse("not started yet").await),
                    }
                });
            }
            asking::ASK => {
                self.runtime.spawn(async move {
                    match hands.peer.get().and_then(Weak::upgrade) {
                        Some(peer) => peer.answer(bytes, responder).await,
                        None => drop(responder.refuse("not started yet").await),
                    }
                });
            }
            FOLLOW => {
                self.runtime.spawn(crate::discovering::answer(Arc::clone(&self.discovery), responder.stream()));
            }
            RULES => {
                self.runtime.spawn(async move { hands.ruling.answer(responder.stream()).await });
            }
            kind if operate::KINDS.contains(&kind) => {
                self.runtime.spawn(operate::relay(hands.orders.clone(), kind, bytes, responder));
            }
            kind if history::KINDS.contains(&kind) => {
                self.copying
                    .spawn(async move { Arc::clone(&hands.history).answer(asker, kind, bytes, responder).await });
            }
            kind if promesh_query::KINDS.contains(&kind) => {
                let runtime = self.reading.clone();
                self.reading.spawn_blocking(move || {
                    promesh_query::serve(&hands.holder, kind, &bytes, responder, &runtime);
                });
            }
            other => {
                self.runtime.spawn(async move {
                    let _ = responder.refuse(&format!("requests of kind {other} are not known here")).await;
                });
            }
        }
    }

    async fn answer_exchange(&self, asker: PeerId, bytes: &[u8], responder: Responder) {
        if let (Ok(theirs), Some(transport)) = (codec::decode::<Snapshot, RPC_BYTES_MAX>(bytes), &self.transport) {
            let view = self.view.borrow().clone();
            if let Some(why) = twins::refusal(self.own, asker, &theirs, view.as_deref(), transport).await {
                tracing::warn!(why, "a peer is refused");
                let _ = responder.respond(TWIN, &codec::encode(&why)).await;
                return;
            }
            self.minds.tell_membership(MembershipInput::Snapshot(theirs));
        }
        if let Some(ours) = self.minds.snapshot().await {
            let _ = responder.respond(EXCHANGE, &codec::encode(&ours)).await;
        }
    }

    /// Listens to one peer's live stream until it ends.
    async fn listen(self: Arc<Self>, peer: PeerId, mut frames: FrameReceiver) {
        let (number, replaces) = {
            let mut incoming = self.incoming.lock();
            let (number, open) = incoming.entry(peer).or_default();
            *number += 1;
            (*number, std::mem::replace(open, true))
        };
        // The end of the one before will not be minded any more: what it may have lost is missing from now on.
        if replaces {
            self.minds.tell(Input::StreamLost { from: peer });
        }
        let mut framing = Framing::new();
        let mut asked_at = None;
        let why = loop {
            match frames.recv().await {
                Ok(Some((KIND_PUSH, payload))) if self.receive_push(peer, &mut framing, &payload).await => {}
                Ok(Some((kind @ (KIND_BATCH | KIND_PUSH), payload))) => {
                    if kind == KIND_PUSH || !self.receive_batch(peer, &mut framing, &payload) {
                        let now = crate::clock::monotonic();
                        if asked_at.is_none_or(|at| now.since(at) > KEY_PATIENCE) {
                            asked_at = Some(now);
                            Telemetry::count(&self.telemetry.key_frames_wanted);
                            self.minds.tell(Input::StreamLost { from: peer });
                        }
                    }
                }
                Ok(Some((pushing::ACKNOWLEDGED, payload))) => {
                    if let Ok(sequence) = codec::decode::<u64, RPC_BYTES_MAX>(&payload) {
                        self.ingest.acks.acknowledged(sequence, peer);
                    }
                }
                Ok(Some((sending::PROGRESS, payload))) => self.sending.heard(peer, &payload),
                Ok(Some((SUBSCRIBE, payload))) => {
                    if let (Ok(shards), Some(live)) = (codec::decode::<ShardSet, RPC_BYTES_MAX>(&payload), &self.live) {
                        live.subscribe(peer, shards, subscribed::mark(&payload));
                    }
                }
                Ok(Some((SUBSCRIBED, payload))) => {
                    let mark = codec::decode::<u64, RPC_BYTES_MAX>(&payload).unwrap_or_default();
                    if self.subscribed.confirms(peer, mark) {
                        self.minds.tell(Input::StreamLost { from: peer });
                    }
                }
                Ok(Some((kind, payload))) => match MeshMessage::decode(kind, &payload) {
                    Ok(Some(message)) => self.minds.tell(Input::Message { from: peer, message }),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(%peer, kind, %error, "a peer's message is unreadable"),
                },
                Ok(None) => break "it was closed".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        let is_newest = match self.incoming.lock().get_mut(&peer) {
            Some((newest, open)) if *newest == number => {
                *open = false;
                true
            }
            _ => false,
        };
        if is_newest {
            tracing::debug!(%peer, why, "stream from a peer ended");
            if let Some(live) = &self.live {
                live.unsubscribe(peer);
            }
            self.minds.tell(Input::StreamLost { from: peer });
        }
    }

    /// Stores a pushed batch from a stream and says so to its writer; false when a key frame is needed.
    async fn receive_push(&self, from: PeerId, framing: &mut Framing, payload: &[u8]) -> bool {
        let Some(decoded) = self.decode(framing, payload) else { return false };
        if self.refuses_ahead(from, KIND_PUSH, &decoded) {
            return true;
        }
        let sequence = decoded.header.sequence;
        match self.ingest.write_received_push(decoded) {
            Ok(_) if self.pushing.before_acknowledging().await => {
                self.send(from, pushing::ACKNOWLEDGED, codec::encode(&sequence));
            }
            Ok(_) => {}
            Err(error) => self.not_stored(&error),
        }
        true
    }

    /// Stores a batch from a stream; false when a key frame is needed.
    fn receive_batch(&self, from: PeerId, framing: &mut Framing, payload: &[u8]) -> bool {
        let Some(decoded) = self.decode(framing, payload) else { return false };
        if self.refuses_ahead(from, KIND_BATCH, &decoded) {
            return true;
        }
        if let Err(error) = self.ingest.write_received(decoded, payload) {
            self.not_stored(&error);
        }
        true
    }

    /// Whether a batch lies too far ahead to be taken: its writer owes it then.
    fn refuses_ahead(&self, from: PeerId, kind: u8, decoded: &Decoded) -> bool {
        let now = crate::clock::now();
        let is_ahead = ahead::is_ahead(kind, decoded, now.wall);
        if is_ahead {
            let since = ahead::oldest(decoded);
            self.telemetry.ahead.refused(from, decoded.header.slot, now);
            self.minds.tell(Input::Ahead { from, since, shards: [decoded.header.shard].into_iter().collect() });
        }
        is_ahead
    }

    fn not_stored(&self, error: &StoreError) {
        Telemetry::count(&self.telemetry.append_failures);
        match error {
            // Said once, by whoever noticed it first: the next refusal follows within a moment.
            StoreError::Write(_) => tracing::debug!(%error, "a received batch could not be stored"),
            StoreError::Series(_) => tracing::error!(%error, "a received batch could not be stored"),
        }
    }

    fn decode(&self, framing: &mut Framing, payload: &[u8]) -> Option<Decoded> {
        Telemetry::count(&self.telemetry.batches_received);
        match framing.decode(payload, &**self.ingest.db()) {
            Ok(decoded) => Some(decoded),
            Err(FramingError::NoBase { .. } | FramingError::Checksum) => None,
            Err(error) => {
                tracing::warn!(%error, "a received batch is unreadable");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first arm that knows a kind takes it: two alike, and one never sees its requests.
    #[test]
    fn every_kind_of_request_has_one_meaning() {
        let single = [
            EXCHANGE,
            WHO,
            copy::FETCH,
            copy::FETCH_ORDERED,
            ASK,
            pushing::PUSH,
            pushing::PUSH_DENSE,
            pushing::COPY,
            asking::ASK,
            FOLLOW,
            RULES,
            OTLP,
        ];
        let kinds = single.iter().chain(&operate::KINDS).chain(&promesh_query::KINDS).chain(&history::KINDS);
        let mut seen = std::collections::BTreeSet::new();
        for kind in kinds {
            assert!(seen.insert(*kind), "kind {kind} has two meanings");
        }
    }
}
