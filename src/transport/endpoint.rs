//! The transport itself: one UDP socket, its connections, and what is sent on them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use promesh_model::PeerId;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AsyncUdpSocket, ClientConfig, Endpoint, EndpointConfig, IdleTimeout, Runtime as _, ServerConfig, TransportConfig,
    VarInt,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::counters::{CounterSnapshot, Counters, RefusalReason, bump};
use crate::error::{BindError, RequestError, SendError, StreamError};
use crate::event::{Class, TransportEvent};
use crate::hello::{Hello, PROTOCOL_RANGE};
use crate::identity::TlsIdentity;
use crate::link::{CODE_CLOSED, DialFailure, Link, LinkState, Links};
use crate::notices::{Notices, Trouble};
use crate::runtime::Runtime;
use crate::socket::{self, KeyedCids, Lately, Partners, ResetKey, WatchedSocket};
use crate::stream::{self, Context, FrameReceiver, FrameSender, KIND_REFUSED, UNI_MESSAGE, UNI_STREAM};
use crate::{DATAGRAM_BYTES_MAX, MESSAGE_BYTES_MAX, accept};

const MESSAGES_UNDER_WAY_MAX: usize = 256;
/// A message that is not through by then is dropped: the next gossip round says it anew.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Limits and spans of the transport.
#[derive(Clone, Debug)]
pub struct TransportOptions {
    /// Drawn anew at each start of the process; tells lives of a peer apart.
    pub boot: u64,
    /// Silence after which a control connection is lost. Default 6s, longer than `keep_alive`.
    pub idle_timeout: Duration,
    /// How often a silent control connection is probed. Default 2s.
    pub keep_alive: Duration,
    /// Silence after which a bulk connection is lost; it is made anew when needed. Default 60s.
    pub bulk_idle_timeout: Duration,
    /// How long a handshake with its hello may take. Default 3s.
    pub dial_timeout: Duration,
    /// The pause after a first failed attempt to connect; doubles up to `back_off_max`. Default 100ms.
    pub back_off_min: Duration,
    /// The longest such pause. Default 5s.
    pub back_off_max: Duration,
    /// How long a message or a request may take to arrive whole. Default 30s.
    pub read_timeout: Duration,
    /// Whether UDP segmentation offload may be used; some network cards and containers refuse it. Default yes.
    pub segmentation_offload: bool,
    /// Events that may wait to be taken. Default 4,096.
    pub events_max: usize,
    /// Connections at once, of both classes. Default 4,096.
    pub connections_max: usize,
}

impl TransportOptions {
    /// The defaults.
    pub fn new(boot: u64) -> TransportOptions {
        TransportOptions {
            boot,
            idle_timeout: Duration::from_secs(6),
            keep_alive: Duration::from_secs(2),
            bulk_idle_timeout: Duration::from_secs(60),
            dial_timeout: Duration::from_secs(3),
            back_off_min: Duration::from_millis(100),
            back_off_max: Duration::from_secs(5),
            read_timeout: Duration::from_secs(30),
            segmentation_offload: true,
            events_max: 4096,
            connections_max: 4096,
        }
    }
}

/// One open connection, for people and for round trips.
#[derive(Clone, Debug)]
pub struct PeerLink {
    /// Where.
    pub addr: SocketAddr,
    /// Who.
    pub peer: PeerId,
    /// Which of the two.
    pub class: Class,
    /// Smoothed round trip.
    pub rtt: Duration,
    /// The protocol version that the pair speaks.
    pub version: u16,
}

/// What dialling needs of the identity.
pub(crate) struct ClientSide {
    pub configs: [ClientConfig; 2],
    pub server_name: Option<String>,
}

pub(crate) struct Shared {
    pub endpoint: Endpoint,
    pub options: TransportOptions,
    pub hello: Hello,
    pub client: ArcSwap<ClientSide>,
    pub links: Mutex<Links>,
    pub events: mpsc::Sender<TransportEvent>,
    pub counters: Arc<Counters>,
    messages_under_way: Arc<Semaphore>,
    pub notices: Arc<Notices>,
    pub partners: Arc<Partners>,
    pub runtime: Runtime,
}

/// A handle on the transport; clones share it. Lives until [`Transport::close`].
#[derive(Clone)]
pub struct Transport(pub(crate) Arc<Shared>);

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport").field("address", &self.0.endpoint.local_addr().ok()).finish_non_exhaustive()
    }
}

