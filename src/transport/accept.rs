//! Taking connections, and everything that arrives on them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Incoming, RecvStream, SendStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, interval_at, sleep, timeout};
use tracing::debug;

use crate::MESSAGE_BYTES_MAX;
use crate::counters::{RefusalReason, bump};
use crate::dial::{certified, check_hello, classify};
use crate::endpoint::Shared;
use crate::event::{Class, Responder, TransportEvent};
use crate::hello::{HELLO_BYTES_MAX, Hello};
use crate::link::{CODE_CLOSED, CODE_DUPLICATE, CODE_REFUSED, CODE_REPLACED, DUPLICATE_GRACE, DialFailure, Link};
use crate::notices::{FORGET_AFTER, Trouble};
use crate::stream::{FrameReceiver, UNI_MESSAGE, UNI_STREAM};

/// Handshakes at once; beyond a half of it an address must prove that it is not forged.
const HANDSHAKES_MAX: usize = 128;

/// Takes connections until the endpoint closes.
pub(crate) async fn run(shared: Arc<Shared>) {
    let room = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut forget = interval_at(Instant::now() + FORGET_AFTER, FORGET_AFTER);
    loop {
        let incoming = tokio::select! {
            incoming = shared.endpoint.accept() => incoming,
            _ = forget.tick() => {
                shared.notices.forget();
                continue;
            }
        };
        let Some(incoming) = incoming else { return };
        let from = canonical(incoming.remote_address());
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            refuse_busy(&shared, incoming, from);
            continue;
        };
        if shared.endpoint.open_connections() > shared.options.connections_max {
            refuse_busy(&shared, incoming, from);
            continue;
        }
        if room.available_permits() < HANDSHAKES_MAX / 2 && incoming.may_retry() {
            // The error gives the incoming back; there is nothing left to do with it then.
            let _ = incoming.retry();
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let done = timeout(shared.options.dial_timeout, shake_hands(&shared, incoming, from)).await;
            drop(permit);
            if let Err((reason, why)) = done.unwrap_or_else(|_| Err((RefusalReason::Timeout, "handshake".into()))) {
                bump(&shared.counters.refused[reason as usize]);
                shared.log_refusal(from, reason, why);
            }
        });
    }
}

fn refuse_busy(shared: &Shared, incoming: Incoming, from: SocketAddr) {
    incoming.refuse();
    bump(&shared.counters.refused[RefusalReason::Busy as usize]);
    shared.log_refusal(from, RefusalReason::Busy, "too many handshakes or connections");
}

async fn shake_hands(
    shared: &Arc<Shared>,
    incoming: Incoming,
    from: SocketAddr,
) -> Result<(), (RefusalReason, String)> {
    let connection = incoming.await.map_err(|error| (classify(&error), error.to_string()))?;
    let result = greet(shared, &connection, from).await;
    match result {
        Ok(link) => install(shared, link).map(drop).map_err(|failure| {
            connection.close(CODE_REFUSED, b"key changed");
            (RefusalReason::KeyChanged, format!("{failure:?}"))
        }),
        Err((reason, why)) => {
            connection.close(CODE_REFUSED, reason.name().as_bytes());
            Err((reason, why))
        }
    }
}

async fn greet(
    shared: &Arc<Shared>,
    connection: &Connection,
    from: SocketAddr,
) -> Result<Link, (RefusalReason, String)> {
    let class = class_of(connection).ok_or((RefusalReason::Protocol, "unknown protocol".to_owned()))?;
    let (named, key) = certified(connection).ok_or((RefusalReason::Certificate, "no certificate".to_owned()))?;
    let hello_error = |why: String| (RefusalReason::Hello, why);
    // In TLS 1.3 the other side may refuse our certificate only now.
    let (mut send, recv) = connection.accept_bi().await.map_err(|error| (classify(&error), error.to_string()))?;
    let context = shared.context(from);
    let first = FrameReceiver::new(recv, class, HELLO_BYTES_MAX, context).recv().await;
    let (kind, payload) = first.map_err(|error| hello_error(error.to_string()))?.ok_or(hello_error("none".into()))?;
    let hello = Hello::decode(kind, &payload).ok_or(hello_error("not a hello of ours".into()))?;
    let version = check_hello(&shared.hello, &hello, named).map_err(|reason| (reason, format!("{hello:?}")))?;
    send.write_all(&shared.hello.encode()).await.map_err(|error| hello_error(error.to_string()))?;
    let _ = send.finish();
    if hello.peer == shared.hello.peer && hello.boot == shared.hello.boot {
        // The dialling side, which is this peer, sees it too and closes; the pair is not to be kept.
        let _ = connection.closed().await;
        return Err((RefusalReason::Hello, "oneself".to_owned()));
    }
    let (connection, peer, boot) = (connection.clone(), hello.peer, hello.boot);
    shared.partners.note(from);
    Ok(Link { connection, addr: from, class, peer, key, boot, version, dialed_by: peer })
}

fn class_of(connection: &Connection) -> Option<Class> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    Class::from_alpn(data.protocol.as_deref()?)
}