impl Transport {
    /// Takes the UDP port and listens, on a thread of its own. Opens no connection.
    ///
    /// # Errors
    /// `Socket` when the port cannot be taken or there is no thread to be had, `Tls` when QUIC refuses the identity.
    pub fn bind(
        listen: SocketAddr,
        identity: &TlsIdentity,
        options: TransportOptions,
    ) -> Result<(Transport, mpsc::Receiver<TransportEvent>), BindError> {
        let (counters, notices) = (Arc::new(Counters::default()), Arc::new(Notices::default()));
        let partners = Arc::new(Partners::default());
        let cids = KeyedCids::new(&identity.reset_key);
        let mut config = EndpointConfig::new(Arc::new(ResetKey::new(&identity.reset_key)));
        config.cid_generator(move || Box::new(cids)).grease_quic_bit(false);
        let socket_error = |source| BindError::Socket { address: listen, source };
        let socket = socket::bind(listen).map_err(socket_error)?;
        let runtime = Runtime::start().map_err(socket_error)?;
        let inner = runtime.wrap_udp_socket(socket).map_err(socket_error)?;
        let watched: Arc<dyn AsyncUdpSocket> = Arc::new(WatchedSocket {
            inner,
            cids,
            counters: Arc::clone(&counters),
            notices: Arc::clone(&notices),
            lately: Lately::default(),
            partners: Arc::clone(&partners),
        });
        let server = server_config(identity, &options)?;
        let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), watched, Arc::new(runtime.clone()))
            .map_err(socket_error)?;
        let (events, receiver) = mpsc::channel(options.events_max);
        let (protocol_min, protocol_max) = PROTOCOL_RANGE;
        let shared = Arc::new(Shared {
            endpoint,
            hello: Hello { protocol_min, protocol_max, peer: identity.peer, boot: options.boot },
            client: ArcSwap::from_pointee(client_side(identity, &options)?),
            links: Mutex::default(),
            events,
            counters,
            messages_under_way: Arc::new(Semaphore::new(MESSAGES_UNDER_WAY_MAX)),
            notices,
            partners,
            options,
            runtime,
        });
        shared.runtime.spawn(accept::run(Arc::clone(&shared)));
        Ok((Transport(shared), receiver))
    }

    /// The address it listens on; the port is the real one when port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.endpoint.local_addr().expect("the socket is bound for as long as the endpoint lives")
    }

    /// Uses another identity for connections from now on; the ones that are open stay. The peer id must be the same.
    ///
    /// # Errors
    /// `Tls` when QUIC refuses the identity; the old one stays in use.
    pub fn set_identity(&self, identity: &TlsIdentity) -> Result<(), BindError> {
        let server = server_config(identity, &self.0.options)?;
        self.0.client.store(Arc::new(client_side(identity, &self.0.options)?));
        self.0.endpoint.set_server_config(Some(server));
        Ok(())
    }

    /// Sends a datagram of at most [`DATAGRAM_BYTES_MAX`] bytes, fire and forget. Without a connection one is made, and
    /// the last few datagrams wait for it.
    ///
    /// # Errors
    /// `TooLarge`; anything else that can happen to a datagram is counted, not said.
    pub fn send_datagram(&self, to: SocketAddr, bytes: Bytes) -> Result<(), SendError> {
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return Err(SendError::TooLarge { bytes: bytes.len(), limit: DATAGRAM_BYTES_MAX });
        }
        let mut links = self.0.links.lock();
        let slot = links.slots.entry((to, Class::Control)).or_default();
        if let Some(link) = slot.open_link() {
            drop(links);
            self.0.send_now(&link, bytes);
            return Ok(());
        }
        let state = slot.state.borrow().clone();
        let dropped = matches!(state, LinkState::Cooling(_)) || slot.keep(bytes);
        if matches!(state, LinkState::Down | LinkState::Up(_)) {
            slot.state.send_replace(LinkState::Dialing);
            self.0.runtime.spawn(Arc::clone(&self.0).dial(to, Class::Control));
        }
        if dropped {
            bump(&self.0.counters.datagrams_dropped);
        }
        Ok(())
    }

    /// Sends one message on a stream of its own, fire and forget: it arrives whole or, counted, not at all.
    ///
    /// # Errors
    /// `TooLarge` beyond [`MESSAGE_BYTES_MAX`], `Busy` when 256 are under way.
    pub fn send_message(&self, to: SocketAddr, kind: u8, payload: &[u8]) -> Result<(), SendError> {
        if payload.len() > MESSAGE_BYTES_MAX {
            return Err(SendError::TooLarge { bytes: payload.len(), limit: MESSAGE_BYTES_MAX });
        }
        let Ok(permit) = Arc::clone(&self.0.messages_under_way).try_acquire_owned() else {
            bump(&self.0.counters.messages_dropped);
            return Err(SendError::Busy);
        };
        let bytes = tagged(UNI_MESSAGE, kind, payload);
        let shared = Arc::clone(&self.0);
        self.0.runtime.spawn(async move {
            let sent = timeout(MESSAGE_TIMEOUT, shared.write_message(to, &bytes)).await;
            if !matches!(sent, Ok(Some(()))) {
                bump(&shared.counters.messages_dropped);
            }
            drop(permit);
        });
        Ok(())
    }

    /// Asks and waits for one frame; `timeout` spans connecting, sending and the answer.
    ///
    /// # Errors
    /// As [`RequestError`] says.
    pub async fn request(
        &self,
        to: SocketAddr,
        class: Class,
        kind: u8,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<(u8, Bytes), RequestError> {
        let exchange = async {
            let mut frames = self.ask(to, class, kind, payload).await?;
            first_answer(&mut frames).await
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(RequestError::Timeout))
    }

    /// Asks and gives the stream of frames that is the answer. `timeout` spans connecting and sending; how long to
    /// wait for each frame is the caller's affair. A frame of kind 255 says that the other side refuses, and why.
    ///
    /// # Errors
    /// As [`RequestError`] says.
    pub async fn request_stream(
        &self,
        to: SocketAddr,
        class: Class,
        kind: u8,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<FrameReceiver, RequestError> {
        let asked = tokio::time::timeout(timeout, self.ask(to, class, kind, payload)).await;
        asked.unwrap_or(Err(RequestError::Timeout))
    }

    /// Opens a long-lived stream of frames; `kind` and `hello` (at most [`MESSAGE_BYTES_MAX`]) say what it is for.
    ///
    /// # Errors
    /// As [`RequestError`] says.
    pub async fn open_stream(
        &self,
        to: SocketAddr,
        class: Class,
        kind: u8,
        hello: &[u8],
    ) -> Result<FrameSender, RequestError> {
        let (bytes, limit) = (hello.len(), MESSAGE_BYTES_MAX);
        if bytes > limit {
            return Err(RequestError::TooLarge { bytes, limit });
        }
        let link = self.0.link(to, class).await?;
        let send = link.connection.open_uni().await.map_err(unreachable)?;
        let first = Bytes::from(tagged(UNI_STREAM, kind, hello));
        Ok(FrameSender::spawn(send, class, self.0.context(to), Some(first)))
    }

    /// The open connections.
    pub fn links(&self) -> Vec<PeerLink> {
        let links = self.0.links.lock();
        let describe = |link: Arc<Link>| PeerLink {
            addr: link.addr,
            peer: link.peer,
            class: link.class,
            rtt: link.connection.rtt(),
            version: link.version,
        };
        links.open_links().map(describe).collect()
    }

    /// Closes the connections to an address: the peer there is not, or no longer, one of ours.
    pub fn disconnect(&self, addr: SocketAddr, why: &str) {
        let links = self.0.links.lock();
        for link in links.open_links().filter(|link| link.addr == addr) {
            link.connection.close(CODE_CLOSED, why.as_bytes());
        }
    }

    /// What was counted so far.
    pub fn counters(&self) -> CounterSnapshot {
        self.0.counters.snapshot()
    }

    /// Runs a task on the thread that the connections live on: what comes from them reaches it without waking another
    /// thread. It must not block.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.runtime.spawn(task);
    }

    /// Closes every connection and the port; waits at most a second for the others to learn of it. Ends what was given to
    /// [`Transport::spawn`].
    pub async fn close(&self) {
        self.0.endpoint.close(CODE_CLOSED, b"leaving");
        let _ = timeout(Duration::from_secs(1), self.0.endpoint.wait_idle()).await;
        self.0.runtime.end().await;
    }

    async fn ask(&self, to: SocketAddr, class: Class, kind: u8, payload: &[u8]) -> Result<FrameReceiver, RequestError> {
        let (bytes, limit) = (payload.len(), class.frame_bytes_max());
        if bytes > limit {
            return Err(RequestError::TooLarge { bytes, limit });
        }
        let link = self.0.link(to, class).await?;
        let (send, recv) = link.connection.open_bi().await.map_err(unreachable)?;
        let sent = stream::write_last_frame(send, class, kind, payload, &self.0.context(to)).await?;
        Ok(FrameReceiver::new(recv, class, limit, self.0.context(to)).to(sent))
    }
}