/// An IPv4 address that came in on an IPv6 socket is shown as what it is.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Puts a connection into the table and serves it.
pub(crate) fn install(shared: &Arc<Shared>, link: Link) -> Result<Arc<Link>, DialFailure> {
    let installed = shared
        .links
        .lock()
        .install(link)
        .map_err(|_| DialFailure::Unreachable("another key under the id of a peer that is connected".into()))?;
    for old in &installed.replaced {
        old.connection.close(CODE_REPLACED, b"restarted");
    }
    for datagram in installed.pending {
        shared.send_now(&installed.link, datagram);
    }
    if let Some(retired) = installed.retired
        && retired.dialed_by == shared.hello.peer
    {
        tokio::spawn(async move {
            sleep(DUPLICATE_GRACE).await;
            retired.connection.close(CODE_DUPLICATE, b"duplicate");
        });
    }
    let serving = serve(Arc::clone(shared), Arc::clone(&installed.link), installed.is_new, installed.replaced);
    tokio::spawn(serving);
    Ok(installed.link)
}

async fn serve(shared: Arc<Shared>, link: Arc<Link>, is_new: bool, replaced: Vec<Arc<Link>>) {
    let (addr, peer, class) = (link.addr, link.peer, link.class);
    for former in replaced {
        let (peer, class, reason) = (former.peer, former.class, "the peer restarted".to_owned());
        shared.emit(TransportEvent::Disconnected { addr, peer, class, reason }).await;
    }
    if is_new {
        shared.emit(TransportEvent::Connected { addr, peer, class }).await;
    }
    tokio::join!(take_datagrams(&shared, &link), take_uni(&shared, &link), take_bi(&shared, &link));
    let error = link.connection.closed().await;
    // Not in use: another connection to the same peer took its place, and said so.
    if shared.links.lock().remove(&link) {
        debug!(%addr, %peer, ?class, %error, "connection closed");
        shared.emit(TransportEvent::Disconnected { addr, peer, class, reason: error.to_string() }).await;
        close_bulk_of_same_life(&shared, &link, &error);
    }
}

/// A peer that died on control is dead on bulk too, which has no keep-alive of its own.
fn close_bulk_of_same_life(shared: &Shared, link: &Link, error: &quinn::ConnectionError) {
    use quinn::ConnectionError::{Reset, TimedOut};
    if link.class != Class::Control || !matches!(error, Reset | TimedOut) {
        return;
    }
    let links = shared.links.lock();
    let bulk = links.slots.get(&(link.addr, Class::Bulk)).and_then(|slot| slot.open_link());
    if let Some(bulk) = bulk.filter(|bulk| bulk.boot == link.boot) {
        bulk.connection.close(CODE_CLOSED, b"control connection lost");
    }
}

async fn take_datagrams(shared: &Arc<Shared>, link: &Link) {
    while let Ok(bytes) = link.connection.read_datagram().await {
        shared.counters.received(link.class, bytes.len());
        let event = TransportEvent::Datagram { from: link.addr, peer: link.peer, bytes };
        if shared.events.try_send(event).is_err() {
            bump(&shared.counters.datagrams_dropped);
        }
    }
}

async fn take_uni(shared: &Arc<Shared>, link: &Arc<Link>) {
    while let Ok(recv) = link.connection.accept_uni().await {
        let (shared, link) = (Arc::clone(shared), Arc::clone(link));
        // QUIC's stream limit bounds how many of these run.
        tokio::spawn(async move { read_uni(&shared, &link, recv).await });
    }
}

async fn read_uni(shared: &Arc<Shared>, link: &Link, mut recv: RecvStream) {
    let (from, peer, class) = (link.addr, link.peer, link.class);
    let context = shared.context(link.addr);
    let read = async {
        let mut tag = [0];
        recv.read_exact(&mut tag).await.ok()?;
        let mut frames = FrameReceiver::new(recv, class, MESSAGE_BYTES_MAX, context);
        let (kind, bytes) = frames.recv().await.ok()??;
        Some((tag[0], kind, bytes, frames))
    };
    let Ok(Some((tag, kind, bytes, frames))) = timeout(shared.options.read_timeout, read).await else { return };
    match tag {
        UNI_MESSAGE => shared.emit(TransportEvent::Message { from, peer, kind, bytes }).await,
        UNI_STREAM => {
            let frames = frames.with_limit(class.frame_bytes_max());
            shared.emit(TransportEvent::Stream { from, peer, class, kind, hello: bytes, frames }).await;
        }
        _ => {
            bump(&shared.counters.streams_malformed);
            shared.notices.say(Trouble::Malformed, from, "neither a message nor a stream of frames");
        }
    }
}

async fn take_bi(shared: &Arc<Shared>, link: &Arc<Link>) {
    while let Ok((send, recv)) = link.connection.accept_bi().await {
        let (shared, link) = (Arc::clone(shared), Arc::clone(link));
        tokio::spawn(async move { read_request(&shared, &link, send, recv).await });
    }
}

async fn read_request(shared: &Arc<Shared>, link: &Link, send: SendStream, recv: RecvStream) {
    let (from, peer, class) = (link.addr, link.peer, link.class);
    let context = shared.context(link.addr);
    let responder = Responder { send: Some(send), class, context: context.clone() };
    let mut frames = FrameReceiver::new(recv, class, class.frame_bytes_max(), context);
    let request: Option<(u8, Bytes)> =
        timeout(shared.options.read_timeout, frames.recv()).await.ok().and_then(Result::ok).flatten();
    if let Some((kind, bytes)) = request {
        shared.emit(TransportEvent::Request { from, peer, class, kind, bytes, responder }).await;
    }
}