async fn first_answer(frames: &mut FrameReceiver) -> Result<(u8, Bytes), RequestError> {
    match frames.recv().await? {
        Some((KIND_REFUSED, why)) => Err(RequestError::Refused(String::from_utf8_lossy(&why).into_owned())),
        Some(answer) => Ok(answer),
        None => Err(RequestError::Closed("the stream ended".into())),
    }
}

fn tagged(tag: u8, kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    promesh_model::frame::write(&mut bytes, kind, payload);
    bytes
}

fn unreachable(error: quinn::ConnectionError) -> RequestError {
    RequestError::Unreachable(error.to_string().into())
}

impl From<DialFailure> for RequestError {
    fn from(failure: DialFailure) -> Self {
        match failure {
            DialFailure::Oneself => RequestError::Oneself,
            DialFailure::Unreachable(why) => RequestError::Unreachable(why),
        }
    }
}

impl From<StreamError> for RequestError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::TooLarge { bytes, limit } => RequestError::TooLarge { bytes, limit },
            StreamError::Closed(why) => RequestError::Closed(why),
            StreamError::Full => RequestError::Closed("the queue is full".into()),
            StreamError::Malformed(error) => RequestError::Malformed(error.to_string()),
        }
    }
}

impl Shared {
    pub fn context(&self, remote: SocketAddr) -> Context {
        let runtime = self.runtime.clone();
        Context { counters: Arc::clone(&self.counters), notices: Arc::clone(&self.notices), remote, runtime }
    }

    pub fn send_now(&self, link: &Link, datagram: Bytes) {
        let bytes = datagram.len();
        match link.connection.send_datagram(datagram) {
            Ok(()) => self.counters.sent(link.class, bytes),
            Err(_) => bump(&self.counters.datagrams_dropped),
        }
    }

    async fn write_message(self: &Arc<Self>, to: SocketAddr, bytes: &[u8]) -> Option<()> {
        let link = self.link(to, Class::Control).await.ok()?;
        let mut send = link.connection.open_uni().await.ok()?;
        send.write_all(bytes).await.ok()?;
        send.finish().ok()?;
        self.counters.sent(Class::Control, bytes.len());
        Some(())
    }

    /// Hands an event over, waiting for room. Nobody listening means that the peer is shutting down.
    pub async fn emit(&self, event: TransportEvent) {
        let _ = self.events.send(event).await;
    }

    /// Warns of a refused handshake.
    pub fn log_refusal(&self, remote: SocketAddr, reason: RefusalReason, why: impl std::fmt::Display) {
        self.notices.say(Trouble::Refused(reason), remote, why);
    }
}

fn tls_error(error: impl std::fmt::Display) -> BindError {
    BindError::Tls(error.to_string())
}

fn server_config(identity: &TlsIdentity, options: &TransportOptions) -> Result<ServerConfig, BindError> {
    let crypto = QuicServerConfig::try_from(Arc::clone(&identity.server)).map_err(tls_error)?;
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    // A server learns the class only after the handshake, so it allows what the roomier one needs; the dialling side's
    // windows and the frame limits of each class bound the rest. Peers do not move: no migration.
    let mut transport = transport_config(Class::Bulk, options);
    transport.max_idle_timeout(idle(options.idle_timeout.max(options.bulk_idle_timeout)));
    config.transport_config(Arc::new(transport)).migration(false);
    Ok(config)
}

fn client_side(identity: &TlsIdentity, options: &TransportOptions) -> Result<ClientSide, BindError> {
    let config = |class: Class| {
        let crypto = QuicClientConfig::try_from(Arc::clone(&identity.client[class.index()])).map_err(tls_error)?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport_config(class, options)));
        Ok(config)
    };
    Ok(ClientSide {
        configs: [config(Class::Control)?, config(Class::Bulk)?],
        server_name: identity.server_name.clone(),
    })
}

fn idle(span: Duration) -> Option<IdleTimeout> {
    Some(IdleTimeout::try_from(span).expect("idle time-outs are far below 2^62 ms"))
}

fn transport_config(class: Class, options: &TransportOptions) -> TransportConfig {
    let (idle_timeout, keep_alive, stream_window, window) = match class {
        Class::Control => (options.idle_timeout, Some(options.keep_alive), 2 << 20, 16 << 20),
        Class::Bulk => (options.bulk_idle_timeout, None, 8 << 20, 32 << 20),
    };
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(512))
        .max_concurrent_bidi_streams(VarInt::from_u32(256))
        .stream_receive_window(VarInt::from_u32(stream_window))
        .receive_window(VarInt::from_u32(window))
        .send_window(u64::from(window))
        .max_idle_timeout(idle(idle_timeout))
        .keep_alive_interval(keep_alive)
        .datagram_receive_buffer_size(Some(1 << 20))
        .datagram_send_buffer_size(256 << 10)
        .enable_segmentation_offload(options.segmentation_offload);
    config
}
